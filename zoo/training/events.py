"""TensorBoard's events of a run that is resumed."""

import contextlib
import os

import tensorflow as tf
from tensorboard.compat.proto.event_pb2 import Event

_ADVICE = "Make room, and go on from the last checkpoint with --resume."


def forget(folder, epoch, batches, iterations):
    """Removes what was logged after a checkpoint, so that each curve has each point once.

    Args:
        folder: folder below which the event files are.
        epoch: int, the number of whole epochs at the checkpoint.
        batches: int, the number of training batches by then.
        iterations: int, the steps of the optimizer by then; loss scaling skips some batches.
    """

    def keep(tag, step):
        if tag == "sample":
            return False  # which is written when all is done
        if tag.startswith("epoch_"):
            return step < epoch
        return step <= (batches if tag.startswith("batch_") else iterations)

    for path in _files(folder):
        _filter(path, keep)


@contextlib.contextmanager
def written():
    """Makes an OSError of what TensorFlow raises where events cannot be written."""
    try:
        yield
    except tf.errors.OpError as error:
        if "tfevents" not in str(error):
            raise
        cause = error.message.strip().split("\n")[0].split("}} ")[-1]
        raise OSError(f"{cause}: no events could be written. {_ADVICE}") from error


def check(folder, known):
    """Raises an OSError where events have been lost, as on a full disk: TensorFlow is silent.

    Args:
        folder: folder below which the event files are, all of them flushed.
        known: dict, empty at first, of what this has found in order up to now.
    """
    for path in _files(folder):
        place, size = known.get(path, 0), os.path.getsize(path)
        with open(path, "rb") as file:
            while place < size:
                file.seek(place)
                length = int.from_bytes(file.read(8), "little")
                place += 8 + 4 + length + 4  # with the checksums of both
        if place != size:
            raise OSError(f"{path} could not be written to its end; is the disk full? {_ADVICE}")
        known[path] = place


def _files(folder):
    for root, _, names in os.walk(folder):
        yield from (os.path.join(root, name) for name in names if "tfevents" in name)


def _filter(path, keep):
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
        changed = True  # the end of a file that was being written
    if changed:
        # A name that TensorBoard does not read, should this be interrupted.
        unfinished = os.path.join(os.path.dirname(path), "unfinished")
        with tf.io.TFRecordWriter(unfinished) as writer:
            for event in events:
                writer.write(event)
        os.replace(unfinished, path)
