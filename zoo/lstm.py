"""Recurrent networks: a classifier of sequences and a language model."""

from typing import Any

from keras import Model, layers

import keras_norms
from zoo import builder
from zoo.blocks import classify, sequence_input
from zoo.norms import norm_for


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
        input_shape: `(steps, features)` of vectors, or `(steps,)` of tokens. If steps are None,
            which is the default, sequences may have any length. By default vectors have one
            feature.
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
        ValueError: for a norm that is unknown or does not work here, an `input_shape` that does
            not fit, or a causal model that is bidirectional.

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
        raise ValueError("A causal model cannot read from the end. Use bidirectional=False.")
    input_shape = input_shape or ((None, 1) if vocabulary is None else (None,))
    sequences = x = sequence_input(input_shape, vocabulary)
    units = max(1, round(128 * width))
    if vocabulary is not None:
        x = layers.Embedding(vocabulary, units, mask_zero=True, name="embedding")(x)
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
    return Model(sequences, classify(x, num_classes, norm), name="lstm")
