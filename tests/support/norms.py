"""The one list of activation norms, and the layouts that they are tested on.

A law is a test over `NORMS`; a new norm gets all of them by one more line here.
"""

import dataclasses
import itertools

import keras
import numpy as np
import pytest
from keras import ops

import keras_norms

BACKEND = keras.config.backend()
# On JAX and torch Keras itself promotes 64-bit operations to 32 bits.
DTYPE = "float64" if BACKEND == "tensorflow" else "float32"
needs_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="needs TensorFlow")


@dataclasses.dataclass(frozen=True)
class Norm:
    """An activation norm, and which laws have a meaning for it."""

    name: str
    cls: type
    options: dict = dataclasses.field(default_factory=dict)
    moving: bool = False  # Has batch statistics, hence moving ones; else each sample has its own.
    needs_spatial: bool = False  # Refuses inputs without spatial axes.
    refuses_single: bool = False  # Refuses sets that are known to hold a single element.
    batch_only: bool = False  # Has no other statistics: cannot train on one value a channel.
    held: bool = False  # Holds a correction constant in training: no gradient passes through it.

    def __call__(self, **kwargs):
        return self.cls(**{**self.options, **kwargs})

    def __str__(self):
        return self.name

    def fits(self, layout):
        return bool(layout.spatial) or not self.needs_spatial


NORMS = (
    Norm("bn", keras_norms.BatchNormalization, moving=True, batch_only=True),
    Norm(
        "bn_renorm",
        keras_norms.BatchNormalization,
        {"renorm": True, "renorm_clipping": {"rmin": 0.5, "rmax": 2.0, "dmax": 1.0}},
        moving=True,
        batch_only=True,
        held=True,
    ),
    Norm("mean_only_bn", keras_norms.MeanOnlyBatchNormalization, moving=True, batch_only=True),
    Norm("gn", keras_norms.GroupNormalization, {"groups": 2}, refuses_single=True),
    Norm("ln", keras_norms.GroupNormalization, {"groups": 1}, refuses_single=True),
    Norm("in", keras_norms.InstanceNormalization, needs_spatial=True, refuses_single=True),
    Norm("bin", keras_norms.BatchInstanceNormalization, moving=True, needs_spatial=True),
    Norm("sn", keras_norms.SwitchableNormalization, moving=True),
    Norm(
        "sn_all",
        keras_norms.SwitchableNormalization,
        {"statistics": ("instance", "group", "layer", "batch"), "groups": 2},
        moving=True,
    ),
    Norm(
        "sn_no_batch",
        keras_norms.SwitchableNormalization,
        {"statistics": ("instance", "layer")},
    ),
)
BY_NAME = {norm.name: norm for norm in NORMS}
MOVING = tuple(norm for norm in NORMS if norm.moving)
PER_SAMPLE = tuple(norm for norm in NORMS if not norm.moving)


@dataclasses.dataclass(frozen=True)
class Layout:
    """A shape, and which of its axes are channels and samples. Every one has 8 channels."""

    shape: tuple
    axis: int
    batch_axis: int | tuple = 0

    @property
    def batch(self):
        axes = self.batch_axis if isinstance(self.batch_axis, tuple) else (self.batch_axis,)
        return tuple(axis % len(self.shape) for axis in axes)

    @property
    def channel(self):
        return self.axis % len(self.shape)

    @property
    def spatial(self):
        taken = (*self.batch, self.channel)
        return tuple(axis for axis in range(len(self.shape)) if axis not in taken)

    @property
    def arguments(self):
        return {"axis": self.axis, "batch_axis": self.batch_axis}

    def __str__(self):
        return f"{'x'.join(map(str, self.shape))}-{self.axis}-{self.batch_axis}"


LAYOUTS = (
    Layout((6, 8), -1),
    Layout((6, 8), 1),
    Layout((8, 6), 0, 1),
    Layout((4, 5, 8), -1),
    Layout((4, 8, 5), 1),
    Layout((4, 8, 5), -2),
    Layout((4, 5, 8), -1, (0, 1)),
    Layout((3, 4, 5, 8), 3),
    Layout((3, 8, 4, 5), -3),
    Layout((3, 4, 8, 5), 2),
    Layout((8, 4, 5, 3), 0, -1),
    Layout((3, 4, 5, 8), -1, (0, 1)),
    Layout((2, 3, 2, 3, 8), -1),
    Layout((2, 8, 3, 2, 3), 1),
    Layout((2, 3, 8, 3, 2), -3, (0, -2)),
)
IMAGES = Layout((3, 4, 5, 8), -1)


def pairs(norms=NORMS, layouts=LAYOUTS, every=3):
    """Norms x layouts: one in `every` by default, the rest marked slow.

    Every norm meets every rank, and every layout some norms.
    """
    if BACKEND == "jax":
        every *= 2  # It compiles each of them.
    return [
        pytest.param(
            norm,
            layout,
            id=f"{norm}-{layout}",
            marks=[] if (i + j) % every == 0 else pytest.mark.slow,
        )
        for i, norm in enumerate(norms)
        for j, layout in enumerate(layouts)
        if norm.fits(layout)
    ]


def in_turn(first, *others, always=()):
    """A cross product: each of `first` with the other values in turn, the rest marked slow.

    So every value is among those that run by default, if `first` is the longest. Those of `first`
    in `always` meet all others.
    """
    result = []
    for i, one in enumerate(first):
        chosen = [values[i % len(values)] for values in others]
        for rest in itertools.product(*others):
            default = one in always or list(rest) == chosen
            name = "-".join(map(str, (one, *rest)))
            marks = [] if default else pytest.mark.slow
            result.append(pytest.param(one, *rest, id=name, marks=marks))
    return result


def over(norms=NORMS, default=None):
    """Parametrizes a test by `norm`; where names in `default` are given, the others are slow."""
    return pytest.mark.parametrize(
        "norm",
        [
            pytest.param(
                norm,
                id=norm.name,
                marks=[] if default is None or norm.name in default else pytest.mark.slow,
            )
            for norm in norms
        ],
    )


def randomize(layer, rng):
    """Gives every weight of a built layer a value that a test can tell from the initial one."""
    draw = {
        "gamma": lambda shape: rng.normal(1, 0.3, shape),
        "beta": lambda shape: rng.normal(0, 1, shape),
        "moving_mean": lambda shape: rng.normal(0, 1, shape),
        "moving_variance": lambda shape: rng.uniform(0.5, 2, shape),
        "moving_stddev": lambda shape: rng.uniform(0.5, 2, shape),
        "renorm_mean": lambda shape: rng.normal(0, 1, shape),
        "renorm_stddev": lambda shape: rng.uniform(0.5, 2, shape),
        "gate": lambda shape: rng.uniform(0.1, 0.9, shape),
        "mean_logits": lambda shape: rng.normal(0, 1, shape),
        "variance_logits": lambda shape: rng.normal(0, 1, shape),
        "moving_steps": lambda shape: rng.integers(layer.max_steps + 1),
    }
    for variable in layer.weights:
        variable.assign(draw[variable.name](tuple(variable.shape)))
    return layer


def random_layer(norm, shape, rng, dtype=DTYPE, **kwargs):
    layer = norm(dtype=dtype, **kwargs)
    layer.build(shape)
    return randomize(layer, rng)


def values(layer):
    """The weights of a layer as `{name: float64 array}`."""
    return {v.name: np.asarray(ops.convert_to_numpy(v), "float64") for v in layer.weights}


def assert_close(actual, expected, tolerance=1e-9):
    """Equal up to `tolerance` in float64, 1e-4 where a backend computes in float32; 0 is exact."""
    if tolerance and DTYPE == "float32":
        tolerance = max(tolerance, 1e-4)
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)
