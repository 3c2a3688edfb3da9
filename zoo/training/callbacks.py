"""What a training run does beside training: it watches the loss, draws curves, saves itself."""

import contextlib
import math
import signal
import time

import keras
import tensorflow as tf
from keras import ops

from zoo.training import checkpoint, events


class Terminated(Exception):
    """Training has been told to end, and has saved itself; `signal` is the number of the signal."""

    def __init__(self, message, signal):
        super().__init__(message)
        self.signal = signal


class Watch(keras.callbacks.Callback):
    """Times the steps, and ends training where the loss is no number any more.

    Args:
        explain: function `(epoch, batch)` -> str, where the first value arose that is not finite.
    """

    def __init__(self, explain):
        super().__init__()
        self.seconds = []
        self._explain = explain

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        self._begin = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self.seconds.append(time.perf_counter() - self._begin)
        if not math.isfinite(logs["loss"]):
            step = int(ops.convert_to_numpy(self.model.optimizer.iterations))
            raise FloatingPointError(
                f"The loss is {logs['loss']} after step {step} (epoch {self._epoch + 1}): "
                f"{self._explain(self._epoch, batch)}. A lower learning rate, a warm-up or another "
                "norm may help."
            )


class Curves(keras.callbacks.TensorBoard):
    """Keras's curves, without a point missing or doubled in a run that is resumed.

    What belongs to a step is on disk before the checkpoint of that step is.

    Args:
        log_dir: folder for the events.
        every: "epoch", or int, to write the curves every so many batches too.
        done: int, the number of batches before a run that is resumed.
    """

    def __init__(self, log_dir, every, done):
        # Not `update_freq=every`, by which Keras leaves out whole epochs too.
        super().__init__(log_dir, write_graph=not done)
        self._every = every
        self._done = done

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self._global_train_batch = self._done

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)
        step = self._global_train_batch
        if self._every != "epoch" and step % self._every == 0:
            with self._train_writer.as_default(step=step):  # which flushes
                for name, value in logs.items():
                    tf.summary.scalar(f"batch_{name}", value)

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        for writer in self._writers.values():
            writer.flush()


class Keeper(keras.callbacks.Callback):
    """Saves a checkpoint after every epoch, and at SIGTERM or SIGINT, which end training.

    Args:
        folder: `pathlib.Path`, of the checkpoints. The events are beside it.
        position: `checkpoint.Position` where training goes on.
        steps: int, those of an epoch. `fit` is to get the rest of its first epoch first.
        write: whether this process writes the checkpoints; all workers have to take part.

    Attributes:
        history: what each whole epoch has reached, those before `position` included.
    """

    def __init__(self, folder, position, steps, write=True):
        super().__init__()
        self.history = {name: list(values) for name, values in position.history.items()}
        self._folder = folder
        self._position = position
        self._steps = steps
        self._signal = None
        self._write = write
        self._events = {}

    @contextlib.contextmanager
    def listening(self):
        """Waits for the end of a step where a signal would end the process."""
        signals = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, self._receive) for number in signals}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_epoch_begin(self, epoch, logs=None):
        self._done = self._position.step if epoch == self._position.epoch else 0
        if self._done:  # `fit` has just reset them
            metrics = self.model.metrics_variables
            for variable, value in zip(metrics, self._position.metrics, strict=True):
                variable.assign(value)
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        step = self._step = self._done + batch + 1
        if step == self._steps:
            self.model.stop_training = self._done > 0  # this epoch, whose begin Keras has not seen
        elif self._signal is not None:
            self._save(self._epoch, step)
            self._terminate(f"epoch {self._epoch + 1}, step {step}")

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = False
        if self._step != self._steps:  # Keras takes some errors for the end of the data
            raise RuntimeError(
                f"Epoch {epoch + 1} ended after {self._step} of {self._steps} steps, since the "
                "data ended or events could not be written. Go on with --resume."
            )
        for name, value in logs.items():
            self.history.setdefault(name, []).append(float(value))
        if self._write:
            events.check(self._folder.parent / "tensorboard", self._events)
        self._save(epoch + 1, 0)
        if self._signal is not None:
            self._terminate(f"epoch {epoch + 1}")

    def _save(self, epoch, step):
        checkpoint.save(self._folder, self.model, epoch, step, self.history, self._write)

    def _receive(self, number, frame):
        if self._signal is not None:  # who insists does not wait
            raise KeyboardInterrupt
        self._signal = number
        print(f"\n{signal.Signals(number).name}: saving after this step", flush=True)

    def _terminate(self, when):
        name = signal.Signals(self._signal).name
        raise Terminated(f"{name}: saved after {when}; go on with --resume", self._signal)
