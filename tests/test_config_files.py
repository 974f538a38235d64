"""`--config-dir FOLDER --config-name best`: a whole setting, and what may be changed of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from builders import command, setting

from clsweep import config as settings

BEST = ("--config-dir", ".", "--config-name", "best")


def write_best(*overrides: str) -> None:
    config = setting("+benchmark=split_mnist", "budget=quick", "regularizer=ewc", *overrides)
    Path("best.yaml").write_text(f"defaults:\n- config\n- _self_\n{settings.rerun_yaml(config)}")


@pytest.mark.parametrize(
    ("tuned", "overrides", "iters"),
    [
        ((), (), 200),
        ((), ("budget=full",), 2000),
        (("benchmark.iters=33",), (), 33),
        (("benchmark.iters=33",), ("budget=full", "benchmark.iters=2000"), 2000),
    ],
)
def test_another_budget_has_its_own_iterations(
    tuned: tuple[str, ...],
    overrides: tuple[str, ...],
    iters: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_best(*tuned)
    assert command(monkeypatch, *BEST, "--cfg", "job", "--resolve", *overrides) == 0
    assert f"\n  iters: {iters}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("tuned", "now", "expected"),
    [
        (None, None, "{}/here/it's mine"),
        (None, "/other", "/other"),
        ("here/it's mine", None, "data"),
        ("here/it's mine", "/other", "/other"),
    ],
)
def test_the_data_is_found_from_anywhere(
    tuned: str | None,
    now: str | None,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Where it was, or where CLSWEEP_DATA says; a path that it said then isn't written down."""

    def data_is_in(folder: str | None) -> None:
        monkeypatch.delenv("CLSWEEP_DATA", raising=False)
        if folder is not None:
            monkeypatch.setenv("CLSWEEP_DATA", folder)

    monkeypatch.chdir(tmp_path)
    data_is_in(tuned)
    write_best(*([] if tuned else ['dataset.root="here/it\'s mine"']))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    data_is_in(now)
    arguments = ("--config-dir", "..", *BEST[2:], "--cfg", "job", "--resolve")
    assert command(monkeypatch, *arguments) == 0
    shown = yaml.safe_load(capsys.readouterr().out)  # which breaks long lines
    assert shown["dataset"]["root"] == expected.format(tmp_path)


WHOLE = "best.yaml has a whole {0} of its own, which comes after it; expected values of that, {0}.KEY=VALUE, or a "
WHOLE += "command without --config-name best."
GIVEN = "best.yaml has benchmark.iters=33, which was given for it and follows no budget; expected benchmark.iters=2000 "
SWEEPERS: tuple[tuple[str, ...], ...] = (("--multirun",), ("--multirun", "hydra/sweeper=basic"))


@pytest.mark.parametrize("name", ["best", "best.yaml"])  # Hydra takes both
@pytest.mark.parametrize(
    ("multirun", "override", "said"),
    [
        ((), "regularizer=si", WHOLE.format("regularizer")),
        ((), "+benchmark=perm_mnist", WHOLE.format("benchmark")),
        ((), "network=mlp_1000", WHOLE.format("network")),
        ((), "budget=full", f"{GIVEN}as well."),
        *((sweeper, "regularizer=si,ewc", WHOLE.format("regularizer")) for sweeper in SWEEPERS),
    ],
)
def test_what_the_file_overrules_is_refused(
    name: str,
    multirun: tuple[str, ...],
    override: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_best("benchmark.iters=33")
    with pytest.raises(SystemExit) as exited:
        command(monkeypatch, *BEST[:-1], name, *multirun, override)
    assert exited.value.code == 2
    assert capsys.readouterr().err == f"clsweep: {override.removeprefix('+')}: {said}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["best.yaml"]
