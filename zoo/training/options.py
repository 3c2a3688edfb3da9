"""The options of a training run."""

import dataclasses
import math
from typing import Literal


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """Trains a model with the normalization of your choice.

    Images and texts are classified; plain text makes a language model, which predicts the next
    character. The run folder gets TensorBoard events, a checkpoint after every epoch,
    `model.keras`, an exported SavedModel, the vocabulary of text, what a language model writes,
    and `run.json` with options, versions and results.
    """

    model: str = "resnet20"
    """For images resnet20, 32, 44, 56, 110 (CIFAR nets), resnet18, 34, 50, 101, 152 (ImageNet
    nets), convpool, conv6 or mlp; for text, and for images row by row, lstm or transformer."""
    norm: str = "sn"
    """none, bn, ln, rms, in, gn, bin, sn, mobn, wn or wn_mobn, with arguments if wanted, as in
    "gn(groups=16)" or "bn(synchronized=True)"."""
    dataset: str = "digits"
    """digits (no network needed), the name of a set of TensorFlow Datasets with images (cifar10,
    mnist, ...) or texts (imdb_reviews, ...) and class labels, or with plain text
    (tiny_shakespeare, ...), or the path of a folder with train/CLASS/IMAGE and
    test/CLASS/IMAGE. Made here: styled_digits, styled_cifar10 in random contrast and colours;
    contrast_digits, contrast_cifar10, whose label is their contrast; points, vectors for mlp with
    label 1 where their sum exceeds 5."""
    data_dir: str | None = None
    """Directory of TensorFlow Datasets, searched before anything is downloaded to it. None: its
    own, ~/tensorflow_datasets."""
    image_size: int | None = None
    """Side to which images are brought. None: theirs, or 224 where they differ in size."""
    sequence_length: int | None = None
    """Words that are read of a text, its last ones, or characters in a window of plain text.
    None: 200 words, 128 characters."""
    vocabulary_size: int | None = None
    """Words with an id of their own, and two for padding and for all others. None: 10,000."""
    train_examples: int | None = None
    """Train on the first so many examples. None: on all."""
    test_examples: int | None = None
    """Test on the first so many examples. None: on all."""
    width: float = 1.0
    """Factor of the number of channels of all layers."""
    depth: int | None = None
    """Recurrent layers of an lstm, blocks of a transformer. None: 1, 2."""
    placement: Literal["pre", "post"] | None = None
    """Norms of a transformer: before each branch, or after its sum. None: pre."""
    bidirectional: bool | None = None
    """Whether an lstm also reads from the end. None: no."""
    dropout: float | None = None
    """Rate of dropout of an lstm or transformer. None: 0 and 0.1."""
    batch_size: int = 32
    """Samples of a batch per replica."""
    epochs: int = 30
    """Passes over the training examples."""
    optimizer: Literal["sgd", "adam"] | None = None
    """None: adam for convpool, lstm and transformer, sgd for the others. The gradients of lstm and
    transformer are clipped to a norm of 1."""
    learning_rate: float | None = None
    """Of sgd, the rate at a global batch of 128 (ImageNet nets: 256), scaled by the global batch
    in use; of adam, the rate. The resulting rate is printed. None: 0.1 and 0.001."""
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    """How the rate falls: along a cosine to 0, to a tenth after 1/2 and 3/4 of the steps, or not
    at all."""
    warmup_epochs: int = 0
    """Epochs in which the rate first rises from 0: linearly (cosine), or in ten stairs."""
    momentum: float | None = None
    """Momentum of sgd. None: 0.9."""
    l2: float | None = None
    """L2 regularization, added to the gradient of all weights but gamma, beta, gain and bias.
    None: 0.0001 with sgd, 0 with adam."""
    control_multiplier: float | None = None
    """Factor of the rate of switches and gates. None: 10 for bin, 1 for sn."""
    decay_controls: bool | None = None
    """Whether `l2` includes the logits of switches. None: yes. Gates are never decayed."""
    data_init: bool | None = None
    """Whether weight norm is initialized from the first batch. None: yes."""
    replicas: int | None = None
    """GPUs to use, or logical CPU devices where there is no GPU. None: all GPUs, or one CPU."""
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = "float32"
    """Precision of the layers' computations; weights and statistics stay in float32."""
    seed: int = 0
    """Seed of the initial weights, of the order and augmentation of the examples, and of what a
    language model writes."""
    log_dir: str | None = None
    """The run folder. None: runs/MODEL-NORM-DATASET-bBATCHxREPLICAS-sSEED."""
    log_every: Literal["epoch"] | int = "epoch"
    """Write the curves, switches and gates every epoch, or every so many steps too."""
    export: bool = True
    """Whether to export a SavedModel beside model.keras, and compare what it computes."""
    overwrite: bool = False
    """Replace the run that the run folder holds."""
    resume: bool = False
    """Go on with the run that the run folder holds, from its last checkpoint; begin one if it
    holds none. The other options must be those that it was started with."""
    deterministic: bool = False
    """Give bit-identical results for equal options on one machine: slower, above all on GPUs."""


_COUNTS = (
    *("depth", "batch_size", "epochs", "image_size", "sequence_length", "vocabulary_size"),
    *("train_examples", "test_examples", "replicas", "log_every"),
)
_RANGES = {
    "positive": (lambda v: v > 0, (*_COUNTS, "width", "learning_rate")),
    "0 or positive": (lambda v: v >= 0, ("l2", "control_multiplier", "warmup_epochs", "seed")),
    "at least 0 and less than 1": (lambda v: 0 <= v < 1, ("dropout", "momentum")),
}
_RATES = ("learning_rate", "l2", "control_multiplier")
_LARGEST = 2**31 - 1  # of all others, which have to fit into TensorFlow's integers


def check(options):
    """Raises a ValueError for numbers that make no sense for any model."""
    for range, (holds, names) in _RANGES.items():
        for name in names:
            value = getattr(options, name)
            if value in (None, "epoch"):
                continue
            if not (holds(value) and math.isfinite(value)):
                raise ValueError(f"{name} must be {range}. Received: {name}={value}")
            if value > _LARGEST and name not in _RATES:
                raise ValueError(f"{name} must be at most {_LARGEST}. Received: {name}={value}")
    if options.resume and options.overwrite:
        raise ValueError(
            "resume goes on with the run in the run folder, overwrite replaces it: give one of "
            "the two."
        )
