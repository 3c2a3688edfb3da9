"""TensorBoard's event files: checked while training writes them, cut when it resumes."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import tensorflow as tf
from tensorboard.compat.proto.event_pb2 import Event

_ADVICE = "Make room, and go on from the last checkpoint with --resume."


def cut(folder: Path, batches: int, iterations: int) -> None:
    """Removes what was logged after a checkpoint, so that each curve has each point once.

    Args:
        folder: the folder below which the event files are.
        batches: the number of training batches at the checkpoint.
        iterations: the optimizer's number of steps there; loss scaling skips some batches.
    """

    def keep(tag: str, step: int) -> bool:
        if tag == "sample":
            return False  # a sample is written at the end of training
        by_batch = tag.startswith(("batch_", "epoch_"))
        return step <= (batches if by_batch else iterations)

    for path in _files(folder):
        _filter(path, keep)


@contextlib.contextmanager
def write_errors() -> Iterator[None]:
    """Turns TensorFlow's error for events that cannot be written into an OSError."""
    try:
        yield
    except tf.errors.OpError as error:
        if "tfevents" not in str(error):
            raise
        cause = error.message.strip().split("\n")[0].split("}} ")[-1]
        raise OSError(f"{cause}: no events could be written. {_ADVICE}") from error


def check(folder: Path, checked: dict[str, int]) -> None:
    """Checks that all events are on disk, since TensorFlow ignores that a disk is full.

    Args:
        folder: the folder below which the event files are, all of them flushed.
        checked: `{path: bytes}` that earlier calls have found complete; this call updates it.

    Raises:
        OSError: if a file ends within an event.
    """
    for path in _files(folder):
        place, size = checked.get(path, 0), os.path.getsize(path)
        with open(path, "rb") as file:
            while place < size:
                file.seek(place)
                length = int.from_bytes(file.read(8), "little")
                place += 8 + 4 + length + 4  # length, its checksum, the event, its checksum
        if place != size:
            raise OSError(f"{path} could not be written to its end; is the disk full? {_ADVICE}")
        checked[path] = place


def _files(folder: Path) -> Iterator[str]:
    for root, _, names in os.walk(folder):
        yield from (os.path.join(root, name) for name in names if "tfevents" in name)


def _filter(path: str, keep: Callable[[str, int], bool]) -> None:
    """Rewrites an event file with the values for which `keep(tag, step)` holds."""
    changed, events = False, []
    try:
        for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
            event = Event.FromString(record)
            values = [v for v in event.summary.value if keep(v.tag, event.step)]
            if len(values) < len(event.summary.value):
                changed = True
                del event.summary.value[:]
                event.summary.value.extend(values)
                if not values:
                    continue
            events.append(event.SerializeToString())
    except tf.errors.DataLossError:
        changed = True  # the process was killed while it wrote the last event
    if changed:
        # TensorBoard does not read a file of this name, should this process be killed too.
        unfinished = os.path.join(os.path.dirname(path), "unfinished")
        with tf.io.TFRecordWriter(unfinished) as writer:
            for event in events:
                writer.write(event)
        os.replace(unfinished, path)
