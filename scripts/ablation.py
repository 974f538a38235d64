"""Ablation of `custom_regularization.py`: runs of the file with one ingredient changed at a time.

    python scripts/ablation.py +benchmark=split_mnist validation_fraction=0.1 budget=quick --strengths 0.1 1

Every run gets the Hydra overrides. Finished runs are not made again, so type the command once more for more seeds or
another benchmark. `OUTPUT/DIGEST/ablation.csv` has a row for each run, where DIGEST is the shipped file's; the printed
table has their means. A variant may need another strength than the shipped file: choose it by validation accuracy.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
from pathlib import Path

from missing_runs import digest, run_unless_finished

from clsweep import results
from clsweep.paths import absolute, short

SHIPPED = Path(__file__).resolve().parent.parent / "custom_regularization.py"

# Each variant's changes of the file: what stands there once, and what takes its place.
VARIANTS: dict[str, list[tuple[str, str]]] = {
    "shipped": [],
    "all_of_both_factors": [("INPUT_DIRECTIONS = 32", "INPUT_DIRECTIONS = 100_000")],
    "more_input_directions": [("INPUT_DIRECTIONS = 32", "INPUT_DIRECTIONS = 128")],
    "no_input_directions": [("INPUT_DIRECTIONS = 32", "INPUT_DIRECTIONS = 0")],
    "no_output_directions": [("OUTPUT_DIRECTIONS = 16", "OUTPUT_DIRECTIONS = 0")],
    "diagonal_of_product": [
        ("        penalty: Tensor = _Quadratic.apply(self, *(parameters[key] for key in keys))\n"
         "        return penalty\n",
         "        change = {key: parameters[key] - anchors[key] for key in keys}\n"
         "        products = self.diagonal(parameters)\n"
         "        return 0.5 * torch.stack([(products[key] * change[key].square()).sum() for key in keys]).sum()\n"),
    ],
    "not_normalized": [
        ("    hessian_trace = max(hessian_trace, 1e-12 * len(chosen))", "    hessian_trace = float(len(chosen))"),
    ],
    "sampled_labels": [
        ("            noise = p.sqrt() * (2 * torch.randint_like(p, 2) - 1)\n"
         "            noise -= p * noise.sum(1, keepdim=True)\n",
         "            noise = F.one_hot(p.multinomial(1).squeeze(1), p.shape[1]) - p\n"),
    ],
    "summed_factors": [
        ("        share = self.outputs.trace() / total.trace().clamp_min(torch.finfo(total.dtype).tiny)\n"
         "        self.inputs = torch.lerp(before, now, share)\n",
         "        self.inputs = before + now\n"),
    ],
}  # fmt: skip


# A variant may want another strength than the shipped file, which treats any above 2 as 2.
_ANY_STRENGTH = ("STRONGEST = 2.0", "STRONGEST = 1e12")


def variant(changes: list[tuple[str, str]]) -> str:
    """The shipped file's text with the changes made, and no strongest strength.

    Args:
        changes: what stands there exactly once, and what takes its place.

    Raises:
        ValueError: the file has changed, so that a change no longer fits.
    """
    text = SHIPPED.read_text()
    for old, new in [_ANY_STRENGTH, *changes]:
        if text.count(old) != 1:
            raise ValueError(f"{SHIPPED.name} should have {old!r} once; it has it {text.count(old)} times")
        text = text.replace(old, new)
    return text


def main() -> int:
    """Make the runs that are missing, then the table; the exit code of the first run that failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/ablation"), help="default: %(default)s")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--strengths", nargs="+", type=float, default=[1.0], help="reg_strength; default: 1")
    a, overrides = parser.parse_known_args()
    output: Path = a.output / hashlib.sha256(SHIPPED.read_bytes()).hexdigest()[:12]
    for name, strength, seed in itertools.product(a.variants, a.strengths, a.seeds):
        file = write_variant(output / "files", name)
        own = [f"regularizer.file={file}", f"regularizer.reg_strength={strength:g}", f"seed={seed}", "figures=false"]
        one = [*own, *overrides]
        if code := run_unless_finished(output / "runs" / digest(one), one):
            return code
    print_table(output)
    return 0


def write_variant(files: Path, name: str) -> Path:
    """The variant's file, `files/DIGEST/NAME.py`: runs of another text with that name are not taken for its own."""
    text = variant(VARIANTS[name])
    file = files / hashlib.sha256(text.encode()).hexdigest()[:12] / f"{name}.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def print_table(output: Path) -> None:
    """Write `ablation.csv`, of runs of the variants as they are now, and print the means over seeds."""
    current = {str(short(absolute(write_variant(output / "files", name)))): name for name in VARIANTS}
    runs = results.load(output / "runs").runs
    runs = runs[(runs["status"] == results.FINISHED) & runs["regularizer_file"].isin(list(current))]
    runs["variant"] = runs["regularizer_file"].map(current)
    same = ["benchmark", "dataset", "iters", "lr", "precision", "validation_fraction", "variant", "reg_strength"]
    accuracies = ["validation_average_accuracy", "average_accuracy", "learning_accuracy"]
    table = runs[[*same, "seed", *accuracies]].sort_values([*same, "seed"])
    table.to_csv(output / "ablation.csv", index=False)
    print(table.groupby(same)[accuracies].mean().round(4).assign(seeds=table.groupby(same).size()).to_string())


if __name__ == "__main__":
    raise SystemExit(main())
