from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path

import pytest

from clsweep import own, paths, sources
from clsweep.targets import Target


def digest(path: str) -> str:
    return sources.digest([Target("network", path, {})])


@pytest.mark.parametrize("path", ["torch.nn.Linear", "clsweep.networks.MLP", "collections.OrderedDict", "no_such.Name"])
def test_what_is_installed_has_no_digest(path: str) -> None:
    assert digest(path) == ""


@pytest.mark.parametrize("folder", ["lib/python3/site-packages", "python3/dist-packages"])
def test_what_is_installed_elsewhere_has_no_digest_either(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a user's own site-packages, or a cluster's module on PYTHONPATH."""
    there = tmp_path / folder
    there.mkdir(parents=True)
    (there / "installed_elsewhere.py").write_text("a = 1\n")
    monkeypatch.syspath_prepend(there)
    assert digest("installed_elsewhere.Net") == ""


@pytest.fixture
def fresh_look() -> Iterator[None]:
    """What is installed is looked up once in a process."""
    cached = (own._built, own._installed_in, own._is_installed)
    for one in cached:
        one.cache_clear()
    yield
    for one in cached:
        one.cache_clear()


@pytest.mark.usefixtures("fresh_look")
def test_what_is_installed_beside_ones_own_is_told_apart(tmp_path: Path) -> None:
    """By `pip install --target .`; one's own may be in a folder that a package has put something into, too."""
    package, shared = tmp_path / "installed_beside", tmp_path / "shared_examples"
    for folder in (package, shared):
        folder.mkdir()
        (folder / "__init__.py").write_text("a = 1\n")
    record = tmp_path / "installed_beside-1.0.dist-info" / "RECORD"
    record.parent.mkdir()
    record.write_bytes(b"installed_beside/__init__.py,sha256=abc,6\nshared_examples/theirs.py,,\n\xff.py,,\n")
    (shared / "mine.py").write_text("import installed_beside\n")
    copies = tmp_path / "copies"
    copies.mkdir()
    with paths.typed_in(tmp_path):
        assert digest("installed_beside.Net") == ""
        assert digest("shared_examples.mine.Net") != ""
        sources.copy([Target("network", "shared_examples.mine.Net", {})], copies)
    assert {file.name for file in copies.rglob("*.py")} == {"__init__.py", "mine.py"}


@pytest.mark.usefixtures("fresh_look")
def test_a_torch_that_was_built_from_source_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "built_here").mkdir()
    (tmp_path / "built_here" / "__init__.py").write_text("a = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(own, "_BUILT", ("built_here", "no_such_package"))
    assert digest("built_here.Net") == ""
    monkeypatch.setattr(own, "_BUILT", ("no_such_package",))
    own._built.cache_clear()
    own._is_installed.cache_clear()
    assert digest("built_here.Net") != ""


def test_a_link_in_an_installations_folder_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those that uv makes to its cache."""
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "linked_from_a_cache").write_text("a = 1\n")
    (tmp_path / "site-packages" / "linked_there.py").symlink_to(tmp_path / "linked_from_a_cache")
    monkeypatch.syspath_prepend(tmp_path / "site-packages")
    assert digest("linked_there.Net") == ""


def test_a_package_that_an_import_hook_finds_is_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `pip install -e` may leave one."""
    package = tmp_path / "src" / "hooked_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "nets.py").write_text("a = 1\n")

    class Hook:
        @staticmethod
        def find_spec(name: str, path: object, target: object = None) -> ModuleSpec | None:
            file = package / "__init__.py"
            return spec_from_file_location(name, file) if name == "hooked_package" else None

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Hook])
    first = digest("hooked_package.nets.Net")
    (package / "nets.py").write_text("a = 2\n")
    assert digest("hooked_package.nets.Net") != first != ""


def test_a_file_in_the_current_folder_is_known_by_its_content(tmp_path: Path) -> None:
    file = tmp_path / "my_own_nets.py"
    file.write_text("import my_own_parts\n")
    (tmp_path / "my_own_parts.py").write_text("a = 1\n")
    with paths.typed_in(tmp_path):
        first = digest("my_own_nets.Net")
        (tmp_path / "my_own_parts.py").write_text("a = 2\n")
        second = digest("my_own_nets.Net")
        file.write_text("raise RuntimeError\n")  # it is read, not run
        third = digest("my_own_nets.Net")
    assert len({first, second, third}) == 3
    assert all(len(one) == 12 for one in (first, second, third))


def test_a_module_in_a_package_is_known_by_its_own_file(tmp_path: Path) -> None:
    package = tmp_path / "my_own_package" / "nets"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").write_text("")
    (package / "deep.py").write_text("a = 1\n")
    with paths.typed_in(tmp_path):
        first = digest("my_own_package.nets.deep.Net")
        (package / "deep.py").write_text("a = 2\n")
        assert digest("my_own_package.nets.deep.Net") != first != ""


def test_a_copy_runs_as_the_file_does(tmp_path: Path) -> None:
    (tmp_path / "my_own_streams.py").write_text("import my_own_parts\n")
    (tmp_path / "my_own_parts.py").write_text("a = 1\n")
    copies = tmp_path / "run"
    copies.mkdir()
    with paths.typed_in(tmp_path):
        sources.copy([Target("network", "torch.nn.Linear", {}), Target("stream", "my_own_streams.made", {})], copies)
    assert {file.name: file.read_text() for file in copies.iterdir()} == {
        "my_own_streams.py": "import my_own_parts\n",
        "my_own_parts.py": "a = 1\n",
    }


def test_what_a_module_in_a_package_imports_relatively_is_in_its_digest_and_in_the_copy(tmp_path: Path) -> None:
    package = tmp_path / "my_own_nets"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "nets.py").write_text("from .blocks import W\nfrom . import parts\n")
    (package / "blocks.py").write_text("W = 1\n")
    (package / "parts.py").write_text("")
    copies = tmp_path / "run"
    copies.mkdir()
    with paths.typed_in(tmp_path):
        first = digest("my_own_nets.nets.Net")
        (package / "blocks.py").write_text("W = 2\n")
        assert digest("my_own_nets.nets.Net") != first
        sources.copy([Target("network", "my_own_nets.nets.Net", {})], copies)
    made = {file.relative_to(copies).as_posix() for file in copies.rglob("*.py")}
    assert made == {f"my_own_nets/{name}.py" for name in ("__init__", "nets", "blocks", "parts")}


def test_a_target_within_the_arguments_is_in_the_digest_and_in_the_copy(tmp_path: Path) -> None:
    file, copies = tmp_path / "my_own_inner.py", tmp_path / "run"
    file.write_text("a = 1\n")
    copies.mkdir()
    nested = Target("network", "torch.nn.Sequential", {"layers": [{"block": {"_target_": "my_own_inner.make"}}]})
    with paths.typed_in(tmp_path):
        first = sources.digest([nested])
        file.write_text("a = 2\n")
        assert sources.digest([nested]) != first != ""
        sources.copy([nested], copies)
    assert [one.name for one in copies.iterdir()] == ["my_own_inner.py"]


def test_within_a_command_a_file_stays_as_it_was_first_read(tmp_path: Path) -> None:
    file = tmp_path / "my_own_kept.py"
    file.write_text("a = 1\n")
    with paths.typed_in(tmp_path):
        with own.kept():
            first = digest("my_own_kept.Net")
            file.write_text("a = 2\n")
            assert digest("my_own_kept.Net") == first
            sources.copy([Target("network", "my_own_kept.Net", {})], tmp_path / "run")
        assert (tmp_path / "run" / "my_own_kept.py").read_text() == "a = 1\n"
        assert digest("my_own_kept.Net") != first
