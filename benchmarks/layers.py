"""What single layers cost in training and inference: time, memory, and errors by rounding."""

import json
import sys
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf
import timing

import keras_norms
from zoo.laboratory import measuring

IMAGES = ((32, 32, 32, 64), (32, 16, 16, 128), (64, 8, 8, 256))
LARGE = (128, 64, 64, 64)  # so large that it outweighs the memory of the compiler
SEQUENCE = (64, 128, 256)
BASE = "keras BN"
UNFUSED = ", not fused"  # ends the names of rows that compute without `keras_norms.fused`


class FusedBatchNorm(keras.layers.Layer):
    """TensorFlow's own operation for batch norm, without moving statistics."""

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        shape = input_shape[-1:]
        self.gamma = self.add_weight(shape=shape, initializer="ones")
        self.beta = self.add_weight(shape=shape, initializer="zeros")

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        return tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=self.gamma.value,
            offset=self.beta.value,
            mean=[] if training else tf.zeros_like(self.beta.value),
            variance=[] if training else tf.ones_like(self.beta.value),
            epsilon=1e-3,
            is_training=bool(training),
        ).y


def image_layers() -> dict[str, keras.Layer]:
    """The norms of images: ours, then those of Keras and TensorFlow."""
    return {
        BASE: keras.layers.BatchNormalization(),
        "BN": keras_norms.BatchNormalization(),
        "mean-only BN": keras_norms.MeanOnlyBatchNormalization(),
        "IN": keras_norms.InstanceNormalization(),
        "LN (GN, 1 group)": keras_norms.GroupNormalization(1),
        "GN (32 groups)": keras_norms.GroupNormalization(32),
        "SN": keras_norms.SwitchableNormalization(),
        "BIN": keras_norms.BatchInstanceNormalization(),
        **{
            f"{name}{UNFUSED}": unfused(layer)
            for name, layer in (
                ("BN", keras_norms.BatchNormalization()),
                ("GN", keras_norms.GroupNormalization(32)),
                ("SN", keras_norms.SwitchableNormalization()),
            )
        },
        "FusedBatchNormV3": FusedBatchNorm(),
        "keras GN (32 groups)": keras.layers.GroupNormalization(32),
        "keras GN (-1)": keras.layers.GroupNormalization(-1),
        "keras LN (last axis)": keras.layers.LayerNormalization(),
    }


def unfused(layer: keras.Layer) -> keras.Layer:
    """Makes a layer compute without `keras_norms.fused`, and returns it."""
    layer.fusible = False
    return layer


def sequence_layers(per_token: bool) -> dict[str, keras.Layer]:
    """The norms of `(batch, time, channels)`: each token is a sample, or each step a position."""
    batch_axis = (0, 1) if per_token else 0
    layers = {
        "keras LN": keras.layers.LayerNormalization(),
        "keras RMS": keras.layers.RMSNormalization(),
        "LN (GN, 1 group)": keras_norms.GroupNormalization(1, batch_axis=batch_axis),
        "GN (32 groups)": keras_norms.GroupNormalization(32, batch_axis=batch_axis),
        "BN": keras_norms.BatchNormalization(batch_axis=batch_axis),
        "SN": keras_norms.SwitchableNormalization(batch_axis=batch_axis),
    }
    return layers if per_token else layers | {"IN": keras_norms.InstanceNormalization()}


def training(rounds: int) -> Iterator[timing.Column]:
    """A training step on images."""
    for shape in IMAGES:
        for xla in (False, True):
            title = f"{shape}, {'XLA' if xla else 'plain'}"
            yield timing.time_layers(title, image_layers(), shape, BASE, rounds, xla)
    yield timing.Column(f"{LARGE}, memory", "the input", None, peak_memory(LARGE))


def inference(rounds: int) -> Iterator[timing.Column]:
    """Inference on images."""
    # Nothing is fused here.
    for shape in IMAGES:
        layers = {n: layer for n, layer in image_layers().items() if not n.endswith(UNFUSED)}
        yield timing.time_layers(f"{shape}, plain", layers, shape, BASE, rounds, training=False)


def sequences(rounds: int) -> Iterator[timing.Column]:
    """A training step on a sequence."""
    for per_token in (True, False):
        for xla in (False, True):
            title = f"{SEQUENCE}, {'per token' if per_token else 'over time'}"
            title += ", XLA" if xla else ", plain"
            layers = sequence_layers(per_token)
            yield timing.time_layers(title, layers, SEQUENCE, "keras LN", rounds, xla)


def accuracy(_: int) -> Iterator[timing.Column]:
    """The error of a layer's output where the mean is 10,000 and the standard deviation 1."""
    x = np.random.default_rng(0).standard_normal(IMAGES[1], "float32") + np.float32(1e4)
    layers, errors = image_layers(), {}
    for name, layer in layers.items():
        # TensorFlow's own operation has no float64.
        peer = layers[BASE] if name == "FusedBatchNormV3" else layer
        exact = type(peer).from_config(peer.get_config() | {"dtype": "float64"})
        expected = exact(tf.constant(x, "float64"), training=True).numpy()
        output = tf.function(layer)(tf.constant(x), training=True)
        difference = output.numpy().astype("float64") - expected
        error = float(np.linalg.norm(difference) / np.linalg.norm(expected))
        errors[name] = (1e6 * error,) * 3
    yield timing.Column(f"{IMAGES[1]}, plain", "a millionth of the output", None, errors)


def peak_memory(shape: tuple[int, ...]) -> dict[str, timing.Cell]:
    """The memory that one training step of each layer takes at its peak, in sizes of the input."""
    peaks = {n: measuring.run_child(__file__, n, json.dumps(shape)) for n in image_layers()}
    sizes = {name: peak / (4 * float(np.prod(shape))) for name, peak in peaks.items() if peak}
    return {name: (size,) * 3 for name, size in sizes.items()}


def measure_peak(name: str, shape: tuple[int, ...]) -> int | None:
    """Bytes that one training step takes in this process, which `peak_memory` starts; or None."""
    step = timing.training_step(image_layers()[name], shape, xla=False)
    rng = np.random.default_rng(0)
    small, batch = (
        # NumPy draws them, because TensorFlow would keep memory for that.
        [tf.constant(rng.standard_normal((size, *shape[1:]), "float32")) for _ in range(2)]
        for size in (1, shape[0])
    )
    return measuring.peak_memory(step, small, batch)


if __name__ == "__main__":
    print(json.dumps(measure_peak(sys.argv[1], tuple(json.loads(sys.argv[2])))))
