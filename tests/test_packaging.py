from __future__ import annotations

import subprocess
import tomllib

import pytest
from builders import ROOT


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="is no checkout")
def test_the_source_distribution_has_all_that_is_tracked() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    included = settings["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    left_out = {name for name in listed.splitlines() if not any(f"/{name}/".startswith(f"{one}/") for one in included)}
    # hatchling adds the last two by itself; the first is of the checkout alone.
    assert left_out == {".ci/run", ".gitignore", "pyproject.toml"}
