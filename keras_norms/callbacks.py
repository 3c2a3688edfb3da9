"""Logs what switches and gates learn to TensorBoard."""

import os
import re
import warnings

import keras

from keras_norms.analysis import (
    LABELS,
    Preferences,
    require,
    stage,
    switched_layers,
    tag,
)


class SwitchLogger(keras.callbacks.Callback):
    """Logs the switches and gates of a model while it trains.

    It finds every `SwitchableNormalization` and `BatchInstanceNormalization`, nested ones too, and
    writes at the start of training and then every epoch, or every so many steps:

    - Scalars: `switch/{layer path}/{mean|variance}/{statistic}`, the softmaxed weights,
      `gate/{layer path}/batch`, the mean gate, and `importance/{statistic}`, the average of
      mean and variance weights over all layers; Histograms: `gates/{layer path}`;
    - Custom Scalars: a chart for each layer and kind, the layers of a stage together;
    - Images: a heat map and stacked bars, at the start and after each epoch;
    - HParams: `hparams`, beside `importance` and the metrics of `fit`.

    The step is `optimizer.iterations`, so a run that is resumed continues its curves.
    `keras_norms.analysis.read(log_dir)` reads them back.

    Args:
        log_dir: folder for the events. One for each run, that no other writer uses.
        every: "epoch", or int, a number of training batches.
        figures: whether to draw the figures.
        hparams: dict of the run's hyperparameters, or None. Values that are no bool, number or
            string are logged as their text.

    Raises:
        ImportError: if TensorFlow, TensorBoard or, for figures, matplotlib is missing.
        ValueError: if `every` is neither.

    Example:

    ```python
    model.fit(x, y, epochs=10, callbacks=[SwitchLogger("logs/switches")])
    ```
    """

    def __init__(self, log_dir, every="epoch", figures=True, hparams=None):
        super().__init__()
        is_count = isinstance(every, int) and not isinstance(every, bool) and every > 0
        if every != "epoch" and not is_count:
            raise ValueError(
                f'`every` must be "epoch" or a positive number of batches. Received: {every!r}'
            )
        require("tensorflow", "tensorboard", *(["matplotlib"] if figures else []))
        self.log_dir = os.fspath(log_dir)
        self.every = every
        self.figures = figures
        self.hparams = hparams
        # Lets Keras run ahead of the callbacks of each batch, of which there is nothing to do.
        self.async_safe = every == "epoch"
        self._writer = self._layers = None

    def on_train_begin(self, logs=None):
        self._writer = self._layers = None

    def on_epoch_begin(self, epoch, logs=None):
        # Not in on_train_begin, where a callback after this one may yet restore a checkpoint.
        if self._layers is None:
            self._start()
        self._epoch_start = self._batches

    def on_train_batch_end(self, batch, logs=None):
        if self.every == "epoch":
            return
        # `batch` advances by more than one where several steps run at once.
        before, self._batches = self._batches, self._epoch_start + batch + 1
        if self._batches // self.every > before // self.every:
            self._write_scalars()

    def on_epoch_end(self, epoch, logs=None):
        if self.every == "epoch":
            self._write_scalars()
        self._write_figures()
        if self.hparams is not None:
            self._write_metrics(logs or {})

    def on_train_end(self, logs=None):
        if self._writer is not None:
            self._write_scalars()
            self._writer.close()
            self._writer = None

    def _start(self):
        """Writes the state before the first batch, and all that is written once."""
        import tensorflow as tf

        self._step, self._batches = None, self._iterations()
        self._layers = switched_layers(self.model)
        if not self._layers:
            warnings.warn(
                f"SwitchLogger has nothing to log: {self.model.name} has no layer with switches "
                "or gates (SwitchableNormalization, BatchInstanceNormalization).",
                stacklevel=2,
            )
            return
        self._writer = tf.summary.create_file_writer(self.log_dir)
        with self._writer.as_default(step=0):
            tf.summary.experimental.write_raw_pb(_layout(self._table()).SerializeToString())
            if self.hparams is not None:
                from tensorboard.plugins.hparams import api

                api.hparams(_plain(self.hparams))
        self._write_scalars()
        self._write_figures()

    def _write_scalars(self):
        step = self._iterations()
        if self._writer is None or step == self._step:
            return
        import tensorflow as tf

        self._step, table = step, self._table()
        with self._writer.as_default(step=step):
            for path, weights in table.items():
                for kind, shares in weights.items():
                    for statistic, share in shares.items():
                        if (kind, statistic) != ("gate", "instance"):  # 1 - batch
                            tf.summary.scalar(tag(path, kind, statistic), share)
                if "gate" in weights:
                    tf.summary.histogram(f"gates/{path}", self._layers[path].gate)
            for statistic, share in _importance(table).items():
                tf.summary.scalar(f"importance/{statistic}", share)
        self._writer.flush()
