"""What a training step of a whole model costs, on one device and on two replicas."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import timing
from layers import unfused

import keras_norms
import zoo
from keras_norms.base import Normalization
from zoo.laboratory import measuring
from zoo.training import distribution

BATCH = 64
IMAGE, ROWS = (32, 32, 3), (28, 28)
NORMS = ("none", "bn", "ln", "gn", "in", "bin", "sn")
SEQUENCE_NORMS = ("none", "ln", "rms", "bn", "gn", "sn")


def _resnet(norm: Any) -> keras.Model:
    return zoo.resnet(20, 10, norm=norm, input_shape=IMAGE)


def _lstm(norm: str) -> keras.Model:
    return zoo.lstm(10, norm=norm, input_shape=ROWS)


def _transformer(norm: str) -> keras.Model:
    return zoo.transformer(10, norm=norm, input_shape=ROWS)


def _batch(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((BATCH, *shape), "float32"), rng.integers(10, size=BATCH)


def _time_models(
    title: str,
    models: Mapping[str, keras.Model],
    shape: tuple[int, ...],
    base: str,
    rounds: int,
) -> tuple[timing.Column, timing.Column]:
    """Times a training step of models: see `timing.time_steps`."""
    batch = tuple(map(tf.constant, _batch(shape)))
    steps = {
        name: measuring.training_step(model, keras.optimizers.SGD(0.01))
        for name, model in models.items()
    }
    return timing.time_steps(title, steps, batch, base, rounds)


def _not_fused(model: keras.Model) -> keras.Model:
    for layer in model.layers:
        if isinstance(layer, Normalization):
            unfused(layer)
    return model


def convolutional(rounds: int) -> Iterator[timing.Column]:
    """A training step of the ResNet-20 on 64 images, without XLA."""
    models = {
        "keras BN": _resnet(keras.layers.BatchNormalization),
        "keras GN (8 groups)": _resnet(lambda **kwargs: keras.layers.GroupNormalization(8)),
        **{norm: _resnet(norm) for norm in NORMS},
        **{f"{norm}, not fused": _not_fused(_resnet(norm)) for norm in ("bn", "gn", "sn")},
    }
    yield from _time_models(f"ResNet-20, {(BATCH, *IMAGE)}", models, IMAGE, "keras BN", rounds)


def sequential(rounds: int) -> Iterator[timing.Column]:
    """A training step of the LSTM and the Transformer on 64 images row by row, without XLA."""
    for title, build in (("LSTM", _lstm), ("Transformer", _transformer)):
        models = {norm: build(norm) for norm in SEQUENCE_NORMS}
        yield from _time_models(f"{title}, {(BATCH, *ROWS)}", models, ROWS, "none", rounds)


def replicated(rounds: int) -> Iterator[timing.Column]:
    """A training step of the ResNet-20 on a global batch of 64 images, under `MirroredStrategy`."""
    distribution.strategy(2)  # first, since TensorFlow sets up its devices only once
    norms = ("none", "bn", "bn(synchronized=True)", "gn", "sn", "sn(synchronized=True)")
    for replicas in (1, 2):
        strategy = distribution.strategy(replicas)
        steps = {norm: _replicated_step(strategy, replicas, norm) for norm in norms}
        title = f"{replicas} {'replica' if replicas == 1 else 'replicas'}"
        column, _ = timing.time_steps(title, steps, (), "none", rounds)
        yield column


def folded(rounds: int) -> Iterator[timing.Column]:
    """Inference of a model, and of the one that `keras_norms.fold` makes of it, without XLA."""
    resnet50 = keras.applications.ResNet50(weights=None)
    mobilenet = keras.applications.MobileNetV2(weights=None)
    for title, model, batch in (
        ("ResNet-20", _resnet("bn"), 1),
        ("ResNet-20", _resnet("bn"), 64),
        ("ResNet-20, weight norm", _resnet("wn_mobn"), 1),
        ("Keras's ResNet50", resnet50, 1),
        ("Keras's MobileNetV2", mobilenet, 1),
    ):
        copy, _ = keras_norms.fold(model)
        steps = {"as it was": _inference(model), "folded": _inference(copy)}
        x = tf.random.stateless_normal((batch, *model.input_shape[1:]), (1, 0))
        column, _ = timing.time_steps(
            f"{title}, {tuple(x.shape)}", steps, (x,), "as it was", rounds, repeats=3
        )
        yield column


def _inference(model: keras.Model) -> Callable:
    return tf.function(lambda x: model(x, training=False))


def _replicated_step(strategy: tf.distribute.Strategy, replicas: int, norm: str) -> Callable:
    with strategy.scope():
        model, optimizer = _resnet(norm), keras.optimizers.SGD(0.01)
        optimizer.build(model.trainable_variables)
    parts = [distribution.split(strategy, np.split(array, replicas)) for array in _batch(IMAGE)]

    @tf.function
    def step() -> tuple[tf.Tensor, ...]:
        train = functools.partial(measuring.train_on, model, optimizer)
        return strategy.experimental_local_results(strategy.run(train, args=parts))

    return step
