"""zoo.torch_weights: state dicts of PyTorch's layouts, against NumPy's arithmetic in float64."""

import keras
import numpy as np
import pytest

import zoo
from zoo import torch_weights

WIDTH = 0.125  # 8 channels in the first stage
IMAGES = np.random.default_rng(0).normal(size=(2, 3, 64, 64))
EPSILON = 1e-5


def convolve(x, weight, stride):
    """`torch.nn.functional.conv2d` with padding of half the kernel."""
    size = weight.shape[-1]
    pad = size // 2
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (2, 3))
    return np.einsum("nchwij,ocij->nohw", windows[:, :, ::stride, ::stride], weight)


def affine(state, name, x):
    return x * state[f"{name}.weight"].reshape(-1, 1, 1) + state[f"{name}.bias"].reshape(-1, 1, 1)


def batch_norm(state, name, x):
    mean, variance = (state[f"{name}.running_{k}"].reshape(-1, 1, 1) for k in ("mean", "var"))
    return affine(state, name, (x - mean) / np.sqrt(variance + EPSILON))


def group_norm(state, name, x, groups=2):
    parts = x.reshape(len(x), groups, -1)
    mean, variance = parts.mean(-1, keepdims=True), parts.var(-1, keepdims=True)
    return affine(state, name, ((parts - mean) / np.sqrt(variance + EPSILON)).reshape(x.shape))


def switch_norm(state, name, x):
    """The official `SwitchNorm2d` in evaluation, whose variances divide by n - 1."""

    def softmax(logits):
        return np.exp(logits) / np.exp(logits).sum()

    flat = x.reshape(*x.shape[:2], -1)
    mean_in, var_in = flat.mean(-1, keepdims=True), flat.var(-1, keepdims=True, ddof=1)
    mean_ln = mean_in.mean(1, keepdims=True)
    var_ln = (var_in + mean_in**2).mean(1, keepdims=True) - mean_ln**2
    mean_bn, var_bn = (state[f"{name}.running_{k}"] for k in ("mean", "var"))
    w, v = softmax(state[f"{name}.mean_weight"]), softmax(state[f"{name}.var_weight"])
    mean = w[0] * mean_in + w[1] * mean_ln + w[2] * mean_bn
    variance = v[0] * var_in + v[1] * var_ln + v[2] * var_bn
    return affine(state, name, ((flat - mean) / np.sqrt(variance + EPSILON)).reshape(x.shape))


def nothing(state, name, x):
    return x


def forward(state, x, norm, prefix, bottleneck):
    """The forward pass of torchvision's ResNet."""

    def conv(name, x, stride=1):
        v = state.get(f"{name}.weight", state.get(f"{name}.weight_v"))
        if f"{name}.weight_g" in state:
            v = v * state[f"{name}.weight_g"] / np.sqrt((v**2).sum((1, 2, 3), keepdims=True))
        y = convolve(x, v, stride)
        return y + state[f"{name}.bias"].reshape(-1, 1, 1) if f"{name}.bias" in state else y

    def relu(x):
        return np.maximum(x, 0)

    x = relu(norm(state, f"{prefix}1", conv("conv1", x, 2)))
    x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    x = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (2, 3))[:, :, ::2, ::2].max((4, 5))
    for stage, blocks in enumerate([3, 4, 6, 3] if bottleneck else [2, 2, 2, 2], 1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            convs = (1, 2, 3) if bottleneck else (1, 2)
            strides = dict.fromkeys(convs, 1) | {2 if bottleneck else 1: stride}
            y = x
            for n in convs:
                y = norm(state, f"{name}.{prefix}{n}", conv(f"{name}.conv{n}", y, strides[n]))
                y = relu(y) if n != convs[-1] else y
            if any(key.startswith(f"{name}.downsample") for key in state):
                x = conv(f"{name}.downsample.0", x, stride)
                x = norm(state, f"{name}.downsample.1", x)
            x = relu(x + y)
    x = x.mean((2, 3))
    weight = state.get("fc.weight", state.get("fc.weight_v"))
    if "fc.weight_g" in state:
        weight = weight * state["fc.weight_g"] / np.sqrt((weight**2).sum(1, keepdims=True))
    return x @ weight.T + state["fc.bias"]


def state_of(model, prefix, rng):
    """A state dict with the names and shapes that PyTorch has for this model."""
    state = {}
    names = torch_weights.names(model)
    variables = dict(zip(names, model.weights, strict=True))
    for path, candidates in names.items():
        choices = [c for c in candidates if "original" not in c]
        name = next((c for c in choices if f".{prefix}" in f".{c}"), choices[0])
        shape, leaf = tuple(variables[path].shape), name.rpartition(".")[2]
        if len(shape) == 4:
            shape = (shape[3], shape[2], shape[0], shape[1])
        elif len(shape) == 2:
            shape = shape[::-1]
        elif leaf == "weight_g":
            shape = (*shape, 1) if name.startswith("fc") else (*shape, 1, 1, 1)
        elif prefix == "sn" and leaf in ("weight", "bias") and not name.startswith("fc"):
            shape = (1, *shape, 1, 1)
        elif prefix == "sn" and leaf.startswith("running"):
            shape = (1, *shape, 1)
        value = rng.normal(0, 1 / np.sqrt(max(1, np.prod(shape[1:]))), shape)
        if leaf in ("running_var", "weight_g") or (leaf == "weight" and len(shape) == 1):
            value = rng.uniform(0.5, 1.5, shape)
        state[name] = value
        if leaf == "running_mean" and prefix == "bn":
            state[f"{name.rpartition('.')[0]}.num_batches_tracked"] = np.array(100)
    return state


CASES = {
    "bn": (18, "bn", batch_norm, "bn"),
    "bottlenecks": (50, "bn", batch_norm, "bn"),
    "gn": (18, "gn(groups=2)", group_norm, "bn"),
    "sn": (18, "sn(unbiased=True)", switch_norm, "sn"),
    "wn": (18, "wn", nothing, "bn"),
}


@pytest.mark.parametrize("case", CASES)
def test_outputs_are_those_of_pytorch(case, rng, tmp_path):
    depth, spec, norm, prefix = CASES[case]
    keras.config.set_dtype_policy("float64")
    try:
        model = zoo.resnet(depth, 5, spec, (64, 64, 3), width=WIDTH)
    finally:
        keras.config.set_dtype_policy("float32")
    state = state_of(model, prefix, rng)
    np.savez(tmp_path / "weights.npz", **{f"module.{name}": v for name, v in state.items()})
    torch_weights.load(model, tmp_path / "weights.npz")
    expected = forward(state, IMAGES, norm, prefix, depth == 50)
    actual = np.asarray(model(IMAGES.transpose(0, 2, 3, 1), training=False))
    assert np.abs(expected).max() > 0.1
    # The logits are float32 whatever the policy.
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_parametrizations_are_the_names_of_the_new_weight_norm(rng):
    model = zoo.resnet(18, 5, "wn", (64, 64, 3), width=WIDTH)
    state = state_of(model, "bn", rng)
    new = {"weight_g": "original0", "weight_v": "original1"}
    renamed = {
        f"{name.rpartition('.')[0]}.parametrizations.weight.{new[name.rpartition('.')[2]]}"
        if name.endswith(("_g", "_v"))
        else name: value
        for name, value in state.items()
    }
    results = []
    for each in (state, renamed):
        torch_weights.load(model, each)
        results.append(model.get_weights())
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_weights_of_another_model_are_refused(rng):
    model = zoo.resnet(18, 5, "bn", (64, 64, 3), width=WIDTH)
    state = state_of(model, "bn", rng)
    before = model.get_weights()
    kernel = state.pop("layer1.0.conv1.weight")
    match = r"Missing: layer1.0.conv1.weight for stage1_block1_conv1/kernel. Left over: extra."
    with pytest.raises(ValueError, match=match):
        torch_weights.load(model, state | {"extra": kernel})
    match = r"layer1.0.conv1.weight has the shape \(3, 3, 8, 8\) and not \(8, 8, 3, 3\)"
    with pytest.raises(ValueError, match=match):
        torch_weights.load(model, state | {"layer1.0.conv1.weight": kernel.T})
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="has a layer with weights called 'dense"):
        inputs = keras.Input((3,))
        torch_weights.load(keras.Model(inputs, keras.layers.Dense(2, name="dense")(inputs)), {})
