"""`clsweep.methods.contract`: what is loaded, what is checked, what is put back."""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny import attached, dataset, file_method, learner, network, regularizer, trained, write
from torch import Tensor

from clsweep.config import RegularizerConfig
from clsweep.errors import InputError, RunError
from clsweep.methods.contract import FileMethod
from clsweep.methods.loading import load
from clsweep.networks import Classifier
from clsweep.parameters import contract_parameters, snapshot

CPU = torch.device("cpu")
ESTIMATE = "def estimate_importance(model, dataset, prev_params, device):\n"
PENALTY = "def compute_regularization_loss(model, importance_dict, prev_params_dict):\n"
GOOD_ESTIMATE = ESTIMATE + "    return {}\n"
GOOD_PENALTY = PENALTY + "    return sum(p.sum() for p in model.parameters())\n"
GOOD = GOOD_ESTIMATE + GOOD_PENALTY


def returning_importance(expression: str) -> str:
    return f"import torch\n{ESTIMATE}    w = model.head.weight\n    return {expression}\n{GOOD_PENALTY}"


def returning_penalty(expression: str) -> str:
    return f"import torch\n{GOOD_ESTIMATE}{PENALTY}    w = model.head.weight\n    return {expression}\n"


def importance_of(method: FileMethod) -> dict[str, Tensor]:
    return method.importance(dataset(), snapshot(method.model), CPU)


def checked_penalty(method: FileMethod, importance: dict[str, Tensor]) -> Tensor:
    method.model._custom_importance, method.model._custom_prev_params = importance, snapshot(method.model)
    return method.penalty(is_first=True)


# ---- loading


def test_a_file_with_the_two_functions_loads_and_declares_the_defaults(tmp_path: Path) -> None:
    method = regularizer(tmp_path, GOOD)
    assert (method.reg_strength_scale, method.uses_path_integral) == (1.0, True)


@pytest.mark.parametrize("scale", ["2.5", "0", "3", "1e-4"])
def test_config_overrides_scale_the_strength(tmp_path: Path, scale: str) -> None:
    method = regularizer(tmp_path, f"CONFIG_OVERRIDES = {{'reg_strength_scale': {scale}}}\n{GOOD}")
    assert method.reg_strength_scale == float(scale)


def test_overrides_of_other_harnesses_are_theirs(tmp_path: Path) -> None:
    theirs = "{'reg_strength': 3, 'lr': 0.1, 'reg_strength_schedule': 'flat', 4: 5}"
    method = regularizer(tmp_path, f"CONFIG_OVERRIDES = {theirs}\n{GOOD}")
    assert method.reg_strength_scale == 1
    assert method.additions() == [
        f"{tmp_path / 'method.py'}: CONFIG_OVERRIDES has 'reg_strength', 'lr', 'reg_strength_schedule' and 1 more, "
        "which clsweep doesn't read; it reads 'reg_strength_scale'"
    ]


FUNCTION = "def {}(model, importance_dict, prev_params_dict): ...\n"
MISSPELLED = {
    "transform_gradient": "transform_gradients",
    "transform_grads": "transform_gradients",
    "transformGradients": "transform_gradients",
    "quadratic_penalties": "quadratic_penalty",
    "HYPERPARAMETER": "HYPERPARAMETERS",
    "Hyperparameters": "HYPERPARAMETERS",
    "HYPERPARAMS": "HYPERPARAMETERS",
    "USES_PATH_INTEGRALS": "USES_PATH_INTEGRAL",
    "USE_PATH_INTEGRAL": "USES_PATH_INTEGRAL",
    "PENALTY_PURE": "PENALTY_IS_PURE",
    "CONFIG_OVERRIDE": "CONFIG_OVERRIDES",
}
OWN = (
    "penalty",
    "transform",
    "quadratic",
    "transform_gradients_of",
    "_transform_gradients",
    "weighted_quadratic_penalty",
    "PATH_INTEGRAL",
    "HYPERPARAMS_DOC",
    "OVERRIDES",
    "hyperparameters",
)


def defining(name: str) -> str:
    return f"{name} = ('gamma',)\n" if name[0].isupper() or name == "hyperparameters" else FUNCTION.format(name)


@pytest.mark.parametrize(("name", "meant"), MISSPELLED.items(), ids=MISSPELLED)
def test_a_misspelled_name_of_the_contract_is_refused(tmp_path: Path, name: str, meant: str) -> None:
    with pytest.raises(InputError, match=rf"method\.py: has {name}, which nothing uses; expected {meant}, or"):
        regularizer(tmp_path, GOOD + defining(name))


@pytest.mark.parametrize("name", OWN)
def test_a_name_of_ones_own_is_not(tmp_path: Path, name: str) -> None:
    regularizer(tmp_path, GOOD + defining(name))


@pytest.mark.parametrize(
    "more",
    [
        FUNCTION.format("transform_gradient") + FUNCTION.format("transform_gradients"),
        "HYPERPARAMS = ('gamma',)\nHYPERPARAMETERS = HYPERPARAMS\n",
        "def transform_gradient(gradient): ...\ndef each(p): return [transform_gradient(q) for q in p]\n",
        "HYPERPARAMS = {}\nclass Layer:\n    def scale(self): return HYPERPARAMS['scale']\n",
        "from clsweep.methods.quadratic import weighted_squares as quadratic_penalties\n",
        "import json as HYPERPARAMS\nclass CONFIG_OVERRIDE: ...\n",
    ],
    ids=["the right one, too", "the right value, too", "used", "used by a method", "imported", "modules and classes"],
)
def test_a_name_that_is_close_and_has_its_use_is_not(tmp_path: Path, more: str) -> None:
    regularizer(tmp_path, GOOD + more)


@pytest.mark.parametrize("names", ["model, importance, prev", "model, a, b=None"])
def test_the_names_of_a_quadratic_penaltys_arguments_are_free(tmp_path: Path, names: str) -> None:
    assert regularizer(tmp_path, f"{GOOD}def quadratic_penalty({names}): ...\n").is_quadratic


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        pytest.param(
            GOOD_PENALTY, ["no function estimate_importance", "model, dataset, prev_params"], id="no estimate"
        ),
        pytest.param(GOOD_ESTIMATE, ["no function compute_regularization_loss", "importance_dict"], id="no penalty"),
        pytest.param(f"estimate_importance = 3\n{GOOD_PENALTY}", ["no function estimate_importance"], id="no callable"),
        pytest.param(
            f"def estimate_importance(model, dataset): ...\n{GOOD_PENALTY}",
            ["estimate_importance", "4 arguments", "too many positional arguments"],
            id="too few arguments",
        ),
        pytest.param(
            f"{GOOD_ESTIMATE}def compute_regularization_loss(model, a, b, c): ...\n",
            ["compute_regularization_loss", "3 arguments", "missing a required argument: 'c'"],
            id="too many arguments",
        ),
        pytest.param(
            f"{GOOD_ESTIMATE}def compute_regularization_loss(a, b, c, *, d): ...\n",
            ["compute_regularization_loss", "3 arguments"],
            id="required keyword",
        ),
        pytest.param(f"{GOOD}\ndef broken(:\n", ["line 6", "valid Python"], id="syntax error"),
        pytest.param(f"{GOOD}import no_such_module_here\n", ["line 5", "no_such_module_here"], id="import error"),
        pytest.param(f"\n1 / 0\n{GOOD}", ["line 2", "ZeroDivisionError"], id="raises on import"),
        pytest.param(f"USES_PATH_INTEGRAL = 'no'\n{GOOD}", ["USES_PATH_INTEGRAL='no'; expected True or"], id="path"),
        pytest.param(f"PENALTY_IS_PURE = None\n{GOOD}", ["PENALTY_IS_PURE=None; expected True or"], id="pure"),
        pytest.param(
            f"CONFIG_OVERRIDES = {{'reg_strength_scal': 10}}\n{GOOD}",
            ["CONFIG_OVERRIDES has 'reg_strength_scal'; expected 'reg_strength_scale'"],
            id="near miss",
        ),
        *(
            pytest.param(f"CONFIG_OVERRIDES = {value}\n{GOOD}", ["CONFIG_OVERRIDES", "finite number"], id=value)
            for value in (
                "None",
                "[1.0]",
                "{'reg_strength_scale': '2'}",
                "{'reg_strength_scale': -1.0}",
                "{'reg_strength_scale': float('nan')}",
                "{'reg_strength_scale': float('inf')}",
                "{'reg_strength_scale': None}",
            )
        ),
    ],
)
def test_a_file_that_breaks_the_contract_is_refused_by_name(tmp_path: Path, source: str, expected: list[str]) -> None:
    file = write(tmp_path, source)
    with pytest.raises(InputError) as raised:
        load(file_method(file))
    message = str(raised.value)
    assert str(file) in message
    assert [part for part in expected if part not in message] == []
    assert "\n" not in message


@pytest.mark.parametrize("name", ["absent.py", "notes.txt", "."])
def test_a_path_that_is_no_python_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "notes.txt").write_text(GOOD, encoding="utf-8")
    with pytest.raises(InputError) as raised:
        load(file_method(tmp_path / name))
    assert str(tmp_path / name) in str(raised.value)


def test_a_configuration_without_target_and_file_is_refused() -> None:
    with pytest.raises(InputError, match=r"regularizer\.file"):
        load(RegularizerConfig("custom"))


def test_argument_names_are_free_and_optional_arguments_allowed(tmp_path: Path) -> None:
    source = (
        "def estimate_importance(net, data, start, where, batch_size=1): return {}\n"
        "def compute_regularization_loss(*arguments, **options): return arguments[0].head.weight.sum()\n"
    )
    method = regularizer(tmp_path, source)
    assert importance_of(method) == {}
    assert torch.equal(checked_penalty(method, {}), method.model.head.weight.sum())


def test_a_file_may_define_dataclasses_with_postponed_annotations(tmp_path: Path) -> None:
    source = f"""
from __future__ import annotations
from dataclasses import dataclass

@dataclass
class State:
    count: int = 7

CONFIG_OVERRIDES = {{"reg_strength_scale": State().count}}
{GOOD}"""
    assert regularizer(tmp_path, source).reg_strength_scale == 7.0


class Springs:
    """A method that is an object."""

    def estimate_importance(self, model: Any, dataset: Any, prev_params: Any, device: Any) -> dict[str, Tensor]:
        return {}

    def compute_regularization_loss(self, model: Any, importance: Any, anchors: Any) -> Tensor:
        return torch.zeros(())

    def quadratic_penalty(
        self, model: Any, importance: Any, anchors: Any
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return {}, {}


def test_a_bound_method_declares_a_quadratic_penalty() -> None:
    assert FileMethod(Springs(), "mine").is_quadratic


def test_a_misspelled_attribute_of_an_object_is_refused() -> None:
    class Misspelled(Springs):
        PENALTY_PURE = True

    class Used(Springs):
        def transform_gradient(self, gradient: Tensor) -> None: ...

        def compute_regularization_loss(self, model: Any, importance: Any, anchors: Any) -> Tensor:
            self.transform_gradient(model.head.bias)
            return torch.zeros(())

    for functions in (Misspelled(), Misspelled, SimpleNamespace(PENALTY_PURE=True)):
        with pytest.raises(InputError, match="mine: has PENALTY_PURE, which nothing uses; expected PENALTY_IS_PURE"):
            FileMethod(functions, "mine")
    FileMethod(Used(), "mine")


# ---- what is returned


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("[w]", ["a list", "expected a dict"]),
        ("None", ["returned None", "expected a dict"]),
        ("w.detach()", ["a Tensor", "expected a dict"]),
        ("{'nope': w}", ["'nope'", "head__weight"]),
        ("{'head.weight': w}", ["'head.weight'", "'.' replaced by '__'"]),
        ("{0: w}", ["unknown key 0"]),
        ("{'head__weight': torch.zeros(3)}", ["(3,)", "'head__weight'", "(6, 7)"]),
        ("{'head__weight': w.T}", ["(7, 6)", "'head__weight'", "(6, 7)"]),
        ("{'head__weight': torch.empty(6, 7, device='meta')}", ["on meta", "'head__weight'", "expected cpu"]),
        ("{'head__weight': w * float('nan')}", ["NaN", "'head__weight'", "finite"]),
        ("{'head__weight': torch.full((6, 7), float('inf'))}", ["infinity", "'head__weight'", "finite"]),
        ("{'head__weight': torch.full((6, 7), 1e300, dtype=torch.float64)}", ["'head__weight'", "finite"]),
        ("{'head__weight': 1.0}", ["a float", "'head__weight'", "expected a tensor"]),
        ("{'head__weight': w.detach().numpy()}", ["ndarray", "'head__weight'", "expected a tensor"]),
        ("{'head__bias': torch.ones(6), 'head__weight': None}", ["None", "'head__weight'", "expected a tensor"]),
        ("{'head__weight': w.detach() * 1j}", ["complex numbers", "'head__weight'", "expected real ones"]),
        ("{'head__weight': torch.full((6, 7), float('nan')).to_sparse()}", ["NaN", "'head__weight'", "finite"]),
        ("{model.head.weight: w}", ["unknown key of type Parameter", "'.' replaced by '__'"]),
        ("{None: w}", ["unknown key of type NoneType", "'.' replaced by '__'"]),
    ],
)
def test_a_wrong_importance_is_refused_by_file_function_and_key(
    tmp_path: Path, expression: str, expected: list[str]
) -> None:
    method = regularizer(tmp_path, returning_importance(expression))
    with pytest.raises(RunError) as raised:
        importance_of(method)
    message = str(raised.value)
    missing = [part for part in [str(tmp_path / "method.py"), "estimate_importance", *expected] if part not in message]
    assert missing == []


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("0.5", "a float"),
        ("None", "None"),
        ("w.sum().item()", "a float"),
        ("w", "(6, 7)"),
        ("w.sum(0)", "(7,)"),
        ("w.sum() * float('nan')", "nan"),
        ("w.sum() + float('inf')", "inf"),
        ("w.sum().detach()", "without a gradient"),
        ("torch.tensor(1.0)", "without a gradient"),
        ("torch.tensor(1)", "without a gradient"),
        ("w.sum() > 0", "without a gradient"),
        ("w.sum() * (1 + 2j)", "a complex number"),
        ("w.sum().to('meta')", "on meta; expected cpu"),
    ],
)
def test_a_wrong_penalty_is_refused_by_file_and_function(tmp_path: Path, expression: str, expected: str) -> None:
    method = regularizer(tmp_path, returning_penalty(expression))
    with pytest.raises(RunError) as raised:
        checked_penalty(method, {"head__weight": torch.ones(6, 7)})
    message = str(raised.value)
    parts = [str(tmp_path / "method.py"), "compute_regularization_loss", expected, "expected"]
    assert [part for part in parts if part not in message] == []


def test_a_float_is_refused_without_warnings_of_pytorch(tmp_path: Path) -> None:
    method = regularizer(tmp_path, returning_penalty("float(w.sum())"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(RunError, match="returned a float"):
            checked_penalty(method, {"head__weight": torch.ones(6, 7)})
    assert caught == []


def test_a_constant_penalty_will_do_where_nothing_is_important(tmp_path: Path) -> None:
    method = regularizer(tmp_path, returning_penalty("torch.tensor(0.0)"))
    assert checked_penalty(method, {}).item() == 0


def test_a_constant_is_refused_where_it_is_no_longer_zero(tmp_path: Path) -> None:
    """A detached penalty is zero at the first step, where the parameters are at the anchor."""
    source = f"""
{GOOD_ESTIMATE}
{PENALTY}
    now = {{n.replace(".", "__"): p.detach() for n, p in model.named_parameters()}}
    return sum((p - prev_params_dict[key]).square().sum() for key, p in now.items())
"""
    with pytest.raises(
        RunError, match=r"method\.py: compute_regularization_loss returned the constant 0\.[0-9]+; expected"
    ):
        trained(file_method(write(tmp_path, source)))


def test_a_penalty_of_one_element_trains_as_a_scalar_does(tmp_path: Path) -> None:
    scalar, vector = (
        trained(file_method(write(tmp_path, returning_penalty(f"w.square().sum(){shape}"))))
        for shape in ("", ".reshape(1)")
    )
    assert torch.equal(scalar.head.weight, vector.head.weight)


def test_importance_is_returned_detached_and_in_the_parameters_type(tmp_path: Path) -> None:
    source = returning_importance("{'head__weight': (w * 2).double(), 'head__bias': torch.arange(6)}")
    model = network()
    importance = importance_of(regularizer(tmp_path, source, model))
    assert {value.dtype for value in importance.values()} == {torch.float32}
    assert not importance["head__weight"].requires_grad
    assert torch.equal(importance["head__weight"], 2 * model.head.weight.detach())
    assert importance["head__bias"].tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("layout", ["to_sparse()", "bool().to_sparse()", "half()", "bool()"])
def test_importance_of_any_layout_and_real_type_counts_as_the_dense_one(tmp_path: Path, layout: str) -> None:
    dense = returning_importance("{'head__weight': (w.detach() > 0).float()}")
    other = returning_importance(f"{{'head__weight': (w.detach() > 0).float().{layout}}}")
    model = network()
    given, expected = (importance_of(regularizer(tmp_path, source, model)) for source in (other, dense))
    assert given["head__weight"].layout is torch.strided
    assert torch.equal(given["head__weight"], expected["head__weight"])


@pytest.mark.parametrize("value", ["float('nan')", "'10'", "None", "torch.ones(2)", "-5.0"])
def test_a_strength_that_is_none_is_refused(tmp_path: Path, value: str) -> None:
    source = GOOD.replace("    return sum", f"    import torch\n    model.reg_strength = {value}\n    return sum")
    with pytest.raises(RunError, match=r"method\.py: compute_regularization_loss left model\.reg_strength="):
        trained(file_method(write(tmp_path, source)))


@pytest.mark.parametrize("pure", ["", "PENALTY_IS_PURE = True\n"])
@pytest.mark.parametrize("statement", ["del model.reg_strength", "model.reg_strength = -1"])
def test_a_strength_that_is_lost_later_is_refused(tmp_path: Path, statement: str, pure: str) -> None:
    later = (
        "    model.calls = getattr(model, 'calls', 0) + 1\n"
        f"    if model.calls == 3: {statement}\n"
        "    return sum(p.sum() for p in model.parameters())\n"
    )
    with pytest.raises(
        RunError, match=r"compute_regularization_loss left model\.reg_strength=.*a finite number of 0 or"
    ):
        trained(file_method(write(tmp_path, pure + GOOD_ESTIMATE + PENALTY + later)))


LEFT = {
    "model._custom_importance = None": "left None in model._custom_importance; expected a dict of tensors",
    "model._custom_prev_params = [1]": "left a list in model._custom_prev_params; expected a dict of tensors",
    "model._custom_importance['head__bias'] = 1.0": (
        "left a float in model._custom_importance['head__bias']; expected a tensor"
    ),
    "model._custom_W = None": "left None in model._custom_W; expected a dict of tensors",
    "model._custom_W['head__bias'] = None": "left None in model._custom_W['head__bias']; expected a tensor",
    "del model._custom_p_old": "left None in model._custom_p_old; expected a dict of tensors",
}


@pytest.mark.parametrize("function", ["estimate_importance", "compute_regularization_loss", "transform_gradients"])
@pytest.mark.parametrize(("statement", "expected"), LEFT.items(), ids=LEFT)
def test_what_the_contract_has_on_the_model_must_stay(
    tmp_path: Path, function: str, statement: str, expected: str
) -> None:
    source = f"""
{ESTIMATE}    estimate_importance
    return {{}}
{PENALTY}    compute_regularization_loss
    return sum(p.sum() for p in model.parameters())
def transform_gradients(model, importance_dict, prev_params_dict):
    transform_gradients
"""
    with pytest.raises(RunError) as raised:
        trained(file_method(write(tmp_path, source.replace(f"    {function}\n", f"    {statement}\n"))))
    assert f"method.py: {function} {expected}" in str(raised.value)


@pytest.mark.parametrize("statement", ["del model._custom_W", "model._custom_p_old = None"])
def test_a_path_that_is_not_used_may_go(tmp_path: Path, statement: str) -> None:
    source = f"USES_PATH_INTEGRAL = False\n{ESTIMATE}    {statement}\n    return {{}}\n{GOOD_PENALTY}"
    trained(file_method(write(tmp_path, source)))


def test_a_path_of_another_shape_is_refused(tmp_path: Path) -> None:
    source = GOOD.replace(
        "    return sum", "    model._custom_W['head__bias'] = model.head.bias.detach()[:3]\n    return sum"
    )
    with pytest.raises(RunError, match=r"method\.py: model\._custom_W\['head__bias'\] is now of shape \(3,\) on cpu"):
        trained(file_method(write(tmp_path, source)))


def test_carried_importance_of_another_shape_is_refused(tmp_path: Path) -> None:
    source = f"""
import torch
{ESTIMATE}    model._custom_importance["head__bias"] = torch.ones(4, 1)
    return {{"head__bias": torch.ones(6)}}
{GOOD_PENALTY}"""
    with pytest.raises(
        RunError, match=r"left shape \(4, 1\) in model\._custom_importance\['head__bias'\]; expected \(6,\)"
    ):
        trained(file_method(write(tmp_path, source)))


def test_a_parameter_left_out_gets_no_penalty(tmp_path: Path) -> None:
    source = f"""
import torch
{ESTIMATE}
    return {{"head__bias": torch.ones_like(model.head.bias)}}
{PENALTY}
    from clsweep.methods.quadratic import weighted_squares
    return weighted_squares(model, importance_dict, prev_params_dict)
"""
    model = network()
    made = learner(file_method(write(tmp_path, source), reg_strength=100.0), model)
    inputs, labels = dataset().tensors
    made.start_context()
    made.step(inputs, labels)
    made.end_context(dataset())
    assert set(model._custom_importance) == {"head__bias"}
    made.start_context()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.5)
    expected = torch.autograd.grad(torch.nn.functional.cross_entropy(model(inputs), labels), list(model.parameters()))
    made.step(inputs, labels)
    penalized = {
        key
        for (key, p), plain in zip(contract_parameters(model).items(), expected, strict=True)
        if not torch.allclose(_gradient(p), plain)
    }
    assert penalized == {"head__bias"}


@pytest.mark.parametrize("function", ["estimate_importance", "compute_regularization_loss"])
def test_an_exception_gives_the_line_of_the_file(tmp_path: Path, function: str) -> None:
    source = f"import torch\n\ndef helper(x):\n    return torch.ones(2) @ x\n\n{ESTIMATE}    {{}}\n{PENALTY}    {{}}\n"
    call = "return helper(torch.ones(3))"
    broken = source.format(*((call, "return 0") if function == "estimate_importance" else ("return {}", call)))
    method = regularizer(tmp_path, broken)
    with pytest.raises(RunError) as raised:
        importance_of(method) if function == "estimate_importance" else method.penalty(is_first=False)
    message = str(raised.value)
    assert f"{tmp_path / 'method.py'}, line 4: {function} raised RuntimeError" in message
    assert "\n" not in message


# ---- what is put back

DISTURBING = """
import random
import sys
import numpy as np
import torch

def disturb(model):
    model.eval()
    model.head.train()
    model.zero_grad(set_to_none=False)
    model(torch.ones(2, 1, 4, 4)).sum().backward()
    model(torch.ones(2, 1, 4, 4)).sum().backward()
    for p in model.parameters():
        p.grad.mul_(3)
    torch.manual_seed(99)
    np.random.seed(99)
    random.seed(99)

def estimate_importance(model, dataset, prev_params, device):
    disturb(model)
    if model.fails:
        raise ValueError("as planned")
    return {}

def compute_regularization_loss(model, importance_dict, prev_params_dict):
    disturb(model)
    if model.fails:
        raise ValueError("as planned")
    return sum(p.square().sum() for p in model.parameters())
"""


def call_importance(method: FileMethod) -> None:
    importance_of(method)


def call_penalty(method: FileMethod) -> None:
    method.penalty(is_first=False)


def call(function: Callable[[FileMethod], None], method: FileMethod) -> None:
    if method.model.fails:
        with pytest.raises(RunError, match="as planned"):
            function(method)
    else:
        function(method)


def _gradient(p: Tensor) -> Tensor:
    assert p.grad is not None
    return p.grad


@pytest.fixture(params=["returns", "raises"])
def model(request: pytest.FixtureRequest) -> Classifier:
    made = network("cnn")
    made.fails = request.param == "raises"
    return made


@pytest.fixture
def disturbing(tmp_path: Path, model: Classifier) -> FileMethod:
    return regularizer(tmp_path, DISTURBING, model)


both_functions = pytest.mark.parametrize("function", [call_importance, call_penalty])


@both_functions
def test_every_modules_mode_is_put_back(
    function: Callable[[FileMethod], None], disturbing: FileMethod, model: Classifier
) -> None:
    model.train()
    model.get_submodule("norms.1").eval()
    before = {name: module.training for name, module in model.named_modules()}
    call(function, disturbing)
    assert {name: module.training for name, module in model.named_modules()} == before
    assert not before["norms.1"]


@both_functions
def test_gradients_are_put_back(
    function: Callable[[FileMethod], None], disturbing: FileMethod, model: Classifier
) -> None:
    given = {p: torch.randn_like(p) for p in [model.head.weight, model.head.bias]}
    for p, gradient in given.items():
        p.grad = gradient.clone()
    held = _gradient(model.head.weight)
    call(function, disturbing)
    assert model.head.weight.grad is held
    assert all(torch.equal(_gradient(p), gradient) for p, gradient in given.items())
    assert {p for p in model.parameters() if p.grad is not None} == set(given)


@both_functions
def test_random_generators_are_put_back(
    function: Callable[[FileMethod], None], disturbing: FileMethod, model: Classifier
) -> None:
    def draw() -> tuple[float, float, float]:
        return torch.rand(()).item(), float(np.random.random()), random.random()

    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    expected = draw()
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    call(function, disturbing)
    assert draw() == expected


def test_a_penalty_keeps_its_graph_after_gradients_were_put_back(tmp_path: Path) -> None:
    plain = network("cnn")
    plain.fails = False  # type: ignore[assignment]
    regularizer(tmp_path, DISTURBING, plain).penalty(is_first=False).backward()
    assert all(torch.allclose(_gradient(p), 2 * p.detach()) for p in plain.parameters())


# ---- names


def test_keys_are_names_with_dots_replaced() -> None:
    made = network()
    assert list(contract_parameters(made)) == ["hidden__0__weight", "hidden__0__bias", "head__weight", "head__bias"]


def test_param_list_is_a_list_of_callables_that_yield_names_and_parameters() -> None:
    made = network()
    assert isinstance(made.param_list, list)
    named = dict(made.named_parameters())
    listed = {name: p for group in made.param_list for name, p in group()}
    assert list(listed) == list(named)
    assert all(listed[name] is p for name, p in named.items())


def test_a_snapshot_does_not_follow_the_parameters() -> None:
    made = network()
    before = made.head.bias.detach().clone()
    taken = snapshot(made)
    with torch.no_grad():
        made.head.bias.add_(1)
    assert torch.equal(taken["head__bias"], before)
    assert not taken["head__bias"].requires_grad


# ---- what a method draws and leaves behind

DRAWS = f"""
import random
import sys
import numpy as np
import torch
AT_IMPORT = torch.rand(1).item()
DRAWN = []
{ESTIMATE}    DRAWN.append((torch.rand(1).item(), np.random.rand(), random.random()))
    return {{}}
{PENALTY}    DRAWN.append((torch.rand(1).item(), np.random.rand(), random.random()))
    return sum(p.sum() for p in model.parameters())
"""


def drawn(file: Path, seed: int) -> list[tuple[float, float, float]]:
    """What a method draws in three calls, when it is loaded with `seed`."""
    method = attached(file_method(file), seed=seed)
    assert isinstance(method, FileMethod)
    importance_of(method)
    method.penalty(is_first=False)
    method.penalty(is_first=False)
    with method.active():
        module = sys.modules[f"clsweep_custom_{file.stem}"]
    return [(module.AT_IMPORT, 0.0, 0.0), *module.DRAWN]


def test_a_method_draws_new_random_numbers_at_every_call(tmp_path: Path) -> None:
    _, *calls = drawn(write(tmp_path, DRAWS), 0)
    assert all(len(set(generator)) == 3 for generator in zip(*calls, strict=True))


def test_what_a_method_draws_depends_on_the_seed_alone(tmp_path: Path) -> None:
    file = write(tmp_path, DRAWS)
    first = drawn(file, 0)
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    assert drawn(file, 0) == first
    assert drawn(file, 1)[0] != first[0]


def test_batch_statistics_and_frozen_flags_are_put_back(tmp_path: Path) -> None:
    source = f"""
import torch
{ESTIMATE}    model.train()
    model(dataset.tensors[0])
    for p in model.parameters():
        p.requires_grad_(False)
    return {{}}
{GOOD_PENALTY}"""
    model = network("cnn")
    before = {name: value.clone() for name, value in model.named_buffers()}
    importance_of(regularizer(tmp_path, source, model))
    assert before
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    assert all(p.requires_grad for p in model.parameters())


def test_a_penalty_with_a_used_up_graph_is_named(tmp_path: Path) -> None:
    source = f"""
{GOOD_ESTIMATE}
{PENALTY}    if not hasattr(model, "kept"):
        model.kept = sum(p.square().sum() for p in model.parameters())
    return model.kept
"""
    with pytest.raises(RunError, match=r"method\.py: compute_regularization_loss .* cannot be back-propagated"):
        trained(file_method(write(tmp_path, source)))


def test_a_penalty_that_turns_into_a_number_later_is_refused(tmp_path: Path) -> None:
    source = f"""
{GOOD_ESTIMATE}
{PENALTY}    model.calls = getattr(model, "calls", 0) + 1
    return sum(p.sum() for p in model.parameters()) if model.calls < 3 else 0.0
"""
    with pytest.raises(RunError, match="compute_regularization_loss returned a float"):
        trained(file_method(write(tmp_path, source)))


def test_leaving_python_inside_a_method_is_a_failure_of_the_method(tmp_path: Path) -> None:
    source = f"import sys\n{ESTIMATE}    sys.exit(3)\n{GOOD_PENALTY}"
    with pytest.raises(RunError, match="line 3: estimate_importance raised SystemExit"):
        importance_of(regularizer(tmp_path, source))
