"""The options of a training run."""

import dataclasses
import math
from typing import Literal


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """Trains a model with the normalization of your choice.

    A model of images, of vectors or of labelled texts classifies them. A model of plain text is a
    language model, which predicts the next character.

    The run folder receives TensorBoard events, a checkpoint after every epoch, `model.keras`, an
    exported SavedModel, and `run.json` with options, versions and results. A model of text adds
    its vocabulary, a language model also a sample of what it writes.
    """

    model: str = "resnet20"
    """The network. For images: resnet20, resnet32, resnet44, resnet56 or resnet110, made for small
    images as CIFAR's; resnet18_small, with four stages of 16 to 128 channels, for these too;
    resnet18, resnet34, resnet50, resnet101 or resnet152, made for ImageNet; convpool, conv6 or
    mlp. For text, and for images read row by row: lstm or transformer. For vectors: mlp."""
    norm: str = "sn"
    """The norm: none, bn (batch), ln (layer), rms (root mean square), in (instance), gn (group),
    bin (batch-instance), sn (switchable), mobn (mean-only batch), wn (weight) or wn_mobn (weight
    and mean-only batch). Arguments follow in parentheses, as in "gn(groups=16)" or
    "bn(synchronized=True)"."""
    dataset: str = "digits"
    """The data: digits, which needs no network; a set of TensorFlow Datasets with class labels,
    of images (cifar10, mnist, ...) or texts (imdb_reviews, ...); one of plain text
    (tiny_shakespeare, ...); or a folder of images, as train/CLASS/IMAGE and test/CLASS/IMAGE.
    Some are made here: styled_digits and styled_cifar10 have random contrast and colours, and
    restyled_digits and restyled_cifar10 have others in the test than in the training;
    contrast_digits and contrast_cifar10 have their contrast as the label; points are vectors
    whose label is 1 where their sum exceeds 5."""
    data_dir: str | None = None
    """Directory of TensorFlow Datasets. A set that is not there is downloaded to it. None:
    ~/tensorflow_datasets."""
    image_size: int | None = None
    """Side of the images in pixels, to which they are resized. None: their own, or 224 if they
    differ in size or are not square."""
    sequence_length: int | None = None
    """How many words of a text are read, counted from its end; or how many characters a window of
    plain text has. None: 200 words, 128 characters."""
    vocabulary_size: int | None = None
    """Number of ids for words, including one for padding and one for all words without an id.
    None: 10,000."""
    train_examples: int | None = None
    """Train on this number of examples. None: on all."""
    draw_examples: bool | None = None
    """Whether the seed draws the examples to train on, where they are not all. None: no, they are
    the first ones."""
    test_examples: int | None = None
    """Test on this number of examples, the first ones. None: on all."""
    width: float = 1.0
    """Multiplies the number of channels or units of all layers. Smaller is faster."""
    depth: int | None = None
    """Number of recurrent layers of an lstm, or of blocks of a transformer. None: 1 for lstm, 2
    for transformer."""
    placement: Literal["pre", "post"] | None = None
    """Where a transformer has its norms: pre is before each branch, post after its sum with the
    input. None: pre."""
    bidirectional: bool | None = None
    """Whether an lstm also reads sequences backwards. None: no."""
    dropout: float | None = None
    """Rate of dropout in an lstm or a transformer. None: 0 for lstm, 0.1 for transformer."""
    batch_size: int = 32
    """Samples of a batch on each replica. The global batch is this times the replicas."""
    epochs: int = 30
    """Passes over the training examples."""
    optimizer: Literal["sgd", "adam"] | None = None
    """The optimizer. None: adam for convpool, lstm and transformer, sgd for the others. The
    gradients of lstm and transformer are clipped to a global norm of 1."""
    learning_rate: float | None = None
    """For adam, the rate. For sgd, the rate at a global batch of 128 (256 for ImageNet nets),
    which is scaled in proportion to yours. The rate in use is printed. None: 0.001 for adam, 0.1
    for sgd."""
    schedule: Literal["cosine", "step", "constant", "linear_half"] = "cosine"
    """How the rate falls: cosine, smoothly to 0; step, to a tenth after 1/2 of the steps and again
    after 3/4; constant, not at all; linear_half, linearly to 0 in the second half of the steps."""
    warmup_epochs: int = 0
    """Epochs in which the rate first rises: linearly from 0 (cosine, linear_half), or in ten equal
    steps (step, constant)."""
    momentum: float | None = None
    """Momentum of sgd. None: 0.9."""
    l2: float | None = None
    """L2 regularization: this times a weight is added to its gradient. Gamma, beta, gain and bias
    are exempt. None: 0.0001 for sgd, 0 for adam."""
    control_multiplier: float | None = None
    """Multiplies the rate for the controls of a norm: the switches of sn, the gates of bin. None:
    10 for bin, 1 for sn."""
    decay_controls: bool | None = None
    """Whether `l2` also applies to the switches of sn. Gates are always exempt. None: yes."""
    data_init: bool | None = None
    """Whether the first batch initializes weight norm, so that activations start standardized.
    None: yes."""
    replicas: int | None = None
    """Number of GPUs to use. Without a GPU, number of logical CPU devices. None: all GPUs, or one
    CPU."""
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = "float32"
    """Precision in which layers compute. Weights and statistics stay in float32."""
    seed: int = 0
    """Decides the initial weights, the order and augmentation of the examples, which are drawn, and
    what a language model writes."""
    log_dir: str | None = None
    """The run folder. None: runs/MODEL-NORM-DATASET-bBATCHxREPLICAS-sSEED."""
    log_every: Literal["epoch"] | int = "epoch"
    """How often curves, switches and gates are logged: every epoch, or a number of steps, which
    adds points between."""
    export: bool = True
    """Whether to export a SavedModel beside model.keras, and compare the logits of the two."""
    overwrite: bool = False
    """Delete the run that the run folder holds, and start anew."""
    resume: bool = False
    """Go on with the run that the run folder holds, from its last checkpoint, with the options
    that it was started with. If there is no run, start one."""
    deterministic: bool = False
    """Make equal options give bit-identical results on one machine. This is slower, above all on
    GPUs."""


# Options that say where a run is and what is written, and not what is trained.
BOOKKEEPING = ("data_dir", "log_dir", "log_every", "export", "overwrite", "resume")

_COUNTS = (
    *("depth", "batch_size", "epochs", "image_size", "sequence_length", "vocabulary_size"),
    *("train_examples", "test_examples", "replicas", "log_every"),
)
# range: (whether a number is in it, the options that must be)
_RANGES = {
    "positive": (lambda v: v > 0, (*_COUNTS, "width", "learning_rate")),
    "0 or positive": (lambda v: v >= 0, ("l2", "control_multiplier", "warmup_epochs", "seed")),
    "at least 0 and less than 1": (lambda v: 0 <= v < 1, ("dropout", "momentum")),
}
# All but these have to fit into TensorFlow's integers.
_UNLIMITED = ("learning_rate", "l2", "control_multiplier")
_LARGEST = 2**31 - 1


def check(options: TrainOptions) -> None:
    """Raises a ValueError for numbers that make no sense for any model."""
    for range, (holds, names) in _RANGES.items():
        for name in names:
            value = getattr(options, name)
            if value in (None, "epoch"):
                continue
            if not (holds(value) and math.isfinite(value)):
                raise ValueError(f"{name} must be {range}. Received: {name}={value}")
            if value > _LARGEST and name not in _UNLIMITED:
                raise ValueError(f"{name} must be at most {_LARGEST}. Received: {name}={value}")
    if options.resume and options.overwrite:
        raise ValueError(
            "resume goes on with the run in the run folder, overwrite replaces it: give one of "
            "the two."
        )
