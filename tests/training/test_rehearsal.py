"""`clsweep.training.rehearsal`: a file's faults are told before anything is trained, and nothing else comes of it."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import sweeping
import torch
from builders import image_data, setting, started
from rich.console import Console
from tiny import write

from clsweep.config import Config
from clsweep.data import contexts
from clsweep.errors import InputError
from clsweep.methods.files import read
from clsweep.sweeps import storage
from clsweep.sweeps.plan import StudyPlan
from clsweep.sweeps.worker import work
from clsweep.training.display import Display
from clsweep.training.observers import Observer
from clsweep.training.rehearsal import EXAMPLES, rehearse
from clsweep.training.run import run

CPU = torch.device("cpu")
CLASSES = 6

# A method that uses what the contract gives: own random numbers, `dataset.tensors`, the path integral, carried dicts.
GOOD = """
import torch
CALLS = []

def keyed(model):
    return {{n.replace(".", "__"): p for group in model.param_list for n, p in group()}}

def estimate_importance(model, dataset, prev_params, device):
    CALLS.append("importance")
    images, labels = dataset.tensors
    {estimate}
    return {{key: (model._custom_W[key].abs() + 0.1 * torch.rand(())) for key in keyed(model)}}

def compute_regularization_loss(model, importance_dict, prev_params_dict):
    CALLS.append("penalty")
    {penalty}
    return sum((importance_dict[key] * (p - prev_params_dict[key]) ** 2).sum() for key, p in keyed(model).items())
{more}
"""


# It draws from every generator, and counts on the model and in the module; a rehearsal would make it more than three.
COUNTED = """
    torch.rand(1), np.random.rand(), random.random()
    model.counted = getattr(model, "counted", 0) + 1
    assert model.counted == CALLS.count("importance") <= 3
"""


def note(file: Path, text: str) -> str:
    """A statement that writes a text to the end of a file."""
    return (
        f"import pathlib; p = pathlib.Path({str(file)!r}); p.write_text((p.read_text() if p.exists() else '') + {text})"
    )


def source(estimate: str = "pass", penalty: str = "pass", more: str = "") -> str:
    return GOOD.format(estimate=estimate, penalty=penalty, more=more)


def config(*overrides: str) -> Config:
    return setting(*sweeping.TINY, "validation_fraction=0", "benchmark.classes_per_context=2", *overrides)


def stream(of: Config, per_class: int = 20) -> contexts.Stream:
    return contexts.build(image_data(CLASSES, per_class), of, CPU)


def rehearsed(folder: Path, text: str, *overrides: str, per_class: int = 20) -> list[str]:
    file = write(folder, text)
    made = config(f"regularizer.file={file}", *overrides)
    return rehearse(made, stream(made, per_class), CPU, read(str(file)))


def test_a_good_file_has_nothing_said_about_it(tmp_path: Path) -> None:
    assert rehearsed(tmp_path, source()) == []


ESTIMATE = "estimate_importance"
PENALTY = "compute_regularization_loss"
WRONG = {
    "a list": (source("return [1]"), f"{ESTIMATE} returned a list; expected a dict"),
    "a wrong key": (source("return {'head.weight': 1}"), f"{ESTIMATE} returned the unknown key 'head.weight'"),
    "nan": (
        source("return {'head__bias': model.head.bias / 0}"),
        f"{ESTIMATE} returned NaN or infinity for 'head__bias'",
    ),
    "a shape": (source("return {'head__bias': torch.ones(1)}"), f"{ESTIMATE} returned shape (1,) for 'head__bias'"),
    "an error": (source("labels.nothing"), f"{ESTIMATE} raised AttributeError"),
    "an error in the penalty": (source(penalty="1 / 0"), f"{PENALTY} raised ZeroDivisionError"),
    "a constant": (source(penalty="return 0.5"), f"{PENALTY} returned a float"),
    "no scalar": (source(penalty="return model.head.bias"), f"{PENALTY} returned a tensor of shape (6,)"),
    "complex": (source(penalty="return model.head.bias.sum() * 1j"), f"{PENALTY} returned a complex number"),
    "detached": (
        source(penalty="return model.head.bias.sum().detach()"),
        f"{PENALTY} returned a tensor without a gradient",
    ),
    "a norm": (
        source(
            penalty="return sum((p - prev_params_dict[k]).norm() * 0 + ((p - prev_params_dict[k]) ** 2).sum().sqrt() "
            "for k, p in keyed(model).items())"
        ),
        f"{PENALTY} has a gradient of NaN or infinity for 'hidden__0__weight'",
    ),
    "the second context's importance": (
        source("if model._custom_importance: return {'nowhere': 1}"),
        f"{ESTIMATE} returned the unknown key 'nowhere'",
    ),
    "no parameter of the network's": (
        source(
            "model.old = [p.detach().clone().requires_grad_() for p in model.parameters()]",
            "return sum((p ** 2).sum() for p in model.old)",
        ),
        f"{PENALTY} returned a tensor that depends on none of the network's parameters",
    ),
    "detached, with nothing in importance_dict": (
        source(
            "model.own = {k: torch.ones_like(p) for k, p in keyed(model).items()}; return {}",
            "return sum((model.own[k] * (p.data - prev_params_dict[k]) ** 2).sum() for k, p in keyed(model).items())",
        ),
        f"{PENALTY} returned a tensor that depends on none of the network's parameters",
    ),
    "an anchor that it changes where it has been left": (
        source(
            penalty="bias = prev_params_dict['head__bias']\n"
            "    if not torch.equal(model.head.bias, bias): bias.lerp_(model.head.bias.detach(), 0.1)"
        ),
        f"{PENALTY} changed prev_params_dict['head__bias'] in place; expected a copy",
    ),
    "a gradient of nan": (
        source(
            more="def transform_gradients(model, importance_dict, prev_params_dict):\n"
            "    if importance_dict: model.head.bias.grad /= 0"
        ),
        "transform_gradients left NaN or infinity in the gradient of head.bias, which was finite before",
    ),
    "importance in the first context": (
        source(
            more="def transform_gradients(model, importance_dict, prev_params_dict):\n"
            "    model.head.bias.grad *= importance_dict['head__bias']"
        ),
        "transform_gradients, in the first context, where both dicts are empty, raised KeyError: 'head__bias'",
    ),
    "a strength that counts": (
        source(
            penalty="model.n = getattr(model, 'n', 0) + 1; model.reg_strength = 1.0 if model.n < 10 else 2.0",
            more="def quadratic_penalty(model, importance_dict, prev_params_dict):\n"
            "    return importance_dict, prev_params_dict",
        ),
        f"{PENALTY} changed model.reg_strength within a context (from 1 to 2)",
    ),
    "a wrong quadratic": (
        source(
            more="def quadratic_penalty(model, importance_dict, prev_params_dict):\n"
            "    return {k: 2 * v for k, v in importance_dict.items()}, prev_params_dict"
        ),
        "quadratic_penalty does not describe",
    ),
    "another type": (
        source("model.double()"),
        f"{ESTIMATE} left the network's parameter hidden.0.weight with torch.float64",
    ),
    "a hook": (
        source("model.head.register_forward_hook(lambda *_: 1 / 0)"),
        "what it left on the network (a hook, a layer) raised ZeroDivisionError",
    ),
}


@pytest.mark.parametrize(("text", "expected"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_with_a_file_is_told_before_anything_is_trained(tmp_path: Path, text: str, expected: str) -> None:
    file, folder = write(tmp_path, text), tmp_path / "run"
    folder.mkdir()
    made = config(f"regularizer.file={file}")
    with pytest.raises(InputError) as raised:
        run(made, folder, Observer(), lambda config, device: stream(config))
    message = str(raised.value)
    assert message.startswith(str(file))
    assert expected in message
    assert "the run's log" not in message
    assert list(folder.iterdir()) == []


NOT_ITS_FAULT = {
    "too few examples": "if len(dataset) < 100: raise ValueError",
    "too few steps": "if (model.head.bias - prev_params['head__bias']).abs().max() < 0.01: raise ValueError",
    "a fixed number of examples": "[dataset[i] for i in range(100)]",
    "nan of few": "if len(dataset) < 100: return {'head__bias': model.head.bias / 0}",
    "memory": "if len(dataset) < 100: raise MemoryError",
    "each class is there": "assert set(labels.tolist()) == {0, 1}",
    "a loss that runs away": "model.reg_strength = 1e38",
    "three contexts": "model.n = getattr(model, 'n', 0) + 1; assert model.n <= 3",
}


@pytest.mark.parametrize("estimate", NOT_ITS_FAULT.values(), ids=NOT_ITS_FAULT)
def test_what_the_run_would_take_is_not_refused(tmp_path: Path, estimate: str) -> None:
    assert EXAMPLES < 100
    assert rehearsed(tmp_path, source(estimate), "benchmark.iters=60", per_class=60) == []


def test_an_assertion_may_be_about_training_and_is_noted(tmp_path: Path) -> None:
    notes = rehearsed(tmp_path, source("assert model.head.bias.norm() > 9, 'not trained yet'"))
    assert notes == [
        f"in a short rehearsal, {tmp_path / 'method.py'}, line 11: estimate_importance raised AssertionError: "
        "not trained yet (CLSWEEP_TRACEBACK=1 shows the traceback). The run goes on in case longer training helps."
    ]


def test_a_fault_that_the_number_of_examples_has_nothing_to_do_with_is_not_tried_again(tmp_path: Path) -> None:
    counting = note(tmp_path / "calls", "f'{len(dataset)} '")
    with pytest.raises(InputError):
        rehearsed(tmp_path, source(f"{counting}; return [1]"), per_class=60)
    assert (tmp_path / "calls").read_text() == f"{EXAMPLES} "


def test_a_file_that_cannot_be_imported_twice_is_not_refused(tmp_path: Path) -> None:
    text = "import pathlib\npathlib.Path(__file__ + '.once').touch(exist_ok=False)\n" + source("1 / 0")
    file = write(tmp_path, text)
    (tmp_path / "method.py.once").touch()
    made = config(f"regularizer.file={file}")
    assert rehearse(made, stream(made), CPU, read(str(file))) == []


def test_gradients_that_are_returned_are_refused(tmp_path: Path) -> None:
    more = (
        "def transform_gradients(model, importance_dict, prev_params_dict): return [p.grad for p in model.parameters()]"
    )
    with pytest.raises(InputError, match="transform_gradients returned a list; expected no value"):
        rehearsed(tmp_path, source(more=more))


def test_a_network_inside_itself_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"method\.py: estimate_importance left .*: copy\.deepcopy"):
        rehearsed(tmp_path, source("model._old = model"))


@pytest.mark.parametrize("nothing", ["0", "torch.zeros(())", "0 * model.head.bias.sum()"])
def test_a_file_may_work_by_its_gradients_alone(tmp_path: Path, nothing: str) -> None:
    more = (
        "def transform_gradients(model, importance_dict, prev_params_dict):\n"
        "    [p.grad.mul_(0.5) for p in model.parameters()]"
    )
    assert rehearsed(tmp_path, source("return {}", f"return {nothing}", more)) == []


def test_a_single_context_has_no_penalty_to_rehearse(tmp_path: Path) -> None:
    assert rehearsed(tmp_path, source(penalty="1 / 0"), "benchmark.contexts=1") == []


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_results_and_random_numbers_are_as_without_it(tmp_path: Path, name: str) -> None:
    """The file draws, and it counts in places that a rehearsal must not reach."""
    file = write(tmp_path, source(COUNTED, more="import random; import numpy as np"))
    made = config(f"regularizer.file={file}", f"network={name}", "network.hidden=[8]")
    left = []
    for rehearsed_before in (False, True):
        folder = tmp_path / f"run-{rehearsed_before}"
        folder.mkdir()
        torch.manual_seed(3), np.random.seed(3), random.seed(3)
        run(made, folder, Observer(), lambda config, device: stream(config), rehearsed=rehearsed_before)
        drawn = torch.rand(1).item(), np.random.rand(), random.random()
        rows = [line.split(",", 1)[1] for line in (folder / "accuracy.csv").read_text().splitlines()]
        left.append((rows, drawn))
    assert left[0] == left[1]


def test_what_a_file_adds_to_the_network_is_said_in_the_header(tmp_path: Path) -> None:
    text = source(
        "model.extra = torch.nn.Linear(2, 3); model.fixed = torch.nn.Linear(2, 3).requires_grad_(False); "
        "model.head.register_forward_hook(lambda *_: None)"
    )
    text = text.replace(
        "for key in keyed(model)}", "for key in keyed(model) if 'extra' not in key and 'fixed' not in key}"
    )
    text = text.replace("in keyed(model).items())", "in keyed(model).items() if key in importance_dict)")
    notes = rehearsed(tmp_path, text)
    file = tmp_path / "method.py"
    assert notes == [
        f"{file} adds parameters to the network, which are not trained: extra.weight, extra.bias",
        f"{file} leaves hooks on the network, which every step calls: head",
        "a hook is left on the network (head), which a checkpoint can't hold: should a run be stopped, it starts over",
    ]
    out = io.StringIO()
    display = Display(config(), Console(file=out, width=200), notes=notes)
    display.setting(started(config(), tmp_path))
    assert [line for line in out.getvalue().splitlines() if line.startswith("note")][:3] == [
        f"{'note':<10} {note}" for note in notes
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (
            "0 * p",
            "the importance that estimate_importance gives is zero everywhere, so that a penalty may hold nothing",
        ),
        (
            "-p.abs()",
            "the importance of hidden__0__weight has negative numbers, with which a penalty may reward change",
        ),
    ],
)
def test_importance_that_may_not_be_meant_is_noted(tmp_path: Path, value: str, expected: str) -> None:
    text = source(f"return {{key: {value} for key, p in keyed(model).items()}}")
    assert rehearsed(tmp_path, text) == [f"{tmp_path / 'method.py'}: {expected}"]


# ---- sweeps


def plans(folder: Path, texts: Sequence[str]) -> list[StudyPlan]:
    files = [write(folder, text, f"method_{number}.py") for number, text in enumerate(texts)]
    overrides = ("search.n_trials=2", "search.final_seeds=0", "benchmark.iters=2")
    space = {"reg_strength": "1.0,2.0"}
    return [sweeping.plan(folder, f"regularizer.file={file}", *overrides, space=space) for file in files]


def test_a_sweep_tells_of_a_wrong_file_before_any_trial_of_any_study_is_claimed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clsweep.data.datasets.load", sweeping.random_images)
    connection = storage.connect(storage.url(None, tmp_path))
    made = plans(tmp_path, [source(), source("return [1]")])
    try:
        with pytest.raises(InputError, match=r"method_1\.py: estimate_importance returned a list"):
            work(made, connection)
        assert [connection.get_n_trials(one._study_id) for one in connection.get_all_studies()] == [0, 0]
        assert not list(tmp_path.glob("**/trial-*"))
    finally:
        storage.close(connection)


def test_a_sweep_rehearses_a_file_once_for_all_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = tmp_path / "calls"
    counting = source(note(calls, "'x'"))
    connection = storage.connect(storage.url(None, tmp_path))
    monkeypatch.setattr("clsweep.data.datasets.load", sweeping.random_images)
    try:
        work(plans(tmp_path, [counting]), connection)
        assert len(calls.read_text()) == 2 + 2 * 3  # two contexts, then two trials of three
    finally:
        storage.close(connection)
