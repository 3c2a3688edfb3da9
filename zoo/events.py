"""TensorBoard's events of a run that is resumed."""

import os

import tensorflow as tf
from tensorboard.compat.proto.event_pb2 import Event

# Written for the first step too, when training begins or goes on.
_WRITTEN_AT_THE_START = ("switch/", "gate/", "gates/", "importance/", "preferences/")


def forget(folder, epoch, iterations):
    """Removes what was logged after a checkpoint, so that each curve has each point once.

    Args:
        folder: folder below which the event files are.
        epoch: int, the number of whole epochs at the checkpoint.
        iterations: int, the steps of the optimizer by then.
    """

    def keep(tag, step):
        if tag.startswith("epoch_"):  # counted in epochs
            return step < epoch
        if tag.startswith(_WRITTEN_AT_THE_START):
            return step < iterations
        return step <= iterations

    for root, _, names in os.walk(folder):
        for name in names:
            if "tfevents" in name:
                _filter(os.path.join(root, name), keep)


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
        with tf.io.TFRecordWriter(path + ".new") as writer:
            for event in events:
                writer.write(event)
        os.replace(path + ".new", path)
