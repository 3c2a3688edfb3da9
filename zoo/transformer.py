"""Transformers (Vaswani et al., 2017): an encoder that classifies, a causal language model."""

from typing import Any, Literal

import keras
from keras import KerasTensor, Model, layers, ops

from keras_norms.registry import Norm
from zoo import builder
from zoo.blocks import classify, sequence_input
from zoo.norms import norm_for


@builder
def transformer(
    num_classes: int,
    norm: Any = "ln",
    input_shape: tuple[int, ...] | None = None,
    vocabulary: int | None = None,
    causal: bool = False,
    placement: Literal["pre", "post"] = "pre",
    depth: int = 2,
    heads: int = 4,
    dropout: float = 0.1,
    width: float = 1.0,
) -> Model:
    """A Transformer over tokens or vectors.

        pre:   x <- x + F(norm(x)),  F = attention, then MLP;  a norm at the end
        post:  x <- norm(x + F(x))

    The norms see each token as a sample of its own, as layer normalization does. Norms that pool
    positions (`zoo.norms`) pool the steps of a sequence, and work in the classifier only. Weight
    norm wraps the projections of attention, the MLP and the logits. Layer names are stable:
    "block1_attention_norm", "block2_mlp_norm", "final_norm".

    Token 0 is padding, wherever it stands. No token attends to it, and it takes up no position. It
    does not count in statistics, in the mean over time or in the loss.

    At inference a causal model sees no later token, whatever the norm. In training, batch
    statistics come from all tokens of the batch, later ones included.

    Args:
        num_classes: the number of logits; for a language model, the size of its vocabulary.
        norm: what `keras_norms.get` understands.
        input_shape: `(steps,)` for tokens, `(steps, features)` for vectors.
        vocabulary: the number of tokens, including padding; None for vectors.
        causal: whether a step sees only itself and the steps before it.
        placement: "pre" puts a norm before each branch, "post" after the sum with its input.
        depth: the number of blocks.
        heads: the number of attention heads.
        dropout: the rate of dropout after the embedding and after each branch.
        width: multiplies the 128 channels, which are rounded to a multiple of `heads`.

    Returns:
        A `keras.Model` from int tokens `(batch, steps)` or vectors `(batch, steps, features)` to
        float32 logits: `(batch, num_classes)`, or if causal `(batch, steps, num_classes)`, with
        the mask of the tokens.

    Raises:
        ValueError: for a norm that is unknown, or looks ahead in a causal model; for an unknown
            `placement`; for an `input_shape` that does not fit the kind of input.

    Reference:
        [Attention Is All You Need](https://arxiv.org/abs/1706.03762), section 3, and
        [On Layer Normalization in the Transformer Architecture](https://arxiv.org/abs/2002.04745),
        section 3.1, for the placement.

    >>> import zoo
    >>> zoo.transformer(2, norm="sn", input_shape=(9, 4), depth=1, width=0.1).output_shape
    (None, 2)
    >>> model = zoo.transformer(65, input_shape=(9,), vocabulary=65, causal=True, width=0.1)
    >>> model.output_shape
    (None, 9, 65)
    """
    norm = norm_for("causal_transformer" if causal else "transformer", norm)
    if placement not in ("pre", "post"):
        raise ValueError(f"`placement` must be 'pre' or 'post'. Received: placement={placement!r}")
    inputs = sequence_input(input_shape, vocabulary)
    if None in inputs.shape[1:]:
        raise ValueError(
            "`input_shape` must be without None, since each step has an embedding of its own. "
            f"Received: input_shape={input_shape}"
        )
    steps = inputs.shape[1]
    mask = None if vocabulary is None else ops.not_equal(inputs, 0)  # True where no padding is
    channels = heads * max(1, round(128 * width / heads))
    head_shape = (-1, steps, heads, channels // heads)
    batch_axis = 0 if norm.needs_spatial_axis else (0, 1)
    keys = None if mask is None else ops.reshape(mask, (-1, 1, 1, steps))  # (batch, head, to, from)

    def normalize(x: KerasTensor, name: str) -> KerasTensor:
        return _call(norm.normalize(name, batch_axis), x, mask)

    def project(x: KerasTensor, units: int, name: str) -> KerasTensor:
        # The bias stays, whatever the norm, because no norm follows directly.
        return _call(norm.wrap(layers.Dense(units, name=name)), x, mask)

    def attention(x: KerasTensor, name: str) -> KerasTensor:
        query, key, value = (
            ops.reshape(project(x, channels, f"{name}_{role}"), head_shape)
            for role in ("query", "key", "value")
        )
        x = ops.dot_product_attention(query, key, value, mask=keys, is_causal=causal)
        x = ops.reshape(x, (-1, steps, channels))
        return project(x, channels, f"{name}_output")

    def mlp(x: KerasTensor, name: str) -> KerasTensor:
        x = project(x, 4 * channels, f"{name}_hidden")
        x = _gelu(x)
        return project(x, channels, f"{name}_output")

    x = _embed(inputs, mask, vocabulary, channels, norm)
    x = layers.Dropout(dropout, name="embedding_dropout")(x)
    for index in range(1, depth + 1):
        for branch in (attention, mlp):
            name = f"block{index}_{branch.__name__}"
            y = normalize(x, f"{name}_norm") if placement == "pre" else x
            y = layers.Dropout(dropout, name=f"{name}_dropout")(branch(y, name))
            x = layers.Add(name=f"{name}_add")([x, y])
            if placement == "post":
                x = normalize(x, f"{name}_norm")
    if placement == "pre":
        x = normalize(x, "final_norm")
    if not causal:
        # Straight after a norm over time, the mean over time would be beta for every input. With
        # an activation in between, it depends on the input.
        x = _mean(_gelu(x), mask)
    elif mask is not None:
        x = WithMask(name="mask")(x, mask=mask)
    return Model(inputs, classify(x, num_classes, norm), name="transformer")


@keras.saving.register_keras_serializable("zoo")
class WithMask(layers.Layer):
    """The identity. Its output carries `mask` to the loss and the metrics."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs: KerasTensor, mask: KerasTensor | None = None) -> KerasTensor:
        return inputs


def _embed(
    inputs: KerasTensor,
    mask: KerasTensor | None,
    vocabulary: int | None,
    channels: int,
    norm: Norm,
) -> KerasTensor:
    """Embeds tokens or vectors, and adds the learned embedding of each position."""

    def table(size: int, name: str) -> keras.Layer:
        initializer = keras.initializers.RandomNormal(stddev=0.02)
        return layers.Embedding(size, channels, initializer, name=name)

    if vocabulary is None:
        x = norm.wrap(layers.Dense(channels, name="embedding"))(inputs)
        present = ops.ones_like(inputs[..., 0], dtype="int32")
    else:
        x = table(vocabulary, "embedding")(inputs)
        present = ops.cast(mask, "int32")
    positions = ops.maximum(ops.cumsum(present, axis=1) - 1, 0)
    return layers.Add(name="embedding_add")([x, table(inputs.shape[1], "positions")(positions)])


def _call(layer: keras.Layer, x: KerasTensor, mask: KerasTensor | None) -> KerasTensor:
    """Calls a layer, with the mask if the layer takes one."""
    if mask is None or "mask" not in layer.call_signature_parameters:
        return layer(x)
    return layer(x, mask=mask)


def _gelu(x: KerasTensor) -> KerasTensor:
    """`keras.activations.gelu`, with erf in place of the erfc that ONNX does not have."""
    return 0.5 * x * (1.0 + ops.erf(x * 0.5**0.5))


def _mean(x: KerasTensor, mask: KerasTensor | None) -> KerasTensor:
    """The mean over the time steps without padding; 0 where all steps are padding."""
    x = ops.cast(x, "float32")
    if mask is None:
        return ops.mean(x, axis=1)
    present = ops.expand_dims(mask, -1)
    total = ops.sum(ops.where(present, x, 0), axis=1)
    return total / ops.maximum(ops.sum(ops.cast(present, x.dtype), axis=1), 1)
