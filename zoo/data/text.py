"""Text as ids of words or characters, and back.

A vocabulary is a list of tokens. The id of a token is its place in the list. Id 0 is padding, whose
token is "".
"""

from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf


def word_vocabulary(texts: tf.data.Dataset, size: int) -> list[str]:
    """The vocabulary of the most frequent words.

    Args:
        texts: a data set of texts `()`.
        size: the largest number of tokens, padding and "[UNK]" included.

    Returns:
        The vocabulary: padding, "[UNK]" for every other word, then the words by falling frequency.
        Words are in lower case and without punctuation.

    >>> word_vocabulary(tf.data.Dataset.from_tensor_slices(["Well, well.", "Not well"]), size=3)
    ['', '[UNK]', 'well']
    """
    words = keras.layers.TextVectorization(size)
    words.adapt(texts.batch(512))
    return list(map(str, words.get_vocabulary()))


def word_encoder(
    vocabulary: Sequence[str], sequence_length: int
) -> Callable[[tf.Tensor], tf.Tensor]:
    """Makes a function from texts to the ids of their words.

    Longer texts keep their end, where a review gives its verdict. Shorter ones are padded at
    their end.

    Args:
        vocabulary: what `word_vocabulary` returned.
        sequence_length: the number of words of each result.

    Returns:
        A function from texts `(batch,)` to int32 ids `(batch, sequence_length)`.

    >>> encode = word_encoder(["", "[UNK]", "well"], sequence_length=3)
    >>> encode(["Quite well!"]).numpy().tolist()
    [[1, 2, 0]]
    """
    words = keras.layers.TextVectorization(vocabulary=vocabulary, ragged=True)

    def encode(texts: tf.Tensor) -> tf.Tensor:
        ids = words(texts)[:, -sequence_length:].to_tensor(shape=(None, sequence_length))
        return tf.cast(ids, tf.int32)

    return encode


def character_vocabulary(*texts: str) -> list[str]:
    """The vocabulary of all characters in the texts: padding, then the sorted characters.

    >>> character_vocabulary("abba", "cab")
    ['', 'a', 'b', 'c']
    """
    return ["", *sorted({character for text in texts for character in text})]


def character_encoder(vocabulary: Sequence[str]) -> Callable[[str], np.ndarray]:
    """Makes a function from a text to the int32 ids `(len(text),)` of its characters.

    >>> character_encoder(["", "a", "b"])("abba").tolist()
    [1, 2, 2, 1]
    """
    ids = {character: i for i, character in enumerate(vocabulary)}
    return lambda text: np.array([ids[character] for character in text], "int32")


def windows(ids: np.ndarray, sequence_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts a text into windows of inputs and targets for a language model.

    Args:
        ids: int array `(length,)`.
        sequence_length: the length of a window.

    Returns:
        `(inputs, targets)`, each `(count, sequence_length)`. The target at each place is the id
        that follows the input there. The last ids are left out if they fill no window.

    Raises:
        ValueError: if not even one window is full.

    >>> inputs, targets = windows(np.arange(6), sequence_length=2)
    >>> inputs.tolist(), targets.tolist()
    ([[0, 1], [2, 3]], [[1, 2], [3, 4]])
    """
    count = (len(ids) - 1) // sequence_length
    if not count:
        raise ValueError(
            f"A text of {len(ids)} characters fills no window of {sequence_length} and the "
            "character after it. Use a smaller sequence_length."
        )
    used = count * sequence_length
    shape = (count, sequence_length)
    return ids[:used].reshape(shape), ids[1 : used + 1].reshape(shape)


def generate(
    model: keras.Model, vocabulary: Sequence[str], length: int = 256, seed: int = 0
) -> str:
    """Lets a language model write, from the beginning of a line.

    So that the model is compiled once, it always reads as many ids as it was built for. A shorter
    text is padded at its end, where a causal model does not look. A longer text keeps its end.

    Args:
        model: a causal model from ids `(1, steps)` to logits `(1, steps, len(vocabulary))`.
        vocabulary: what `character_vocabulary` returned.
        length: the number of characters to write.
        seed: decides the text.

    Returns:
        The text. Each character is drawn with the probability that the model gives it.

    >>> inputs = keras.Input((8,), dtype="int32")
    >>> model = keras.Model(inputs, keras.layers.Embedding(3, 3)(inputs))
    >>> len(generate(model, ["", "a", "b"], length=5))
    5
    """
    steps = model.input_shape[1]

    @tf.function
    def draw(ids: tf.Tensor, last: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        logits = model(ids[None], training=False)[0, last]
        # Id 0 is left out, since padding is no character.
        return 1 + tf.random.stateless_categorical(logits[None, 1:], 1, seed)[0, 0]

    ids = [vocabulary.index("\n") if "\n" in vocabulary else 1]
    for place in range(length):
        read = ids[-steps:]
        padded = np.pad(np.array(read, "int32"), (0, steps - len(read)))
        arguments = (padded, len(read) - 1, (seed, place))
        ids.append(int(draw(*map(tf.constant, arguments))))
    return "".join(vocabulary[i] for i in ids[1:])
