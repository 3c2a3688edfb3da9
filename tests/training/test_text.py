"""Words and characters become ids, and windows with the characters that follow."""

import json

import keras
import numpy as np
import pytest

from tests.support.data_sets import store
from zoo import data
from zoo.data import text

tfds = pytest.importorskip("tensorflow_datasets")

VERSE = "the owl and the pussycat went to sea in a beautiful pea-green boat. " * 20
OTHER = "A quite other verse. " * 8


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data_dir with reviews and with verse."""
    data_dir = str(tmp_path_factory.mktemp("tfds"))
    reviews = {
        "text": tfds.features.Text(),
        "label": tfds.features.ClassLabel(names=["bad", "good"]),
    }
    store(
        data_dir,
        "reviews",
        reviews,
        train={
            "text": ["A fine film, a fine cast!"] * 8 + ["Bad. Bad, bad film"] * 8,
            "label": [1] * 8 + [0] * 8,
        },
        test={"text": ["fine", "bad film with a queer end", "..."], "label": [1, 0, 0]},
    )
    store(
        data_dir,
        "verse",
        {"text": tfds.features.Text()},
        train={"text": [VERSE]},
        validation={"text": [OTHER, "Zest!"]},
    )
    return data_dir


# Words.


def test_words_become_ids(prepared):
    reviews = data.load("reviews/plain", prepared, sequences=True, sequence_length=5)
    # By frequency, what is as frequent in reverse order.
    assert reviews.vocabulary == ["", "[UNK]", "bad", "fine", "film", "a", "cast"]
    assert reviews.num_classes == 2 and reviews.example_shape == (5,) and not reviews.causal
    assert str(reviews) == (
        "16 training and 3 test texts, 2 classes, 5 tokens each, vocabulary of 7"
    )
    ((x, y, weight),) = reviews.test_batches(4).as_numpy_iterator()
    assert x.dtype == np.int32
    # TFDS shuffles what it stores.
    found = {tuple(ids): label for ids, label in zip(x[:3].tolist(), y[:3], strict=True)}
    assert found == {(3, 0, 0, 0, 0): 1, (4, 1, 5, 1, 1): 0, (0, 0, 0, 0, 0): 0}
    assert weight.tolist() == pytest.approx([4 / 3] * 3 + [0])
    x, y = next(reviews.train_batches(16, seed=0).as_numpy_iterator())
    assert {(tuple(ids), label) for ids, label in zip(x.tolist(), y, strict=True)} == {
        ((3, 4, 5, 3, 6), 1),
        ((2, 2, 2, 4, 0), 0),
    }


def test_the_vocabulary_is_that_of_the_training_texts_in_use(prepared):
    reviews = data.load("reviews/plain", prepared, sequences=True, train_examples=1)
    assert len(reviews.train) == 1 and reviews.example_shape == (200,)
    assert set(reviews.vocabulary[2:]) in ({"bad", "film"}, {"a", "fine", "film", "cast"})
    reviews = data.load("reviews/plain", prepared, sequences=True, vocabulary_size=3)
    assert reviews.vocabulary == ["", "[UNK]", "bad"]


def test_an_exported_vocabulary_makes_the_same_ids(prepared):
    reviews = data.load("reviews/plain", prepared, sequences=True, sequence_length=5)
    encode = text.word_encoder(json.loads(json.dumps(reviews.vocabulary)), 5)
    assert encode(
        ["What a fine film", "So bad, bad, bad, bad, bad, bad film"]
    ).numpy().tolist() == [
        [1, 5, 3, 4, 0],
        [2, 2, 2, 2, 4],
    ]


# Characters.


def test_labels_are_the_next_characters(prepared):
    verse = data.load("verse/plain", prepared, sequences=True, sequence_length=8)
    assert verse.causal and verse.num_classes == len(verse.vocabulary)
    assert str(verse) == (
        "169 training and 21 test windows of text, 8 tokens each, vocabulary of 29"
    )
    x, y = (np.stack(part) for part in zip(*verse.train.as_numpy_iterator(), strict=True))
    assert x.dtype == y.dtype == np.int32 and x.min() > 0
    np.testing.assert_array_equal(x[:, 1:], y[:, :-1])

    def decode(ids):
        return "".join(verse.vocabulary[i] for i in ids.flat)

    # Every character but the first is a label once; the last ones fill no window.
    assert decode(x) == VERSE[: 169 * 8] and decode(y) == VERSE[1 : 169 * 8 + 1]
    assert len(VERSE) - 1 - 169 * 8 < 8
    x, y, weight = next(verse.test_batches(22).as_numpy_iterator())
    assert x.shape == y.shape == weight.shape == (22, 8) and (weight[21] == 0).all()
    whole = f"{OTHER}\nZest!" if x[0, 0] != verse.vocabulary.index("Z") else f"Zest!\n{OTHER}"
    assert decode(x[:21]) == whole[:168] and decode(y[:21]) == whole[1:169]


def test_characters_are_those_of_the_whole_text(prepared):
    verse = data.load("verse/plain", prepared, sequences=True, train_examples=2, test_examples=1)
    assert (len(verse.train), len(verse.test), verse.example_shape) == (2, 1, (128,))
    assert verse.vocabulary == ["", *sorted(set(f"{VERSE}{OTHER}\nZest!"))]


def test_windows_too_long_for_the_text(prepared):
    with pytest.raises(ValueError, match="25 characters fills no window of 30 .* smaller seq"):
        text.windows(np.arange(25), 30)
    with pytest.raises(ValueError, match="smaller sequence_length"):
        data.load("verse/plain", prepared, sequences=True, sequence_length=5000)
    inputs, targets = text.windows(np.arange(25), 24)
    assert inputs.tolist() == [[*range(24)]] and targets.tolist() == [[*range(1, 25)]]


def test_errors_say_what_to_do(prepared):
    for name in ("reviews", "verse"):
        with pytest.raises(ValueError, match=f"'{name}/plain' is text.* lstm, transformer"):
            data.load(f"{name}/plain", prepared)
        with pytest.raises(ValueError, match="image_size has no effect on dataset="):
            data.load(f"{name}/plain", prepared, sequences=True, image_size=8)
    with pytest.raises(ValueError, match="vocabulary_size has no effect on dataset='verse"):
        data.load("verse/plain", prepared, sequences=True, vocabulary_size=10)
    with pytest.raises(ValueError, match="16 train examples.*train_examples=17"):
        data.load("reviews/plain", prepared, sequences=True, train_examples=17)


# A language model writes.


def bigrams(table, steps):
    """A causal model whose logits at each step are a row of `table`: that of the id there."""
    table = np.asarray(table, "float32")
    inputs = keras.Input((steps,), dtype="int32")
    layer = keras.layers.Embedding(*table.shape, weights=[table])
    return keras.Model(inputs, layer(inputs))


def test_generated_text_is_drawn_from_the_model():
    vocabulary = ["", "\n", "a", "b", "c"]
    # Padding is the likeliest everywhere; a newline is followed by a, b by b or c, c by a newline.
    table = np.full((5, 5), -1e9)
    table[:, 0] = 5
    for i, j in ((1, 2), (2, 3), (3, 3), (3, 4), (4, 1)):
        table[i, j] = 0
    model = bigrams(table, steps=4)
    written = text.generate(model, vocabulary, length=400)
    assert len(written) == 400 and written[0] == "a" and set(written) == set("\nabc")
    pairs = [written[i : i + 2] for i in range(399)]
    assert set(pairs) == {"ab", "bb", "bc", "c\n", "\na"}
    assert 0.4 < pairs.count("bb") / (pairs.count("bb") + pairs.count("bc")) < 0.6
    assert written == text.generate(model, vocabulary, length=400)
    assert written != text.generate(model, vocabulary, length=400, seed=1)


def test_of_a_long_text_the_end_is_read():
    # What follows is, surely, 1 + the sum of the last 5 ids at most, modulo 3.
    traces = []
    ids = keras.Input((5,), dtype="int32")
    following = keras.layers.Lambda(
        lambda ids: traces.append(ids) or 1 + keras.ops.cumsum(ids, axis=1) % 3
    )
    model = keras.Model(ids, 1e9 * keras.ops.one_hot(following(ids), 4))
    traces.clear()
    expected = [1]
    for _ in range(12):
        expected.append(1 + sum(expected[-5:]) % 3)
    written = text.generate(model, ["", "a", "b", "c"], length=12)
    assert written == "".join(" abc"[i] for i in expected[1:])
    assert len(traces) == 1, "one shape is compiled, once"
