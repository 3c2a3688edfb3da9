"""Progress of training where no terminal can show a bar."""

import threading
from typing import Any, Self

import keras


class ProgressLines(keras.callbacks.Callback):
    """Prints how far training is, every so many seconds, while it is used in a `with` block.

    A thread prints, since the first step takes long: it is traced and compiled.

    Args:
        epochs: number of epochs.
        steps_per_epoch: number of steps.
        seconds: time from one line to the next.
    """

    def __init__(self, epochs: int, steps_per_epoch: int, seconds: float = 10.0) -> None:
        super().__init__()
        self._epochs, self._steps, self._seconds = epochs, steps_per_epoch, seconds
        self._status = "compiling the first step"
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._print, daemon=True)

    def __enter__(self) -> Self:
        print(f"{self._status} ...", flush=True)
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._done.set()
        self._thread.join()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch + 1

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        loss = f", loss {logs['loss']:.4f}" if logs and "loss" in logs else ""
        step = f"step {batch + 1}/{self._steps}"
        self._status = f"epoch {self._epoch}/{self._epochs}, {step}{loss}"

    def on_test_begin(self, logs: Any = None) -> None:
        self._status = f"epoch {self._epoch}/{self._epochs}, testing"

    def on_train_end(self, logs: Any = None) -> None:
        self._status = "saving the model"

    def _print(self) -> None:
        while not self._done.wait(self._seconds):
            print(self._status, flush=True)
