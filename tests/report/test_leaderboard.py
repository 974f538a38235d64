from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from trees import write_run, write_seeds, write_study

from clsweep import results
from clsweep.protocol import Protocol
from clsweep.report import leaderboard, names
from clsweep.report.sections import overview, section
from clsweep.report.selection import PROTOCOL, select
from clsweep.report.unit import FRACTION

GOOD = [0.95, 0.96, 0.955, 0.958]
WORSE = [0.93, 0.941, 0.936, 0.937]


def table(folder: Path) -> pd.DataFrame:
    return leaderboard.rows(select(results.load(folder)).runs)


def row(of: pd.DataFrame, method: str, **values: Any) -> Any:
    mine = of[of["method"] == method]
    for name, value in values.items():
        mine = mine[mine[name] == value]
    assert len(mine) == 1
    return mine.iloc[0]


def test_a_mean_is_over_the_finished_seeds_that_were_trained_on_everything(tmp_path: Path) -> None:
    write_seeds(tmp_path, GOOD)
    for status in ("failed", "pruned", "interrupted"):
        write_run(tmp_path / status, 0.1, seed=9, status=status)
    write_run(tmp_path / "held-out", 0.1, seed=9, validation_fraction=0.1)
    found = results.load(tmp_path)
    chosen = select(found)
    made = row(leaderboard.rows(chosen.runs), "ewc", kind="method")
    assert made["seeds"] == 4
    assert made["average_accuracy"] == pytest.approx(np.mean(GOOD))
    half_width = stats.t.ppf(0.975, 3) * np.std(GOOD, ddof=1) / 2
    assert made["average_accuracy_high"] - made["average_accuracy"] == pytest.approx(half_width)
    assert made["seconds"] == pytest.approx(11.5)
    mine = found.runs[(found.runs["status"] == "finished") & (found.runs["validation_fraction"] == 0)]
    assert made["forgetting"] == pytest.approx(mine["forgetting"].mean())
    assert made["backward_transfer"] == pytest.approx(mine["backward_transfer"].mean())
    assert chosen.held_out == 1


OTHER = {
    "benchmark": "perm_mnist",
    "dataset": "fashion_mnist",
    "contexts": 2,
    "iters": 500,
    "lr": 0.1,
    "network": "mlp 10",
    "normalize": True,
    "precision": "bf16",
    "image_size": 32,
}


@pytest.mark.parametrize("name", OTHER)
def test_runs_under_different_protocols_are_never_averaged(tmp_path: Path, name: str) -> None:
    write_run(tmp_path / "a", 0.9)
    write_run(tmp_path / "b", 0.5, **{name: OTHER[name]})
    made = table(tmp_path)
    assert sorted(made[made["kind"] == "method"]["average_accuracy"]) == pytest.approx([0.5, 0.9])
    assert made["protocol"].nunique() == 2


def test_runs_with_a_part_of_the_seed_of_their_own_are_no_seeds_of_one_another(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path / f"whole{seed}", 0.9, seed=seed)
        for init in range(3):
            write_run(tmp_path / f"init{seed}{init}", 0.5, seed=seed, seed_init=init)
    chosen = select(results.load(tmp_path))
    assert chosen.repeated == 0
    made = leaderboard.rows(chosen.runs)
    made = made[made["kind"] == "method"]
    assert made["seed_init"].fillna(-1).tolist() == [-1, 2, 1, 0]  # more runs don't make it the benchmark's first
    assert made["seeds"].tolist() == [3, 3, 3, 3]
    assert made["average_accuracy"].tolist() == pytest.approx([0.9, 0.5, 0.5, 0.5])


def test_seeds_that_leave_other_classes_out_have_other_images_and_are_one_protocol(tmp_path: Path) -> None:
    for seed, n_train in enumerate((36_017, 35_990)):  # three of five contexts: digits are not equally many
        write_run(tmp_path / str(seed), 0.9, seed=seed, n_train=n_train)
    assert row(table(tmp_path), "ewc", kind="method")["seeds"] == 2


def test_what_was_not_recorded_is_a_protocol_of_its_own(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        folder = write_run(tmp_path / name, 0.9, seed=ord(name))
        if name != "a":
            old = pd.read_csv(folder / "summary.csv").drop(columns=["format_version", "normalize", "network"])
            old.to_csv(folder / "summary.csv", index=False)
    made = table(tmp_path)
    assert sorted(made[made["kind"] == "method"]["seeds"]) == [1, 2]
    assert "network not recorded" in " ".join(Protocol.of_row(one).sentence() for one in made.to_dict("records"))


def test_different_values_are_different_rows_unless_the_method_does_not_use_them(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0.9, seed=0, epsilon=0.1)
    write_run(tmp_path / "b", 0.8, seed=1, epsilon=0.5)
    write_run(tmp_path / "c", 0.7, seed=2, reg_strength=20.0)
    write_run(tmp_path / "d", 0.6, seed=3, method_options="fisher.labels=sampled fisher.examples=null")
    made = table(tmp_path)
    mine = made[made["kind"] == "method"].set_index("setting")
    assert mine["seeds"].to_dict() == {
        "reg_strength=10": 2,
        "reg_strength=20": 1,
        "reg_strength=10, fisher.labels=sampled fisher.examples=null": 1,
    }
    assert mine.loc["reg_strength=10", "average_accuracy"] == pytest.approx(0.85)


def test_values_that_differ_in_their_last_digit_are_different(tmp_path: Path) -> None:
    for number, strength in enumerate((1.00001, 1.00002)):
        write_run(tmp_path / str(number), 0.9, reg_strength=strength)
    assert set(table(tmp_path)["setting"]) == {"reg_strength=1.00001", "reg_strength=1.00002"}


def test_a_file_of_version_1_names_what_a_built_in_method_uses(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", 0.9, regularizer="si")
    old = pd.read_csv(folder / "summary.csv").drop(columns=["format_version", "hyperparameters"])
    old.to_csv(folder / "summary.csv", index=False)
    assert list(table(tmp_path)["setting"]) == ["reg_strength=10, epsilon=0.1"]


def test_a_method_that_is_called_as_a_bound_is_a_method(tmp_path: Path) -> None:
    own = {"regularizer_file": "mine.py", "regularizer_digest": "abcdef012345"}
    write_run(tmp_path / "a", 0.5, regularizer="none", **own)
    write_run(tmp_path / "b", 0.6, regularizer="none", hyperparameters="")
    write_run(tmp_path / "c", 0.7, regularizer="joint", **own)
    write_run(tmp_path / "d", 0.8, regularizer="joint", stream="joint", hyperparameters="")
    kinds = table(tmp_path).set_index("method")["kind"].to_dict()
    assert kinds == {"joint @abcdef": "method", "none @abcdef": "method", "joint": "bound", "none": "bound"}


def test_a_repeated_seed_counts_once_the_later_run(tmp_path: Path) -> None:
    write_run(tmp_path / "b", 0.5, seed=1)
    write_run(tmp_path / "a", 0.7, seed=1)
    chosen = select(results.load(tmp_path))
    assert chosen.repeated == 1
    assert list(chosen.runs["average_accuracy"]) == pytest.approx([0.7])


def test_two_files_of_one_name_are_two_methods(tmp_path: Path) -> None:
    own = {"regularizer": "custom", "regularizer_file": "mine.py"}
    write_run(tmp_path / "a", 0.5, regularizer_digest="aaaaaaaaaaaa", **own)
    write_run(tmp_path / "b", 0.7, regularizer_digest="bbbbbbbbbbbb", **own)
    assert set(select(results.load(tmp_path)).runs["method"]) == {"mine @aaaaaa", "mine @bbbbbb"}


def test_a_file_of_ones_own_goes_by_its_name_and_the_shipped_one_by_custom(tmp_path: Path) -> None:
    for name in ("mine", "custom_regularization", "ewc"):
        write_run(
            tmp_path / name,
            0.5,
            regularizer="custom",
            regularizer_file=f"some/{name}.py",
            regularizer_digest=name[0] * 12,
        )
    write_run(tmp_path / "built-in", 0.6, regularizer="ewc")
    assert set(select(results.load(tmp_path)).runs["method"]) == {"mine", "custom", "ewc @eeeeee", "ewc"}


def test_a_method_stands_by_the_values_that_a_sweep_chose(tmp_path: Path) -> None:
    write_study(tmp_path / "study")
    write_seeds(tmp_path, [0.99] * 5, regularizer="online_ewc", hyperparameters="reg_strength gamma", gamma=0.1)
    made = table(tmp_path)
    mine = made[made["method"] == "online_ewc"]
    assert list(mine[mine["main"]]["setting"]) == ["reg_strength=10, gamma=0.5"]
    assert row(made, "online_ewc", chosen="tuned")["average_accuracy"] == pytest.approx(0.9055)
    assert set(made["tune_on"]) == {""}  # all on the whole stream, as usual
    assert row(made, "online_ewc", chosen="default")["average_accuracy"] == pytest.approx(0.8)


def test_else_by_the_most_seeds_and_never_by_its_accuracy(tmp_path: Path) -> None:
    write_seeds(tmp_path, [0.99], reg_strength=1.0)
    write_seeds(tmp_path, [0.90, 0.91], reg_strength=2.0)
    shown = row(table(tmp_path), "ewc", kind="method", main=True)
    assert (shown["setting"], shown["why"]) == ("reg_strength=2", "of 2 settings the one with the most seeds")


def test_settings_tried_by_hand_stand_by_the_latest_and_say_so(tmp_path: Path) -> None:
    for strength, accuracy in ((1.0, 0.99), (2.0, 0.97), (3.0, 0.5)):
        write_run(tmp_path / f"{strength}", accuracy, reg_strength=strength)
    made = table(tmp_path)
    shown = row(made, "ewc", kind="method", main=True)
    assert shown["setting"] == "reg_strength=3"
    assert shown["why"] == "of 3 settings the latest with the most seeds, none of them tuned"
    assert set(made[~made["main"]]["why"]) == {""}


def test_a_sweeps_default_values_come_before_settings_tried_by_hand(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study")
    finals = (study / "final.csv").read_text().splitlines()
    (study / "final.csv").write_text("\n".join([finals[0], finals[-1]]) + "\n")  # no tuned value was run
    for folder in ("final-0000", "final-0001"):
        shutil.rmtree(study / folder)
    write_run(tmp_path / "hand", 0.99, regularizer="online_ewc", hyperparameters="reg_strength gamma", gamma=0.3)
    shown = row(table(tmp_path), "online_ewc", main=True)
    assert (shown["setting"], shown["why"]) == ("reg_strength=1, gamma=1", "of 2 settings a sweep's default values")


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("origin", "default", "default"),
        ("origin", "default, tuned before", "default, tuned before"),
        ("written_before", "it_was_known", "default, perhaps tuned before"),
    ],
)
def test_default_values_are_not_called_so_where_they_were_tuned(
    tmp_path: Path, column: str, value: str, said: str
) -> None:
    study = write_study(tmp_path / "study")
    finals = pd.read_csv(study / "final.csv").drop(columns="origin")
    finals.assign(**{column: ["tuned", "tuned", value]}).to_csv(study / "final.csv", index=False)
    page = section("p", "", table(tmp_path), [], FRACTION)
    assert [one.setting for one in page.rows if one.method == "online_ewc"] == [
        "reg_strength=10, gamma=0.5 (tuned)",
        f"reg_strength=1, gamma=1 ({said})",
    ]


def test_nothing_is_called_tuned_that_has_no_hyperparameters(tmp_path: Path) -> None:
    write_study(tmp_path / "study")
    tuned = table(tmp_path).query("chosen == 'tuned'").assign(method="none", setting="")
    (shown,) = section("p", "", tuned, [], FRACTION).rows
    assert shown.setting == ""


@pytest.mark.parametrize("moved", [False, True])
def test_values_that_a_study_chose_are_tuned_where_one_beside_it_has_trained_them(tmp_path: Path, moved: bool) -> None:
    """Studies that differ in what they are tuned on train the same values and seed once."""
    made = tmp_path / "made"
    others = write_study(made / "on_first_contexts")
    on_stream = made / "on_stream"
    on_stream.mkdir()
    columns = "format_version,setting,reg_strength,gamma,seed,test_average_accuracy,folder,tune_on,comparable"
    finals = [f"3,tuned,1,1,0,0.8,{others}/final-0002", f"3,default,1,1,0,0.8,{others}/final-0002"]
    (on_stream / "final.csv").write_text("\n".join([columns, *(f"{one},stream,same" for one in finals)]) + "\n")
    finals = [f"3,tuned,10,0.5,{seed},0.9,{others}/final-000{seed}" for seed in (0, 1)]
    finals += [f"3,default,1,1,0,0.8,{others}/final-0002"]
    text = "\n".join([columns, *(f"{one},first_contexts 2,same" for one in finals)]) + "\n"
    (others / "final.csv").write_text(text)
    shutil.copy(others / "best.yaml", on_stream)
    trials = (others / "trials.csv").read_text().replace("on_first_contexts/", "on_stream/")
    (on_stream / "trials.csv").write_text(trials)
    if moved:
        made.rename(tmp_path / "moved")
    whole = table(tmp_path)
    shown = row(whole, "online_ewc", kind="method", main=True)
    assert (shown["setting"], shown["why"]) == (
        "reg_strength=1, gamma=1",
        "of 2 settings the one tuned on validation data",
    )
    page = section("p", "", whole, [], FRACTION)
    assert [one.setting for one in page.rows if one.method == "online_ewc"] == [
        "reg_strength=1, gamma=1 (tuned on stream)",
        "reg_strength=10, gamma=0.5 (tuned on first_contexts 2)",
    ]


def test_the_best_is_marked_where_it_beats_every_rival_over_common_seeds(tmp_path: Path) -> None:
    write_seeds(tmp_path, GOOD, regularizer="si")
    write_seeds(tmp_path, WORSE, regularizer="ewc")
    write_seeds(tmp_path, [0.99, 0.991, 0.99, 0.99], regularizer="joint", stream="joint", hyperparameters="")
    made = table(tmp_path)
    best = made[made["average_accuracy_best"].eq(True)]
    assert list(best["method"]) == ["si"]
    worse = row(made, "ewc", kind="method")
    test = stats.ttest_rel(WORSE, GOOD)
    assert worse["difference"] == pytest.approx(np.mean(WORSE) - np.mean(GOOD))
    assert worse["p"] == pytest.approx(test.pvalue)
    assert worse["common_seeds"] == 4
    assert np.isnan(row(made, "si", kind="method")["difference"])
    assert row(made, "joint")["difference"] > 0  # a bound is compared, but no rival


def test_a_method_with_failed_seeds_is_not_marked_and_its_row_says_so(tmp_path: Path) -> None:
    write_seeds(tmp_path, GOOD, regularizer="si")
    write_seeds(tmp_path, WORSE, regularizer="ewc")
    for seed in (4, 5):
        write_run(tmp_path / f"failed-{seed}", seed=seed, regularizer="si", status="failed", reason="NaN")
    made = table(tmp_path)
    assert made.set_index("method")[["seeds", "failed"]].to_numpy().tolist() == [[4, 2], [4, 0]]
    assert not made[[f"{metric}_best" for metric in leaderboard.MARKED]].eq(True).any(axis=None)
    said = "si has the highest mean of what finished, but 2 of its 6 seeds failed: it isn't told from the others."
    assert leaderboard.verdict(made) == said
    assert [one.count for one in section("p", "", made, [], FRACTION).rows] == ["4, 2 failed", "4"]
    _, (first, second) = overview(made, FRACTION)
    assert [one.count for row in (first, second) for one in row.figures if one is not None] == ["n=4, 2 failed", "n=4"]


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "interrupted"},
        {"reg_strength": 7.0},
        {"regularizer_digest": "0" * 12},
        {"validation_fraction": 0.1},
        {"seed": 3},  # which finished in another folder
        {"iters": 3},
    ],
)
def test_what_counts_as_failed_is_the_same_method_with_another_seed(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_seeds(tmp_path, GOOD, regularizer="si")
    values: dict[str, Any] = {"seed": 4, "regularizer": "si", "status": "failed", "reason": "NaN"}
    write_run(tmp_path / "failed", **(values | changes))
    assert table(tmp_path)["failed"].tolist() == [0]


def test_the_highest_mean_is_not_the_best_where_the_common_seeds_say_the_opposite(tmp_path: Path) -> None:
    write_seeds(tmp_path, [0.90, 0.901, 0.899, 0.90, 0.99, 0.99, 0.99, 0.99], regularizer="si")
    write_seeds(tmp_path, [0.93, 0.932, 0.929, 0.93], regularizer="mas")
    made = table(tmp_path)
    assert made["method"].iloc[0] == "si"
    assert not made["average_accuracy_best"].eq(True).any()


@pytest.mark.parametrize(
    "others",
    [
        {"mas": [0.94, 0.97, 0.95, 0.96]},  # as good
        {"mas": [0.93]},  # one common seed tells nothing
        {"mas": [0.5] * 4, "l2": [0.951, 0.953, 0.95, 0.955]},  # worse, and as good
    ],
)
def test_the_best_is_not_marked_where_the_seeds_do_not_tell(tmp_path: Path, others: dict[str, list[float]]) -> None:
    write_seeds(tmp_path, GOOD, regularizer="si")
    for method, accuracies in others.items():
        write_seeds(tmp_path, accuracies, regularizer=method)
    assert not table(tmp_path)["average_accuracy_best"].eq(True).any()


def test_a_single_seed_stands_below_methods_with_several_and_leads_nothing(tmp_path: Path) -> None:
    write_seeds(tmp_path / "a", GOOD, regularizer="ewc")
    write_seeds(tmp_path / "b", WORSE, regularizer="si")
    write_run(tmp_path / "once", 0.99, seed=77, regularizer="mas")
    made = table(tmp_path)
    assert made.loc[made["main"], "method"].tolist() == ["ewc", "si", "mas"]
    assert row(made, "si")["difference"] == pytest.approx(np.mean(WORSE) - np.mean(GOOD))
    assert not made["average_accuracy_best"].any(), "one of them was compared with none"
    assert leaderboard.verdict(made) == (
        "ewc has the highest mean, and is told from every method that it was compared with; "
        "mas: too few seeds in common."
    )


def test_a_leader_that_loses_on_the_seeds_in_common_is_told_from_nobody(tmp_path: Path) -> None:
    write_seeds(tmp_path, [0.900, 0.901, 0.902, 0.96, 0.96, 0.96], regularizer="ewc")
    write_seeds(tmp_path, [0.920, 0.9211, 0.9219], regularizer="si")
    told = "ewc has the highest mean; on the seeds that both have, si did better."
    assert leaderboard.verdict(table(tmp_path)) == told
    write_seeds(tmp_path, [0.90, 0.95, 0.85], regularizer="mas")
    told = "ewc has the highest mean, and can't be told from mas; on the seeds that both have, si did better."
    assert leaderboard.verdict(table(tmp_path)) == told


def test_a_method_that_does_the_same_on_every_seed_cannot_be_told_apart(tmp_path: Path) -> None:
    for method in ("ewc", "online_ewc"):
        write_seeds(tmp_path, [0.90, 0.95, 0.92], regularizer=method)
    assert leaderboard.verdict(table(tmp_path)) == "ewc has the highest mean, and can't be told from online_ewc."
    write_seeds(tmp_path, [0.80, 0.852, 0.821], regularizer="mas")
    assert leaderboard.verdict(table(tmp_path)) == "ewc has the highest mean, and can't be told from online_ewc."


def test_the_verdict_says_who_cannot_be_told_apart(tmp_path: Path) -> None:
    write_seeds(tmp_path / "a", GOOD, regularizer="ewc")
    write_seeds(tmp_path / "b", [0.951, 0.957, 0.956, 0.957], regularizer="si")
    write_seeds(tmp_path / "c", WORSE, regularizer="mas")
    assert leaderboard.verdict(table(tmp_path)) == "ewc has the highest mean, and can't be told from si."


def test_without_a_mark_the_verdict_corrects_for_all_pairs(tmp_path: Path) -> None:
    """The leader was chosen on the same seeds: of six methods there are 15 pairs, not 5."""
    write_seeds(tmp_path / "ewc", [0.950, 0.952, 0.951, 0.953], regularizer="ewc")
    write_seeds(tmp_path / "si", [0.949, 0.953, 0.951, 0.952], regularizer="si")
    close = [0.9450, 0.9485, 0.9465, 0.9508]
    write_seeds(tmp_path / "mas", close, regularizer="mas")
    told = "ewc has the highest mean, and can't be told from si."
    assert leaderboard.verdict(table(tmp_path)) == told
    for number, other in enumerate(("l2", "rwalk", "lwf")):
        write_seeds(tmp_path / other, [value - 0.2 - number / 100 for value in close], regularizer=other)
    assert leaderboard.verdict(table(tmp_path)) == "ewc has the highest mean, and can't be told from si, mas."


def test_a_method_alone_is_not_the_best(tmp_path: Path) -> None:
    write_seeds(tmp_path, GOOD, contexts=2)
    assert not table(tmp_path)[["average_accuracy_best", "forgetting_best"]].eq(True).any(axis=None)


def test_a_metric_that_no_method_has_marks_none(tmp_path: Path) -> None:
    for seed, nothing in enumerate([float("nan")] * 3):
        write_run(tmp_path / f"a{seed}", 0.9 + seed / 1000, seed=seed, regularizer="si", forgetting=nothing)
        write_run(tmp_path / f"b{seed}", 0.8, seed=seed, regularizer="mas", forgetting=nothing)
    made = table(tmp_path)
    assert not made["forgetting_best"].eq(True).any()
    assert made["forgetting"].isna().all()
    assert list(made[made["average_accuracy_best"].eq(True)]["method"]) == ["si"]


def test_what_rounds_to_zero_has_no_sign_but_a_differences() -> None:
    assert (FRACTION.text(-1e-6), FRACTION.text(-1e-6, "+"), FRACTION.text(-0.5)) == ("0.0000", "+0.0000", "-0.5000")


def test_less_forgetting_is_better(tmp_path: Path) -> None:
    for seed in range(4):
        write_run(tmp_path / f"a{seed}", 0.9, seed=seed, regularizer="si", drop=0.005 + seed / 1000)
        write_run(tmp_path / f"b{seed}", 0.9, seed=seed, regularizer="mas", drop=0.03 - seed / 1000)
    made = table(tmp_path)
    assert list(made[made["forgetting_best"].eq(True)]["method"]) == ["si"]


def test_published_figures_stand_beside_runs_of_their_protocol_only(tmp_path: Path) -> None:
    write_run(tmp_path / "other", 0.9, contexts=5, lr=0.01)
    write_run(tmp_path / "ours", 0.9, contexts=5)
    assert not table(tmp_path)["kind"].eq("published").any()
    for seed in range(3):
        write_run(tmp_path / f"theirs{seed}", 0.9, contexts=5, logits="all", seed=seed)  # more runs: the overview's
    made = table(tmp_path)
    published = made[made["kind"] == "published"]
    figures = published.set_index("method")["average_accuracy"].to_dict()
    assert figures == {
        "ewc": 0.9577,
        "online_ewc": 0.9743,
        "si": 0.9852,
    }
    assert set(published["lr"]) == {1e-3}
    assert set(published["seeds"]) == {1}
    assert set(published["setting"]) == {
        "published by MLS-Bench (ml-continual-regularization): strength 5000 for every method, seed 42, the Fisher "
        "from the first 200 examples, logits of all classes, Online EWC with gamma 0.9 on its penalty too"
    }
    _, shown = overview(made, FRACTION)
    assert {f"{one.method} {one.figures[0]}" for one in shown if one.kind == "published"} == {
        "ewc (published) 0.9577 (strength 5000, 2,000 iterations)",
        "online_ewc (published) 0.9743 (strength 5000, 2,000 iterations)",
        "si (published) 0.9852 (strength 5000, 2,000 iterations)",
    }


def test_permuted_mnists_published_figures_are_of_2000_iterations(tmp_path: Path) -> None:
    protocol = {"benchmark": "perm_mnist", "scenario": "domain", "contexts": 10, "classes_per_context": 10, "lr": 1e-4}
    of_network = {"image_size": 32, "network": "mlp 1000 1000"}
    write_run(tmp_path / "ours", 0.9, iters=5_000, **protocol, **of_network)
    assert not table(tmp_path)["kind"].eq("published").any()
    write_run(tmp_path / "theirs", 0.9, iters=2_000, **protocol, **of_network)
    made = table(tmp_path)
    published = made[made["kind"] == "published"]
    assert set(published["iters"]) == {2_000}
    assert sorted(published["average_accuracy"]) == [0.4474, 0.8381, 0.8427]


def test_the_overview_takes_the_fullest_protocol_of_each_benchmark(tmp_path: Path) -> None:
    write_seeds(tmp_path, GOOD, budget="quick", iters=200)
    write_run(tmp_path / "full", 0.9)
    write_run(tmp_path / "perm", 0.8, benchmark="perm_mnist", budget="smoke")
    shown = leaderboard.overview(table(tmp_path))
    assert shown[["benchmark", "budget"]].to_numpy().tolist() == [["perm_mnist", "smoke"], ["split_mnist", "full"]]


def test_the_overviews_order_is_by_places_not_by_means_over_other_benchmarks(tmp_path: Path) -> None:
    for method, accuracy in (("ewc", 0.95), ("si", 0.9), ("l2", 0.8)):
        write_run(tmp_path / method, accuracy, regularizer=method)
    write_run(tmp_path / "hard", 0.4, benchmark="split_cifar100", regularizer="ewc")
    order = leaderboard.methods_in_order(leaderboard.overview(table(tmp_path)))
    assert [method for _, method in order] == ["ewc", "si", "l2"]


def test_a_method_without_a_final_run_is_named(tmp_path: Path) -> None:
    write_run(tmp_path / "run", 0.9)
    study = write_study(tmp_path / "study")
    assert leaderboard.not_in_it(results.load(tmp_path), table(tmp_path)) == ""
    for final in study.glob("final-*"):
        shutil.rmtree(final)
    told = "Not in the table, for lack of a final run: online_ewc on split_mnist (5 trials finished)."
    assert leaderboard.not_in_it(results.load(tmp_path), table(tmp_path)) == told
    (study / "final.csv").unlink()
    assert leaderboard.not_in_it(results.load(tmp_path), table(tmp_path)) == told
    (study / "best.yaml").unlink()  # as before the first complete trial
    assert "run: study (5 trials finished)." in leaderboard.not_in_it(results.load(tmp_path), table(tmp_path))
    write_run(tmp_path / "hand", 0.8, regularizer="online_ewc")
    assert "online_ewc" not in leaderboard.not_in_it(results.load(tmp_path), table(tmp_path))


def test_what_a_sweep_searched_of_the_protocol_is_the_methods(tmp_path: Path) -> None:
    """Final runs of one sweep stand in one table, whatever learning rate each method came to."""
    for method, rate in (("online_ewc", 0.1), ("si", 0.003)):
        study = write_study(tmp_path / "sweep" / method)
        finals = pd.read_csv(study / "final.csv").assign(protocol="0123abcd", searched="lr")
        finals.to_csv(study / "final.csv", index=False)
        for number in range(3):
            summary = pd.read_csv(study / f"final-000{number}" / "summary.csv")
            lr = 0.001 if number == 2 else rate
            summary.assign(regularizer=method, lr=lr).to_csv(study / f"final-000{number}" / "summary.csv", index=False)
    write_run(tmp_path / "hand", 0.8, regularizer="online_ewc", lr=0.1, seed=9)
    made = table(tmp_path)
    first = leaderboard.overview(made)
    assert set(first["protocol"]) == {"0123abcd"}
    assert dict(zip(first["method"], first["setting"], strict=True)) == {
        "online_ewc": "reg_strength=10, gamma=0.5, lr=0.1",
        "si": "reg_strength=10, gamma=0.5, lr=0.003",
    }
    assert set(first["chosen"]) == {"tuned"}
    assert made.query("chosen == 'default'")["setting"].unique().tolist() == ["reg_strength=1, gamma=1, lr=0.001"]
    assert row(made, "online_ewc", searched="", main=True)["lr"] == 0.1  # what was typed is another protocol
    shown = section("p", "", made[made["searched"] == "lr"], [], FRACTION)
    assert "Adam lr searched, " in shown.protocol
    assert names.protocol_title(made.iloc[0].to_dict()).endswith(", full budget, lr searched")


def test_a_failed_final_run_of_a_sweep_that_searched_the_rate_counts(tmp_path: Path) -> None:
    """The table of final runs doesn't have it."""
    study = write_study(tmp_path / "sweep")
    finals = pd.read_csv(study / "final.csv").assign(protocol="0123abcd", searched="lr")
    finals.to_csv(study / "final.csv", index=False)
    summary = pd.read_csv(study / "final-0000" / "summary.csv").iloc[0].to_dict()
    kept = ("regularizer", "reg_strength", "gamma", "epsilon", "hyperparameters", "method_options", "lr")
    same: dict[str, Any] = {name: "" if pd.isna(summary[name]) else summary[name] for name in kept}
    write_run(study / "final-0009", seed=9, status="failed", reason="NaN", **same)
    made = table(tmp_path)
    assert made[made["chosen"] == "tuned"]["failed"].tolist() == [1]


def test_failed_seeds_of_a_bound_count_whatever_method_was_typed(tmp_path: Path) -> None:
    write_seeds(tmp_path, GOOD, regularizer="ewc", stream="joint", hyperparameters="")
    write_run(tmp_path / "failed", seed=4, regularizer="none", stream="joint", hyperparameters="", status="failed")
    assert row(table(tmp_path), "joint")["failed"] == 1


def test_what_is_searched_is_said_in_place_of_a_value(tmp_path: Path) -> None:
    write_run(tmp_path / "run", optimizer="sgd momentum=0.9", epochs=2)
    protocol = Protocol.of_row(table(tmp_path).iloc[0].to_dict())
    assert ", 2 epochs a context, batch 128, sgd momentum=0.9 lr 0.001, mlp 400 400, float32" in protocol.sentence()
    searched = protocol.sentence(["epochs", "lr", "network", "optimizer"])
    assert ", epochs searched, batch 128, sgd (arguments searched) lr searched, network searched, float32" in searched


def test_every_column_is_there_and_nothing_is_lost(tmp_path: Path) -> None:
    write_seeds(tmp_path, GOOD)
    made = table(tmp_path)
    assert set(PROTOCOL) <= set(made)
    assert {"seeds", "forgetting_low", "backward_transfer_high", "seconds", "p", "common_seeds", "main"} <= set(made)
