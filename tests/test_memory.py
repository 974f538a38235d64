"""What a run leaves in memory: no network, whatever way it ended. And what is said to be free."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import sweeping
from optuna.trial import TrialState
from sweeping import finish, worker
from tiny import network

from clsweep import memory, networks
from clsweep.data.context_cache import ContextCache
from clsweep.methods import calls
from clsweep.networks import Classifier
from clsweep.parameters import contract_parameters
from clsweep.sweeps import storage
from clsweep.sweeps.worker import StudyWorker, work

KEEPS_A_TEACHER = """
import copy

HYPERPARAMETERS = ("reg_strength",)


def estimate_importance(model, dataset, prev_params, device):
    model.teacher = None
    model.teacher = copy.deepcopy(model)
    if IN_A_CYCLE:
        object.__setattr__(model.teacher, "student", model)
    return {}


def compute_regularization_loss(model, importance_dict, prev_params_dict):
    if model.reg_strength > 2:
        raise ValueError("too strong")
    own = [p for name, p in model.named_parameters() if not name.startswith("teacher")]
    return sum((p - q.detach()).square().sum() for p, q in zip(own, model.teacher.parameters()))
"""


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    while sweeping.opened:
        storage.close(sweeping.opened.pop())


@pytest.fixture
def alive(monkeypatch: pytest.MonkeyPatch) -> weakref.WeakSet[Classifier]:
    """The networks that were made, and have not been freed."""
    made: weakref.WeakSet[Classifier] = weakref.WeakSet()
    build = networks.build

    def remember(*args: object, **kwargs: object) -> Classifier:
        model = build(*args, **kwargs)  # type: ignore[arg-type]
        made.add(model)
        return model

    monkeypatch.setattr(networks, "build", remember)
    return made


@pytest.fixture
def no_luck() -> Iterator[None]:
    """Python doesn't look for reference cycles by itself."""
    gc.disable()
    yield
    gc.enable()


def teacher(folder: Path, in_a_cycle: bool) -> str:
    file = folder / "teacher.py"
    file.write_text(KEEPS_A_TEACHER.replace("IN_A_CYCLE", str(in_a_cycle)))
    return f"regularizer.file={file}"


@pytest.mark.usefixtures("no_luck")
@pytest.mark.parametrize("method", ["ewc", "rwalk", "custom"])
def test_no_network_outlives_its_trial(method: str, tmp_path: Path, alive: weakref.WeakSet[Classifier]) -> None:
    study = worker(tmp_path, f"regularizer={method}", "search.n_trials=1", "search.final_seeds=1")
    made = []
    while not study.is_done():
        assert study.work_once()
        made.append(len(alive))
    assert made == [0] * len(made)
    assert len(made) == 2


@pytest.mark.usefixtures("no_luck")
def test_no_network_outlives_a_trial_that_keeps_a_teacher_fails_or_is_pruned(
    tmp_path: Path, alive: weakref.WeakSet[Classifier], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls.log, "disabled", True)  # pytest keeps what is logged, the traceback's frames with it
    study = worker(
        tmp_path,
        teacher(tmp_path, in_a_cycle=False),
        "search.final_seeds=0",
        "regularizer.reg_strength=1",
        "search.pruner=threshold",
        "search.pruner_options={lower: 2, n_warmup_steps: 2}",
        space={"reg_strength": "choice(1, 3)"},
    )
    trials = finish(study)
    assert [trial.state for trial in trials] == [TrialState.PRUNED, TrialState.FAIL]
    assert not alive


def test_a_worker_frees_the_networks_that_a_method_puts_into_a_cycle(
    tmp_path: Path, alive: weakref.WeakSet[Classifier], monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = (teacher(tmp_path, in_a_cycle=True), "regularizer.reg_strength=1", "search.final_seeds=0")
    plan = sweeping.plan(tmp_path, *overrides, space={"reg_strength": "choice(0.5, 1)"})
    monkeypatch.setattr("clsweep.sweeps.worker.ContextCache", lambda: ContextCache(sweeping.random_images))
    connection = storage.connect(storage.url(None, tmp_path))
    sweeping.opened.append(connection)
    counted: list[int] = []
    is_done = StudyWorker.is_done

    def count(study: StudyWorker) -> bool:  # asked before each trial and after the last
        counted.append(len(alive))
        return is_done(study)

    monkeypatch.setattr(StudyWorker, "is_done", count)

    gc.disable()
    try:
        work([plan], connection, rehearsed=True)
    finally:
        gc.enable()
    assert counted == [0, 0, 0]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copied_network_lists_its_own_parameters(copied: Callable[[Classifier], Classifier]) -> None:
    model = network()
    other = copied(model)
    assert [id(p) for p in contract_parameters(other).values()] == [id(p) for p in other.parameters()]
    assert {id(p) for p in other.parameters()}.isdisjoint(id(p) for p in model.parameters())
    listed = other.param_list[0]
    del other
    with pytest.raises(ReferenceError, match="keep the network itself"):
        listed()


V1 = {"memory.limit_in_bytes": "2147483648", "memory.usage_in_bytes": "2040109466"}
V2 = {"memory.max": "2147483648", "memory.current": "2040109466"}


@pytest.mark.parametrize(
    ("line", "folder", "files", "left"),
    [
        ("0::/job", "job", V2 | {"memory.stat": "anon 1\ninactive_file 0\n"}, 2147483648 - 2040109466),
        ("0::/job", "", V2 | {"memory.stat": "anon 1\ninactive_file 1000\n"}, 2147483648 - 2040108466),
        ("0::/job", "job", V2 | {"memory.max": "max", "memory.stat": ""}, None),
        ("0::/job", "job", {"memory.max": "1000"}, 1000),
        ("0::/job", "job", V2 | {"memory.max": "1000"}, 0),
        (
            "4:memory:/a/job",
            "memory/a",
            V1 | {"memory.stat": "inactive_file 7\ntotal_inactive_file 1000\n"},
            2147483648 - 2040108466,
        ),
        ("4:cpu:/job", "cpu/job", V1, None),
    ],
)
def test_what_is_free_in_a_container_is_what_it_has_not_taken_yet(
    line: str, folder: str, files: dict[str, str], left: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cgroup").write_text(f"{line}\n")
    place = tmp_path / "groups" / folder
    place.mkdir(parents=True)
    for name, text in files.items():
        (place / name).write_text(text)
    monkeypatch.setattr(memory, "_OWN_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "groups")
    there = SimpleNamespace(available=2**40, free=0)
    monkeypatch.setattr("psutil.virtual_memory", lambda: there)
    monkeypatch.setattr("psutil.swap_memory", lambda: there)
    expected = 2**40 if left is None else left
    assert memory.fitting(1) == expected
