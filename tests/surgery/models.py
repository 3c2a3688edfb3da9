"""Models as people have them, for surgery: each with norms in another kind of place."""

import keras
import numpy as np
from keras import layers

PACKAGE = "surgery"
register = keras.saving.register_keras_serializable(PACKAGE)


def conv(x, channels=4, **options):
    x = layers.Conv2D(channels, 3, padding="same", use_bias=False, **options)(x)
    return layers.ReLU()(layers.BatchNormalization(epsilon=1.001e-5, momentum=0.97)(x))


def sequential():
    parts = [keras.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.BatchNormalization()]
    return keras.Sequential([*parts, layers.ReLU(), layers.Flatten(), layers.Dense(3)])


def functional():
    """With operations, a residual sum, two inputs and two outputs."""
    inputs = [keras.Input((8, 8, 3), name="image"), keras.Input((5,), name="vector")]
    x = conv(inputs[0] * 2.0)
    x = x + conv(x)
    pooled = layers.GlobalAveragePooling2D()(x)
    y = layers.BatchNormalization(scale=False)(layers.Dense(4)(inputs[1]))
    return keras.Model(inputs, {"sum": keras.ops.add(pooled, y), "image": x}, name="two")


def nested():
    inner = keras.Input((8, 8, 4))
    block = keras.Model(inner, conv(conv(inner)), name="block")
    inputs = keras.Input((8, 8, 3))
    x = block(conv(inputs))
    tail = keras.Sequential([layers.Conv2D(4, 1), layers.BatchNormalization(center=False)])
    return keras.Model(inputs, tail(block(x)))  # the block is used twice


def shared():
    norm, dense = layers.BatchNormalization(name="shared"), layers.Dense(6)
    inputs = keras.Input((6,))
    return keras.Model(inputs, norm(dense(norm(inputs))))


def wrapped():
    """Below wrappers: along time, and in the cell of a recurrent layer."""
    inputs = keras.Input((4, 8, 8, 3))
    frames = keras.Sequential([layers.Conv2D(4, 3), layers.BatchNormalization(), layers.ReLU()])
    x = layers.TimeDistributed(frames)(inputs)
    x = layers.TimeDistributed(layers.BatchNormalization(name="each_frame"))(x)
    x = layers.TimeDistributed(layers.GlobalAveragePooling2D())(x)
    x = layers.Bidirectional(layers.RNN(NormedCell(5), return_sequences=True))(x)
    return keras.Model(inputs, layers.LayerNormalization(epsilon=1e-6)(x))


@register
class NormedCell(layers.Layer):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = units
        self.dense = layers.Dense(units, activation="tanh")
        self.norm = layers.LayerNormalization()

    def build(self, shape):
        self.dense.build((None, shape[-1] + self.units))
        self.norm.build((None, self.units))

    def call(self, inputs, states):
        h = self.norm(self.dense(keras.ops.concatenate([inputs, states[0]], -1)))
        return h, [h]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@register
class Block(layers.Layer):
    """Makes its layers in `build`, and holds them in a list, a dict, a tuple and an attribute."""

    def __init__(self, channels, **kwargs):
        super().__init__(**kwargs)
        self.channels = channels

    def build(self, shape):
        self.convs = [layers.Conv2D(self.channels, 3, padding="same") for _ in range(3)]
        self.norms = {"first": layers.BatchNormalization(), "second": layers.BatchNormalization()}
        self.pairs = [(layers.BatchNormalization(), layers.ReLU())]
        self.last = layers.Dense(self.channels)
        for layer in self.convs:
            layer.build(shape)
            shape = (*shape[:3], self.channels)
        for layer in (*self.norms.values(), *self.pairs[0], self.last):
            layer.build(shape)

    def call(self, x, training=False):
        norms = [*self.norms.values(), self.pairs[0][0]]
        for convolve, norm in zip(self.convs, norms, strict=True):
            x = self.pairs[0][1](norm(convolve(x), training=training))
        return self.last(x)

    def get_config(self):
        return {**super().get_config(), "channels": self.channels}


def composite():
    inputs = keras.Input((8, 8, 3))
    return keras.Model(inputs, layers.Dense(2)(Block(4)(inputs)))


@register
class Subclassed(keras.Model):
    def __init__(self, units=4, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.stem = keras.Sequential([layers.Conv2D(units, 3), layers.BatchNormalization()])
        self.norm = layers.BatchNormalization()
        self.backbone = nested()
        self.head = layers.Dense(units)

    def build(self, shape):
        self.backbone.build(shape)
        self.stem.build(self.backbone.compute_output_shape(shape))
        self.norm.build((None, self.units))
        self.head.build((None, self.units))

    def call(self, x, training=False):
        x = self.stem(self.backbone(x, training=training), training=training)
        return self.head(self.norm(keras.ops.mean(x, (1, 2)), training=training))


def subclassed():
    model = Subclassed()
    model.build((None, 8, 8, 3))
    return model


MODELS = {
    f.__name__: f for f in (sequential, functional, nested, shared, wrapped, composite, subclassed)
}


def make(name, rng):
    """A model with weights as if it had learnt, and inputs for it."""
    model = MODELS[name]()
    randomize(model, rng)
    inputs = getattr(model, "inputs", None)
    shapes = [tuple(x.shape)[1:] for x in inputs] if inputs else [(8, 8, 3)]
    x = [rng.normal(size=(3, *shape)).astype("float32") for shape in shapes]
    return model, x if len(x) > 1 else x[0]


def randomize(model, rng):
    for variable in model.variables:
        if variable.path.endswith("moving_variance"):
            variable.assign(rng.uniform(0.5, 2, variable.shape))
        elif variable.path.endswith(("gamma", "beta", "moving_mean", "bias")):
            variable.assign(rng.normal(0.5, 0.3, variable.shape))
    return model


def outputs(model, x):
    y = model(x, training=False)
    return np.concatenate([np.ravel(part) for part in keras.tree.flatten(y)])


def relative(one, other):
    return np.abs(one - other).max() / np.abs(other).max()
