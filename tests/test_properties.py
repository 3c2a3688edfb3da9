"""Random layouts, layers and masks: the reference's result, or a ValueError where one is due."""

import math

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from norms import BACKEND, DTYPE, NORMS, assert_close, randomize, values
from running import forward

import keras_norms


@st.composite
def calls(draw):
    rank = draw(st.integers(2, 5))
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=rank, max_size=rank)))
    axes = st.integers(-rank, rank - 1)
    channel = draw(axes)
    shape = tuple(
        draw(st.sampled_from([1, 2, 3, 4, 6])) if a == channel % rank else size
        for a, size in enumerate(shape)
    )
    batch = draw(axes | st.lists(axes, min_size=1, max_size=2).map(tuple))
    norm = draw(st.sampled_from(NORMS))
    options = {"axis": channel, "batch_axis": batch}
    if "groups" in norm.options:
        options["groups"] = draw(st.sampled_from([1, 2, 3, 4, -1, "auto"]))
    mask = None
    if draw(st.booleans()):
        covered = draw(st.integers(1, rank))
        sizes = [draw(st.sampled_from([1, size])) for size in shape[:covered]]
        bits = draw(st.lists(st.booleans(), min_size=math.prod(sizes), max_size=math.prod(sizes)))
        mask = np.array(bits).reshape(sizes)
    return norm, shape, options, mask, draw(st.booleans()), draw(st.integers(0, 99))


def refused(norm, shape, options):
    """Whether the contract wants an error."""
    rank = len(shape)
    channel, batch = options["axis"] % rank, options["batch_axis"]
    batch = [axis % rank for axis in (batch if isinstance(batch, tuple) else (batch,))]
    if len(set(batch)) < len(batch) or channel in batch:
        return True
    spatial = [a for a in range(rank) if a != channel and a not in batch]
    if norm.needs_spatial and not spatial:
        return True
    if "group" in norm.options.get("statistics", ()) or norm.cls is keras_norms.GroupNormalization:
        groups = {-1: shape[channel], "auto": reference.auto_groups(shape[channel])}
        groups = groups.get(options["groups"], options["groups"])
        if shape[channel] % groups:
            return True
    else:
        groups = shape[channel]
    elements = math.prod(shape[a] for a in spatial) * (shape[channel] // groups)
    return norm.refuses_single and elements == 1


def check(norm, shape, options, mask, training, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(1, 2, shape)
    layer = norm(dtype=DTYPE, **options)
    if refused(norm, shape, options):
        with pytest.raises(ValueError):
            layer.build(shape)
        return
    layer.build(shape)
    randomize(layer, rng)
    before = values(layer)
    y, moving = reference.expected(layer, x, mask, training)
    result = forward(layer, x, training, mask)
    valid = np.ones(shape, bool)
    if mask is not None:
        valid &= mask.reshape(mask.shape + (1,) * (len(shape) - mask.ndim))
    assert_close(result[valid], y[valid], 1e-8)
    after = values(layer)
    for name in after:
        assert_close(after[name], moving.get(name, before[name]), 1e-8)


@given(calls())
@settings(
    max_examples=10 if BACKEND == "jax" else 80, deadline=None, derandomize=True, database=None
)
def test_reference_or_error(call):
    check(*call)


@pytest.mark.slow
@given(calls())
@settings(max_examples=2000, deadline=None, database=None)
def test_reference_or_error_at_length(call):
    check(*call)
