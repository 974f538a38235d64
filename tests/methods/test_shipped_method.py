"""The numbers of `custom_regularization.py`, in float64, beside loops over examples, weights and signs."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from stand_in import load
from torch import Tensor, nn
from torch.utils.data import TensorDataset

SHIPPED = Path(__file__).resolve().parent.parent.parent / "custom_regularization.py"
CPU = torch.device("cpu")
IMAGES = torch.randn(13, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Head(nn.Linear):
    """A head that computes some of its rows only, in any order."""

    rows = (4, 1, 2)

    def forward(self, features: Tensor) -> Tensor:
        chosen = list(self.rows)
        return nn.functional.linear(features, self.weight[chosen], None if self.bias is None else self.bias[chosen])


def model_of(*layers: nn.Module) -> nn.Sequential:
    model = nn.Sequential(*layers).double()
    model.param_list = [model.named_parameters]  # type: ignore[assignment]
    return model


def mlp(bias: bool = True) -> nn.Sequential:
    return model_of(nn.Flatten(), nn.Linear(32, 6, bias=bias), nn.ReLU(), Head(6, 5, bias=bias))


def cnn() -> nn.Sequential:
    return model_of(
        nn.Conv2d(2, 3, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(3),
        nn.ReLU(inplace=True),
        nn.Conv2d(3, 4, 2),
        nn.Flatten(),
        Head(4, 5),
    )


MODELS: dict[str, Callable[[], nn.Sequential]] = {"mlp": mlp, "without bias": lambda: mlp(bias=False), "cnn": cnn}


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The file, with batches that don't divide the examples."""
    module = load(SHIPPED)
    monkeypatch.setattr(module, "BATCH", 5)
    monkeypatch.setattr(module, "CONVOLUTION_BATCH", 5)
    return module


@pytest.fixture
def plus_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    """All random signs are +1, so that a loop can have the same."""
    monkeypatch.setattr(torch, "randint_like", lambda like, _: torch.ones_like(like))


def parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name.replace(".", "__"): p.detach().clone() for name, p in model.named_parameters()}


def estimated(module: Any, model: nn.Module, images: Tensor = IMAGES) -> dict[str, Tensor]:
    data = TensorDataset(images, torch.zeros(len(images), dtype=torch.long))
    importance: dict[str, Tensor] = module.estimate_importance(model, data, parameters(model), CPU)
    return importance


def layers_of(model: nn.Module) -> list[Any]:
    return list(model._factored_layers)  # type: ignore[arg-type]


def naive_factors(model: nn.Sequential) -> list[tuple[Tensor, Tensor]]:
    """A and G of each layer by a loop over examples: A of trace 1, G with the product's trace over the Hessian's.

    With one position the product is that of the two moments, with several it has the partial traces of the sum of
    W ⊗ W, of an example's gradient W.
    """
    factored = [module for module in dict.fromkeys(model) if isinstance(module, nn.Linear | nn.Conv2d)]
    inputs: dict[nn.Module, list[Tensor]] = {module: [] for module in factored}
    outputs: dict[nn.Module, list[Tensor]] = {module: [] for module in factored}
    positions: dict[nn.Module, int] = {}
    uses = {module: sum(other is module for other in model) for module in factored}
    hessian = 0.0
    model.eval()
    for image in IMAGES:
        value, visited = image.unsqueeze(0), []
        for module in model:
            given, value = value, module(value)
            if module in factored:
                value.retain_grad()
                visited.append((module, given.detach(), value))
                value = value.clone()
        hessian += backward_with_plus_signs(value)
        for module, given, output in visited:
            assert output.grad is not None
            a, g, positions[module] = _moments(module, given, output.grad[0])
            inputs[module].append(a)
            outputs[module].append(g)
    made = []
    for module in factored:
        a, g = sum(inputs[module], torch.zeros(())), sum(outputs[module], torch.zeros(()))
        scale = (1.0 if positions[module] > 1 else a.trace() / len(IMAGES) / uses[module]) / hessian
        made.append((a / a.trace(), g * scale))
    return made


def backward_with_plus_signs(logits: Tensor) -> float:
    """One example's pass back; its output Hessian's trace."""
    p = logits.detach().softmax(1)[0]
    (logits * (p.sqrt() - p * p.sqrt().sum())).sum().backward()
    return float((torch.diag(p) - torch.outer(p, p)).trace())


def _moments(module: nn.Module, inputs: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, int]:
    """Of one example a a^T and g g^T or, with several positions, W^T W and W W^T; and the number of positions."""
    if isinstance(module, nn.Conv2d):
        assert not isinstance(module.padding, str)
        sizes = module.kernel_size, module.dilation, module.padding, module.stride
        columns = nn.functional.unfold(inputs, *sizes)[0].T
        gradients = gradient.flatten(1).T
    else:
        columns, gradients = inputs.flatten(0, -2), gradient.reshape(-1, gradient.shape[-1])
    weight, bias = module.get_parameter("weight"), dict(module.named_parameters()).get("bias")
    has_one = bias is not None and bias.requires_grad
    sums = torch.zeros(len(weight), weight[0].numel() + has_one, dtype=torch.float64)
    rows = list(module.rows) if isinstance(module, Head) else list(range(len(weight)))
    for column, g in zip(columns, gradients, strict=True):
        a = torch.cat([column, column.new_ones(1)]) if has_one else column
        full = torch.zeros(len(weight), dtype=torch.float64)
        full[rows] = g
        sums += torch.outer(full, a)
    if len(columns) > 1:
        return sums.T @ sums, sums @ sums.T, len(columns)
    return torch.outer(a, a), torch.outer(full, full), 1


LAYERS: dict[str, Callable[[], nn.Sequential]] = MODELS | {
    "dead units, whose head sees zeros": lambda: _changed(mlp(), lambda model: nn.init.constant_(model[1].bias, -1e3)),
    "frozen bias": lambda: _changed(mlp(), lambda model: model[1].bias.requires_grad_(False)),
    "used twice": lambda: _twice(nn.Linear(6, 6)),
    "dilated": lambda: model_of(nn.Conv2d(2, 3, 2, dilation=2, padding=(1, 0)), nn.Flatten(), Head(24, 5)),
    "over positions": lambda: model_of(nn.Flatten(2), nn.Linear(16, 3), nn.Tanh(), nn.Flatten(), Head(6, 5)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.usefixtures("plus_signs")
def test_the_factors_are_those_of_a_loop_over_examples(shipped: Any, name: str) -> None:
    model = LAYERS[name]()
    estimated(shipped, model)
    expected = naive_factors(model)
    assert len(layers_of(model)) == len(expected)
    for layer, (a, g) in zip(layers_of(model), expected, strict=True):
        torch.testing.assert_close(layer.inputs, a, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(layer.outputs, g, rtol=1e-10, atol=1e-12)


def normalized_mlp() -> nn.Sequential:
    return model_of(nn.Flatten(), nn.Linear(32, 6), nn.BatchNorm1d(6), nn.ReLU(), Head(6, 5))


NORMALIZED: dict[str, Callable[[], nn.Sequential]] = {
    "cnn": cnn,
    "mlp": normalized_mlp,
    "frozen scale": lambda: _changed(cnn(), lambda model: model[1].weight.requires_grad_(False)),
}


@pytest.mark.parametrize("name", NORMALIZED)
@pytest.mark.usefixtures("plus_signs")
def test_the_importance_of_a_batch_norm_is_that_of_a_loop_over_examples(shipped: Any, name: str) -> None:
    model = _changed(NORMALIZED[name](), randomize_norms)
    importance = estimated(shipped, model)
    norm = next(module for module in model if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d))
    hessian = 0.0
    trained = [p for p in norm.parameters() if p.requires_grad]
    squares = [torch.zeros_like(p) for p in trained]
    for image in IMAGES:
        model.zero_grad()
        hessian += backward_with_plus_signs(model(image.unsqueeze(0)))
        for square, p in zip(squares, trained, strict=True):
            assert p.grad is not None
            square += p.grad.square()
    keys = {p: name.replace(".", "__") for name, p in model.named_parameters()}
    for square, p in zip(squares, trained, strict=True):
        torch.testing.assert_close(importance[keys[p]], square / hessian, rtol=1e-10, atol=1e-12)
    assert {key for key in importance if key.startswith("1__" if name != "mlp" else "2__")} == {
        keys[p] for p in trained
    }


def randomize_norms(model: nn.Sequential) -> None:
    """Scales of both signs and one that is zero; running averages that are neither 0 nor 1."""
    for module in model:
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                assert tensor is not None
                tensor.normal_()
            module.weight[0] = 0
            assert module.running_var is not None
            module.running_var.uniform_(0.5, 2)


@pytest.mark.parametrize("name", ["cnn", "mlp"])
def test_a_batch_norm_keeps_the_first_contexts_averages(shipped: Any, name: str) -> None:
    """In training, too, so that an example's output depends on no other example; a copy has its own norm."""
    model = _changed(NORMALIZED[name](), randomize_norms)
    estimated(shipped, model)
    expected = copy.deepcopy(model).eval()(IMAGES)
    averages = {name: value.clone() for name, value in model.named_buffers()}
    other = copy.deepcopy(model)
    _changed(other, lambda model: [p.mul_(2) for p in model.parameters()])
    torch.testing.assert_close(model.train()(IMAGES), expected, rtol=1e-10, atol=1e-12)
    estimated(shipped, model)
    model.train()(2 * IMAGES)
    assert all(torch.equal(value, averages[name]) for name, value in model.named_buffers())
    assert not torch.allclose(other.train()(IMAGES), expected)


def test_a_batch_norm_with_a_forward_pass_of_its_own_keeps_it(shipped: Any) -> None:
    """What it computes is not known, so that its scale and shift count as any other parameters."""

    class Own(nn.BatchNorm1d):
        def forward(self, values: Tensor) -> Tensor:
            return 2 * super().forward(values)

    torch.manual_seed(0)
    model = model_of(nn.Flatten(), nn.Linear(32, 6), Own(6), Head(6, 5))
    other = copy.deepcopy(model)
    other[2].__class__ = nn.BatchNorm1d
    with torch.no_grad():
        for p in other[2].parameters():
            p.mul_(2)
    expected, given = (estimated(shipped, one) for one in (other, model))
    assert "forward" not in vars(model[2])
    assert "forward" in vars(other[2])
    assert given["2__weight"].sum() > 1.5 * expected["2__weight"].sum()  # not a fourth of it


def test_a_layer_stays_what_it_was_in_the_first_context(shipped: Any) -> None:
    """With other values it may compute something else: its importance of then would be of another kind."""

    class Bent(nn.Linear):
        bent = 0.0

        def forward(self, values: Tensor) -> Tensor:
            return super().forward(values).clamp_min(-self.bent)

    for factored, values in ((["2__weight"], (0.0, 1e9)), (["1__weight", "2__weight"], (1e9, 0.0))):
        layer = Bent(32, 6)
        model = model_of(nn.Flatten(), layer, Head(6, 5))
        for layer.bent in values:
            estimated(shipped, model)
            assert [one.weight for one in layers_of(model)] == factored


def test_an_embedding_is_no_linear_layer(shipped: Any) -> None:
    """Not even where a text has as many words as the embedding has numbers for one."""
    model = model_of(nn.Embedding(50, 16), nn.Flatten(), Head(256, 5))
    texts = torch.randint(50, (13, 16))
    importance = shipped.estimate_importance(model, TensorDataset(texts, torch.zeros(13)), parameters(model), CPU)
    assert importance["0__weight"].max() > 0
    assert [layer.weight for layer in layers_of(model)] == ["2__weight"]


@pytest.mark.parametrize("training", [True, False])
def test_each_module_keeps_its_mode(shipped: Any, training: bool) -> None:
    model = cnn().train(training)
    model[1].eval()
    estimated(shipped, model)
    assert [module.training for module in model] == [training, False, *[training] * 4]


@pytest.mark.usefixtures("plus_signs")
def test_other_parameters_have_the_squares_of_each_batchs_gradient(shipped: Any) -> None:
    model = model_of(nn.Flatten(), nn.LayerNorm(32), Head(32, 5))
    torch.manual_seed(0)
    order = torch.randperm(len(IMAGES))
    torch.manual_seed(0)
    importance = estimated(shipped, model)
    hessian = 0.0
    square = torch.zeros(32, dtype=torch.float64)
    scale = model[1].get_parameter("weight")
    for batch in (IMAGES[order[:5]], IMAGES[order[5:10]], IMAGES[order[10:]]):
        model.zero_grad()
        hessian += sum(backward_with_plus_signs(model(image.unsqueeze(0))) for image in batch)
        assert scale.grad is not None
        square += scale.grad.square()
    torch.testing.assert_close(importance["1__weight"], square / hessian, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
@pytest.mark.usefixtures("plus_signs")
def test_the_estimate_is_of_that_many_examples_drawn_at_random(shipped: Any, name: str) -> None:
    shipped.EXAMPLES, shipped.CONVOLUTION_EXAMPLES = (7, 1) if name == "mlp" else (1, 7)
    model = MODELS[name]()
    torch.manual_seed(0)
    drawn = torch.randperm(len(IMAGES))[:7]
    torch.manual_seed(0)
    given = estimated(shipped, model)
    shipped.EXAMPLES = shipped.CONVOLUTION_EXAMPLES = 7
    expected = estimated(shipped, copy.deepcopy(model), IMAGES[drawn])
    for key, value in expected.items():
        torch.testing.assert_close(given[key], value, rtol=1e-10, atol=1e-12)


def test_the_estimate_is_the_fisher_information_on_average(shipped: Any) -> None:
    """Of a linear model and one example it is a Kronecker product: H (x) a a^T."""
    torch.manual_seed(0)
    head = Head(3, 5)
    model = model_of(head)
    image = torch.randn(1, 3, dtype=torch.float64)
    shipped.BATCH = 10_000
    estimated(shipped, model, image.repeat(10_000, 1))
    (layer,) = layers_of(model)
    p = model(image)[0].detach().softmax(0)
    hessian = torch.zeros(5, 5, dtype=torch.float64)
    rows = torch.tensor(head.rows)
    hessian[rows.unsqueeze(1), rows] = torch.diag(p) - torch.outer(p, p)
    a = torch.cat([image[0], image.new_ones(1)])
    expected = torch.kron(hessian / hessian.trace(), torch.outer(a, a))
    given = torch.kron(layer.outputs, layer.inputs)
    assert (given - expected).norm() < 0.03 * expected.norm()


@pytest.mark.parametrize("directions", [(64, 64), (2, 3), (0, 3), (2, 0)], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_the_penalty_and_its_gradient_are_those_of_the_whole_matrix(
    shipped: Any, name: str, directions: tuple[int, int]
) -> None:
    """In three contexts, at the anchor and away from it: 1/2 vec(D)^T H vec(D), a diagonal for other parameters."""
    shipped.OUTPUT_DIRECTIONS, shipped.INPUT_DIRECTIONS = directions
    model = MODELS[name]()
    importance: dict[str, Tensor] = {}
    for context in range(3):
        made = estimated(shipped, model, IMAGES[context : context + 7] * (1 + context))
        importance = {key: value + importance.get(key, 0) for key, value in made.items()}
        anchors = parameters(model)
        assert shipped.compute_regularization_loss(model, importance, anchors).item() == pytest.approx(0, abs=1e-12)
        for _ in range(2):
            with torch.no_grad():
                for p in model.parameters():
                    p.add_(0.1 * torch.randn_like(p))
            compare_with_the_whole_matrix(shipped, model, importance, anchors, directions)


def compare_with_the_whole_matrix(
    shipped: Any,
    model: nn.Sequential,
    importance: dict[str, Tensor],
    anchors: dict[str, Tensor],
    directions: tuple[int, int],
) -> None:
    model.zero_grad()
    penalty = shipped.compute_regularization_loss(model, importance, anchors)
    (3 * penalty).backward()
    given = {name.replace(".", "__"): p.grad for name, p in model.named_parameters()}
    leaves = {key: value.requires_grad_() for key, value in parameters(model).items()}
    expected = torch.zeros((), dtype=torch.float64)
    covered = set()
    for layer in layers_of(model):
        change = (leaves[layer.weight] - anchors[layer.weight]).flatten(1)
        if layer.bias is not None:
            change = torch.cat([change, (leaves[layer.bias] - anchors[layer.bias]).unsqueeze(1)], 1)
        matrix = naive_curvature(layer.outputs, layer.inputs, *directions)
        expected = expected + 0.5 * change.flatten() @ matrix @ change.flatten()
        covered |= {layer.weight, layer.bias}
    for key in leaves.keys() - covered:
        expected = expected + 0.5 * (importance[key] * (leaves[key] - anchors[key]) ** 2).sum()
    (3 * expected).backward()
    torch.testing.assert_close(penalty, expected.detach(), rtol=1e-6, atol=1e-10)
    for key, leaf in leaves.items():
        assert leaf.grad is not None
        torch.testing.assert_close(given[key], leaf.grad, rtol=1e-5, atol=1e-8)


def naive_curvature(g: Tensor, a: Tensor, g_rank: int, a_rank: int) -> Tensor:
    """G (x) V V^T + S S^T (x) diag(A - V V^T), as a whole matrix."""
    a_leading = naive_leading(a, a_rank)
    others = torch.diag((a - a_leading).diagonal())
    return torch.kron(g, a_leading) + torch.kron(naive_leading(g, g_rank), others)


def naive_leading(matrix: Tensor, rank: int) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    parts = [value * torch.outer(vector, vector) for value, vector in zip(values, vectors.T, strict=True)]
    return sum(parts[max(len(parts) - rank, 0) :], torch.zeros_like(matrix))


@pytest.mark.parametrize("rank", [0, 3, 48, 400])
def test_the_leading_part_of_a_matrix_is_that_of_its_eigenvectors(shipped: Any, rank: int) -> None:
    basis = torch.linalg.qr(torch.randn(200, 200, dtype=torch.float64))[0]
    values = 1 / torch.arange(1, 201, dtype=torch.float64)
    given = shipped._leading(basis @ torch.diag(values) @ basis.T, rank)
    assert given.shape == (200, min(rank, 200))
    expected = basis[:, :rank] @ torch.diag(values[:rank]) @ basis[:, :rank].T
    assert (given @ given.T - expected).norm() <= 0.02 * expected.norm()


@pytest.mark.usefixtures("plus_signs")
def test_contexts_that_are_alike_add_up_exactly(shipped: Any) -> None:
    model = mlp()
    estimated(shipped, model)
    once = [torch.kron(layer.outputs, layer.inputs) for layer in layers_of(model)]
    for _ in range(2):
        estimated(shipped, model)
    for one, layer in zip(once, layers_of(model), strict=True):
        torch.testing.assert_close(torch.kron(layer.outputs, layer.inputs), 3 * one, rtol=1e-10, atol=1e-12)


COLUMNS = {"1__weight": 33, "3__weight": 7}  # of [weight | bias], in `mlp`
CHANGES: dict[str, Callable[[Any, int], object]] = {
    "mlp": lambda model, context: None,
    "bias frozen in the second context": lambda model, context: model[1].bias.requires_grad_(context != 1),
    "weight frozen in the second context": lambda model, context: model[1].weight.requires_grad_(context != 1),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.usefixtures("plus_signs")
def test_contexts_are_merged_to_the_product_with_the_partial_traces_of_their_sum(shipped: Any, name: str) -> None:
    """Contexts of other inputs and outputs; those in which the bias is frozen add nothing to its row and column."""
    model = mlp()
    sums: dict[str, Tensor] = {}
    for context in range(3):
        CHANGES[name](model, context)
        images = IMAGES.clone()
        images[:, :, context:] *= 4**context
        _changed(model, lambda model: [p.mul_(1.5) for p in model.parameters()])
        alone = copy.deepcopy(model)
        alone._factored_layers = []  # type: ignore[assignment]
        estimated(shipped, alone, images)
        importance = estimated(shipped, model, images)
        anchors = {key: value + 0.1 for key, value in parameters(model).items()}
        assert shipped.compute_regularization_loss(model, importance, anchors).item() > 0
        for layer in layers_of(alone):
            add_product(sums, layer)
        merged = {layer.weight: layer for layer in layers_of(model)}
        for layer in layers_of(alone):
            compare_with_the_partial_traces(merged[layer.weight], sums[layer.weight])
        assert merged.keys() == sums.keys()
    assert merged["1__weight"].bias == "1__bias"


def add_product(sums: dict[str, Tensor], layer: Any) -> None:
    """Add G ⊗ A as a tensor [out, out, in + 1, in + 1]; the last row and column are a trained bias's."""
    total = sums.setdefault(layer.weight, torch.zeros(*layer.outputs.shape, *[COLUMNS[layer.weight]] * 2).double())
    columns = len(layer.inputs)
    total[..., :columns, :columns] += torch.einsum("ij,kl->ijkl", layer.outputs, layer.inputs)


def compare_with_the_partial_traces(merged: Any, total: Tensor) -> None:
    trace = torch.einsum("iikk->", total)
    expected_g = torch.einsum("ijkk->ij", total)
    expected_a = torch.einsum("iikl->kl", total) / trace
    torch.testing.assert_close(merged.outputs, expected_g, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(merged.inputs, expected_a, rtol=1e-9, atol=1e-12)


def test_a_context_that_is_learned_with_confidence_weighs_as_much_as_another(shipped: Any) -> None:
    """A head that is sure of everything has almost no Fisher information; divided by its Hessian's trace it does."""
    torch.manual_seed(0)
    images = torch.randn(4_000, 3, dtype=torch.float64)
    traces, hessians = [], []
    for confidence in (1.0, 12.0):
        torch.manual_seed(1)
        model = model_of(Head(3, 5))
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(confidence)
        estimated(shipped, model, images)
        traces.append(float(layers_of(model)[0].outputs.trace()))
        predicted = model(images).detach().softmax(1)
        hessians.append(float((predicted - predicted.square()).sum()))
    assert hessians[1] < hessians[0] / 3
    assert traces[1] == pytest.approx(traces[0], rel=0.1)


def test_memory_does_not_grow_with_the_contexts(shipped: Any) -> None:
    model = mlp()

    def held_after_a_context() -> int:
        importance = estimated(shipped, model)
        shipped.compute_regularization_loss(model, importance, parameters(model))
        values = [value for layer in layers_of(model) for value in vars(layer).values()]
        tensors = [tensor for value in values for tensor in (value if isinstance(value, tuple) else [value])]
        return sum(tensor.numel() for tensor in tensors if isinstance(tensor, Tensor))

    assert len({held_after_a_context() for _ in range(5)}) == 1


EDGES: dict[str, Callable[[], nn.Sequential]] = {
    "inplace, groups, padding": lambda: model_of(
        nn.Conv2d(2, 4, 3, padding="same"),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Flatten(),
        Head(16, 5),
    ),
    "layer norm": lambda: model_of(nn.Flatten(), nn.LayerNorm(32), nn.Linear(32, 6), Head(6, 5)),
    "dead units": lambda: _changed(mlp(), lambda model: nn.init.constant_(model[1].bias, -1e3)),
    "certain": lambda: _changed(mlp(), lambda model: nn.init.constant_(model[3].bias[1:2], 1e4)),
    "frozen": lambda: _changed(cnn(), lambda model: model[0].requires_grad_(False)),
    "frozen bias": lambda: _changed(mlp(), lambda model: model[1].bias.requires_grad_(False)),
    "all frozen": lambda: _changed(cnn(), lambda model: model.requires_grad_(False)),
    "used twice": lambda: _twice(nn.Linear(6, 6)),
}


def _changed(model: nn.Sequential, change: Callable[[Any], object]) -> nn.Sequential:
    with torch.no_grad():
        change(model)
    return model


def _twice(layer: nn.Linear) -> nn.Sequential:
    return model_of(nn.Flatten(), nn.Linear(32, 6), layer, nn.Tanh(), layer, Head(6, 5))


@pytest.mark.parametrize("images", [IMAGES, IMAGES[:1]], ids=["thirteen", "one"])
@pytest.mark.parametrize("name", EDGES)
def test_it_does_no_harm_at_the_edges(shipped: Any, name: str, images: Tensor) -> None:
    model = EDGES[name]()
    importance = estimated(shipped, model, images)
    anchors = parameters(model)
    assert all(torch.isfinite(value).all() for value in importance.values())
    assert {key: value.shape for key, value in importance.items()}.items() <= {
        k: v.shape for k, v in anchors.items()
    }.items()
    penalty = shipped.compute_regularization_loss(model, importance, anchors)
    assert penalty.item() == pytest.approx(0, abs=1e-12)
    if penalty.requires_grad:
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.1 * torch.randn_like(p))
        penalty = shipped.compute_regularization_loss(model, importance, anchors)
        penalty.backward()
        assert penalty.item() >= 0
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


class Borrower(nn.Module):
    """Computes with its layer's weight and never calls the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(32, 6)

    def forward(self, values: Tensor) -> Tensor:
        return nn.functional.linear(values, self.layer.weight, self.layer.bias)


class WithoutGradients(nn.Linear):
    def forward(self, values: Tensor) -> Tensor:
        with torch.no_grad():
            return super().forward(values)


class OwnLinear(nn.Module):
    """A linear layer of another class, whose weight has another name; it computes some of its rows."""

    def __init__(self, n_inputs: int, n_outputs: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(n_outputs, n_inputs))
        self.b = nn.Parameter(torch.randn(n_outputs))

    def forward(self, values: Tensor) -> Tensor:
        return (values @ self.w.T + self.b)[:, [4, 1, 2]]


def test_a_layer_of_another_class_has_the_factors_of_pytorchs(shipped: Any) -> None:
    torch.manual_seed(0)
    own = OwnLinear(32, 6)
    layer = Head(32, 6)
    with torch.no_grad():
        layer.weight.copy_(own.w)
        layer.bias.copy_(own.b)
    factors = []
    for head in (own, layer):
        model = model_of(nn.Flatten(), head)
        torch.manual_seed(1)
        estimated(shipped, model)
        factors.append(layers_of(model)[0])
    torch.testing.assert_close(factors[0].inputs, factors[1].inputs, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(factors[0].outputs, factors[1].outputs, rtol=1e-10, atol=1e-12)
    assert factors[0].bias == "1__b"


UNUSUAL: dict[str, Callable[[], nn.Module]] = {
    "never called": Borrower,
    "weight computed from others": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(32, 6)),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_a_layer_that_has_no_factors_is_protected_by_its_diagonal(shipped: Any, name: str) -> None:
    model = model_of(nn.Flatten(), UNUSUAL[name](), nn.Tanh(), Head(6, 5))
    importance = estimated(shipped, model)
    assert len(layers_of(model)) == 1
    assert importance.keys() == parameters(model).keys()
    assert all(value.max() > 0 for value in importance.values())


def test_what_the_network_runs_without_gradients_has_no_importance(shipped: Any) -> None:
    model = model_of(nn.Flatten(), WithoutGradients(32, 6), nn.Tanh(), Head(6, 5))
    importance = estimated(shipped, model)
    assert importance["1__weight"].abs().max() == 0
    assert importance["3__weight"].max() > 0


def test_the_hooks_go_when_the_network_fails(shipped: Any) -> None:
    model = mlp()
    with pytest.raises(RuntimeError):
        estimated(shipped, model, IMAGES[:, :1])
    assert not any(module._forward_hooks for module in model)


def test_the_importance_under_autocast_is_that_without(shipped: Any) -> None:
    model = cnn().float()
    other = copy.deepcopy(model)
    torch.manual_seed(0)
    expected = estimated(shipped, model, IMAGES.float())
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        given = estimated(shipped, other, IMAGES.float())
    for key, value in expected.items():
        assert torch.equal(given[key], value)
    for layer, same in zip(layers_of(other), layers_of(model), strict=True):
        assert torch.equal(layer.leading_inputs, same.leading_inputs)
        assert torch.equal(layer.leading_outputs, same.leading_outputs)


def test_a_batch_norm_without_running_averages_never_gets_a_single_example(shipped: Any) -> None:
    norm = nn.BatchNorm1d(6, track_running_stats=False)
    model = model_of(nn.Flatten(), nn.Linear(32, 6), norm, nn.ReLU(), Head(6, 5))
    importance = estimated(shipped, model)
    assert importance.keys() == parameters(model).keys()
    assert importance["2__weight"].max() > 0


def test_the_device_may_be_a_name(shipped: Any) -> None:
    """Some harnesses hand over "cpu" for the device."""
    data = TensorDataset(IMAGES, torch.zeros(len(IMAGES)))
    model = mlp()
    assert shipped.estimate_importance(model, data, parameters(model), "cpu").keys() == parameters(model).keys()


def test_the_penalty_under_autocast_is_that_without(shipped: Any) -> None:
    model = cnn().float()
    importance = estimated(shipped, model, IMAGES.float())
    anchors = {key: value + 0.1 * torch.randn_like(value) for key, value in parameters(model).items()}
    expected = shipped.compute_regularization_loss(model, importance, anchors)
    with torch.autocast("cpu", torch.bfloat16):
        given = shipped.compute_regularization_loss(model, importance, anchors)
    assert given.item() == expected.item()


def test_a_strength_beyond_the_strongest_acts_as_the_strongest(shipped: Any) -> None:
    """Where a harness has one strength for all methods, thousands for EWC's sake, the network can still learn."""
    model = mlp()
    importance = estimated(shipped, model)
    anchors = {key: value + 0.1 for key, value in parameters(model).items()}
    total = {}
    for strength in (0.5, 1.0, shipped.STRONGEST, 100.0, 10_000.0):
        model.reg_strength = strength  # type: ignore[assignment]
        total[strength] = strength * shipped.compute_regularization_loss(model, importance, anchors).item()
    assert total[1.0] == pytest.approx(2 * total[0.5])
    assert total[shipped.STRONGEST] == pytest.approx(shipped.STRONGEST * total[1.0])
    assert total[100.0] == pytest.approx(total[shipped.STRONGEST])
    assert total[10_000.0] == pytest.approx(total[shipped.STRONGEST])


def test_the_ablation_changes_the_penalty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its variants change the file's text, which may have changed itself."""
    monkeypatch.syspath_prepend(SHIPPED.parent / "scripts")
    ablation = load(SHIPPED.parent / "scripts" / "ablation.py")
    images = torch.randn(300, 200, dtype=torch.float64)  # more of both than any variant has directions
    torch.manual_seed(0)
    started = model_of(nn.Linear(200, 40), nn.ReLU(), Head(40, 5))
    penalties = {}
    for name, changes in ablation.VARIANTS.items():
        module = ModuleType("variant")
        exec(compile(ablation.variant(changes), "variant", "exec"), module.__dict__)
        model = copy.deepcopy(started)
        torch.manual_seed(1)
        for context in range(2):
            importance = estimated(module, model, images * (1 + context))
        anchors = {key: value + 1 for key, value in parameters(model).items()}
        penalties[name] = module.compute_regularization_loss(model, importance, anchors).item()
        model.reg_strength = 1e6  # type: ignore[assignment]
        assert module.compute_regularization_loss(model, importance, anchors).item() == penalties[name]
    for one, other in itertools.combinations(penalties, 2):
        assert abs(penalties[one] / penalties[other] - 1) > 1e-4, (one, other)
