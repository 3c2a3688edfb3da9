"""What is claimed of norms in recurrent networks and Transformers, and what decides it."""

from zoo.laboratory.claims.common import PROPERTY
from zoo.laboratory.study import Claim, Effect, Learnt, Rows, gap, subtract

LN_PAPER = "1607.06450, section 6; ARTICLES 8"
LSTM, PRE, POST = "LSTM", "Transformer, pre", "Transformer, post"
DIGITS, TEXT = "digits", "tiny_shakespeare"
NAMES = {TEXT: "text", DIGITS: "digits row by row"}
# What the best constant needs for a character of the test text. A table of pairs needs 3.6.
CONSTANT = 4.83


def learnt(data: str, *cases: tuple[str, str]) -> Learnt:
    """The better of two nets has learnt, each a model with a norm."""
    which = " and ".join(f"{model} with {norm}" for model, norm in cases)

    def values(rows: Rows, measure: str) -> list[float]:
        found = [rows.mean(measure, data=data, model=model, norm=norm) for model, norm in cases]
        return [value for value in found if value is not None]

    if data == TEXT:
        return Learnt(
            f"the better of {which} saves at least 1.8 of the {CONSTANT} bits that a constant "
            "needs for a character",
            lambda rows: subtract(CONSTANT, min(values(rows, "bits_per_character"), default=None)),
            1.8,
            "{:.2f}",
        )
    return Learnt(
        f"the better of {which} classifies at least 90% of the digits",
        lambda rows: max(values(rows, "accuracy"), default=None),
        0.9,
    )


def lower(norm: str, than: str, **where: str) -> Effect:
    """An effect: how much lower the test loss with a norm is than with another."""
    return gap("cross_entropy", {"norm": than}, {"norm": norm}, **where)


def faster(norm: str, than: str, **where: str) -> Effect:
    """An effect: how much lower the training loss is over the first half of the epochs."""
    return lambda rows: subtract(
        *(rows.early("loss", 1 / 2, norm=name, **where) for name in (than, norm))
    )


def of_data(data: str) -> list[Claim]:
    """The claims about one data set."""
    case = NAMES[data]
    return [
        Claim(
            "a",
            "LN does better than BN in recurrent networks",
            LN_PAPER,
            lower("ln", "bn", model=LSTM, data=data),
            "test loss of the LSTM, BN minus LN",
            0.01,
            case=case,
            learnt=learnt(data, (LSTM, "ln"), (LSTM, "bn")),
        ),
        Claim(
            "b",
            "LN speeds up an LSTM",
            LN_PAPER,
            faster("ln", "none", model=LSTM, data=data),
            "training loss of the LSTM over the first half of the epochs, no norm minus LN",
            0.01,
            case=case,
            learnt=learnt(data, (LSTM, "ln"), (LSTM, "none")),
        ),
        Claim(
            "c",
            "BN in a recurrent network needs statistics for every time step, which costs space",
            "1603.09025, section 3; ARTICLES 4",
            gap("parameters", {"norm": "bn"}, {"norm": "ln"}, model=LSTM, data=data),
            "parameters of the LSTM, moving statistics included, BN minus LN",
            0,
            "{:+,.0f}",
            PROPERTY,
            case=case,
        ),
        *(
            Claim(
                "d",
                "LN suits the Transformer better than BN",
                "1706.03762, section 3.1; ARTICLES 8",
                lower("ln", "bn", model=model, data=data),
                "test loss, BN minus LN",
                0.01,
                case=f"{model}, {case}",
                learnt=learnt(data, (model, "ln"), (model, "bn")),
            )
            for model in (PRE, POST)
        ),
        Claim(
            "e",
            "A Transformer trains better with norms before the branches, where nothing warms up",
            "2002.04745, section 4",
            gap("cross_entropy", {"model": POST}, {"model": PRE}, norm="ln", data=data),
            "test loss with LN, post minus pre",
            0.01,
            case=case,
            learnt=learnt(data, (PRE, "ln"), (POST, "ln")),
        ),
    ]


CLAIMS = tuple(
    sorted((c for data in (TEXT, DIGITS) for c in of_data(data)), key=lambda claim: claim.name)
)
