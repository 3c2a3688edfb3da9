"""Every norm in the LSTM and the Transformer, after equal steps, on rows of digits and on text.

    python benchmarks/sequences.py --data-dir DIR --output docs/SEQUENCES.md

Trains each norm on each data set (two replicas) and prints, for each model and data set, the test
loss, the accuracy or the bits per character, and the time of a step relative to no norm; then how
many steps the LSTM needs with and without layer norm for the same loss. Runs that are complete
are not repeated.
"""

import dataclasses
import json
import os
import statistics
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import timing
import tyro

from keras_norms.output import markdown_table
from zoo.training import TrainOptions, train

DATASETS = {
    "digits": TrainOptions(dataset="digits", epochs=15),
    "imdb_reviews": TrainOptions(
        dataset="imdb_reviews",
        epochs=3,
        sequence_length=100,
        train_examples=4096,
        test_examples=1024,
    ),
    "tiny_shakespeare": TrainOptions(
        dataset="tiny_shakespeare",
        epochs=5,
        sequence_length=64,
        train_examples=3200,
        test_examples=512,
    ),
}
# In a run of few steps.
RATES = {"lstm": 3e-3, "transformer": 1e-3}
REPLICAS = 2


@dataclasses.dataclass
class Options:
    """What to train, and where."""

    data_dir: str | None = None
    """Directory of TensorFlow Datasets."""
    models: tuple[str, ...] = ("lstm", "transformer")
    """Models to train."""
    datasets: tuple[str, ...] = tuple(DATASETS)
    """Data sets to train on."""
    norms: tuple[str, ...] = ("none", "ln", "rms", "bn", "gn", "wn", "sn")
    """Norms to compare."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """The first one for the tables, all for the steps that the LSTM needs."""
    runs: Path = Path("runs/sequences")
    """Folder of the runs."""
    output: Path | None = None
    """Write the tables to this Markdown file as well."""


def run(options, model, dataset, norm, seed):
    """The results of one run, which is trained if it is not there."""
    folder = options.runs / f"{dataset}-{model}-{norm}-s{seed}"
    record = folder / "run.json"
    results = json.loads(record.read_text())["results"] if record.exists() else None
    if results is None:
        keras.utils.clear_session()
        settings = dataclasses.replace(
            DATASETS[dataset],
            model=model,
            norm=norm,
            seed=seed,
            learning_rate=RATES[model],
            data_dir=options.data_dir,
            replicas=REPLICAS,
            log_dir=str(folder),
            overwrite=True,
        )
        results = train(settings)["results"]
    return results


def table(options, model, dataset):
    """The Markdown table of one model on one data set."""
    seed = options.seeds[0]
    results = {norm: run(options, model, dataset, norm, seed) for norm in options.norms}
    base = results[options.norms[0]]
    text = "bits_per_character" in base
    lines = []
    for norm, result in results.items():
        score = result["bits_per_character" if text else "accuracy"]
        lines.append(
            [
                norm,
                f"{result['cross_entropy']:.3f}",
                f"{score:.3f}" if text else f"{score:.1%}",
                f"{result['seconds_per_step'] / base['seconds_per_step']:.2f}",
            ]
        )
    steps = base["steps_per_epoch"] * DATASETS[dataset].epochs
    ms = 1e3 * base["seconds_per_step"]
    seconds = sum(result["seconds"] for result in results.values())
    score = "bits per character" if text else "accuracy"
    return (
        f"## {model}, {dataset}\n\n{steps} steps of {base['global_batch']} samples; a step without "
        f"norm took {ms:.0f} ms, all runs {seconds / 60:.0f} minutes.\n\n"
        + markdown_table(["norm", "test loss", score, "time of a step"], lines)
    )


def steps_to_loss(options, dataset):
    """The Markdown table of the steps to the lowest test loss that the plain LSTM reached."""
    lines, ratios = [], []
    for seed in options.seeds:
        plain, normalized = (run(options, "lstm", dataset, n, seed) for n in ("none", "ln"))
        target = min(plain["history"]["val_loss"])
        needed = [_first(result, target) for result in (plain, normalized)]
        if needed[1]:
            ratios.append(needed[1] / needed[0])
        shown = [f"{steps}" if steps else "not reached" for steps in needed]
        lines.append([seed, f"{target:.3f}", *shown])
    median = f"; median ratio {statistics.median(ratios):.2f}" if ratios else ""
    return (
        f"## Steps to the same loss, lstm, {dataset}\n\nTo the lowest test loss of the LSTM "
        f"without norm, looked at once an epoch{median}.\n\n"
        + markdown_table(["seed", "test loss", "steps without norm", "steps with ln"], lines)
    )


def _first(result, target):
    """The steps after which the test loss was first at most `target`, or None."""
    for epoch, loss in enumerate(result["history"]["val_loss"], 1):
        if loss <= target:
            return epoch * result["steps_per_epoch"]
    return None


def main(options):
    sections = [
        table(options, model, dataset) for dataset in options.datasets for model in options.models
    ]
    if "lstm" in options.models and {"none", "ln"} <= set(options.norms):
        sections += [steps_to_loss(options, d) for d in options.datasets if d != "imdb_reviews"]
    command = "python benchmarks/sequences.py --data-dir DIR"
    text = (
        f"{timing.provenance(command)}\nAdam, rates {RATES}, a cosine to 0, {REPLICAS} replicas, "
        f"seed {options.seeds[0]}; one run each, so small differences mean nothing. The time of a "
        "step is a median within its run, whatever else the machine did then; "
        "docs/PERFORMANCE.md has layers timed in turn.\n\n"
    )
    text += "\n\n".join(sections)
    print(f"\n{text}")
    if options.output:
        options.output.write_text(f"# Norms in sequence models\n\n{text}\n")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
