"""What a training run does beside training: it times steps, checks the loss, logs, saves."""

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from zoo.training import checkpoint, distribution, events, workers


class Terminated(Exception):
    """A signal has ended training, which has saved a checkpoint before.

    Attributes:
        signal: the number of the signal.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


class StepTimer(keras.callbacks.Callback):
    """Measures how long each step takes.

    Attributes:
        seconds: the time of each step so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._begin = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seconds.append(time.perf_counter() - self._begin)


class FiniteLossCheck(keras.callbacks.Callback):
    """Ends training with a FloatingPointError when the loss is NaN or infinite.

    Args:
        explain: function `(epoch, batch)` -> a clause that says where the first value arose that
            is not finite.
    """

    def __init__(self, explain: Callable[[int, int], str]) -> None:
        super().__init__()
        self._explain = explain

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if not math.isfinite(logs["loss"]):
            step = int(ops.convert_to_numpy(self.model.optimizer.iterations))
            raise FloatingPointError(
                f"The loss is {logs['loss']} after step {step} (epoch {self._epoch + 1}): "
                f"{self._explain(self._epoch, batch)}. A lower learning rate, a warm-up or another "
                "norm may help."
            )


class ResumableTensorBoard(keras.callbacks.TensorBoard):
    """Keras's curves, in which a resumed run has no point missing and none twice.

    Events of a step are on disk before the checkpoint of that step is.

    Args:
        log_dir: folder for the events.
        every: "epoch", or a number of batches after which the curves get further points.
        batches: the number of training batches before this process.
    """

    def __init__(self, log_dir: Path, every: str | int, batches: int) -> None:
        # `update_freq=every` would make Keras leave out whole epochs.
        super().__init__(log_dir, write_graph=not batches)
        self._every = every
        self._batches = batches

    def on_train_begin(self, logs: Any = None) -> None:
        super().on_train_begin(logs)
        self._global_train_batch = self._batches

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        super().on_train_batch_end(batch, logs)
        step = self._global_train_batch
        if isinstance(self._every, int) and step % self._every == 0:
            with self._train_writer.as_default(step=step):  # flushes at its end
                for name, value in logs.items():
                    tf.summary.scalar(f"batch_{name}", value)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        # Keras takes the epoch for the step of the curves. All curves here share one axis.
        super().on_epoch_end(self._global_train_batch, logs)
        for writer in self._writers.values():
            writer.flush()


class CheckpointSaver(keras.callbacks.Callback):
    """Saves a checkpoint after every epoch. At SIGTERM or SIGINT, saves one and ends training.

    If a resumed run begins within an epoch, `fit` must get the rest of that epoch first.

    Args:
        checkpoints: folder for the checkpoints.
        event_folder: folder below which the event files are, which are checked before each save.
        position: where training begins in this process.
        steps_per_epoch: number of steps.
        write: whether this process writes the checkpoints. All workers have to take part.

    Attributes:
        history: the results of each complete epoch, including those before `position`.
    """

    def __init__(
        self,
        checkpoints: Path,
        event_folder: Path,
        position: checkpoint.Position,
        steps_per_epoch: int,
        write: bool = True,
    ) -> None:
        super().__init__()
        self.history = {name: list(values) for name, values in position.history.items()}
        self._checkpoints = checkpoints
        self._event_folder = event_folder
        self._position = position
        self._steps_per_epoch = steps_per_epoch
        self._write = write
        self._signal: int | None = None
        self._checked_events: dict[str, int] = {}

    @contextlib.contextmanager
    def deferred_signals(self) -> Iterator[None]:
        """Lets the step that is running end before a signal ends the process."""
        signals = (signal.SIGTERM, signal.SIGINT)
        handlers = {number: signal.signal(number, self._receive) for number in signals}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch
        # The steps of this epoch that an earlier process has done.
        self._skipped = self._position.step if epoch == self._position.epoch else 0
        if self._skipped:
            # The metrics count those steps too. `fit` has just reset them.
            metrics = self.model.metrics_variables
            for variable, value in zip(metrics, self._position.metrics, strict=True):
                distribution.assign_sums(variable, value)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._step = self._skipped + batch + 1
        if self._step == self._steps_per_epoch:
            # Keras expects a full epoch, of which only the rest was left.
            self.model.stop_training = self._skipped > 0
        elif self._signal is not None and not workers.configured():
            # Several workers save together, and each may get its signal at another step.
            self._save(self._epoch, self._step)
            self._terminate(f"epoch {self._epoch + 1}, step {self._step}")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.model.stop_training = False
        if self._step != self._steps_per_epoch:
            # Keras mistakes some errors for the end of the data.
            raise RuntimeError(
                f"Epoch {epoch + 1} ended after {self._step} of {self._steps_per_epoch} steps, "
                "since the data ended or events could not be written. Go on with --resume."
            )
        for name, value in logs.items():
            self.history.setdefault(name, []).append(float(value))
        if self._write:
            events.check(self._event_folder, self._checked_events)
        self._save(epoch + 1, 0)
        if self._signal is not None:
            self._terminate(f"epoch {epoch + 1}")

    def _save(self, epoch: int, step: int) -> None:
        checkpoint.save(self._checkpoints, self.model, epoch, step, self.history, self._write)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None:  # the second signal does not wait
            raise KeyboardInterrupt
        self._signal = number
        when = "epoch" if workers.configured() else "step"
        print(f"\n{signal.Signals(number).name}: saving after this {when}", flush=True)

    def _terminate(self, when: str) -> None:
        assert self._signal is not None
        name = signal.Signals(self._signal).name
        raise Terminated(f"{name}: saved after {when}; go on with --resume", self._signal)
