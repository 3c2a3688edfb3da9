"""A NaN is traced to where it arose, and the weights that led to it are kept."""

import keras
import numpy as np
import pytest

import keras_norms
from zoo import lstm, resnet
from zoo.training import nonfinite

IMAGES = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")


def model():
    return resnet(20, 3, "bn", (8, 8, 3), width=0.25)


def test_the_layer_is_named_and_nothing_moves():
    net = model()
    before = [v.numpy() for v in net.variables]
    assert "all outputs of layers are finite" in nonfinite.locate(net, IMAGES)
    for old, new in zip(before, net.variables, strict=True):
        np.testing.assert_array_equal(old, new)
    kernel = net.get_layer("stage2_block1_conv1").kernel
    kernel.assign(np.full(kernel.shape, 3e38))
    assert nonfinite.locate(net, IMAGES).endswith("arises in layer 'stage2_block1_conv1'")


def test_a_weight_and_an_input_are_told_apart():
    net = model()
    images = IMAGES.copy()
    images[0, 0, 0, 0] = np.nan
    assert nonfinite.locate(net, images).endswith("arises in layer 'stem_conv'")
    net.get_layer("stage1_block1_norm1").gamma.assign(np.full(4, np.inf))
    message = nonfinite.locate(net, IMAGES)
    assert message == "the weight stage1_block1_norm1/gamma is not finite"


def test_inside_of_a_recurrent_layer():
    net = lstm(3, "ln", (6,), vocabulary=11)
    net.get_layer("layer1").cell.bias.assign(np.full(512, np.nan))
    tokens = np.ones((2, 6), "int32")
    assert nonfinite.locate(net, tokens) == "the weight layer1/lstm_cell/bias is not finite"


@pytest.mark.parametrize("skip", [True, False])
def test_an_update_that_is_not_finite_is_left_out(skip):
    net = lstm(3, "ln", (6,), vocabulary=11, width=0.1)  # the embedding has indexed slices
    optimizer = keras_norms.configure_optimizer(
        keras.optimizers.Adam(0.1), net, skip_nonfinite=skip
    )
    net.compile(optimizer, lambda y, logits: keras.ops.sum(logits, -1) * y)
    tokens = np.ones((2, 6), "int32")
    net.fit(tokens, np.ones(2, "float32"), verbose=0)
    before = [v.numpy() for v in net.trainable_variables]
    net.fit(tokens, np.array([1.0, np.nan], "float32"), verbose=0)
    after = [v.numpy() for v in net.trainable_variables]
    assert all(np.isfinite(value).all() for value in before)
    assert all(np.isfinite(value).all() for value in after) == skip
