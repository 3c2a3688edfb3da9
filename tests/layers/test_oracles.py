"""Outputs, gradients and moving statistics of the methods' official code; see data/README.md.

Runs on every backend, as test_laws does; in float64 where Keras has it.
"""

import pathlib

import numpy as np
import pytest

import keras_norms
from tests.support.norms import DTYPE, assert_close, values
from tests.support.running import forward, gradients

DATA = np.load(pathlib.Path(__file__).parent.parent / "data" / "reference.npz")
ORACLES = {}
for key in DATA.files:
    case, name = key.split("/")
    if not case.startswith("wn_"):
        ORACLES.setdefault(case, {})[name] = DATA[key]


def layer_of(case, oracle):
    options = {"epsilon": 1e-5, "dtype": DTYPE}
    for name in oracle:
        if "_after_momentum_" in name:
            options["momentum"] = float(name.rpartition("_")[2])
    if case.startswith("sn"):
        if "without_batch" in case:
            options["statistics"] = ("instance", "layer")
        return keras_norms.SwitchableNormalization(**options)
    if case == "gn":
        return keras_norms.GroupNormalization(int(oracle["groups"]), **options)
    return {
        "bin2d_train": keras_norms.BatchInstanceNormalization,
        "bin2d_infer": keras_norms.BatchInstanceNormalization,
        "in": keras_norms.InstanceNormalization,
        "bn": keras_norms.BatchNormalization,
    }[case](**options)


def test_every_oracle_is_used():
    assert len(ORACLES) == 15
    used = {"x", "y", "dy", "dx", "groups"}
    for oracle in ORACLES.values():
        assert "gamma" in oracle and "beta" in oracle
        weights = {name for name in oracle if f"d_{name}" in oracle}
        rest = set(oracle) - used - weights - {f"d_{name}" for name in weights}
        assert all(name.startswith("moving_") for name in rest)


@pytest.mark.parametrize("case", ORACLES)
def test_official_code(case):
    oracle = ORACLES[case]
    training = not case.endswith("_infer")
    layer = layer_of(case, oracle)
    layer.build(oracle["x"].shape)
    for weight in layer.weights:
        if case != "bn" or not weight.name.startswith("moving_"):
            weight.assign(oracle[weight.name])

    slopes = gradients(layer, oracle["x"], oracle["dy"], training)
    assert_close(slopes.pop("x"), oracle["dx"], 1e-6)
    assert set(slopes) == {name for name in oracle if f"d_{name}" in oracle}
    for name, slope in slopes.items():
        assert_close(slope, oracle[f"d_{name}"], 1e-6)

    assert_close(forward(layer, oracle["x"], training), oracle["y"], 1e-6)
    for name, value in oracle.items():
        if "_after_momentum_" in name:
            assert_close(values(layer)[name.partition("_after")[0]], value, 1e-6)
