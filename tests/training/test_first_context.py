"""The first context is trained once, and results are those of runs that train it themselves."""

from __future__ import annotations

import errno
import threading
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from builders import setting
from filelock import FileLock
from test_cli import TINY, summary, without_run_id
from test_going_on import FORGETFUL, METHODS, method_file, own_method

from clsweep.config import Config
from clsweep.errors import RunError
from clsweep.seeding import GlobalStream
from clsweep.training import first_context
from clsweep.training.observers import Observer
from clsweep.training.run import run

SHORT = (*TINY, "benchmark.contexts=2", "benchmark.iters=5", "figures=false", "threads=1", "device=cpu")


def accuracies(config: Config, folder: Path, shared: Path | None = None) -> list[bytes]:
    folder.mkdir()
    run(config, folder, Observer(), rehearsed=True, first_contexts=shared)
    return without_run_id(folder / "accuracy.csv")


def is_shared(config: Config, folder: Path, other: str = "regularizer=ewc", more: tuple[str, ...] = ()) -> bool:
    """Whether a run takes over what another method's has left; it ends as one that doesn't share in any case."""
    shared = folder / "first"
    accuracies(setting(*SHORT, other, *more), folder / "first one", shared)
    assert summary(folder / "first one")["shared_seconds"] == 0
    made = accuracies(config, folder / "second one", shared)
    assert made == accuracies(config, folder / "alone")
    return float(str(summary(folder / "second one")["shared_seconds"])) > 0


_QUICK = (
    "si",
    "kfac_ewc",
    "lwf",
    "custom",
)  # a sum of squares with a path, a penalty, one that looks at outputs, a file


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(one, marks=[] if one in _QUICK else pytest.mark.slow)
        for one in METHODS
        if one not in ("ewc", "vcl")
    ],
)
def test_every_method_takes_over_what_another_has_trained(method: str, tmp_path: Path) -> None:
    assert is_shared(setting(*SHORT, f"regularizer={method}"), tmp_path)


def test_a_method_that_takes_part_in_it_trains_its_own(tmp_path: Path) -> None:
    assert not is_shared(setting(*SHORT, "regularizer=vcl"), tmp_path)


@pytest.mark.parametrize("other", ["si", "custom", "none"])
def test_who_comes_first_makes_it_for_all(other: str, tmp_path: Path) -> None:
    assert is_shared(setting(*SHORT, "regularizer=rwalk"), tmp_path, f"regularizer={other}")


@pytest.mark.parametrize(
    "more",
    [
        ("network=cnn", "network.channels=[4,4]", "network.hidden=[8]"),
        ("optimizer=sgd", "optimizer.momentum=0.9"),
        ("optimizer=adam", "optimizer.reset=true"),
        ("optimizer=adamw", "optimizer.schedule._target_=torch.optim.lr_scheduler.CosineAnnealingLR"),
        ("benchmark.scenario=class", "contract.logits=all", "validation_fraction=0.2"),
    ],
    ids=lambda more: " ".join(more[:2]),
)
def test_whatever_it_is_trained_with(more: tuple[str, ...], tmp_path: Path) -> None:
    assert is_shared(setting(*SHORT, "regularizer=si", *more), tmp_path, more=more)


def test_a_file_takes_it_over_as_if_it_had_trained_itself(tmp_path: Path) -> None:
    assert is_shared(setting(*SHORT, method_file(tmp_path, FORGETFUL)), tmp_path)


LOOKS = """
    import torch


    def estimate_importance(model, dataset, prev_params, device):
        with open("{file}", "a") as file:
            print(*(value.detach().double().sum().item() for value in seen(model, prev_params)), file=file)
        {more}
        return {{}}


    def seen(model, prev_params):
        yield from prev_params.values()
        yield from model._custom_W.values()
        yield from model._custom_p_old.values()
        yield from model._custom_batch
        yield from model.parameters()


    def compute_regularization_loss(model, importance_dict, prev_params_dict):
        return sum((p**2).sum() for p in model.parameters()) * 0.01
"""


def test_a_file_sees_what_it_would_have_seen(tmp_path: Path) -> None:
    text = dedent(LOOKS).format(file=tmp_path / "seen", more="")
    assert is_shared(setting(*SHORT, method_file(tmp_path, text)), tmp_path)
    taken, _, own, _ = (tmp_path / "seen").read_text().splitlines()
    assert taken == own


@pytest.mark.parametrize(
    "more",
    [
        "[p.data.mul_(0.5) for p in model.parameters()]",
        "getattr(model, 'hidden')[0].register_forward_hook(lambda m, i, o: -o)",
        "model.forward = lambda x: -type(model).forward(model, x)",
    ],
)
def test_a_file_that_changes_the_network_is_measured_anew(more: str, tmp_path: Path) -> None:
    text = dedent(LOOKS).format(file=tmp_path / "seen", more=more)
    assert is_shared(setting(*SHORT, method_file(tmp_path, text)), tmp_path)
    plain = accuracies(setting(*SHORT, "regularizer=none"), tmp_path / "plain")
    after_first = slice(3, 5)  # behind the header and the untrained network
    assert plain[after_first] != without_run_id(tmp_path / "alone" / "accuracy.csv")[after_first]


NET = """
    from torch import nn


    class Counts:
        def __init__(self):
            self.batches = 0


    class Net(nn.Module):
        def __init__(self, input_shape, n_outputs):
            super().__init__()
            self.layers = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, n_outputs))
            self.counts = Counts()

        def forward(self, images):
            self.counts.batches += 1
            return self.layers(images)
"""


def own_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    (folder / "own_net.py").write_text(dedent(NET))
    monkeypatch.chdir(folder)
    without = [one for one in SHORT if not one.startswith("network.")]
    return *without, "network=own", "network._target_=own_net.Net"


def test_an_own_network_keeps_objects_of_its_own_whatever_the_method_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = own_network(tmp_path, monkeypatch)
    shared = tmp_path / "first"
    for name, method in {"ewc": "regularizer=ewc", "file": method_file(tmp_path, FORGETFUL)}.items():
        config = setting(*short, method)
        made = accuracies(config, tmp_path / name, shared)
        assert made == accuracies(config, tmp_path / f"{name} alone")
    assert float(str(summary(tmp_path / "file")["shared_seconds"])) > 0


def test_one_of_another_network_is_named_and_not_gone_on_from(tmp_path: Path) -> None:
    shared = tmp_path / "first"
    accuracies(setting(*SHORT, "regularizer=ewc"), tmp_path / "small", shared)
    (small,) = shared.glob("*.pt")
    accuracies(setting(*SHORT, "regularizer=ewc", "network.hidden=[16]"), tmp_path / "other", shared)
    (other,) = set(shared.glob("*.pt")) - {small}
    small.replace(other)
    with pytest.raises(RunError, match=f"{other.name}: isn't of this network .*: remove it"):
        accuracies(setting(*SHORT, "regularizer=si", "network.hidden=[16]"), tmp_path / "two", shared)


def test_a_file_that_transforms_gradients_trains_its_own(tmp_path: Path) -> None:
    text = dedent(LOOKS).format(file=tmp_path / "seen", more="") + dedent("""
        def transform_gradients(model, importance_dict, prev_params_dict):
            for p in model.parameters():
                p.grad *= 0.5
    """)
    assert not is_shared(setting(*SHORT, method_file(tmp_path, text)), tmp_path)


def test_a_class_that_changes_the_network_before_trains_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = "def attach(self, network): super().attach(network); [p.data.mul_(0.5) for p in network.model.parameters()]"
    assert not is_shared(setting(*SHORT, *own_method(tmp_path, monkeypatch, more)), tmp_path)


@pytest.mark.parametrize("other", ["seed=1", "optimizer.lr=0.01", "benchmark.iters=4", "precision=bf16", "threads=2"])
def test_another_protocol_or_machine_has_one_of_its_own(other: str, tmp_path: Path) -> None:
    shared = tmp_path / "first"
    accuracies(setting(*SHORT, "regularizer=ewc"), tmp_path / "one", shared)
    accuracies(setting(*SHORT, "regularizer=ewc", other), tmp_path / "two", shared)
    assert summary(tmp_path / "two")["shared_seconds"] == 0
    assert len(list(shared.glob("*.pt"))) == 2


def test_a_damaged_one_is_made_anew(tmp_path: Path) -> None:
    shared = tmp_path / "first"
    accuracies(setting(*SHORT, "regularizer=ewc"), tmp_path / "one", shared)
    (path,) = shared.glob("*.pt")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    made = accuracies(setting(*SHORT, "regularizer=si"), tmp_path / "two", shared)
    assert made == accuracies(setting(*SHORT, "regularizer=si"), tmp_path / "alone")
    accuracies(setting(*SHORT, "regularizer=si"), tmp_path / "three", shared)
    assert [summary(tmp_path / name)["shared_seconds"] == 0 for name in ("two", "three")] == [True, False]
    (shared / f".{path.name}.01234567.partial").write_bytes(content)  # as a killed process leaves it
    first_context.remove(shared)
    assert not shared.exists()


def test_one_whose_random_numbers_do_not_fit_is_made_anew(tmp_path: Path) -> None:
    shared = tmp_path / "first"
    accuracies(setting(*SHORT, "regularizer=ewc"), tmp_path / "one", shared)
    (path,) = shared.glob("*.pt")
    content = torch.load(path, weights_only=True)
    _, (states, *_) = content["nodes"][content["random"][1]]
    content["nodes"][states[1]] = ("tensor", torch.zeros(3, dtype=torch.uint8), False, None, False)
    torch.save(content, path)
    made = accuracies(setting(*SHORT, "regularizer=si"), tmp_path / "two", shared)
    assert made == accuracies(setting(*SHORT, "regularizer=si"), tmp_path / "alone")
    assert summary(tmp_path / "two")["shared_seconds"] == 0


class Gpus:
    """GPUs as torch shows them, of which only the random numbers are there.

    Args:
        count: how many this process sees.
        monkeypatch: lets it see them.
    """

    def __init__(self, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.states = [torch.full((16,), index, dtype=torch.uint8) for index in range(count)]
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: [one.clone() for one in self.states])
        monkeypatch.setattr(torch.cuda, "set_rng_state", self._set)

    def _set(self, state: torch.Tensor, index: int) -> None:
        if index >= len(self.states):
            raise IndexError(f"no GPU {index}")
        self.states[index] = state.clone()


@pytest.mark.parametrize(("made_on", "gpus", "taken_on"), [(1, 2, 0), (0, 1, 1), (1, 3, 1)])
def test_random_numbers_go_with_the_runs_own_gpu(
    made_on: int, gpus: int, taken_on: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    Gpus(max(gpus, made_on + 1), monkeypatch)
    made = GlobalStream(0)
    with made.active():
        pass
    packed = made.packable(torch.device("cuda", made_on))
    there = Gpus(taken_on + 1, monkeypatch)
    taken = GlobalStream(1)
    taken.restore(packed, torch.device("cuda", taken_on))
    with taken.active():
        assert [int(one[0]) for one in there.states] == [*range(taken_on), made_on]
    assert [int(one[0]) for one in there.states] == [*range(taken_on + 1)]


def test_random_numbers_of_all_gpus_as_older_files_hold_them_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    there = Gpus(2, monkeypatch)
    stream = GlobalStream(0)
    with stream.active():
        pass
    cpu, _, *others = stream.packable(torch.device("cpu")) or ()
    stream.restore((cpu, [one + 7 for one in there.states], *others), torch.device("cuda", 1))
    with stream.active():
        assert [int(one[0]) for one in there.states] == [0, 8]


def test_it_is_taken_over_where_other_gpus_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_context, "_kind", lambda _: "a GPU")
    shared = tmp_path / "first"
    Gpus(2, monkeypatch)
    accuracies(setting(*SHORT, "regularizer=ewc"), tmp_path / "one", shared)
    Gpus(1, monkeypatch)
    accuracies(setting(*SHORT, "regularizer=si"), tmp_path / "two", shared)
    assert float(str(summary(tmp_path / "two")["shared_seconds"])) > 0


def test_one_in_use_is_not_removed(tmp_path: Path) -> None:
    shared = tmp_path / "first"
    accuracies(setting(*SHORT, "regularizer=ewc"), tmp_path / "one", shared)
    (path,) = shared.glob("*.pt")
    with FileLock(path.with_suffix(".lock")):
        first_context.remove(shared)
        assert path.exists()
    first_context.remove(shared)
    assert not shared.exists()


@pytest.mark.parametrize("is_there", [False, True])
def test_one_whose_maker_is_halted_is_not_waited_for_forever(
    is_there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shared = tmp_path / "first"
    alone = accuracies(setting(*SHORT, "regularizer=si"), tmp_path / "alone", shared)
    (path,) = shared.glob("*.pt")
    if not is_there:
        path.unlink()
    monkeypatch.setattr(first_context, "_QUIET", 0.0)
    monkeypatch.setattr(first_context, "_BETWEEN_LOOKS", 0.01)
    monkeypatch.setattr(first_context, "_PATIENCE", 1e9 if is_there else 0.05)
    with FileLock(path.with_suffix(".lock")), caplog.at_level("INFO"):
        assert accuracies(setting(*SHORT, "regularizer=si"), tmp_path / "one", shared) == alone
    assert caplog.text.count(f"waiting for {path}, which another process is making") == 1
    assert path.exists()
    assert (float(str(summary(tmp_path / "one")["shared_seconds"])) > 0) == is_there


def test_one_that_is_being_made_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = tmp_path / "first"
    accuracies(setting(*SHORT, "regularizer=ewc"), tmp_path / "one", shared)
    (path,) = shared.glob("*.pt")
    made = path.replace(tmp_path / "made")
    monkeypatch.setattr(first_context, "_QUIET", 0.0)
    with FileLock(path.with_suffix(".lock")):
        finishes = threading.Timer(0.5, lambda: made.replace(path))
        finishes.start()
        accuracies(setting(*SHORT, "regularizer=si"), tmp_path / "two", shared)
    assert float(str(summary(tmp_path / "two")["shared_seconds"])) > 0


@pytest.mark.parametrize("error", [OSError(errno.ENOLCK, "No locks available"), NotImplementedError()], ids=repr)
def test_where_there_are_no_locks_it_is_shared_without(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(FileLock, "acquire", refuse)
    assert is_shared(setting(*SHORT, "regularizer=si"), tmp_path)
