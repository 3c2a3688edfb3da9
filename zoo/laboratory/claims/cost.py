"""What is claimed of the cost of norms, and the numbers that decide it."""

from zoo.laboratory.claims.common import PROPERTY
from zoo.laboratory.study import Claim, Effect, Number, Rows

LN_PAPER = "1607.06450; ARTICLES 16"
MAPS, VECTORS = "(None, 10, 10, 5)", "(20, 5, 10)"  # shapes of inputs
CONV, LSTM, TRANSFORMER = "conv6", "LSTM", "Transformer"


def parameters_of(layer: str, input: str) -> Effect:
    """The trainable parameters of a layer, as a part of an effect."""
    return lambda rows: rows.mean("trainable_parameters", layer=layer, input=input)


def equal(one: Effect, other: Effect, factor: int = 1) -> Effect:
    """An effect: -|one - factor * other|, which is 0 if they are equal and negative if not."""

    def effect(rows: Rows) -> Number:
        a, b = one(rows), other(rows)
        return None if a is None or b is None else -abs(a - factor * b)

    return effect


def time_beyond(norm: str, than: str, model: str, kind: str = "training") -> Effect:
    """An effect: how much longer a step takes than with another norm."""

    def effect(rows: Rows) -> Number:
        own, other = (rows.mean(f"{kind}_ms", model=model, norm=name) for name in (norm, than))
        return own / other - 1 if own and other else None

    return effect


CLAIMS = (
    Claim(
        "a",
        "LN with a gamma and beta for every element of 5 maps of 10 x 10 has 1,000 parameters, "
        "100 times those of BN",
        LN_PAPER,
        equal(parameters_of("keras LN (1, 2, 3)", MAPS), parameters_of("bn", MAPS), 100),
        "negative distance of the trainable parameters from 100 times those of BN",
        -1,
        "{:+,.0f}",
        PROPERTY,
    ),
    Claim(
        "b",
        "LN with a gamma and beta for every channel has as many parameters as BN",
        LN_PAPER,
        equal(parameters_of("ln", MAPS), parameters_of("bn", MAPS)),
        "negative distance of the trainable parameters from those of BN",
        -1,
        "{:+,.0f}",
        PROPERTY,
    ),
    Claim(
        "c",
        "LN over the last axis of (20, 5, 10) has 20 parameters",
        LN_PAPER,
        equal(parameters_of("ln", VECTORS), lambda rows: 20.0),
        "negative distance of the trainable parameters from 20",
        -1,
        "{:+,.0f}",
        PROPERTY,
    ),
    *(
        Claim(
            "d",
            "SN costs more time than BN",
            "1806.10779, section 3.3",
            time_beyond("sn", "bn", model),
            "time of a training step, SN over BN, minus 1",
            0.05,
            "{:+.0%}",
            case=model,
        )
        for model in (CONV, LSTM, TRANSFORMER)
    ),
    *(
        Claim(
            "e",
            "LN costs more time than BN at inference, where BN's statistics are constants",
            "1502.03167, section 3.1",
            time_beyond("ln", "bn", model, "inference"),
            "time of an inference step, LN over BN, minus 1",
            0.05,
            "{:+.0%}",
            case=model,
        )
        for model in (CONV, LSTM, TRANSFORMER)
    ),
)
