"""Text as ids: words or characters, and back.

A vocabulary is a list of tokens whose places are their ids. Id 0 is padding, its token "".
"""

import keras
import numpy as np
import tensorflow as tf


def words_of(texts, size):
    """The vocabulary of the most frequent words.

    Args:
        texts: `tf.data.Dataset` of texts.
        size: int, length of the vocabulary at most.

    Returns:
        List of str: padding, "[UNK]" for every other word, then words by their frequency, in
        lower case and without punctuation.
    """
    words = keras.layers.TextVectorization(size)
    words.adapt(texts.batch(512))
    return list(map(str, words.get_vocabulary()))


def word_encoder(vocabulary, sequence_length):
    """From texts to sequences of one length, as a model takes them.

    Longer texts keep their end, where a review gives its verdict; shorter ones are padded at
    their end.

    Args:
        vocabulary: list of str, that of `words_of`.
        sequence_length: int, number of words.

    Returns:
        A function from texts `(batch,)` to int32 ids `(batch, sequence_length)`.
    """
    words = keras.layers.TextVectorization(vocabulary=vocabulary, ragged=True)

    def encode(texts):
        ids = words(texts)[:, -sequence_length:].to_tensor(shape=(None, sequence_length))
        return tf.cast(ids, tf.int32)

    return encode


def characters_of(*texts):
    """The vocabulary of all characters in the texts: padding, then they in their order."""
    return ["", *sorted(set().union(*texts))]


def character_encoder(vocabulary):
    """A function from a text to its ids, an int32 array `(len(text),)`."""
    ids = {character: i for i, character in enumerate(vocabulary)}
    return lambda text: np.array([ids[character] for character in text], "int32")


def windows(ids, sequence_length):
    """Cuts a text into windows, each to be predicted from what stands before in it.

    Args:
        ids: int array `(length,)`.
        sequence_length: int.

    Returns:
        `(inputs, targets)`, each `(count, sequence_length)`: at every place of `inputs`, the
        target is the next id. Targets do not overlap; those that fill no window are left out.

    Raises:
        ValueError: if not even one window is full.
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


def generate(model, vocabulary, length=256, seed=0):
    """Lets a language model write, beginning a new line.

    The model always reads as many ids as it was built for, padded at their end: what comes later
    changes nothing in a causal model, and one shape is compiled once. Of a text that is longer
    it reads the end.

    Args:
        model: causal model from ids `(1, steps)` to logits `(1, steps, len(vocabulary))`.
        vocabulary: list of str, that of `characters_of`.
        length: int, number of characters to write.
        seed: int, which decides the text.

    Returns:
        str, each character drawn with the probability that the model gives it.
    """
    steps = model.input_shape[1]

    @tf.function
    def draw(ids, last, seed):
        logits = model(ids[None], training=False)[0, last]
        return 1 + tf.random.stateless_categorical(logits[None, 1:], 1, seed)[0, 0]  # no padding

    ids = [vocabulary.index("\n") if "\n" in vocabulary else 1]
    for place in range(length):
        read = ids[-steps:]
        padded = np.pad(np.array(read, "int32"), (0, steps - len(read)))
        arguments = (padded, len(read) - 1, (seed, place))
        ids.append(int(draw(*map(tf.constant, arguments))))
    return "".join(vocabulary[i] for i in ids[1:])
