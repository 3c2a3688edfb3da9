"""Runs of scripts/train.py on sequences: rows of images, words, characters."""

import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_norms import analysis
from tests.support.data_sets import store
from tests.support.train_script import complaints, record, run_script, script
from zoo import data
from zoo.data import text
from zoo.training import optimization, trainer

tfds = pytest.importorskip("tensorflow_datasets")

VERSE = "they dined on mince and slices of quince, which they ate with a runcible spoon.\n" * 20


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Reviews, of which a word decides the label, and verse."""
    data_dir = str(tmp_path_factory.mktemp("tfds"))
    label = tfds.features.ClassLabel(num_classes=2)
    words = ["bad", "fine"]
    reviews = {
        split: {
            "text": [f"{'well ' * (i % 5)}a {words[i % 2]} film" for i in range(count)],
            "label": [i % 2 for i in range(count)],
        }
        for split, count in (("train", 64), ("test", 11))
    }
    store(data_dir, "reviews", {"text": tfds.features.Text(), "label": label}, **reviews)
    verse = {"train": {"text": [VERSE]}, "test": {"text": [VERSE[: 8 * 21 + 1]]}}
    store(data_dir, "verse", {"text": tfds.features.Text()}, **verse)
    return data_dir


def arguments(folder, **options):
    options = {"width": 0.1, "epochs": 1, "batch_size": 8, **options, "log_dir": folder}
    return [
        part
        for name, value in options.items()
        for part in (f"--{name.replace('_', '-')}", str(value))
    ]


def tag_values(folder, name):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), {"tensors": 0}).Reload()
    return [tf.make_ndarray(event.tensor_proto).item() for event in events.Tensors(name)]


@pytest.mark.process
def test_rows_of_digits_on_two_replicas(tmp_path):
    folder = tmp_path / "run"
    options = {"model": "lstm", "norm": "sn", "train_examples": 64, "test_examples": 20}
    done = run_script(*arguments(folder, replicas=2, log_every=2, **options), "--no-export")
    assert done.returncode == 0, done.stderr
    assert not complaints(done.stderr), "nothing but progress and results is shown"
    assert "64 training and 20 test images of 8 x 8, 10 classes" in done.stdout
    assert "learning rate: 0.001, cosine over 1 epochs" in done.stdout
    results = record(folder)["results"]
    assert f"test accuracy: {results['accuracy']:.2%}" in done.stdout
    assert "bits_per_character" not in results and not (folder / "vocabulary.json").exists()
    assert record(folder)["options"]["optimizer"] == "adam"
    # The clipped norm is that of the sum of what the replicas clip.
    assert keras.saving.load_model(folder / "model.keras").optimizer.global_clipnorm == 0.5
    preferences = analysis.read(folder)
    assert sorted(preferences.history) == [0, 2, 4]
    assert set(preferences.history[4]) == set(results["importance"])


def test_words(data_dir, tmp_path):
    folder = tmp_path / "run"
    options = {"model": "lstm", "norm": "ln", "dataset": "reviews/plain"}
    code, out, err = script(
        *arguments(folder, data_dir=data_dir, sequence_length=6, epochs=6, **options),
        *("--learning-rate", 0.01),
    )
    assert code == 0, err
    assert "texts, 2 classes, 6 tokens each, vocabulary of 7" in out
    results = record(folder)["results"]
    assert results["accuracy"] == 1 and results["saved_model_difference"] < 1e-5
    # With the vocabulary, the exported model reads other texts.
    vocabulary = json.loads((folder / "vocabulary.json").read_text())
    encode = text.word_encoder(vocabulary, 6)
    exported = tf.saved_model.load(str(folder / "saved_model"))
    logits = exported.serve(encode(["What a fine film!", "a film so bad"])).numpy()
    assert logits.argmax(-1).tolist() == [1, 0]


@pytest.mark.parametrize("model, norm", [("transformer", "ln"), ("lstm", "wn")])
def test_characters(data_dir, tmp_path, model, norm):
    folder = tmp_path / "run"
    options = {"model": model, "norm": norm, "dataset": "verse/plain", "depth": 1}
    code, out, err = script(*arguments(folder, data_dir=data_dir, sequence_length=8, **options))
    assert code == 0, err
    verse = data.load("verse/plain", data_dir, sequences=True, sequence_length=8)
    assert json.loads((folder / "vocabulary.json").read_text()) == verse.vocabulary
    results = record(folder)["results"]
    # 21 windows are no multiple of 8: what fills the last batch does not count.
    assert results["bits_per_character"] == pytest.approx(results["cross_entropy"] / math.log(2))
    model = keras.saving.load_model(folder / "model.keras")
    x, y = (np.stack(part) for part in zip(*verse.test.as_numpy_iterator(), strict=True))
    logits = model(x, training=False).numpy()
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -np.take_along_axis(log_p, y[..., None], -1).mean()
    assert results["cross_entropy"] == pytest.approx(expected, rel=1e-4)
    assert results["history"]["val_loss"][-1] == pytest.approx(expected, rel=1e-4)
    assert results["accuracy"] == pytest.approx(np.mean(logits.argmax(-1) == y), abs=1e-6)
    sample = (folder / "sample.txt").read_text()
    assert len(sample) == 257 and set(sample) <= set(VERSE)
    assert sample == text.generate(model, verse.vocabulary) + "\n"
    assert sample in out and f"test bits per character: {results['bits_per_character']:.3f}" in out
    assert sample.strip() in tag_values(folder, "sample")[0].decode()


def test_bits_of_a_model_that_knows_nothing(data_dir):
    verse = data.load("verse/plain", data_dir, sequences=True, sequence_length=8)
    count = len(verse.vocabulary)
    zeros = keras.layers.Embedding(count, count, embeddings_initializer="zeros")
    model = keras.Sequential([keras.Input((8,), dtype="int32"), zeros])
    optimization.compile_model(model, "sgd")
    scores = model.evaluate(verse.test_batches(8), verbose=0, return_dict=True)
    history = {f"val_{name}": [0, value] for name, value in scores.items()}
    bits = trainer._scores(history, causal=True)["bits_per_character"]
    assert bits == pytest.approx(math.log2(count), rel=1e-6)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"dataset": "reviews/plain"}, "'reviews/plain' is text, which takes a model of sequences"),
        ({"dataset": "verse/plain", "model": "mlp"}, "is text, which takes a model of sequences"),
        ({"depth": 3}, "depth has no effect on model='resnet20'"),
        ({"model": "lstm", "placement": "post"}, "placement has no effect on model='lstm'"),
        ({"model": "lstm", "momentum": 0.5}, "momentum has no effect on optimizer='adam'"),
        ({"model": "lstm", "sequence_length": 5}, "sequence_length has no effect on dataset="),
        (
            {"model": "lstm", "dataset": "verse/plain", "vocabulary_size": 5},
            "vocabulary_size has no effect on dataset='verse/plain'",
        ),
        (
            {"model": "lstm", "dataset": "verse/plain", "bidirectional": True},
            "A causal model cannot read from the end",
        ),
        ({"model": "transformer", "norm": "in", "dataset": "verse/plain"}, "must not depend on"),
    ],
)
def test_combinations_that_make_no_sense(data_dir, tmp_path, options, message):
    code, _, err = script(*arguments(tmp_path / "run", data_dir=data_dir, **options))
    assert code == 2
    (line,) = err.splitlines()
    assert line.startswith("error: ") and message in line
    assert not (tmp_path / "run").exists()
