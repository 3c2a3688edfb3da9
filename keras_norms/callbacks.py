"""Logs what switches and gates learn to TensorBoard."""

import contextlib
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
from keras import ops

from keras_norms.analysis import (
    LABELS,
    Preferences,
    importance,
    require,
    switched_layers,
    tag,
)
from keras_norms.arguments import is_integer


class SwitchLogger(keras.callbacks.Callback):
    """Logs the switches and gates of a model while it trains.

    Logs every `SwitchableNormalization` and `BatchInstanceNormalization`, nested ones included,
    at the start of training and at the end of every epoch:

    - Scalars:
        - `importance/{stage or net}`, means over layers as in `Preferences.means`. Each statistic
          is a run of its own below `log_dir`, "BN" for instance, so that it has its own colour;
        - `switch/{layer path}/{mean|variance}/{statistic}`, the softmaxed weights;
        - `gate/{layer path}/batch`, the mean gate.
    - Histograms: `gates/{layer path}`, the gates of all channels.
    - Images: a heat map and stacked bars, at no more than ten steps of the training.
    - HParams: `hparams` with the metrics of `fit`.

    The step is `optimizer.iterations`, so that a resumed run continues its curves. With
    `resumed_after` no point is written twice. `keras_norms.analysis.read(log_dir)` reads the
    curves. TensorBoard shows them in a tab of its own, "Norms" (`keras_norms.tensorboard`).

    Args:
        log_dir: folder for the events; each run needs its own.
        every: "epoch"; or int, to log scalars and histograms every so many batches as well.
        figures: whether to draw the figures.
        hparams: dict of the run's hyperparameters, or None. Those that are None have no effect
            and are left out. Values other than bool, int, float and str are logged as text.
        resumed_after: int, for a resumed run whose events are in `log_dir`: the number of
            batches before it. The state at its start is then not logged again. 0 for a new run.

    Raises:
        ValueError: if `every` is neither "epoch" nor a positive int.
        ImportError: if TensorFlow, TensorBoard or, for figures, matplotlib is missing.

    Example:
        >>> import keras, keras_norms, tempfile
        >>> norm = keras_norms.SwitchableNormalization(name="norm")
        >>> model = keras.Sequential([keras.Input((4, 4, 2)), norm])
        >>> model.compile("sgd", "mse")
        >>> x = keras.random.normal((8, 4, 4, 2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     logger = keras_norms.callbacks.SwitchLogger(folder, figures=False)
        ...     history = model.fit(x, x, batch_size=4, verbose=0, callbacks=[logger])
        ...     list(keras_norms.analysis.read(folder).history)  # the steps
        [0, 2]
    """

    def __init__(
        self,
        log_dir: str | os.PathLike,
        every: str | int = "epoch",
        figures: bool = True,
        hparams: Mapping[str, Any] | None = None,
        resumed_after: int = 0,
    ) -> None:
        super().__init__()
        if every != "epoch" and not (is_integer(every) and every > 0):  # type: ignore[operator]
            raise ValueError(f'`every` must be "epoch" or a positive int. Received: {every=}')
        require("tensorflow", "tensorboard", *(["matplotlib"] if figures else []))
        self.log_dir = os.fspath(log_dir)
        self.every: Any = every
        self.figures = figures
        plain = (bool, int, float, str)
        self.hparams = hparams and {
            name: value if isinstance(value, plain) else str(value)
            for name, value in hparams.items()
            if value is not None
        }
        self.resumed_after = resumed_after
        # A callback per batch must not run late; Keras may let others run late, which is faster.
        self.async_safe = every == "epoch"

    def on_train_begin(self, logs: Any = None) -> None:
        self._started = False
        self._has_metrics = False  # whether the columns of HParams are written
        self._writer: Any = None
        self._of_statistic: dict[str, Any] = {}  # the writer of each statistic
        self._step: int | None = None  # of the last scalars
        self._drawn: int | None = None  # the step of the last figures
        self._first: Any = None  # the step at which training starts
        self._batches = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        # Only now: in on_train_begin a callback after this one may still restore a checkpoint.
        if self._first is None:
            self._first = self._iterations()
            self._has_metrics = self.resumed_after > 0 and epoch > 0
            self._offset = self.resumed_after or self._first
        self._epoch_start = self._batches
        self._start()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # With `steps_per_execution` above 1, `batch` skips numbers.
        before, self._batches = self._batches, max(self._batches, self._epoch_start + batch + 1)
        if self.every != "epoch":
            self._start()
            if (self._offset + self._batches) // self.every > (self._offset + before) // self.every:
                self._write_scalars()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        self._start(last_chance=True)
        if self._writer is not None:
            self._write_scalars()
            self._write_metrics(logs or {})
            epochs = (self.params or {}).get("epochs")
            # Nine, and the one at the start: TensorBoard keeps ten images of a tag.
            if not epochs or (epoch + 1) * 9 // epochs > epoch * 9 // epochs:
                self._write_figures()

    def on_train_end(self, logs: Any = None) -> None:
        if self._writer is not None:
            self._write_figures()  # training may have stopped early, before the last figures
            for writer in (self._writer, *self._of_statistic.values()):
                writer.close()
            self._writer, self._of_statistic = None, {}

    def _start(self, last_chance: bool = False) -> None:
        """Writes what is written once, and the first state, as soon as the model is built.

        A model may be built before training or by its first batch.

        Args:
            last_chance: whether to take the model as it is, though it is not built.
        """
        if self._started:
            return
        built = self.model.built and all(
            layer.built for layer in switched_layers(self.model).values()
        )
        if not built and not last_chance:
            return
        self._started, table = True, importance(self.model)
        if not table:
            warnings.warn(
                f"SwitchLogger has nothing to log: the model {self.model.name!r} has no layer with "
                "switches or gates (SwitchableNormalization, BatchInstanceNormalization).",
                stacklevel=2,
            )
            return
        tf, hparams = require("tensorflow", "tensorboard.plugins.hparams.api")
        self._writer = tf.summary.create_file_writer(self.log_dir)
        if self.resumed_after:
            self._step = self._drawn = self._first
            return
        if self.hparams:
            with self._at(0):
                hparams.hparams(self.hparams)
        self._write_scalars()
        self._write_figures()

    @contextlib.contextmanager
    def _at(self, step: int | None, statistic: str | None = None) -> Iterator[None]:
        """Directs summaries to a writer, and records them even if another callback forbids it.

        Keras's TensorBoard callback does so for some batches.
        """
        (tf,) = require("tensorflow")
        writer = self._writer
        if statistic is not None:
            folder = os.path.join(self.log_dir, LABELS[statistic])
            if statistic not in self._of_statistic:
                self._of_statistic[statistic] = tf.summary.create_file_writer(folder)
            writer = self._of_statistic[statistic]
        with writer.as_default(step=step), tf.summary.record_if(True):
            yield

    def _iterations(self) -> int:
        """The present step."""
        optimizer = getattr(self.model, "optimizer", None)
        if optimizer is not None:
            step = int(ops.convert_to_numpy(optimizer.iterations))
            scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
            if not self._batches or step > self._first or scaled:
                return step  # loss scaling skips steps, so batches are not a measure
        # A custom `train_step` may use another optimizer than the model's: count batches.
        accumulated = getattr(optimizer, "gradient_accumulation_steps", None) or 1
        return (self._first or 0) + self._batches // accumulated

    def _write_scalars(self) -> None:
        step = self._iterations()
        if self._writer is None or step == self._step:
            return
        (tf,) = require("tensorflow")
        self._step, table = step, importance(self.model)
        self._preferences = Preferences({step: table}, f"{self.model.name}, step {step}")
        with self._at(step):
            for path, weights in table.items():
                for kind, shares in weights.items():
                    for statistic, share in shares.items():
                        if (kind, statistic) != ("gate", "instance"):  # which is 1 - batch
                            tf.summary.scalar(tag(path, kind, statistic), share)
            for path, layer in switched_layers(self.model).items():
                if "gate" in table.get(path, ()):
                    tf.summary.histogram(f"gates/{path}", ops.convert_to_numpy(layer.gate))
        for part, kinds in self._preferences.means().items():
            for statistic, share in (kinds.get("both") or kinds["gate"]).items():
                with self._at(step, statistic):
                    tf.summary.scalar(f"importance/{part}", share)
        # So that a run that is killed keeps its points.
        for writer in (self._writer, *self._of_statistic.values()):
            writer.flush()

    def _write_figures(self) -> None:
        if not self.figures or self._drawn == self._step:
            return
        self._drawn = self._step
        (tf,) = require("tensorflow")
        from keras_norms import figures

        with self._at(self._step):
            for draw in (figures.stacked_bars, figures.heat_map):
                image = figures.pixels(draw(self._preferences))
                tf.summary.image(f"preferences/{draw.__name__}", image[None])
        self._writer.flush()

    def _write_metrics(self, logs: Mapping[str, float]) -> None:
        """Writes metrics for the HParams tab, which does not see those that Keras logs."""
        if not self.hparams:
            return
        (tf,) = require("tensorflow")
        with self._at(self._step):
            if not self._has_metrics:
                self._has_metrics = True
                columns = _hparams_columns(self.hparams, logs)
                tf.summary.experimental.write_raw_pb(columns, step=0)
            for name, value in logs.items():
                tf.summary.scalar(f"metrics/{name}", value)
        self._writer.flush()


def _hparams_columns(hparams: Mapping[str, Any], metrics: Iterable[str]) -> bytes:
    """The serialized columns of the HParams tab. Without them it would show every switch."""
    api, summary = require(
        "tensorboard.plugins.hparams.api_pb2", "tensorboard.plugins.hparams.summary"
    )
    types = {bool: api.DATA_TYPE_BOOL, str: api.DATA_TYPE_STRING}
    # What the model reached on data that it was not trained on comes first.
    metrics = sorted(metrics, key=lambda name: not name.startswith("val_"))
    return summary.experiment_pb(
        [
            api.HParamInfo(name=name, type=types.get(type(value), api.DATA_TYPE_FLOAT64))
            for name, value in hparams.items()
        ],
        [
            api.MetricInfo(name=api.MetricName(tag=f"metrics/{name}"), display_name=name)
            for name in metrics
        ],
    ).SerializeToString()
