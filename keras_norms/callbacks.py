"""Logs what switches and gates learn to TensorBoard."""

import contextlib
import os
import re
import warnings

import keras
from keras import ops

from keras_norms.analysis import Preferences, importance, require, stage, switched_layers, tag


class SwitchLogger(keras.callbacks.Callback):
    """Logs the switches and gates of a model while it trains.

    It finds every `SwitchableNormalization` and `BatchInstanceNormalization`, nested ones too, and
    writes at the start of training and at the end of every epoch:

    - Scalars: `switch/{layer path}/{mean|variance}/{statistic}`, the softmaxed weights;
      `gate/{layer path}/batch`, the mean gate; `importance/{stage or net}/{statistic}`, means over
      layers as in `Preferences.means`. Histograms: `gates/{layer path}`.
    - Custom Scalars: a chart for each layer and kind, the layers of a stage together.
    - Images: a heat map and stacked bars, at ten points of the training at most.
    - HParams: `hparams` beside the metrics of `fit`.

    The step is `optimizer.iterations`, so a run that is resumed continues its curves. With
    `resumed_after` each of their points is written once.
    `keras_norms.analysis.read(log_dir)` reads them back.

    Args:
        log_dir: folder for the events; each run needs its own.
        every: "epoch", or int, to write the scalars and histograms every so many batches too.
        figures: whether to draw the figures.
        hparams: dict of the run's hyperparameters, or None. Values other than bool, int, float
            and str are logged as their text.
        resumed_after: int, the number of batches before a run that is resumed and whose events
            are in `log_dir`: what is written at the start is not written again. 0 for a new run.

    Raises:
        ValueError: if `every` is neither "epoch" nor a positive int.
        ImportError: if TensorFlow, TensorBoard or, for figures, matplotlib is missing.

    Example:
    ```python
    model.fit(x, y, epochs=10, callbacks=[SwitchLogger("logs/switches")])
    ```
    """

    def __init__(self, log_dir, every="epoch", figures=True, hparams=None, resumed_after=0):
        super().__init__()
        is_count = isinstance(every, int) and not isinstance(every, bool) and every > 0
        if every != "epoch" and not is_count:
            raise ValueError(f'`every` must be "epoch" or a positive int. Received: {every=}')
        require("tensorflow", "tensorboard", *(["matplotlib"] if figures else []))
        self.log_dir = os.fspath(log_dir)
        self.every = every
        self.figures = figures
        plain = (bool, int, float, str)
        self.hparams = hparams and {
            name: value if isinstance(value, plain) else str(value)
            for name, value in hparams.items()
        }
        self.resumed_after = resumed_after
        # Keras waits for the logs of every batch unless all callbacks are safe to run late.
        self.async_safe = every == "epoch"

    def on_train_begin(self, logs=None):
        self._started = self._has_metrics = False
        self._writer = self._step = self._drawn = None
        self._first, self._batches = None, 0

    def on_epoch_begin(self, epoch, logs=None):
        # Not in on_train_begin, where a callback after this one may yet restore a checkpoint.
        if self._first is None:
            self._first = self._iterations()
            self._offset = self.resumed_after or self._first
        self._epoch_start = self._batches
        self._start()

    def on_train_batch_end(self, batch, logs=None):
        # `batch` advances by more than one where a call of the training function runs several.
        before, self._batches = self._batches, max(self._batches, self._epoch_start + batch + 1)
        if self.every != "epoch":
            self._start()
            if (self._offset + self._batches) // self.every > (self._offset + before) // self.every:
                self._write_scalars()

    def on_epoch_end(self, epoch, logs=None):
        self._start(last_chance=True)
        if self._writer is not None:
            self._write_scalars()
            self._write_metrics(logs or {})
            epochs = (self.params or {}).get("epochs")
            # With the start that makes ten images, which is what TensorBoard keeps of a tag.
            if not epochs or (epoch + 1) * 9 // epochs > epoch * 9 // epochs:
                self._write_figures()

    def on_train_end(self, logs=None):
        if self._writer is not None:
            self._write_figures()  # which a training that stops early has not done yet
            self._writer.close()
            self._writer = None

    def _start(self, last_chance=False):
        """Writes what is written once and the first state, as soon as there is one.

        That is before the first batch, but for a model that its first batch builds.
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
            self._has_metrics = True
            return
        with self._at(0):
            tf.summary.experimental.write_raw_pb(_layout(table))
            if self.hparams:
                hparams.hparams(self.hparams)
        self._write_scalars()
        self._write_figures()

    @contextlib.contextmanager
    def _at(self, step):
        """Lets this writer record, whatever another callback (Keras's does) says of this batch."""
        (tf,) = require("tensorflow")
        with self._writer.as_default(step=step), tf.summary.record_if(True):
            yield

    def _iterations(self):
        optimizer = getattr(self.model, "optimizer", None)
        if optimizer is not None:
            step = int(ops.convert_to_numpy(optimizer.iterations))
            scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
            if not self._batches or step > self._first or scaled:
                return step  # loss scaling skips steps
        # A `train_step` of the user's own may leave the model's optimizer alone.
        accumulated = getattr(optimizer, "gradient_accumulation_steps", None) or 1
        return (self._first or 0) + self._batches // accumulated

    def _write_scalars(self):
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
                    tf.summary.scalar(f"importance/{part}/{statistic}", share)
        # A run that is killed keeps its points.
        self._writer.flush()

    def _write_figures(self):
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

    def _write_metrics(self, logs):
        """What the HParams tab shows beside the hyperparameters, which it cannot find elsewhere."""
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


def _hparams_columns(hparams, metrics):
    """The serialized summary of what the HParams tab shows, which else is every switch there is."""
    api, summary = require(
        "tensorboard.plugins.hparams.api_pb2", "tensorboard.plugins.hparams.summary"
    )
    types = {bool: api.DATA_TYPE_BOOL, str: api.DATA_TYPE_STRING}
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


def _layout(table):
    """The serialized summary of the Custom Scalars tab: a category for each stage, in order."""
    layouts, summary = require(
        "tensorboard.plugins.custom_scalar.layout_pb2", "tensorboard.plugins.custom_scalar.summary"
    )

    def chart(title, prefix):
        lines = layouts.MultilineChartContent(tag=[f"^{re.escape(prefix)}/[^/]+$"])
        return layouts.Chart(title=title, multiline=lines)

    stages = {}
    for path, weights in table.items():
        charts = stages.setdefault(stage(path), [])
        for kind in weights:
            charts.append(chart(f"{path} {kind}", tag(path, kind, "").rstrip("/")))
    parts = [chart(part, f"importance/{part}") for part in ("net", *stages)]
    categories = {"importance": parts, **stages}
    layout = layouts.Layout(
        category=[layouts.Category(title=t, chart=charts) for t, charts in categories.items()]
    )
    return summary.pb(layout).SerializeToString()
