"""What each ingredient of `custom_regularization.py` is worth: the file with one of them taken away at a time.

    python scripts/ablation.py --output outputs/ablation +benchmark=split_mnist budget=quick seed=0,1,2

All other arguments go to `python -m clsweep --multirun hydra/sweeper=basic`, once for each variant. A variant whose
folder is there already is left out, so that the command can be typed again. `OUTPUT/ablation.csv` has a row for each
run. A variant may want another strength than the shipped file: `regularizer.reg_strength=0.1,1,10` tries
three.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from clsweep import results

SHIPPED = Path(__file__).resolve().parent.parent / "custom_regularization.py"
ALL_DIRECTIONS = "100_000"

# Each variant's changes of the file: what stands there once, and what takes its place.
VARIANTS: dict[str, list[tuple[str, str]]] = {
    "shipped": [],
    "all_of_both_factors": [("INPUT_DIRECTIONS = 48", f"INPUT_DIRECTIONS = {ALL_DIRECTIONS}")],
    "no_input_directions": [("INPUT_DIRECTIONS = 48", "INPUT_DIRECTIONS = 0")],
    "no_output_directions": [("OUTPUT_DIRECTIONS = 16", "OUTPUT_DIRECTIONS = 0")],
    "diagonal": [
        ("        self.inputs.addmm_(rows.T, rows)\n", "        self.inputs.diagonal().add_(rows.square().sum(0))\n"),
        ("        self.leading_inputs = _leading(self.inputs, INPUT_DIRECTIONS)\n",
         "        self.leading_inputs = self.inputs.new_zeros(len(self.inputs), 0)\n"),
        ("        self.leading_outputs = _leading(self.outputs, OUTPUT_DIRECTIONS)\n",
         "        self.leading_outputs = self.outputs.diagonal().clamp_min(0).sqrt().diag()\n"),
    ],
    "not_normalized": [
        ("layer.normalize(1 / len(chosen) / hessian_trace)", "layer.normalize(1 / len(chosen) ** 2)"),
    ],
    "sampled_labels": [
        ("            noise = p.sqrt() * (2 * torch.randint_like(p, 2) - 1)\n"
         "            noise -= p * noise.sum(1, keepdim=True)\n",
         "            noise = F.one_hot(p.multinomial(1).squeeze(1), p.shape[1]) - p\n"),
    ],
    "summed_factors": [
        ("        share = self.outputs.trace() / total.trace().clamp_min(torch.finfo(total.dtype).tiny)\n"
         "        self.inputs = torch.lerp(earlier.inputs, self.inputs, share)\n",
         "        self.inputs = earlier.inputs + self.inputs\n"),
    ],
}  # fmt: skip


def variant(changes: list[tuple[str, str]]) -> str:
    """The shipped file's text with the changes made.

    Args:
        changes: what stands there exactly once, and what takes its place.

    Raises:
        ValueError: the file has changed, so that a change no longer fits.
    """
    text = SHIPPED.read_text()
    for old, new in changes:
        if text.count(old) != 1:
            raise ValueError(f"{SHIPPED.name} should have {old!r} once; it has it {text.count(old)} times")
        text = text.replace(old, new)
    return text


def main() -> None:
    """Run every variant that has no folder yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    arguments, overrides = parser.parse_known_args()
    for name in arguments.variants:
        folder: Path = arguments.output / name
        if folder.exists():
            continue
        folder.mkdir(parents=True)
        file = folder / f"{name}.py"
        file.write_text(variant(VARIANTS[name]))
        command = [sys.executable, "-m", "clsweep", "--multirun", "hydra/sweeper=basic", f"regularizer.file={file}"]
        subprocess.run([*command, f"hydra.sweep.dir={folder}", *overrides], check=False)
    runs = results.load(arguments.output).runs
    runs["variant"] = runs["regularizer_file"].map(lambda path: Path(path).stem)
    same = ["benchmark", "iters", "variant", "reg_strength"]
    table = runs[[*same, "seed", "status", "average_accuracy", "learning_accuracy", "forgetting"]].sort_values(
        [*same, "seed"]
    )
    table.to_csv(arguments.output / "ablation.csv", index=False)
    print(table.groupby(same)["average_accuracy"].agg(["mean", "min", "max", "count"]).round(4))


if __name__ == "__main__":
    main()
