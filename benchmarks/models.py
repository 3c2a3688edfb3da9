"""What training steps and inference of whole models cost, on one device and on replicas."""

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import timing
from layers import UNFUSED, unfused

import keras_norms
import zoo
from keras_norms.base import Normalization
from zoo.laboratory import measuring
from zoo.training import distribution

BATCH = 64
IMAGE, ROWS, WORDS = (32, 32, 3), (28, 28), (None, 64)
# What stands for norms of Keras in rows.
KERAS = {
    "keras BN": keras.layers.BatchNormalization,
    "keras BN(synchronized=True)": functools.partial(
        keras.layers.BatchNormalization, synchronized=True
    ),
    "keras GN (8 groups)": lambda **kwargs: keras.layers.GroupNormalization(8),
    "keras GN (-1)": lambda **kwargs: keras.layers.GroupNormalization(-1),
    "keras LN": lambda **kwargs: keras.layers.LayerNormalization(),
    "keras LSTM": "none",
}
FUSIBLE = ("bn", "gn", "sn")
NORMS = ("none", "bn", "ln", "gn", "in", "bin", "sn")
_OF_IMAGES = ("keras BN", "keras GN (8 groups)", "keras GN (-1)", *NORMS)
SEQUENCE_NORMS = ("none", "ln", "rms", "bn", "gn", "sn")


def resnet(norm: Any, depth: int = 20) -> keras.Model:
    """A ResNet of images."""
    return zoo.resnet(depth, 10, norm=norm, input_shape=IMAGE)


def conv6(norm: Any) -> keras.Model:
    """Six convolutions of images."""
    return zoo.convnet("conv6", 10, norm=norm, input_shape=IMAGE)


def conv1d(norm: Any) -> keras.Model:
    """Four convolutions over time, of sequences of any length."""
    norm = keras_norms.get(norm)
    inputs = x = keras.Input(WORDS)
    for _ in range(4):
        x = norm.wrap(keras.layers.Conv1D(128, 3, padding="same"))(x)
        x = keras.layers.ReLU()(norm.normalize()(x))
    x = keras.layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, keras.layers.Dense(10)(x))


def lstm(norm: Any, input_shape: tuple[int, int] = ROWS) -> keras.Model:
    """An LSTM that classifies sequences."""
    return zoo.lstm(10, norm=norm, input_shape=input_shape)


def transformer(norm: Any, input_shape: tuple[int, int] = ROWS) -> keras.Model:
    """A Transformer that classifies sequences."""
    return zoo.transformer(10, norm=norm, input_shape=input_shape)


def _arrays(shape: tuple[int, ...], batch: int) -> tuple[np.ndarray, np.ndarray]:
    """A batch of noise, and labels."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((batch, *shape), "float32"), rng.integers(10, size=batch)


def tensors(shape: tuple[int, ...], batch: int = BATCH) -> tuple[tf.Tensor, ...]:
    """A batch of noise, and labels."""
    return tuple(map(tf.constant, _arrays(shape, batch)))


def split_batch(
    strategy: tf.distribute.Strategy, replicas: int, batch: int = BATCH
) -> tuple[Any, ...]:
    """A batch of images, and labels, a part for each replica."""
    return tuple(
        distribution.split(strategy, np.split(array, replicas)) for array in _arrays(IMAGE, batch)
    )


def _time_models(
    title: str,
    models: Mapping[str, keras.Model],
    shape: tuple[int, ...],
    base: str,
    rounds: int,
) -> tuple[timing.Column, timing.Column]:
    """Times a training step of models: see `timing.time_steps`."""
    inputs, steps = tensors(shape), {name: _training(model) for name, model in models.items()}
    _set_up(_training(keras.models.clone_model(models[base])), inputs)
    return timing.time_steps(title, steps, inputs, base, rounds)


def _training(model: keras.Model) -> Callable:
    return measuring.training_step(model, keras.optimizers.SGD(0.01))


def _set_up(step: Callable, inputs: Sequence[tf.Tensor]) -> None:
    """Makes TensorFlow and XLA begin, so that no row pays for it in its first step."""
    step(*inputs)
    tf.function(lambda x: x + 1, jit_compile=True)(1.0)


def _not_fused(model: keras.Model) -> keras.Model:
    for layer in model.layers:
        if isinstance(layer, Normalization):
            unfused(layer)
    return model


def _models(build: Callable[[Any], keras.Model], rows: Sequence[str]) -> dict[str, keras.Model]:
    """Models with the norm that each row names."""
    models = {row: build(KERAS.get(row, row.removesuffix(UNFUSED))) for row in rows}
    return {row: _not_fused(m) if row.endswith(UNFUSED) else m for row, m in models.items()}


def convolutional(rounds: int) -> Iterator[timing.Column]:
    """A training step of the ResNet-20 on 64 images, without XLA."""
    rows = (*_OF_IMAGES, *(norm + UNFUSED for norm in FUSIBLE))
    models = _models(resnet, rows)
    yield from _time_models(f"ResNet-20, {(BATCH, *IMAGE)}", models, IMAGE, "keras BN", rounds)


def compiled(rounds: int) -> Iterator[timing.Column]:
    """A training step of the ResNet-20 on 64 images, with `jit_compile=True`."""
    rows = ("keras BN", "none", *FUSIBLE, *(norm + UNFUSED for norm in FUSIBLE))
    steps = {
        name: tf.function(_training(model).python_function, jit_compile=True)
        for name, model in _models(resnet, rows).items()
    }
    inputs = tensors(IMAGE)
    _set_up(_training(resnet("none")), inputs)
    yield from timing.time_steps(
        f"ResNet-20, {(BATCH, *IMAGE)}, XLA", steps, inputs, "keras BN", rounds
    )


def predictions(rounds: int) -> Iterator[timing.Column]:
    """Inference of the ResNet-20 on 64 images, without XLA."""
    found = _models(resnet, _OF_IMAGES)
    steps = {name: _inference(model) for name, model in found.items()}
    x, _ = tensors(IMAGE)
    _set_up(_inference(keras.models.clone_model(found["keras BN"])), (x,))
    yield from timing.time_steps(f"ResNet-20, {(BATCH, *IMAGE)}", steps, (x,), "keras BN", rounds)


def sequential(rounds: int) -> Iterator[timing.Column]:
    """A training step of the LSTM and the Transformer on 64 images row by row, without XLA."""
    for title, build in (("LSTM", lstm), ("Transformer", transformer)):
        models = {norm: build(norm) for norm in SEQUENCE_NORMS}
        yield from _time_models(f"{title}, {(BATCH, *ROWS)}", models, ROWS, "none", rounds)


def replicated(rounds: int) -> Iterator[timing.Column]:
    """A training step of the ResNet-20 on a global batch of 64 images, under `MirroredStrategy`."""
    distribution.strategy(2)  # first, since TensorFlow sets up its devices only once
    norms = ("none", "bn", "bn(synchronized=True)", "gn", "sn", "sn(synchronized=True)")
    for replicas in (1, 2):
        strategy = distribution.strategy(replicas)
        steps = {norm: replicated_step(strategy, norm) for norm in norms}
        title = f"{replicas} {'replica' if replicas == 1 else 'replicas'}"
        batch = split_batch(strategy, replicas)
        column, _ = timing.time_steps(title, steps, batch, "none", rounds)
        yield column


def sizes(_: int) -> Iterator[timing.Column]:
    """Twenty training steps, each on a batch of another size: 35 to 54 images, or as many steps."""
    norms = ("keras BN", *FUSIBLE)
    images = _models(resnet, (*norms, *(norm + UNFUSED for norm in FUSIBLE)))
    texts = _models(conv1d, norms)  # none is fused, as the graph does not know their length
    yield _time_sizes("20 sizes", images, (None, *IMAGE), lambda size: tensors(IMAGE, size))
    yield _time_sizes("20 lengths", texts, (None, *WORDS), lambda size: tensors((size, *WORDS[1:])))


def _time_sizes(
    title: str,
    models: Mapping[str, keras.Model],
    shape: tuple[int | None, ...],
    batch: Callable[[int], tuple[tf.Tensor, ...]],
) -> timing.Column:
    """Times a training step of models on batches of twenty sizes, after two others."""
    signature = [tf.TensorSpec(shape), tf.TensorSpec((None,), tf.int64)]
    steps = {
        name: tf.function(_training(model).python_function, input_signature=signature)
        for name, model in models.items()
    }
    for size in (33, 34):  # a step traces for any size; the second is that of an epoch's end
        for step in steps.values():
            step(*batch(size))
    seconds = dict.fromkeys(steps, 0.0)
    for size in range(35, 55):
        inputs = batch(size)
        for name, step in steps.items():
            start = time.perf_counter()
            step(*inputs).numpy()
            seconds[name] += time.perf_counter() - start
    base = seconds["keras BN"]
    ratios = {name: (own / base,) * 3 for name, own in seconds.items()}
    return timing.Column(title, "keras BN", 1e3 * base, ratios)


def folded(rounds: int) -> Iterator[timing.Column]:
    """Inference of a model, and of the one that `keras_norms.fold` makes of it, without XLA."""
    resnet50 = keras.applications.ResNet50(weights=None)
    mobilenet = keras.applications.MobileNetV2(weights=None)
    for title, model, batch in (
        ("ResNet-20", resnet("bn"), 1),
        ("ResNet-20", resnet("bn"), 64),
        ("ResNet-20, weight norm", resnet("wn_mobn"), 1),
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


def replicated_step(
    strategy: tf.distribute.Strategy, norm: Any, build: Callable[[Any], keras.Model] = resnet
) -> Callable:
    """A compiled function of a batch that is split among replicas, which trains a model."""
    with strategy.scope():
        model, optimizer = build(norm), keras.optimizers.SGD(0.01)
        optimizer.build(model.trainable_variables)

    @tf.function
    def step(x: Any, y: Any) -> tuple[tf.Tensor, ...]:
        train = functools.partial(measuring.train_on, model, optimizer)
        return strategy.experimental_local_results(strategy.run(train, args=(x, y)))

    return step
