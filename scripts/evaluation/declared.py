"""The experiments.

What is here decides what a run is called: another order of the overrides changes nothing, another value makes another
run. Strengths that were tuned elsewhere are written out, so that a later change of `conf/tuned` makes no other runs.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from evaluation import ablation, cifar_gap, figures, other_harness, samplers, tables, tuned, ways
from evaluation.experiment import ROOT, Experiment, Method, Setting
from evaluation.names import BENCHMARKS, DISTILLED, SHIPPED

_BF16 = "precision=bf16"
_RESPLIT = (
    "dataset=arrays",
    "dataset.train=${oc.env:CLSWEEP_DATA,data}/cifar100/train.npz",
    "dataset.test=${oc.env:CLSWEEP_DATA,data}/cifar100/test.npz",
)
_FISHER_OF_A_TENTH = "fisher.examples=6000"  # of 60,000: a context's importance in a tenth of the time
_FEW = "benchmark.stream._target_=scripts.evaluation.streams"


def _seeds(*seeds: int) -> tuple[tuple[str, ...], ...]:
    return tuple((f"seed={seed}",) for seed in seeds)


def _fresh(count: int) -> tuple[tuple[str, ...], ...]:
    """Seeds from 5000 on, which nothing was tuned or developed with."""
    return _seeds(*range(5000, 5000 + count))


def _method(name: str, *values: str, strengths: tuple[float, ...] = (), cost: float = 1.1) -> Method:
    return Method(name, (f"regularizer={name}", *(f"regularizer.{one}" for one in values)), strengths, cost)


def _shipped(*values: str, strengths: tuple[float, ...] = (), cost: float = 2.0) -> Method:
    file = ROOT / "custom_regularization.py"
    return replace(_method("custom", *values, strengths=strengths, cost=cost), name=SHIPPED, file=file)


def _distilled(cost: float) -> Method:
    """The shipped file with LwF's term on top, swept over all three hyperparameters."""
    file = ROOT / "examples" / "with_distillation.py"
    method = _method("custom", f"file={file.relative_to(ROOT).as_posix()}", cost=cost)
    first = "reg_strength: 1, distillation: 1, temperature: 2"
    return _sweep(replace(method, name=DISTILLED, file=file), first)


def _searched(
    ewc: tuple[float, ...], si: tuple[float, ...], kfac: tuple[float, ...], shipped: tuple[float, ...], kfac_cost: float
) -> tuple[Method, ...]:
    """The four methods, each with the strengths that are tried of it."""
    return (
        _method("ewc", strengths=ewc),
        _method("si", "epsilon=0.1", strengths=si),
        _method("kfac_ewc", strengths=kfac, cost=kfac_cost),
        _shipped(strengths=shipped),
    )


_SHIPPED_TRIED = (0.1, 0.3, 1.0, 2.0)  # beyond, it acts as 2
_SPLIT_METHODS = _searched(
    ewc=(1e3, 1e4, 1e5, 1e6, 1e7),
    si=(1.0, 10.0, 100.0, 1e3, 1e4),
    kfac=(10.0, 100.0, 1e3, 1e4, 1e5),
    shipped=_SHIPPED_TRIED,
    kfac_cost=3.0,
)
# Where all was tried that the whole width has, the least came out best but for SI: a decade less of the others.
_NARROW_SPLIT_METHODS = _searched(
    ewc=(100.0, 1e3, 1e4, 1e5, 1e6),
    si=(1.0, 10.0, 100.0, 1e3, 1e4),
    kfac=(1.0, 10.0, 100.0, 1e3, 1e4),
    shipped=(0.01, 0.03, *_SHIPPED_TRIED),
    kfac_cost=3.0,
)
_PERM_METHODS = _searched(
    ewc=(25.0, 80.0, 250.0, 800.0, 2500.0),
    si=(0.5, 1.6, 5.0, 16.0, 50.0),
    kfac=(0.7, 2.2, 7.0, 22.0, 70.0),
    shipped=_SHIPPED_TRIED,
    kfac_cost=5.0,
)
# Likewise, the least EWC came out best: two lower ones.
_NARROW_PERM_METHODS = (_method("ewc", strengths=(2.5, 8.0, 25.0, 80.0, 250.0, 800.0, 2500.0)), *_PERM_METHODS[1:])

# With a tenth of the examples, the greatest SI came out best: two greater ones.
_FEW_PERM_METHODS = (
    _PERM_METHODS[0],
    _method("si", "epsilon=0.1", strengths=(0.5, 1.6, 5.0, 16.0, 50.0, 160.0, 500.0)),
    *_PERM_METHODS[2:],
)


def _reference(
    benchmark: str,
    seeds: tuple[tuple[str, ...], ...],
    minutes: float,
    best: float,
    order: tuple[str, ...] | None = None,
    data: tuple[str, ...] = (),
) -> Experiment:
    """The published comparison.

    Args:
        benchmark: its name.
        seeds: the published one first.
        minutes: of a run without a penalty.
        best: the best figure of all that were published for the benchmark with the same task, whatever the method.
        order: what makes the class order that the published figures have; None: there is none, or it isn't known.
        data: the data set and its precision, where they aren't the published ones.
    """
    methods = (*(_method(name) for name in ("ewc", "online_ewc", "si")), _shipped())
    whole = Setting(benchmark, (f"benchmark={benchmark}", *data, "protocol=reference"), methods, seeds, minutes)
    settings = [whole]
    if order is not None:
        same = replace(
            whole, name="published_order", overrides=(*whole.overrides, *order), label="Published class order"
        )
        settings = [same, replace(whole, label="Each seed's own class order")]
    return Experiment(
        f"reference_{benchmark}",
        f"Reproduction of the published comparison: {BENCHMARKS[benchmark]}",
        "Do EWC, Online EWC and SI reach their published accuracies under the published protocol?",
        tuple(settings),
        partial(tables.beside_published, benchmark=benchmark, best=best),
        partial(figures.beside_published, benchmark=benchmark, best=best),
    )


def _sweep(method: Method, first: str, **ranges: str) -> Method:
    """A method whose values a sweep chooses.

    Args:
        method: without values.
        first: the ones that the sweep tries first, as in `reg_strength: 1`; what `conf/tuned` has may change.
        ranges: what is searched instead of what the method says, in Hydra's syntax.
    """
    typed = tuple(f"regularizer.{name}={text}" for name, text in ranges.items())
    return replace(method, search=(f"regularizer.tuned={{{first}}}", *typed))


def _around(value: float, decades: int = 1) -> str:
    """Some decades either way of a value, in Hydra's syntax."""
    return f"tag(log, interval({value / 10**decades:g}, {value * 10**decades:g}))"


def _by_strength(method: Method, first: float, decades: int, others: str = "", **ranges: str) -> Method:
    """A method whose strength is searched some decades either way of the one that is tried first."""
    return _sweep(method, f"reg_strength: {first:g}{others}", reg_strength=_around(first, decades), **ranges)


_BOUNDS = (
    replace(_method("none", cost=1.0), is_bound=True),
    Method("joint", ("regularizer=none", "stream=joint"), is_bound=True),
)


def _at_a_rate(swept: Method, first: str, low: str, high: str) -> Method:
    """A method whose learning rate is searched, too."""
    return replace(
        swept, search=(*swept.search, f"benchmark.lr={first}", f"optimizer.lr=tag(log, interval({low}, {high}))")
    )


def _with_rate(swept: Method) -> Method:
    """A row of its own for a method whose rate of Adam is searched, too."""
    return replace(_at_a_rate(swept, "1e-3", "1e-4", "1e-2"), name=f"{swept.name}_rate")


def _of_gradients(name: str, first: str, cost: float, *values: str, **ranges: str) -> Method:
    """A method that changes gradients, made for plain gradient descent."""
    method = _method(name, *values, cost=cost)
    whole = _sweep(replace(method, overrides=(*method.overrides, "optimizer=sgd")), first, **ranges)
    return _at_a_rate(whole, "0.1", "0.01", "1")


def _without_strengths(factors: float, data_size: float, *fisher: str, vcl: tuple[str, ...] = ()) -> tuple[Method, ...]:
    """The methods with other hyperparameters, over the ranges that they declare.

    Args:
        factors: the cost of a run with Kronecker factors.
        data_size: the examples of a context, which `ncl` tries first.
        fisher: how the Fisher information is estimated, where it isn't as usual.
        vcl: options of `vcl`.
    """
    sizes = {"data_size": _around(data_size, 2)}
    return (
        _sweep(_method("lwf", cost=1.3), "reg_strength: 1, temperature: 2"),
        _distilled(cost=4.0),
        _of_gradients("gpm", "threshold: 0.97, rise: 0.003", 1.5),
        _of_gradients("owm", "alpha: 1e-3", 1.5),
        _of_gradients("ncl", f"reg_strength: 1, data_size: {data_size:g}", factors, *fisher, **sizes),
        _sweep(_method("vcl", *vcl, cost=3.0), "reg_strength: 1, beta: 1, rate: 1e-3"),
    )


# The strengths that are tried first are those from before any sweep.
_SPLIT_ARENA = (
    _sweep(_shipped(), "reg_strength: 1"),
    _by_strength(_method("ewc"), 1e6, 2),
    _by_strength(_method("si"), 10, 2, ", epsilon: 0.1", epsilon=_around(0.1)),
    _BOUNDS[0],
    _by_strength(_method("kfac_ewc", cost=3.0), 1000, 2),
    _by_strength(_method("mas"), 1, 2),
    _by_strength(_method("online_ewc"), 1e6, 2, ", gamma: 1"),
    _by_strength(_method("rwalk", cost=1.3), 100, 2, ", gamma: 1, epsilon: 1e-3"),
    _by_strength(_method("l2"), 1, 2),
    _by_strength(_method("ewc_separate"), 1e6, 2),
    *_without_strengths(factors=3.0, data_size=12_000),
    _BOUNDS[1],
)


def _few_trials(
    ewc: float,
    si: float,
    kfac: float,
    rwalk: tuple[float, float],
    examples: float,
    estimated: int,
    costs: tuple[float, float, float],
) -> tuple[Method, ...]:
    """The methods where a run takes longer: a decade either way of strengths that are known from elsewhere.

    Args:
        ewc: the strength of `ewc` and `online_ewc`.
        si: of `si`.
        kfac: of `kfac_ewc`.
        rwalk: strength and epsilon of `rwalk`.
        examples: of a context.
        estimated: how many of them a context's Fisher information is estimated from.
        costs: of a run with a diagonal Fisher information, with Kronecker factors, and with the shipped file.
    """
    diagonal, factors, shipped = costs
    strength, epsilon = rwalk
    damped = f", gamma: 1, epsilon: {epsilon:g}"
    fisher = f"fisher.examples={estimated}"
    return (
        _sweep(_shipped(cost=shipped), "reg_strength: 1"),
        _by_strength(_method("ewc", fisher, cost=diagonal), ewc, 1),
        _by_strength(_method("si"), si, 1, ", epsilon: 0.1", epsilon=_around(0.1)),
        _BOUNDS[0],
        _by_strength(_method("kfac_ewc", fisher, cost=factors), kfac, 1),
        _by_strength(_method("mas", cost=1.5), 1, 3),  # as for L2, no strength is known
        _by_strength(_method("online_ewc", fisher, cost=diagonal), ewc, 1, ", gamma: 1", gamma="interval(0.5, 1)"),
        _by_strength(_method("rwalk", fisher, cost=diagonal), strength, 1, damped, epsilon=_around(epsilon)),
        _by_strength(_method("l2"), 1, 3),
        # A hundred steps can't bring down the noise that it begins with as a rule.
        *_without_strengths(factors, examples, fisher, vcl=("initial_std=0.003",)),
        _BOUNDS[1],
    )


def _estimated(name: str, strengths: tuple[float, ...], *options: str, cost: float = 1.1) -> Method:
    """EWC with another way to compute the Fisher information."""
    return replace(_method("ewc", *options, strengths=strengths, cost=cost), name=name)


# All ways begin with what the methods declare, and search the same ranges: they differ in what judges a trial alone.
_FROM_1_UP = "tag(log, interval(1, 1e9))"
_WAYS_SWEPT = (
    _sweep(_shipped(), "reg_strength: 1"),
    _sweep(_method("ewc", cost=2.0), "reg_strength: 1", reg_strength=_FROM_1_UP),
    _sweep(
        _method("online_ewc", cost=2.0),
        "reg_strength: 1, gamma: 1",
        reg_strength=_FROM_1_UP,
        gamma="interval(0.5, 1)",
    ),
    _sweep(
        _method("si"),
        "reg_strength: 1, epsilon: 0.1",
        reg_strength="tag(log, interval(1e-2, 1e4))",
        epsilon="tag(log, interval(1e-3, 1))",
    ),
)
_WAYS_DEFAULT = (
    _shipped("reg_strength=1"),
    _method("ewc", "reg_strength=1", cost=2.0),
    _method("online_ewc", "reg_strength=1", "gamma=1", cost=2.0),
    _method("si", "reg_strength=1", "epsilon=0.1"),
)


def _of_a_tenth(methods: tuple[Method, ...]) -> tuple[Method, ...]:
    """The methods; EWC's take the Fisher information from fewer examples, as the shipped file does by itself."""
    typed = f"regularizer.{_FISHER_OF_A_TENTH}"
    return tuple(
        replace(one, overrides=(*one.overrides, typed), cost=1.2) if one.name in ("ewc", "online_ewc") else one
        for one in methods
    )


_PUBLISHED_SEEDS = _seeds(42, *range(5000, 5010))
_CIFAR = ("benchmark=split_cifar100", *_RESPLIT)
_CIFAR_BF16 = (*_CIFAR, _BF16)
_TO_JOINT = (
    replace(_method("none", cost=1.0), draws=2),
    Method("joint", ("regularizer=none", "stream=joint"), draws=2),
)

_ORDERS = tuple(
    ("seed=5000", "seed_batches=5000", f"seed_order={5000 + order}", f"seed_init={5000 + init}")
    for both in range(10)
    for order, init in [(both, other) for other in range(both + 1)] + [(other, both) for other in range(both)]
)
_EITHER = tuple(
    ("seed=5000", "seed_batches=5000", f"seed_order={5000 + order}", f"seed_init={5000 + init}")
    for order, init in [(0, 0), *((one, 0) for one in range(1, 5)), *((0, one) for one in range(1, 5))]
)

_CIFAR_METHODS = (
    _shipped("reg_strength=1", cost=1.4),
    _method("ewc", "reg_strength=345"),
    _method("online_ewc", "reg_strength=345", "gamma=0.75"),
    _method("si", "reg_strength=2600", "epsilon=0.108"),
    *_TO_JOINT,
)

_ALL = (
    Experiment(
        tuned.NAME,
        "Comparison of six tuned methods",
        "Which method is best when each is tuned on validation data with the same number of trials?",
        (),
        tuned.tables,
        lambda experiment, made: None,
    ),
    # Digits 1 3, 5 8, 7 2, 9 4, 0 6: the permutation that seed 42 gives in numpy.
    _reference("split_mnist", _PUBLISHED_SEEDS, 0.8, best=0.9870, order=("seed_order=33531",)),
    _reference("perm_mnist", _PUBLISHED_SEEDS, 6, best=0.8935),
    _reference("split_cifar100", _seeds(42), 100, best=0.5463, data=(*_RESPLIT, _BF16)),
    Experiment(
        other_harness.NAME,
        "The shipped file in another harness",
        "Does the shipped file beat the best published accuracies in a harness that knows nothing of clsweep?",
        (),
        other_harness.table,
        lambda experiment, made: None,
    ),
    Experiment(
        ablation.NAME,
        "Ablation of the shipped file",
        "How much accuracy is lost when one ingredient of the shipped method is taken away?",
        (),
        ablation.tables,
        lambda experiment, made: None,
    ),
    Experiment(
        cifar_gap.NAME,
        "The gap to joint training on Split-CIFAR100",
        "How much of the gap is due to batch norm, to the convolutions' factors and to the strength?",
        (),
        cifar_gap.tables,
        lambda experiment, made: None,
    ),
    Experiment(
        "arena",
        "The arena: all methods tuned alike",
        "Which method is best when all get the same sweep, the same number of trials and the same fresh seeds?",
        (
            Setting("split_mnist", ("benchmark=split_mnist",), _SPLIT_ARENA, _fresh(10), 0.8, trials=15),
            Setting(
                "perm_mnist",
                ("benchmark=perm_mnist", "benchmark.iters=200", _BF16),
                (
                    *_few_trials(
                        ewc=250,
                        si=5,
                        kfac=7,
                        rwalk=(0.55, 8e-4),
                        examples=60_000,
                        estimated=6_000,
                        costs=(1.4, 3.0, 1.6),
                    ),
                    # So few steps of Adam at the benchmark's rate leave the network far from trained.
                    _with_rate(_sweep(_shipped(cost=1.6), "reg_strength: 1")),
                    _with_rate(_by_strength(_method("ewc", _FISHER_OF_A_TENTH, cost=1.4), 250, 1)),
                    _with_rate(_by_strength(_method("kfac_ewc", _FISHER_OF_A_TENTH, cost=3.0), 7, 1)),
                    replace(_BOUNDS[1], name="joint_rate", overrides=(*_BOUNDS[1].overrides, "optimizer.lr=1e-3")),
                ),
                _fresh(3),
                1.6,
                trials=8,
            ),
            Setting(
                "split_cifar100",
                (*_CIFAR_BF16, "benchmark.contexts=5", "benchmark.iters=100"),
                _few_trials(
                    ewc=100,
                    si=1e4,
                    kfac=23,
                    rwalk=(100, 1e-3),
                    examples=5_000,
                    estimated=1_000,
                    costs=(1.3, 2.0, 2.0),
                ),
                _fresh(3),
                1.6,
                trials=8,
            ),
        ),
        tables.tuned,
        figures.errors,
    ),
    Experiment(
        ways.NAME,
        "Tuning without the whole stream",
        "How much accuracy is lost when no trial sees the whole stream, and does the ranking of methods hold?",
        (
            *ways.settings("split_mnist", ("budget=quick",), _WAYS_SWEPT, _WAYS_DEFAULT, _fresh(5), 0.1, trials=15),
            *ways.settings(
                "perm_mnist",
                ("budget=quick", _BF16),
                _of_a_tenth(_WAYS_SWEPT),
                _of_a_tenth(_WAYS_DEFAULT),
                _fresh(3),
                2.2,
                trials=8,
            ),
        ),
        ways.table,
        lambda experiment, made: None,
    ),
    Experiment(
        samplers.NAME,
        "Samplers and pruners",
        "Which sampler finds good values in 10 to 40 trials, and what does a pruner gain?",
        (),
        samplers.tables,
        lambda experiment, made: None,
    ),
    Experiment(
        "fisher_estimators",
        "Five estimators of the Fisher information",
        "How much accuracy does EWC lose when its Fisher information is not exact?",
        (
            Setting(
                "split_mnist",
                ("benchmark=split_mnist",),
                (
                    _estimated("ewc_exact", (1e4, 1e5, 1e6, 1e7, 1e8)),
                    _estimated("ewc_batched", (1e6, 1e7, 1e8, 1e9, 1e10, 1e11), "fisher.labels=batched"),
                    _estimated("ewc_empirical", (1e4, 1e5, 1e6, 1e7, 1e8), "fisher.labels=empirical"),
                    _estimated("ewc_sampled", (1e4, 1e5, 1e6, 1e7, 1e8), "fisher.labels=sampled"),
                    _estimated("ewc_500", (1e4, 1e5, 1e6, 1e7, 1e8), "fisher.examples=500"),
                ),
                _fresh(5),
                0.8,
            ),
        ),
        partial(tables.comparison, reference="ewc_exact"),
        figures.errors,
    ),
    Experiment(
        "cifar_full",
        "Split-CIFAR100 at full budget",
        "With 5,000 iterations a context, how much of the gap to joint training does the shipped file close?",
        (
            Setting(
                "split_cifar100",
                _CIFAR_BF16,
                _CIFAR_METHODS,
                _fresh(3),
                100,
            ),
        ),
        partial(tables.comparison, to_joint=True),
        figures.over_contexts,
    ),
    Experiment(
        "cifar_tenth",
        "Split-CIFAR100 at a tenth of the budget",
        "With 500 iterations a context, how much of the gap to joint training does the shipped file close?",
        (Setting("split_cifar100", (*_CIFAR_BF16, "budget=quick"), _CIFAR_METHODS, _fresh(5), 10),),
        partial(tables.comparison, to_joint=True),
        figures.over_contexts,
    ),
    Experiment(
        "many_permutations",
        "A hundred permutations",
        "How much accuracy is left after 10, 20, 50 and 100 contexts?",
        (
            Setting(
                "perm_mnist",
                (
                    "benchmark=perm_mnist",
                    "benchmark.contexts=100",
                    "benchmark.iters=200",
                    _BF16,
                    "benchmark.stream._target_=scripts.evaluation.few_tests.permuted",
                ),
                (
                    _method("ewc", _FISHER_OF_A_TENTH, strengths=(25.0, 80.0, 250.0, 800.0)),
                    # The greatest came out best: two greater ones.
                    _method("si", "epsilon=0.1", strengths=(0.5, 1.6, 5.0, 16.0, 50.0, 160.0)),
                    _method(
                        "kfac_ewc",
                        _FISHER_OF_A_TENTH,
                        strengths=(0.7, 2.2, 7.0, 22.0),
                        cost=3.0,
                    ),
                    _shipped(strengths=(0.1, 0.3, 1.0, 2.0)),
                ),
                _fresh(2),
                13,  # half of it for 10,100 accuracies
                search=("benchmark.contexts=20",),
                search_part=0.15,
            ),
        ),
        partial(tables.after_contexts, counts=(10, 20, 50, 100)),
        figures.over_contexts,
    ),
    Experiment(
        "few_examples",
        "A tenth of the examples",
        "Which method is best when each context has a tenth of its training examples?",
        (
            Setting(
                "split_mnist",
                ("benchmark=split_mnist", "budget=quick", f"{_FEW}.split_few"),
                _SPLIT_METHODS,
                _fresh(5),
                0.2,
            ),
            Setting(
                "perm_mnist",
                ("benchmark=perm_mnist", "benchmark.iters=1000", f"{_FEW}.permuted_few"),
                _FEW_PERM_METHODS,
                _fresh(2),
                2.5,
            ),
        ),
        tables.comparison,
        figures.over_contexts,
    ),
    Experiment(
        "narrow",
        "Narrow networks",
        "Which method is best when the hidden layers have only 100 units?",
        (
            Setting(
                "split_mnist",
                ("benchmark=split_mnist", "benchmark.iters=500", "network.hidden=[100,100]"),
                _NARROW_SPLIT_METHODS,
                _fresh(5),
                0.25,
            ),
            Setting(
                "perm_mnist",
                (
                    "benchmark=perm_mnist",
                    "benchmark.contexts=20",
                    "benchmark.iters=1000",
                    _BF16,
                    "network.hidden=[100,100]",
                ),
                _NARROW_PERM_METHODS,
                _fresh(2),
                2,
            ),
        ),
        tables.comparison,
        figures.over_contexts,
    ),
    Experiment(
        "perm_mnist_rivals",
        "RWalk and Kronecker-factored EWC on Permuted-MNIST",
        "How do the two methods that were compared only in short runs do at full budget?",
        (
            Setting(
                "perm_mnist",
                ("benchmark=perm_mnist",),
                (
                    _method("ewc", "reg_strength=250", cost=1.5),
                    _method("si", "reg_strength=5", "epsilon=0.1"),
                    _method("rwalk", "reg_strength=0.55", "gamma=0.094", "epsilon=8e-4", cost=1.5),
                    _shipped("reg_strength=1"),
                    _method("kfac_ewc", "reg_strength=7", cost=7.0),
                ),
                _fresh(3),
                10,
            ),
        ),
        tables.comparison,
        figures.over_contexts,
    ),
    Experiment(
        "orders",
        "Class order and initialization",
        "How much of the spread between seeds comes from the class order, and how much from the initialization?",
        (
            Setting(
                "split_mnist",
                ("benchmark=split_mnist", "budget=quick"),
                (_method("ewc", "reg_strength=6217"), _shipped("reg_strength=1")),
                _ORDERS,
                0.2,
            ),
            Setting(
                "split_cifar100",
                (*_CIFAR, "benchmark.iters=100"),
                (_method("ewc", "reg_strength=345"), _shipped("reg_strength=1")),
                _EITHER,
                3,
            ),
        ),
        tables.variance,
        figures.variance,
    ),
)
EXPERIMENTS = {one.name: one for one in _ALL}
