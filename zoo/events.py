"""TensorBoard's events of a run that is resumed."""

import os

import tensorflow as tf
from tensorboard.compat.proto.event_pb2 import Event


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
        # A name that TensorBoard does not read, should this be interrupted.
        unfinished = os.path.join(os.path.dirname(path), "unfinished")
        with tf.io.TFRecordWriter(unfinished) as writer:
            for event in events:
                writer.write(event)
        os.replace(unfinished, path)
