"""Running a layer, and differentiating it, the same way on every backend."""

import inspect

import numpy as np
from keras import ops

from tests.support.norms import BACKEND, DTYPE


def tensor(x):
    """`x` as a tensor; float64 arrays in the precision that the backend has."""
    x = np.asarray(x)
    return ops.convert_to_tensor(x.astype(DTYPE) if x.dtype == "float64" else x)


def forward(layer, x, training=False, mask=None):
    """`layer(x, training, mask)` as an array; moving statistics move.

    On JAX through `jax.jit`, which compiles a layer as a whole and not operation by operation.
    """
    x = tensor(x)
    if not layer.built:
        layer.build(tuple(x.shape))
    kwargs = {} if mask is None else {"mask": tensor(mask)}
    if BACKEND != "jax":
        return ops.convert_to_numpy(layer(x, training=training, **kwargs))
    import jax

    def call(trainable, non_trainable, x, kwargs):
        return layer.stateless_call(trainable, non_trainable, x, **mode, **kwargs)

    mode = {"training": training} if "training" in inspect.signature(layer.call).parameters else {}
    states = [[v.value for v in layer.trainable_variables]]
    states += [[v.value for v in layer.non_trainable_variables]]
    y, updates = jax.jit(call)(*states, x, kwargs)
    for variable, update in zip(layer.non_trainable_variables, updates, strict=True):
        variable.assign(update)
    return np.asarray(y)


def grad(function):
    """The gradient of a scalar function of tensors with regard to all of them, as a tuple."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        def gradient(*tensors):
            with tf.GradientTape() as tape:
                tape.watch(tensors)
                value = function(*tensors)
            return tape.gradient(value, tensors)

    elif BACKEND == "jax":
        import jax

        def gradient(*tensors):
            return jax.grad(function, argnums=tuple(range(len(tensors))))(*tensors)

    else:
        import torch

        def gradient(*tensors):
            tensors = [t if t.requires_grad else t.detach().requires_grad_() for t in tensors]
            return torch.autograd.grad(function(*tensors), tensors, create_graph=True)

    return gradient


def compiled(function):
    if BACKEND != "jax":
        return function
    import jax

    return jax.jit(function)


def gradients(layer, x, dy, training=True, mask=None):
    """Gradients of `sum(y * dy)` as `{"x": array, weight name: array, ...}`."""
    kwargs = {} if mask is None else {"mask": tensor(mask)}
    non_trainable = constants(layer.non_trainable_variables)

    def loss(x, *weights):
        y, _ = layer.stateless_call(weights, non_trainable, x, training=training, **kwargs)
        weight = tensor(dy)
        return ops.sum(ops.cast(y, weight.dtype) * weight)

    names = ["x", *(v.name for v in layer.trainable_variables)]
    tensors = [tensor(x), *constants(layer.trainable_variables)]
    results = compiled(grad(loss))(*tensors)
    return {n: to_numpy(g) for n, g in zip(names, results, strict=True)}


def to_numpy(tensor):
    return np.asarray(ops.convert_to_numpy(tensor))


def constants(variables):
    """The values of variables as tensors."""
    return [ops.convert_to_tensor(ops.convert_to_numpy(v)) for v in variables]
