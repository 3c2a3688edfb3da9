"""Training as the task of a run."""

import dataclasses
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

import keras_norms
from keras_norms import analysis
from keras_norms.comparison import blocks
from zoo.data import LabelledSet
from zoo.laboratory.study import Rows
from zoo.laboratory.tasks import noise
from zoo.training import TrainOptions, catalog, train
from zoo.training.trainer import load_examples

# What a row takes from the results of a training, if it is there.
_RESULTS = (
    *("accuracy", "cross_entropy", "bits_per_character", "parameters", "seconds"),
    *("seconds_per_step", "steps_per_epoch", "global_batch", "scaled_learning_rate"),
)
_TAILS = ("mean_kurtosis", "variance_kurtosis")


@dataclasses.dataclass(frozen=True)
class Train:
    """Trains a model; its row holds the results of the training and its curves.

    Attributes:
        options: what to train; the seed and the folders are those of the run.
        measures: functions `(folder of the training, its results) -> dict`. What they return is
            added to the row.
    """

    options: TrainOptions
    measures: tuple[Callable[[Path, dict[str, Any]], dict[str, Any]], ...] = ()

    @property
    def dataset(self) -> str | None:
        """See `study.Task`."""
        return self.options.dataset

    def rows(self, seed: int, folder: Path, data_dir: str | None) -> list[dict[str, Any]]:
        """See `study.Task`."""
        run = folder / "run"
        options = dataclasses.replace(
            self.options,
            seed=seed,
            data_dir=data_dir,
            # Verdicts shall not depend on which examples come first in a set.
            draw_examples=self.options.train_examples is not None or None,
            log_dir=str(run),
            replicas=self.options.replicas or 1,  # not all GPUs, which would enlarge the batch
            resume=True,
            export=False,
        )
        keras.utils.clear_session()
        try:
            results = train(options)["results"]
        except FloatingPointError as error:
            return [{"diverged": str(error)}]
        row = {name: results[name] for name in _RESULTS if name in results}
        row |= {"error": 1 - results["accuracy"], "curves": results["history"]}
        for measure in self.measures:
            row |= measure(run, results)
        return [row]


def preferences(run: Path, results: dict[str, Any]) -> dict[str, Any]:
    """A measure: what switches and gates chose.

    Returns:
        Shares of statistics in the blocks and in the net, with names like "both_stage1_instance";
        "importance", the weights by layer; "dynamics", the same by step.
    """
    layers = results["importance"]
    parts = blocks(layers) | {"net": analysis.average(layers.values())}
    shares = {
        f"{kind}_{part}_{statistic}": share
        for part, kinds in parts.items()
        for kind, shares in kinds.items()
        for statistic, share in shares.items()
    }
    return shares | {"importance": layers, "dynamics": analysis.read(run).history}


def recalibrated(run: Path, results: dict[str, Any]) -> dict[str, Any]:
    """A measure: the test error with recalibrated statistics in place of moving averages."""
    model, options, examples = _reopened(run)
    batches = examples.train_batches(results["global_batch"], options.seed)
    steps = min(200, results["steps_per_epoch"])
    keras_norms.recalibrate(model, batches, steps=steps)
    return {"recalibrated_error": 1 - test_accuracy(model, examples)}


def test_accuracy(model: keras.Model, examples: LabelledSet) -> float:
    """The share of the test examples that a model classifies correctly."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(loss=loss, weighted_metrics=["sparse_categorical_accuracy"])
    _, accuracy = model.evaluate(examples.test_batches(128), verbose=0)
    return accuracy


def statistics_noise(run: Path, results: dict[str, Any]) -> dict[str, Any]:
    """A measure: how far the statistics of small batches are from those of all samples.

    Returns:
        "noise", what `noise.batch_noise` returns, and its medians over layers by batch size, with
        names like "mean_noise_8".
    """
    model, options, examples = _reopened(run)
    batches = examples.train_batches(64, options.seed).take(16)
    measured = noise.batch_noise(model, batches, sizes=(2, 8, 32))
    sizes = {size: Rows(measured).where(size=size) for size in (2, 8, 32)}
    return {"noise": measured} | {
        f"{name}_{size}": statistics.median(rows.values(name))
        for size, rows in sizes.items()
        for name in ("mean_noise", "variance_noise", "std_noise", *_TAILS)
    }


def _reopened(run: Path) -> tuple[keras.Model, TrainOptions, LabelledSet]:
    """The model, the options and the examples of a training that is done."""
    options = TrainOptions(**json.loads((run / "run.json").read_text())["options"])
    entry, _, options = catalog.select_model(options)
    examples = load_examples(options, entry)
    return keras.saving.load_model(run / "model.keras", compile=False), options, examples
