"""Random layers, inputs and masks: the reference's result, or a ValueError where one is due.

Nothing that is finite becomes NaN or infinite, and no output has another shape or dtype.
"""

import collections
import dataclasses
import inspect
import math

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops

import keras_norms
from tests.layers import test_lstm
from tests.support import reference, reference_lstm
from tests.support.norms import BACKEND, DTYPE, NORMS, Norm, assert_close, randomize, values
from tests.support.running import forward, tensor, to_numpy

RAN = collections.Counter()


def quick(examples):
    """Settings of what runs by default, always the same."""
    examples = max(1, examples // 8) if BACKEND == "jax" else examples  # which compiles each
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None)


def at_length(cases, check, examples, record_property):
    """Other cases each time, of which the report tells the number."""
    RAN.clear()
    settings(max_examples=examples, deadline=None, database=None)(given(cases)(check))()
    assert sum(RAN.values()) >= examples
    record_property("cases", ", ".join(f"{count:,} {what}" for what, count in RAN.items()))


# Activation norms.

# Of the policy of a layer: what it gives, and the unit roundoff of its statistics.
PRECISION = {
    "float64": ("float64", 2.0**-53),
    "float32": ("float32", 2.0**-24),
    "mixed_float16": ("float16", 2.0**-24),
    "mixed_bfloat16": ("bfloat16", 2.0**-24),
    "float16": ("float16", 2.0**-11),  # moving statistics in half precision as well
    "bfloat16": ("bfloat16", 2.0**-8),
}
ROUNDING = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
LARGEST = {"float64": 1e300, "float32": 3e38, "float16": 65504.0, "bfloat16": 3e38}
SMALLEST = {"float64": 1e-300, "float32": 1e-37, "float16": 6e-8, "bfloat16": 1e-37}
if BACKEND == "tensorflow":
    INPUTS = ("float64", "float64", "float32", "float32", "float16", "bfloat16", "uint8", "int32")
    POLICIES = ("float64", *PRECISION)
else:
    INPUTS, POLICIES = ("float32",), ("float32",)


@dataclasses.dataclass(frozen=True)
class Call:
    """A layer and what it is called on."""

    norm: Norm
    shape: tuple
    options: dict
    policy: str
    given: str  # dtype of the input
    unknown: tuple  # axes whose size is not known when the layer is built
    graph: bool  # nor when it is called
    mask: np.ndarray | None
    training: bool
    trainable: bool
    data: str
    scale: float
    offset: float
    seed: int


@st.composite
def calls(draw):
    def often(value, *others, times=2):
        return draw(st.sampled_from([value] * times * len(others) + [*others]))

    rank = draw(st.integers(2, 5))
    shape = draw(st.lists(st.integers(1, 4), min_size=rank, max_size=rank))
    order = draw(st.permutations(range(rank)))
    size = min(often(1, 2, 2, 3), rank - 1)
    channel, batch = order[0], tuple(order[1 : 1 + size])
    if often(False, True, times=7):  # any, most of which clash
        batch = tuple(draw(st.lists(st.integers(-rank, rank), min_size=0, max_size=3)))
        channel = draw(st.integers(-rank - 1, rank))
    batch = tuple(axis - rank * draw(st.booleans()) * (axis >= 0) for axis in batch)
    shape[channel % rank] = draw(st.sampled_from([1, 2, 3, 4, 6, 8]))
    norm = draw(st.sampled_from([norm for norm in NORMS if not norm.held]))
    options = {
        "axis": channel - rank * draw(st.booleans()) * (channel >= 0),
        "batch_axis": batch[0] if len(batch) == 1 and draw(st.booleans()) else batch,
        "center": draw(st.booleans()),
    }
    if norm.name != "mean_only_bn":
        options["scale"] = draw(st.booleans())
        options["epsilon"] = draw(st.sampled_from([1e-12, 1e-5, 1e-3, 0.1, 10, 1]))
    if norm.moving:
        options["momentum"] = draw(st.sampled_from([0, 0.1, 0.9, 0.99, 1]))
        options["ghost_batch_size"] = often(None, 1, 2, 3, 5, times=1)
        options["synchronized"] = often(not options["ghost_batch_size"], True, times=7)
        steps = often(len(batch) > 1, True, times=7)
        options["max_steps"] = often(None, 1, 2, 3, 7, times=1) if steps else None
    if norm.cls is keras_norms.SwitchableNormalization and draw(st.booleans()):
        kinds = st.sampled_from(["instance", "group", "layer", "batch"])
        chosen = draw(st.lists(kinds, min_size=1, max_size=4, unique=True))
        if "batch" in chosen or not norm.moving:
            options["statistics"] = tuple(chosen)
            if "batch" in chosen:
                norm = next(n for n in NORMS if n.name == "sn")
    if norm.cls in (keras_norms.SwitchableNormalization, keras_norms.GroupNormalization):
        options["groups"] = draw(st.sampled_from([1, 2, 3, 4, -1, "auto"]))
    mask = None
    if draw(st.booleans()):
        covered = often(min(rank, 2), *range(1, rank + 1), times=1) + often(0, rank, times=19)
        sizes = [draw(st.sampled_from([1, size])) for size in (*shape, *shape)[:covered]]
        if often(False, True, times=19):
            sizes[-1] += 1
        kept = draw(st.sampled_from([0, 0.2, 0.5, 0.9, 1]))
        rng = np.random.default_rng(draw(st.integers(0, 99)))
        mask = rng.random(sizes) < kept
    policy, given = draw(st.sampled_from(POLICIES)), draw(st.sampled_from(INPUTS))
    # Half precision has no room for squares, where its statistics are kept in it.
    room = {"float16": 1, "bfloat16": 3}.get(policy, {"float64": 100}.get(given, 15))
    exponent = draw(st.sampled_from([0, 0, 0, -1, 1, -room, min(room, 17)]))
    unknown = tuple(a for a in range(rank) if often(False, True) and a != channel % rank)
    if often(False, True, times=29):
        unknown += (channel % rank,)
    return Call(
        norm=norm,
        shape=tuple(shape),
        options=options,
        policy=policy,
        given=given,
        unknown=unknown,
        graph=BACKEND == "tensorflow" and often(False, True, times=7),
        mask=mask,
        training=draw(st.booleans()),
        trainable=often(True, False),
        data=often("normal", "constant", "spike"),
        scale=10.0**exponent,
        offset=draw(st.sampled_from([0, 0, 1, -1, *([100, 1e4] * (room > 3))])) * 10.0**exponent,
        seed=draw(st.integers(0, 99)),
    )


def refused(call):
    """Whether the contract wants an error."""
    rank, options = len(call.shape), call.options
    batch = options["batch_axis"]
    batch = batch if isinstance(batch, tuple) else (batch,)
    if any(not -rank <= axis < rank for axis in (options["axis"], *batch)) or not batch:
        return True
    channel, batch = options["axis"] % rank, [axis % rank for axis in batch]
    if len(set(batch)) < len(batch) or channel in batch or channel in call.unknown:
        return True
    if options.get("synchronized") and options["ghost_batch_size"]:
        return True
    if options.get("max_steps") and len(batch) < 2:
        return True
    spatial = [a for a in range(rank) if a != channel and a not in batch]
    statistics = call.norm.cls(**made_of(call)).statistics if is_switchable(call) else ()
    if not spatial and (call.norm.needs_spatial or statistics == ("instance",)):
        return True
    groups = call.shape[channel]
    if "group" in statistics or call.norm.cls is keras_norms.GroupNormalization:
        auto = reference.auto_groups(call.shape[channel])
        groups = {-1: groups, "auto": auto}.get(options["groups"], options["groups"])
        if call.shape[channel] % groups:
            return True
    known = not set(spatial) & set(call.unknown)
    elements = math.prod(call.shape[a] for a in spatial) * (call.shape[channel] // groups)
    if call.norm.refuses_single and known and elements == 1:
        return True
    if call.mask is None:
        return False
    sizes = zip(call.mask.shape, call.shape, strict=False)
    return call.mask.ndim > rank or any(one not in (1, size) for one, size in sizes)


def trains_on_one_value(layer, call):
    """Whether nothing but one value for each channel would decide about the output."""
    only = call.norm.batch_only or (is_switchable(call) and layer._in_use == ("batch",))
    if not (only and call.training and call.trainable):
        return False
    axes = {*layer.pooled_axes, *layer.axes.spatial}
    sizes = {axis: call.shape[axis] for axis in axes}
    first = layer.axes.batch[0]
    if layer.ghost_batch_size and first in sizes:
        sizes[first] = min(sizes[first], layer.ghost_batch_size)
    unknown = call.graph and axes & set(call.unknown)
    return not unknown and math.prod(sizes.values()) == 1


def is_switchable(call):
    return call.norm.cls is keras_norms.SwitchableNormalization


def made_of(call):
    return {**call.norm.options, **call.options}


def expected(layer, x, mask, training, weights, target=None):
    """As `reference.expected`, with slices of the batch and with time steps of their own."""
    moves = training and layer.trainable and "moving_mean" in weights
    steps, ghost = getattr(layer, "max_steps", None), getattr(layer, "ghost_batch_size", None)
    if "moving_mean" not in weights or not (steps or (ghost and moves)):
        return reference.expected(layer, x, mask, training, weights, target)
    target = x if target is None else target
    batch = layer.batch_axis if isinstance(layer.batch_axis, tuple) else (layer.batch_axis,)
    batch = sorted(axis % x.ndim for axis in batch)
    valid = np.ones(x.shape, bool)
    if mask is not None:
        valid &= mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim))
    names = [name for name in ("moving_mean", "moving_variance") if name in weights]
    y, rows = np.empty(x.shape), collections.defaultdict(list)
    size = ghost if ghost and moves else x.shape[batch[0]]
    for start in range(0, x.shape[batch[0]], size):
        for step in range(x.shape[batch[-1]]) if steps else [0]:
            part = [slice(None)] * x.ndim
            part[batch[0]] = slice(start, start + size)
            own = dict(weights)
            if steps:
                part[batch[-1]] = slice(step, step + 1)
                last = max(int(weights["moving_steps"]), 1) - 1
                row = min(step, steps - 1 if moves else last)
                own |= {name: weights[name][row] for name in names}
            part = tuple(part)
            y[part], _ = reference.expected(
                layer, x[part], valid[part], training, own, target[part]
            )
            if moves:
                flat = [
                    reference._flatten(a[part], layer.axis, layer.batch_axis)[0] for a in (x, valid)
                ]
                moments = [m.ravel() for m in reference.moments(*flat, (0, 1))]
                rows[row if steps else None].append((*moments, flat[1].sum((0, 1))))
    after = {name: w.copy() for name, w in weights.items() if name.startswith("moving_")}
    for row, parts in rows.items():
        count = sum(part[-1] for part in parts)
        for i, name in enumerate(names):
            new = sum(part[i] * part[-1] for part in parts) / np.maximum(count, 1)
            old = weights[name] if row is None else weights[name][row]
            new = np.where(count > 0, layer.momentum * old + (1 - layer.momentum) * new, old)
            after[name][... if row is None else row] = new
        if steps and count.any():
            after["moving_steps"] = np.maximum(after["moving_steps"], row + 1)
    return y, after


def make_input(call, rng):
    """An input, and the same in float64."""
    x = rng.normal(size=call.shape)
    if call.data == "constant":
        x = np.zeros(call.shape)
    elif call.data == "spike":
        x = np.where(rng.random(call.shape) < 0.2, x, 0)
    x = call.offset + call.scale * x
    if call.given in ("uint8", "int32"):
        x = np.clip(np.abs(x), 0, 255)
    x = np.clip(x, -LARGEST[call.given], LARGEST[call.given]) if call.given in LARGEST else x
    x = ops.cast(ops.convert_to_tensor(x.astype(DTYPE)), call.given)
    wide = call.given if call.given == "float64" else "float32"
    return x, np.asarray(to_numpy(ops.cast(x, wide)), "float64")


def run(layer, call, x):
    if not call.graph:
        return forward_as_given(layer, x, call.training, call.mask)
    import tensorflow as tf

    def signature(tensor):
        sizes = [None if a in call.unknown else size for a, size in enumerate(tensor.shape)]
        return tf.TensorSpec(sizes, tensor.dtype)

    inputs = [x] if call.mask is None else [x, tensor(call.mask)]

    @tf.function(input_signature=[signature(part) for part in inputs])
    def graph(x, mask=None):
        return layer(x, training=call.training, mask=mask)

    return graph(*inputs)


def forward_as_given(layer, x, training, mask):
    if BACKEND == "jax":
        return ops.convert_to_tensor(forward(layer, to_numpy(x), training, mask))
    return layer(x, training=training, mask=None if mask is None else tensor(mask))


def check(call):
    rng = np.random.default_rng(call.seed)
    x, exact = make_input(call, rng)
    sizes = [None if axis in call.unknown else size for axis, size in enumerate(call.shape)]
    if refused(call):
        RAN["errors"] += 1
        with pytest.raises(ValueError):
            layer = call.norm(dtype=call.policy, **call.options)
            layer.build(tuple(sizes))
            layer(x, mask=None if call.mask is None else tensor(call.mask))
        return
    RAN["norms"] += 1
    layer = call.norm(dtype=call.policy, **call.options)
    layer.build(tuple(sizes))
    layer.trainable = call.trainable
    randomize(layer, rng)
    before = values(layer)
    if trains_on_one_value(layer, call):
        RAN["errors"] += 1
        with pytest.raises(ValueError, match="one value"):
            run(layer, call, x)
        return
    y, moving = expected(layer, exact, call.mask, call.training, before)
    actual = run(layer, call, x)

    kind, unit = PRECISION[call.policy]
    assert tuple(actual.shape) == call.shape
    assert keras.backend.standardize_dtype(actual.dtype) == kind == layer.compute_dtype
    result = to_numpy(ops.cast(actual, kind if kind == "float64" else "float32"))
    valid = np.ones(call.shape, bool)
    if call.mask is not None:
        valid &= call.mask.reshape(call.mask.shape + (1,) * (len(call.shape) - call.mask.ndim))
    # What rounding of the input, of the means and of the weights may do to the result.
    unit = max(unit, ROUNDING[DTYPE])
    reach, moved = 0.0, dict.fromkeys(moving, 0.0)
    largest = max(np.abs(exact).max(initial=0), np.abs(before.get("moving_mean", 0)).max())

    def rounded(x, size):
        return x + 2 * unit * size * rng.normal(size=x.shape)

    for statistics in (exact, rounded(exact, largest), rounded(exact, largest)):
        weights = {n: w if n == "moving_steps" else rounded(w, w) for n, w in before.items()}
        target = rounded(exact, largest)
        other, after = expected(layer, statistics, call.mask, call.training, weights, target)
        reach = max(reach, np.abs(np.where(valid, other - y, 0)).max(initial=0))
        moved = {n: max(m, np.abs(after[n] - moving[n]).max()) for n, m in moved.items()}
    allowed = 8 * reach + (1.1 * ROUNDING[kind] + 20 * unit) * np.abs(y) + SMALLEST[kind]
    fits = np.abs(y) + allowed < LARGEST[kind]
    assert np.isfinite(result[fits | ~valid]).all() or not fits.all()
    assert (np.abs(result - y) <= allowed)[fits & valid].all()
    after = values(layer)
    assert after.keys() == before.keys()
    for name, value in after.items():
        target = moving.get(name, before[name])
        exactly = name not in moving or (before[name] == target).all()
        allowed = 0 if exactly else 8 * moved[name] + 20 * unit * np.abs(target) + SMALLEST[kind]
        assert value.shape == target.shape and np.isfinite(value).all(), name
        assert (np.abs(value - target) <= allowed).all(), name


@given(calls())
@quick(300)
def test_norms(call):
    check(call)


@pytest.mark.slow
def test_norms_at_length(record_property):
    at_length(calls(), check, 10_000, record_property)


# Arguments that are no such thing.

NONSENSE = (None, math.nan, math.inf, -1, 1.5, True, "x", "", (), {}, [1, 2], 1j, 10**400, b"x")


def parameters(cls):
    """The arguments of a layer that are its own, not those of Keras's `Layer`."""
    found = {}
    for base in cls.__mro__[: cls.__mro__.index(layers.Layer)]:
        found |= inspect.signature(base.__init__).parameters
    return [
        name
        for name, parameter in found.items()
        if name != "self"
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    ]


@pytest.mark.parametrize("cls", sorted({norm.cls for norm in NORMS}, key=str))
def test_nonsense(cls, rng):
    """A ValueError, or a layer that works as if the argument meant something."""
    x = rng.normal(size=(4, 3, 8)).astype("float32")
    for name in parameters(cls):
        for value in NONSENSE:
            options = {"groups": 2} if "groups" in parameters(cls) else {}
            try:
                layer = cls(**{**options, name: value})
                y = layer(x, training=True)
            except ValueError:
                continue
            except TypeError as error:
                assert f"has no argument `{name}`" in str(error), (name, value)
                continue
            assert y.shape == x.shape and np.isfinite(to_numpy(y)).all(), (name, value)
            assert type(layer).from_config(layer.get_config()).get_config() == layer.get_config()


# Weight normalization.

CONVOLUTIONS = {
    "Conv1D": (1, (0, 1)),
    "Conv2D": (2, (0, 1, 2)),
    "Conv3D": (3, (0, 1, 2, 3)),
    "Conv1DTranspose": (1, (0, 2)),
    "Conv2DTranspose": (2, (0, 1, 3)),
    "DepthwiseConv1D": (1, (0,)),
    "DepthwiseConv2D": (2, (0, 1)),
}
EQUATIONS = {
    "...x,xy->...y": ((3,), "y", (0,)),
    "abc,cde->abde": ((None, 2, 3), "de", (0,)),
    "abc,dc->abd": ((None, 3), "d", (1,)),
}


# Of layers that give no mask on, here the last ones.
ignore_lost_masks = pytest.mark.filterwarnings("ignore:.*destroy the mask information")


@st.composite
def wrapped(draw):
    """A layer to wrap, the axes that the norm of its kernel sums over, and what it is called on."""
    kind = draw(st.sampled_from(["Dense", "EinsumDense", *CONVOLUTIONS]))
    options = {"activation": draw(st.sampled_from([None, "relu", "tanh"]))}
    batch, channels = draw(st.integers(1, 4)), draw(st.sampled_from([1, 2, 3, 4]))
    if kind == "Dense":
        between = tuple(draw(st.lists(st.integers(1, 3), max_size=2)))
        options |= {"units": draw(st.integers(1, 4)), "use_bias": draw(st.booleans())}
        shape, axes = (batch, *between, channels), (0,)
    elif kind == "EinsumDense":
        options["equation"] = draw(st.sampled_from(sorted(EQUATIONS)))
        options["output_shape"], bias, axes = EQUATIONS[options["equation"]]
        options["bias_axes"] = draw(st.sampled_from([None, bias]))
        shape = (batch, draw(st.integers(1, 3)), channels)
    else:
        rank, axes = CONVOLUTIONS[kind]
        shape = (batch, *(draw(st.integers(3, 5)) for _ in range(rank)), channels)
        options |= {
            "kernel_size": draw(st.integers(1, 3)),
            "padding": draw(st.sampled_from(["valid", "same"])),
            "strides": draw(st.integers(1, 2)),
            "use_bias": draw(st.booleans()),
        }
        if "Depthwise" in kind:
            options["depth_multiplier"] = draw(st.integers(1, 2))
        else:
            options["filters"] = draw(st.sampled_from([1, 2, 4]))
            if "Transpose" not in kind:
                options["groups"] = draw(
                    st.sampled_from([1, math.gcd(channels, options["filters"])])
                )
    mean_only = draw(st.booleans())
    return {
        "layer": getattr(layers, kind),
        "options": options,
        "axes": axes,
        "shape": shape,
        "policy": draw(st.sampled_from(POLICIES)),
        "mean_only": mean_only,
        "momentum": draw(st.sampled_from([0, 0.1, 0.9, 1])),
        "ghost": draw(st.sampled_from([None, None, 1, 2, 3])) if mean_only else None,
        "masked": mean_only and draw(st.booleans()),
        "training": draw(st.booleans()),
        "zeros": draw(st.sampled_from([False, False, False, True])),
        "exponents": [draw(st.sampled_from([0, 0, -12, 12])), draw(st.sampled_from([0, 0, -8, 8]))],
        "seed": draw(st.integers(0, 99)),
    }


def exactly(layer, kernel, x):
    """`w.x` in float64, by the layer itself without bias and activation."""
    config = {**layer.get_config(), "dtype": DTYPE, "activation": None}
    config |= {"bias_axes": None} if "bias_axes" in config else {"use_bias": False}
    plain = type(layer).from_config(config)
    plain.build(x.shape)
    plain.kernel.assign(kernel)
    return to_numpy(plain(tensor(x)))


def check_weights(case):
    RAN["weights"] += 1
    rng = np.random.default_rng(case["seed"])
    kind, unit = PRECISION[case["policy"]]
    unit = max(unit, ROUNDING[DTYPE], ROUNDING[kind])
    half = kind in ("float16", "bfloat16")
    kernel_exponent, exponent = (0, 0) if half else case["exponents"]
    layer = case["layer"](**case["options"], dtype=case["policy"])
    wrapper = keras_norms.WeightNormalization(
        layer, case["mean_only"], case["momentum"], ghost_batch_size=case["ghost"]
    )
    x = rng.normal(size=case["shape"]) * 10.0**exponent
    x = ops.cast(ops.convert_to_tensor(x.astype(DTYPE)), kind)
    exact = np.asarray(to_numpy(ops.cast(x, DTYPE)), "float64")
    wrapper.build(case["shape"])
    v = rng.normal(size=layer.kernel.shape) * 10.0**kernel_exponent
    if case["zeros"]:
        v[...] = 0
    layer.kernel.assign(v)
    wrapper.gain.assign(rng.uniform(0.5, 2, wrapper.gain.shape))
    if layer.bias is not None:
        layer.bias.assign(rng.normal(size=layer.bias.shape))
    norm = wrapper.mean_only_batch_norm
    if norm is not None:
        norm.moving_mean.assign(rng.normal(size=norm.moving_mean.shape))
    stored = {
        v.path: np.asarray(to_numpy(ops.cast(v.value, DTYPE)), "float64") for v in wrapper.weights
    }
    v, gain = stored[layer.kernel.path], stored[wrapper.gain.path]

    norms = np.sqrt((v**2).sum(case["axes"], keepdims=True))
    w = v * np.divide(gain.reshape(norms.shape), norms, out=np.zeros(norms.shape), where=norms > 0)
    y, size = exactly(layer, w, exact), exactly(layer, np.abs(w), np.abs(exact))
    mask = None
    if norm is not None and case["training"]:
        samples = min(len(y), case["ghost"] or len(y))
        if samples * y[0].size == norm.moving_mean.shape[0]:  # one value for each channel
            with pytest.raises(ValueError, match="one value"):
                wrapper(x, training=True)
            return
    if case["masked"]:
        mask = rng.random(y.shape[: rng.integers(1, max(2, y.ndim - 1))]) < 0.7
    if norm is not None:
        shape = y.shape
        if case["layer"] is layers.EinsumDense and len(shape) == 4:  # units along two axes
            y = y.reshape(*shape[:2], -1)
        old = stored[norm.moving_mean.path]
        y, moving = expected(norm, y, mask, case["training"], {"moving_mean": old})
        y = y.reshape(shape)
    if layer.bias is not None:
        y = y + stored[layer.bias.path].reshape(layer.bias.shape)
    allowed = 40 * unit * (size + np.abs(size).max() * (norm is not None) + np.abs(y) + 2)
    y = {None: y, "relu": np.maximum(y, 0), "tanh": np.tanh(y)}[case["options"]["activation"]]
    kwargs = {} if mask is None else {"mask": tensor(mask)}
    actual = wrapper(x, training=case["training"], **kwargs)
    assert tuple(actual.shape) == y.shape
    assert keras.backend.standardize_dtype(actual.dtype) == kind
    result = np.asarray(to_numpy(ops.cast(actual, DTYPE)), "float64")
    valid = np.ones(y.shape, bool)
    if mask is not None:
        valid &= mask.reshape(mask.shape + (1,) * (y.ndim - mask.ndim))
    assert np.isfinite(result).all()
    assert (np.abs(result - y) <= allowed)[valid].all()
    for variable in wrapper.weights:
        after = np.asarray(to_numpy(ops.cast(variable.value, DTYPE)), "float64")
        if norm is not None and variable is norm.moving_mean:
            assert (np.abs(after - moving["moving_mean"]) <= allowed.max()).all()
        else:
            assert (after == stored[variable.path]).all(), variable.path


@ignore_lost_masks
@given(wrapped())
@quick(100)
def test_weights(case):
    check_weights(case)


@ignore_lost_masks
@pytest.mark.slow
def test_weights_at_length(record_property):
    at_length(wrapped(), check_weights, 2000, record_property)


# Recurrent layers.


@st.composite
def sequences(draw):
    """A NormalizedLSTM, and what it is called on."""
    shape = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    options = {
        "per_gate": draw(st.booleans()),
        "use_bias": draw(st.booleans()),
        "go_backwards": draw(st.booleans()),
        "zero_output_for_mask": draw(st.booleans()),
        "unroll": draw(st.booleans()),
        "max_steps": draw(st.sampled_from([1, 2, 3, 10])),
    }
    spec = draw(st.sampled_from(reference_lstm.SPECS))
    if spec == "none" and options["go_backwards"] and options["zero_output_for_mask"]:
        # It runs in Keras's loop, which, unrolled, masks the outputs in the order of the inputs.
        options["unroll"] = False
    return {
        "spec": spec,
        "units": draw(st.sampled_from([1, 2, 3, 4])),
        "shape": shape,
        "options": options,
        "kept": draw(st.sampled_from([None, 0, 0.3, 0.7, 1])),
        "states": draw(st.booleans()),
        "training": draw(st.booleans()),
        "seed": draw(st.integers(0, 99)),
    }


def check_sequences(case):
    rng = np.random.default_rng(case["seed"])
    units, shape, spec = case["units"], case["shape"], case["spec"]
    layer = keras_norms.NormalizedLSTM(
        units,
        norm=spec,
        return_sequences=True,
        return_state=True,
        dtype=DTYPE,
        name="lstm",
        **case["options"],
    )
    # The cell's norm would see one element, and so would those of the gates on their own.
    if units == 1 and spec in ("ln", "gn"):
        RAN["errors"] += 1
        with pytest.raises(ValueError, match="single element"):
            layer.build(shape)
        return
    RAN["sequences"] += 1
    layer.build(shape)
    test_lstm.randomize(layer, rng)
    before = reference_lstm.values(layer)
    x = rng.normal(1, 2, shape)
    mask = None if case["kept"] is None else rng.random(shape[:2]) < case["kept"]
    state = rng.normal(0, 1, (2, shape[0], units)) if case["states"] else None
    if case["training"] and shape[0] == 1 and spec in ("bn", "wn_mobn"):
        RAN["errors"] += 1
        with pytest.raises(ValueError, match="one value"):
            test_lstm.call(layer, x, True, mask, state)
        return
    y, last, moving = reference_lstm.expected(layer, x, mask, case["training"], state)
    test_lstm.same(test_lstm.call(layer, x, case["training"], mask, state), [y, *last], 1e-7)
    after = reference_lstm.values(layer)
    for name, value in after.items():
        assert_close(value, moving.get(name, before[name]), 1e-7)


@given(sequences())
@quick(24)
def test_sequences(case):
    check_sequences(case)


@pytest.mark.slow
def test_sequences_at_length(record_property):
    at_length(sequences(), check_sequences, 400, record_property)
