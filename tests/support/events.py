"""Event files as SwitchLogger writes them, without TensorFlow and as fast as a disk."""

import struct

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.util.tensor_util import make_tensor_proto

from keras_norms.analysis import tag

PATHS = ("stem_norm", "stage1_norm1", "stage1_norm2", "stage2_norm1")
STATISTICS = ("instance", "layer", "batch")


def record(event):
    """An event as a record of its file."""
    data = event.SerializeToString()
    length = struct.pack("<Q", len(data))
    checksums = struct.pack("<I", masked_crc32c(length)), struct.pack("<I", masked_crc32c(data))
    return length + checksums[0] + data + checksums[1]


def scalar(name, step, number):
    event = Event(wall_time=1.5, step=step)
    value = event.summary.value.add(tag=name)
    value.metadata.plugin_data.plugin_name = "scalars"
    value.tensor.dtype = 1
    value.tensor.tensor_shape.SetInParent()
    value.tensor.tensor_content = struct.pack("<f", number)
    return record(event)


def options(**values):
    """The hyperparameters of a run."""
    event, data = Event(wall_time=1.5), HParamsPluginData()
    for name, number in values.items():
        data.session_start_info.hparams[name].number_value = number
    value = event.summary.value.add(tag="_hparams_/session_start_info")
    value.metadata.plugin_data.plugin_name = "hparams"
    value.metadata.plugin_data.content = data.SerializeToString()
    return record(event)


def gates(path, step, buckets):
    event = Event(wall_time=1.5, step=step)
    value = event.summary.value.add(tag=f"gates/{path}")
    value.metadata.plugin_data.plugin_name = "histograms"
    value.tensor.CopyFrom(make_tensor_proto(buckets))
    return record(event)


def shares(step, kind, last_step, lean=1.0):
    """Shares that begin equal; "batch" gains, the more the later, and "instance" loses."""
    moved = lean * 0.3 * step / max(last_step, 1) * (1 if kind == "mean" else 0.5)
    return dict(zip(STATISTICS, (1 / 3 - moved, 1 / 3, 1 / 3 + moved), strict=True))


def weights(step, last_step=10, lean=1.0, paths=PATHS):
    """The weights of all layers at one step; deeper layers move more."""
    return b"".join(
        scalar(tag(path, kind, s), step, share * 1.0)
        for depth, path in enumerate(paths, 1)
        for kind in ("mean", "variance")
        for s, share in shares(step, kind, last_step, lean * depth / len(paths)).items()
    )


def write(folder, data, name="events.out.tfevents.1.host"):
    """Adds records to an event file, which is flushed, as a run that trains does."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / name, "ab") as file:
        file.write(data)
    return folder / name
