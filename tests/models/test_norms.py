"""zoo.norms: which norm works in which model."""

import keras
import pytest

import keras_norms
from keras_norms.output import markdown_table
from tests.support.child import ROOT
from zoo import norms

PIXELS = ("in", "bin", "gn(groups=-1)", "sn(statistics=('instance',))")


def test_table_covers_all_norms_and_agrees_with_the_layers():
    assert tuple(norms.SUPPORT) == keras_norms.NAMES
    refused = {name for name, row in norms.SUPPORT.items() if not all(row.values())}
    assert refused == {"in", "bin"}
    for name in keras_norms.NAMES:
        assert keras_norms.get(name).needs_spatial_axis == (name in refused)


@pytest.mark.parametrize("model", norms.MODELS)
def test_resolves_what_the_table_supports(model):
    for name, row in norms.SUPPORT.items():
        if row[model]:
            assert norms.norm_for(model, name) == keras_norms.get(name)
        else:
            with pytest.raises(ValueError, match=f"The norm {name!r} pools positions"):
                norms.norm_for(model, name)


def test_specs_of_every_form_that_need_positions():
    forms = [
        *PIXELS,
        keras_norms.InstanceNormalization,
        keras_norms.BatchInstanceNormalization,
        lambda: keras_norms.SwitchableNormalization(statistics=["instance"]),
        keras.saving.serialize_keras_object(keras_norms.InstanceNormalization(epsilon=1e-3)),
        keras_norms.get("in"),
    ]
    for spec in forms:
        assert keras_norms.get(spec).needs_spatial_axis, spec
        norms.norm_for("transformer", spec)
        with pytest.raises(ValueError, match="offers none: a vector has none. Use one of 'none'"):
            norms.norm_for("mlp", spec)
    for spec in ("sn(statistics=('instance', 'layer'))", "gn(groups=2)", None):
        assert not keras_norms.get(spec).needs_spatial_axis, spec


@pytest.mark.parametrize("model", [m for m, kind in norms.MODELS.items() if not kind.has_positions])
@pytest.mark.parametrize("spec", PIXELS)
def test_the_refusal_names_what_works_instead(model, spec):
    with pytest.raises(ValueError, match=f"the {model} model") as caught:
        norms.norm_for(model, spec)
    message = str(caught.value)
    working = message.split("Use one of ")[1].split(". Received")[0]
    assert working.split(", ") == [repr(n) for n in norms.SUPPORT if norms.SUPPORT[n][model]]
    assert norms.MODELS[model].reason in message and repr(spec) in message


def support_table():
    lines = (
        [f"`{name}`", *("yes" if works else "no" for works in row.values())]
        for name, row in norms.SUPPORT.items()
    )
    return markdown_table(["norm", *norms.MODELS], lines)


def test_the_docs_show_the_table():
    assert "| `bin` | yes | yes | yes | no | no | no |" in support_table()
    assert support_table() in (ROOT / "docs" / "TRAINING.md").read_text()
