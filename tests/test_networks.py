"""The networks' layers, compared with PyTorch's own."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny import cnn, mlp
from torch import Tensor, nn

from clsweep import memory
from clsweep.errors import InputError
from clsweep.networks import MLP, Convolution, Head, Selection, activate, build, check, equip, outputs_of

CPU = torch.device("cpu")


def gradients(outputs: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
    """Of a sum with uneven weights, so that no gradient is the same everywhere."""
    weights = torch.linspace(-1, 1, outputs.numel(), dtype=outputs.dtype).view(outputs.shape)
    return torch.autograd.grad((weights * outputs).sum(), of)


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (4, 4), (3, 4), (4, 1), (5, 7)])
@pytest.mark.parametrize("stride", [1, 2])
def test_product_is_the_convolution(size: tuple[int, int], stride: int) -> None:
    torch.manual_seed(0)
    layer = Convolution(5, 7, stride).double().to(memory_format=torch.channels_last)
    inputs = torch.randn(3, 5, *size, dtype=torch.float64, requires_grad=True)
    expected = F.conv2d(inputs, layer.weight, stride=stride, padding=1)
    assert layer.output_size(inputs) == expected.shape[2:]
    product = layer.as_product(inputs)
    torch.testing.assert_close(product, expected)
    for computed, right in zip(
        gradients(product, inputs, layer.weight), gradients(expected, inputs, layer.weight), strict=True
    ):
        torch.testing.assert_close(computed, right)


@pytest.mark.parametrize(("size", "as_product"), [(8, True), (10, False)])  # 16 positions and 25
def test_forward_is_a_product_where_few_positions_are_left(
    monkeypatch: pytest.MonkeyPatch, size: int, as_product: bool
) -> None:
    torch.manual_seed(0)
    products = 0
    product = Convolution.as_product

    def counted(layer: Convolution, inputs: Tensor) -> Tensor:
        nonlocal products
        products += 1
        return product(layer, inputs)

    monkeypatch.setattr(Convolution, "as_product", counted)
    layer = Convolution(5, 7, stride=2).double()
    inputs = torch.randn(3, 5, size, size, dtype=torch.float64)
    torch.testing.assert_close(layer(inputs), F.conv2d(inputs, layer.weight, stride=2, padding=1))
    assert products == as_product


def test_product_in_bf16_is_as_close_to_the_exact_convolution_as_conv2d_is() -> None:
    torch.manual_seed(0)
    layer = Convolution(64, 32, stride=2)
    inputs = torch.randn(8, 64, 4, 4)
    exact = F.conv2d(inputs.double(), layer.weight.double(), stride=2, padding=1)
    with torch.autocast("cpu", torch.bfloat16):
        product, convolution = layer(inputs), F.conv2d(inputs, layer.weight, stride=2, padding=1)
    assert product.dtype == convolution.dtype == torch.bfloat16
    assert (product - exact).norm() < 1.2 * (convolution - exact).norm()


def test_product_keeps_the_layout_that_convolutions_compute_in() -> None:
    layer = Convolution(5, 7, stride=2).to(memory_format=torch.channels_last)
    outputs = layer(torch.randn(3, 5, 4, 4))
    assert outputs.is_contiguous(memory_format=torch.channels_last)
    (gradient,) = gradients(outputs, layer.weight)
    assert gradient.stride() == layer.weight.stride()  # else the update would have to copy it


# What cannot be trained is refused before it is made


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (mlp([10**7]), "=[10000000]: 7,950,000,010 parameters with 10 outputs need 207.3 GiB of"),
        (mlp([10**15]), "network.hidden=[1000000000000000]: 795,000,000,000,000,010 parameters"),
        (mlp([10**21]), "too large for any memory"),
        (cnn([10**9], [4]), "network.hidden=[4] network.channels=[1000000000]: "),
    ],
)
def test_a_network_that_does_not_fit_into_memory(
    config: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_free", lambda device: 100 * 2**30)
    with pytest.raises(InputError) as caught:
        check(config, (1, 28, 28), 10, 2, CPU)
    assert said in str(caught.value)
    assert str(caught.value).endswith("; expected narrower layers.")


@pytest.mark.parametrize(
    ("config", "of_each"),
    [
        (mlp([100, 50]), 4 * (25 + 100 + 50)),  # the layers' inputs
        (cnn([3], [8]), 4 * (25 + 3 * 25 + 3 * 25 + 8)),  # and the normalization's
    ],
)
def test_a_batch_that_does_not_fit_into_memory(
    config: dict[str, Any], of_each: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_free", lambda device: of_each * 10**6)
    check(config, (1, 5, 5), 10, 10**6, CPU)
    with pytest.raises(InputError) as caught:
        check(config, (1, 5, 5), 10, 10**6 + 1, CPU)
    assert str(caught.value).startswith("benchmark.batch_size=1000001: as many examples in network.hidden=[")
    assert str(caught.value).endswith("are free; expected smaller batches.")


def test_one_example_is_no_batch_for_a_normalization_of_one_position() -> None:
    deep = cnn([2, 2, 2, 2], [4])
    check(deep, (1, 9, 9), 10, 1, CPU)
    check(deep, (1, 8, 8), 10, 2, CPU)
    check(mlp([4]), (1, 1, 1), 10, 1, CPU)
    with pytest.raises(InputError) as caught:
        check(deep, (1, 8, 8), 10, 1, CPU)
    assert str(caught.value) == (
        "benchmark.batch_size=1: network=cnn leaves one position of an image of 8x8, and batch normalization takes no "
        "average of one value; expected benchmark.batch_size=2 or more, or fewer network.channels."
    )


def test_a_check_leaves_the_random_numbers_as_they_were() -> None:
    before = torch.get_rng_state()
    check(mlp([4]), (1, 8, 8), 10, 1, CPU)
    assert torch.equal(torch.get_rng_state(), before)


# Which outputs a network of anyone's gives


class Own(nn.Module):
    """Knows nothing of clsweep: its layers are called as its author likes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(16, 5)
        self.last = nn.Linear(5, 6)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.last(self.stem(inputs.flatten(1)).relu())
        return logits


@pytest.mark.parametrize("make", [Own, lambda: MLP((1, 4, 4), 6, [5])], ids=["hook", "head"])
def test_a_network_gives_the_active_outputs_alone_and_a_copy_chooses_its_own(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model, inputs = equip(make(), 6), torch.randn(3, 1, 4, 4)
    every = model(inputs)
    assert every.shape == (3, 6)
    activate(model, range(2, 4))
    torch.testing.assert_close(model(inputs), every[:, 2:4])
    (gradient,) = torch.autograd.grad(model(inputs).sum(), list(model.parameters())[2])
    assert not gradient[[0, 1, 4, 5]].any()
    assert gradient[2:4].any()
    copied = deepcopy(model)
    activate(copied, torch.tensor([[0, 5], [1, 2], [3, 3]]))
    torch.testing.assert_close(copied(inputs), every.gather(1, torch.tensor([[0, 5], [1, 2], [3, 3]])))
    torch.testing.assert_close(model(inputs), every[:, 2:4])


def test_an_equipped_network_lists_its_parameters_by_its_own_names() -> None:
    model = equip(Own(), 6)
    listed = {name: p for group in model.param_list for name, p in group()}
    assert list(listed) == ["stem.weight", "stem.bias", "last.weight", "last.bias"]
    assert list(listed.values()) == list(model.parameters())


# Networks of one's own


SOURCE = """
import torch
from torch import nn
from clsweep.networks import MLP, Head

class Net(nn.Module):
    def __init__(self, input_shape, n_outputs, width=4):
        super().__init__()
        self.first, self.last = nn.Linear(input_shape[1] * input_shape[2], width), nn.Linear(width, n_outputs)

    def forward(self, x):
        return self.last(self.first(x.flatten(1)).relu())

class Pair(Net):
    def forward(self, x):
        return super().forward(x), x

class Narrow(Net):
    def __init__(self, input_shape):
        super().__init__(input_shape, 3)

class Constant(Net):
    def forward(self, x):
        return torch.zeros(len(x), 6)

class Frozen(Net):
    def __init__(self, input_shape, n_outputs):
        super().__init__(input_shape, n_outputs)
        self.requires_grad_(False)

class Wide(nn.Linear):
    def __init__(self):
        super().__init__(9, 6)

class Scaled(Net):
    def __init__(self, input_shape, n_outputs):
        super().__init__(input_shape, n_outputs)
        self.gamma = nn.Parameter(torch.ones(()))

class Classes(Net):
    def forward(self, x):
        return super().forward(x).argmax(1, keepdim=True).expand(-1, 6)

class Unflattened(Net):
    def forward(self, x):
        return self.last(self.first(x))

class Headed(Net):
    def __init__(self, input_shape, n_outputs, end=nn.Identity):
        super().__init__(input_shape, n_outputs)
        self.last, self.end = Head(4, n_outputs), end()

    def forward(self, x):
        return self.end(super().forward(x))

def scaled(input_shape, n_outputs):
    return Headed(input_shape, n_outputs, lambda: nn.LogSoftmax(1))

def followed(input_shape, n_outputs):
    return Headed(input_shape, n_outputs, lambda: nn.Linear(n_outputs, n_outputs))

def normalized(input_shape, n_outputs):
    return Headed(input_shape, n_outputs, lambda: nn.BatchNorm1d(n_outputs))

def with_body(input_shape, n_outputs):
    return nn.Sequential(MLP(input_shape, 5, [4]), nn.ReLU(), nn.Linear(5, n_outputs))

class MadeLate(Net):
    def __init__(self, input_shape, n_outputs):
        super().__init__(input_shape, n_outputs)
        self.after = None

    def forward(self, x):
        logits = super().forward(x)
        if self.after is None:
            self.after = nn.Linear(6, 6)
        return self.after(logits)

class MadeAnew(Net):
    def forward(self, x):
        self.scale = nn.Parameter(torch.ones(6))
        return super().forward(x) * self.scale

class Caching(Net):
    def forward(self, x):
        if not hasattr(self, "kept"):
            self.register_buffer("kept", torch.zeros(()))
        return super().forward(x)

class Sparse(Net):
    def __init__(self, input_shape, n_outputs):
        super().__init__(input_shape, n_outputs)
        self.table = nn.Embedding(2, n_outputs, sparse=True)

    def forward(self, x):
        return super().forward(x) + self.table((x.flatten(1)[:, 0] > 0.5).long())

class Complex(Net):
    def __init__(self, input_shape, n_outputs):
        super().__init__(input_shape, n_outputs)
        self.w = nn.Parameter(torch.ones(6, dtype=torch.complex64))

    def forward(self, x):
        return super().forward(x) * self.w.abs()

class Overwriting(Net):
    def forward(self, x):
        first = self.first(x.flatten(1)).sigmoid()
        logits = self.last(first)
        first.zero_()
        return logits

class Undefined(Net):
    def forward(self, x):
        return super().forward(x) * float("nan")

def function(n_outputs, hidden):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(hidden[0]), nn.ReLU(inplace=True), nn.Linear(hidden[0], n_outputs))

def scripted(input_shape, n_outputs):
    return torch.jit.script(Net(input_shape, n_outputs))

def traced_part(input_shape, n_outputs):
    net = Net(input_shape, n_outputs)
    net.first = torch.jit.trace(net.first, torch.zeros(2, 16))
    return net

def compiled(input_shape, n_outputs):
    return torch.compile(Net(input_shape, n_outputs), backend="eager")

def compiled_in_place(input_shape, n_outputs):
    net = Net(input_shape, n_outputs)
    net.compile(backend="eager")
    return net

def compiled_part(input_shape, n_outputs):
    net = Net(input_shape, n_outputs)
    net.first = torch.compile(net.first, backend="eager")
    return net

def compiled_method(input_shape, n_outputs):
    net = Net(input_shape, n_outputs)
    net.forward = torch.compile(net.forward, backend="eager")
    return net

class CompiledForward(Net):
    forward = torch.compile(Net.forward, backend="eager")

class Uncompiled(Net):
    forward = torch.compiler.disable(Net.forward)

    def __init__(self, input_shape, n_outputs):
        super().__init__(input_shape, n_outputs)
        self.activation = torch.compile(torch.relu, backend="eager")  # without a layer in it

def list_of(n_outputs):
    return [n_outputs]
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Nodes of networks in a module in the current folder, whose name no other test imports."""
    module = f"nets_{tmp_path.name}"
    (tmp_path / f"{module}.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    return lambda name, **arguments: {"name": "own", "_target_": f"{module}.{name}", **arguments}


def test_a_network_of_ones_own_is_made_and_found_good(own: Callable[..., dict[str, Any]]) -> None:
    for node in (own("Net", width=3), own("Uncompiled"), own("Caching", width=3), own("function", hidden=[5])):
        before = torch.get_rng_state()
        check(node, (1, 4, 4), 6, 1, CPU)
        model, again = (build(node, (1, 4, 4), 6, seed=1) for _ in range(2))
        assert torch.equal(torch.get_rng_state(), before)
        assert all(map(torch.equal, model.parameters(), again.parameters()))
        activate(model, range(2, 4))
        assert model(torch.randn(3, 1, 4, 4)).shape == (3, 2)
        assert model.training
    assert [name for name, _ in model.param_list[0]()] == ["1.weight", "1.bias", "3.weight", "3.bias"]


LOGITS = "expected a tensor [2, 6] of logits (n_outputs is given where its signature has it)."
OPAQUE = "which methods can't look into; expected it as it is without"
SCRIPTED = f"a TorchScript module, {OPAQUE} torch.jit."
COMPILED = f"a compiled module, {OPAQUE} torch.compile."


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("Pair", f"gives a tuple; {LOGITS}"),
        ("Narrow", f"gives [2, 3] for 2 examples; {LOGITS}"),
        ("Classes", f"gives torch.int64; {LOGITS}"),
        ("Constant", "gives logits that depend on none of its parameters; expected some that can be trained."),
        ("Undefined", "gives logits that are NaN for examples of numbers from 0 to 1; expected numbers."),
        ("Frozen", "has no parameter that is trained; expected at least one."),
        ("Scaled", "has a gamma of its own, where methods look for theirs; expected another name."),
        ("list_of", "makes list; expected a torch.nn.Module."),
        ("scripted", f"makes {SCRIPTED}"),
        ("traced_part", f"first is {SCRIPTED}"),
        ("compiled", f"makes {COMPILED}"),
        ("compiled_in_place", f"makes {COMPILED}"),
        ("compiled_part", f"first is {COMPILED}"),
        ("compiled_method", f"makes {COMPILED}"),
        ("CompiledForward", f"makes {COMPILED}"),
        (
            "MadeLate",
            "makes after.weight when it is called, which would never be trained; expected it in `__init__`, or a "
            "layer that waits for its first examples, such as nn.LazyLinear.",
        ),
        (
            "MadeAnew",
            "makes scale when it is called, which would never be trained; expected it in `__init__`, or a layer that "
            "waits for its first examples, such as nn.LazyLinear.",
        ),
        ("Sparse", "gives table.weight a sparse gradient; expected sparse=False."),
        ("Complex", "has a complex parameter w; expected real ones (torch.view_as_real)."),
    ],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_what_no_network_may_do_is_refused(own: Callable[..., dict[str, Any]], name: str, sentence: str) -> None:
    node = own(name)
    with pytest.raises(InputError) as caught:
        check(node, (1, 4, 4), 6, 2, CPU)
    assert str(caught.value) == f"network._target_={node['_target_']}: {sentence}"


@pytest.mark.parametrize(("name", "place"), [("Wide", ""), ("Unflattened", ", line 46")])
def test_a_network_that_takes_other_inputs_is_refused_with_what_it_was_given(
    own: Callable[..., dict[str, Any]], name: str, place: str
) -> None:
    expected = (
        rf"{name}: raised RuntimeError: .*cannot be multiplied.*{place}, given examples of shape \(2, 1, 4, 4\); "
        r"expected a network of \[B, 1, 4, 4\] \(input_shape is given where its signature has it\)\."
    )
    with pytest.raises(InputError, match=expected):
        check(own(name), (1, 4, 4), 6, 2, CPU)


@pytest.mark.parametrize(
    ("name", "chooser"),
    [("Headed", Head), ("scaled", Head), ("followed", Selection), ("normalized", Selection), ("with_body", Selection)],
)
def test_a_head_within_a_network_gives_all_its_outputs(
    own: Callable[..., dict[str, Any]], name: str, chooser: type[Head | Selection]
) -> None:
    check(own(name), (1, 4, 4), 6, 2, CPU)
    model, inputs = build(own(name), (1, 4, 4), 6, seed=1), torch.randn(3, 1, 4, 4)
    assert type(outputs_of(model)) is chooser
    assert all(module.training for module in model.modules())
    model.eval()
    every = model(inputs)
    assert every.shape == (3, 6)
    activate(model, range(2, 4))
    torch.testing.assert_close(model(inputs).log_softmax(1), every[:, 2:4].log_softmax(1))


def test_logits_without_a_gradient_are_refused(own: Callable[..., dict[str, Any]]) -> None:
    expected = (
        r"Overwriting: gives logits whose gradient raised RuntimeError: one of the variables needed for gradient "
        r"computation has been modified by an inplace operation.*; expected some that can be trained\.$"
    )
    with pytest.raises(InputError, match=expected):
        check(own("Overwriting"), (1, 4, 4), 6, 2, CPU)


def test_a_network_of_ones_own_that_does_not_fit_is_refused_before_it_takes_memory(
    own: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_free", lambda device: 100 * 2**30)
    node = own("Net", width=10**10)
    with pytest.raises(InputError, match=r"Net: 230,000,000,006 parameters with 6 outputs need 5\.9 TiB of memory"):
        check(node, (1, 4, 4), 6, 2, CPU)


def test_resnet18_is_the_slim_one() -> None:
    model = build({"_target_": "clsweep.networks.ResNet18", "name": "resnet18", "width": 20}, (3, 32, 32), 100, seed=0)
    convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == 17 + 3  # and shortcuts of 1x1 where the shape changes
    assert sum(p.numel() for p in model.parameters()) == 1_109_240
    values = model.get_submodule("stem")(torch.randn(2, 3, 32, 32))
    assert [(values := stage(values)).shape[1:] for stage in model.get_submodule("stages").children()] == [
        (20, 32, 32),
        (40, 16, 16),
        (80, 8, 8),
        (160, 4, 4),
    ]
    small = {"_target_": "clsweep.networks.ResNet18", "name": "resnet18", "width": 2}
    check(small, (1, 28, 28), 10, 1, CPU)
    with pytest.raises(
        InputError, match=r"=1: network=resnet18 leaves one position of an image of 8x8, .*larger images"
    ):
        check(small, (1, 8, 8), 10, 1, CPU)
