"""Recurrent networks: a classifier of sequences and a language model."""

from typing import Any

from keras import Input, Model, layers

import keras_norms
from zoo.norms import builder, norm_for


@builder
def lstm(
    num_classes: int,
    norm: Any = "ln",
    input_shape: tuple[int | None, ...] | None = None,
    vocabulary: int | None = None,
    causal: bool = False,
    depth: int = 1,
    bidirectional: bool = False,
    dropout: float = 0.0,
    width: float = 1.0,
) -> Model:
    """An LSTM that classifies sequences, or predicts the next token at every step.

        x <- dropout(NormalizedLSTM(x)), `depth` times

    Layer names are stable: "layer2_recurrent_norm", "forward_layer1_cell_norm".

    Args:
        num_classes: the number of logits.
        norm: what `keras_norms.get` understands; `zoo.norms` says which norms work here.
        input_shape: `(steps, features)` of vectors, or `(steps,)` of tokens; steps may be None.
            By default any number of steps, of one feature.
        vocabulary: the number of tokens, including token 0, which is padding. None for vectors.
        causal: whether to predict at every step, from this step and the steps before it.
        depth: the number of recurrent layers.
        bidirectional: whether each layer also reads the sequence backwards.
        dropout: the rate of dropout after each layer.
        width: multiplies the 128 units of each layer and of the embedding.

    Returns:
        A `keras.Model` from `(batch, *input_shape)` to float32 logits, `(batch, num_classes)`,
        or `(batch, steps, num_classes)` if `causal`.

    Raises:
        ValueError: for a norm that does not work here, an input shape that does not fit, or a
            causal model that is bidirectional.

    Reference:
        [Layer Normalization](https://arxiv.org/abs/1607.06450), section 6, and
        [Recurrent Batch Normalization](https://arxiv.org/abs/1603.09025), section 5.

    >>> import zoo
    >>> zoo.lstm(10, norm="bn", input_shape=(28, 28), width=0.1).output_shape
    (None, 10)
    >>> zoo.lstm(65, vocabulary=65, causal=True, width=0.1).output_shape
    (None, None, 65)
    """
    norm = norm_for("lstm", norm)
    if causal and bidirectional:
        raise ValueError("A causal model cannot read from the end: use bidirectional=False.")
    input_shape = input_shape or ((None, 1) if vocabulary is None else (None,))
    if len(input_shape) != (2 if vocabulary is None else 1):
        raise ValueError(
            "`input_shape` is (steps, features), or (steps,) with a `vocabulary`. Received: "
            f"input_shape={input_shape}, vocabulary={vocabulary}"
        )
    units = max(1, round(128 * width))

    if vocabulary is None:
        sequences = x = Input(input_shape, name="sequences")
    else:
        sequences = Input(input_shape, dtype="int32", name="tokens")
        x = layers.Embedding(vocabulary, units, mask_zero=True, name="embedding")(sequences)
    for index in range(1, depth + 1):
        layer = keras_norms.NormalizedLSTM(
            units,
            norm=norm,
            max_steps=input_shape[0] or 100,
            return_sequences=causal or index < depth,
            name=f"layer{index}",
        )
        if bidirectional:
            layer = layers.Bidirectional(layer, name=f"layer{index}_bidirectional")
        x = layers.Dropout(dropout, name=f"layer{index}_dropout")(layer(x))
    classifier = layers.Dense(num_classes, dtype="float32", name="logits")
    return Model(sequences, norm.wrap(classifier)(x), name="lstm")
