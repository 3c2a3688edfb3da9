"""Ragged tensors of TensorFlow: padded with a mask, and cut to their rows again."""

from typing import Any

import keras

from keras_norms.moments import Tensor


def is_ragged(inputs: Any) -> bool:
    """Whether `inputs` is a `tf.RaggedTensor`."""
    if keras.config.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return isinstance(inputs, tf.RaggedTensor)


def pad(inputs: Any) -> tuple[Tensor, Tensor]:
    """A ragged tensor with zeros behind its rows, and a mask that is True before them."""
    import tensorflow as tf

    ones = tf.ones(tf.shape(inputs.flat_values)[:1], tf.bool)
    valid = inputs.with_flat_values(ones).to_tensor(False)
    return inputs.to_tensor(), valid


def cut(outputs: Tensor, valid: Tensor, like: Any) -> Any:
    """A padded tensor without its padding, in the rows of `like`."""
    import tensorflow as tf

    return like.with_flat_values(tf.boolean_mask(outputs, valid))
