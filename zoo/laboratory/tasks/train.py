"""Training as the task of a run."""

import dataclasses
import json
import statistics
from collections.abc import Callable

import keras

import keras_norms
from keras_norms import analysis
from keras_norms.comparison import thirds
from zoo.laboratory.study import Rows
from zoo.laboratory.tasks import noise
from zoo.training import TrainOptions, catalog, train
from zoo.training.trainer import load_examples

_RESULTS = (
    *("accuracy", "cross_entropy", "bits_per_character", "parameters", "seconds"),
    *("seconds_per_step", "steps_per_epoch", "global_batch", "scaled_learning_rate"),
)
_TAILS = ("mean_kurtosis", "variance_kurtosis")


@dataclasses.dataclass(frozen=True)
class Train:
    """Trains a model; its row holds what it reached, and its curves.

    Attributes:
        options: `TrainOptions`; seed and folders are the run's.
        measures: functions `(run folder, results)` -> dict, to be added to the row.
    """

    options: TrainOptions
    measures: tuple[Callable, ...] = ()

    @property
    def dataset(self):
        """See `study.Task`."""
        return self.options.dataset

    def rows(self, seed, folder, data_dir):
        """See `study.Task`."""
        run = folder / "run"
        own = {"seed": seed, "data_dir": data_dir, "log_dir": str(run)}
        own |= {"replicas": self.options.replicas or 1}  # for the batch to be what the plan says
        options = dataclasses.replace(self.options, **own, resume=True, export=False)
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


def preferences(run, results):
    """What switches chose: shares like "both_first_instance", of the thirds and the net.

    Beside them "importance" by layer, and "dynamics", the means over the net by step.
    """
    history = analysis.read(run).history
    layers = results["importance"]
    parts = dict(zip(("first", "middle", "last"), thirds(list(layers.values())), strict=True))
    parts["net"] = analysis.average(layers.values())
    shares = {
        f"{kind}_{part}_{statistic}": share
        for part, kinds in parts.items()
        for kind, shares in kinds.items()
        for statistic, share in shares.items()
    }
    dynamics = {step: analysis.average(state.values()) for step, state in history.items()}
    return shares | {"importance": layers, "dynamics": dynamics}


def recalibrated(run, results):
    """The error with batch statistics pooled over training batches, not moving averages."""
    model, options, examples = _reopened(run)
    batches = examples.train_batches(results["global_batch"], options.seed)
    steps = min(200, results["steps_per_epoch"])
    keras_norms.recalibrate(model, batches, steps=steps)
    return {"recalibrated_error": 1 - test_accuracy(model, examples)}


def test_accuracy(model, examples):
    """The share of the test examples of a `LabelledSet` that a model tells right."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(loss=loss, weighted_metrics=["sparse_categorical_accuracy"])
    _, accuracy = model.evaluate(examples.test_batches(128), verbose=0)
    return accuracy


def statistics_noise(run, results):
    """How far the means and standard deviations of small batches are from those of all samples."""
    model, options, examples = _reopened(run)
    batches = examples.train_batches(64, options.seed).take(16)
    measured = noise.batch_noise(model, batches, sizes=(2, 8, 32))
    sizes = {size: Rows(measured).where(size=size) for size in (2, 8, 32)}
    return {"noise": measured} | {
        f"{name}_{size}": statistics.median(rows.values(name))
        for size, rows in sizes.items()
        for name in ("mean_noise", "variance_noise", "std_noise", *_TAILS)
    }


def _reopened(run):
    """`(model, options, examples)` of a run that is done."""
    options = TrainOptions(**json.loads((run / "run.json").read_text())["options"])
    entry, _, options = catalog.select_model(options)
    examples = load_examples(options, entry)
    return keras.saving.load_model(run / "model.keras", compile=False), options, examples
