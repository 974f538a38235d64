"""What README shows is what a kept run measured."""

from __future__ import annotations

import re

from builders import ROOT

from clsweep import results
from clsweep.training.display import clock

KEPT = ROOT / "outputs" / "reference"


def test_the_demos_output_is_that_of_the_run_whose_files_are_kept() -> None:
    text = (ROOT / "README.md").read_text()
    shown = text[text.index("\nbenchmark  perm_mnist") : text.index("\nfigures           outputs/perm_mnist")]
    kept = results.load(KEPT)
    of_demo = (frame[frame["folder"].str.endswith("/demo")] for frame in (kept.cells, kept.runs))
    cells, row = next(of_demo).query("split == 'test'"), next(of_demo).iloc[0]
    lines = re.findall(r"after context +(\d+)/10  test ([\d. ]+?)  mean ([\d.]+)  \(\d+ it/s\)", shown)
    assert [after for after, _, _ in lines] == ["1", "2", "10"]
    for after, accuracies, mean in lines:
        learned = cells[(cells.after_context == int(after)) & (cells.context <= int(after))].accuracy
        assert accuracies.split() == [f"{value:.3f}" for value in learned]
        assert mean == f"{learned.mean():.4f}"
    assert f"average accuracy  {row.average_accuracy:.4f}\n" in shown
    assert f"forgetting        {row.forgetting:.4f}\n" in shown
    assert (
        f"time              {clock(row.train_seconds)} training ({row.iters_per_second:.0f} it/s), "
        f"{clock(row.importance_seconds)} importance, {clock(row.eval_seconds)} evaluation\n"
    ) in shown
