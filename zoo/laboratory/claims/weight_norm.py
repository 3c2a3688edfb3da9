"""What is claimed of weight norm, and the numbers that decide it."""

from zoo.laboratory.claims.common import PERCENT, consistent, least
from zoo.laboratory.study import Claim, Effect, Learnt, Rows, gap, subtract

PAPER = "1602.07868, section 5.1"
# The CIFAR-10 test errors of the paper's ConvPool-CNN-C.
PUBLISHED = Rows(
    {"norm": norm, "error": error / 100}
    for norm, error in {
        "none": 8.43,
        "wn": 8.46,
        "mobn": 8.52,
        "wn_mobn": 7.31,
        "bn": 8.05,
    }.items()
)
NAMES = {"none": "no norm", "bn": "BN", "wn": "WN", "mobn": "mean-only BN"}


def learnt(*norms: str) -> Learnt:
    """Nets with each of these norms have learnt."""
    return Learnt(
        f"at least 60% of the test images are classified by {' and by '.join(norms)}",
        least("accuracy", norms),
        0.6,
    )


def better(norm: str, than: str) -> Effect:
    """An effect: how much lower the test error with a norm is than with another."""
    return gap("error", {"norm": than}, {"norm": norm})


def faster(norm: str, than: str) -> Effect:
    """An effect: how much lower the training loss is over the first half of the epochs."""
    return lambda rows: subtract(*(rows.early("loss", 1 / 2, norm=name) for name in (than, norm)))


CLAIMS = consistent(
    [
        *(
            Claim(
                "a",
                "WN with mean-only BN gives the best result on CIFAR-10",
                f"{PAPER}; ARTICLES 5",
                better("wn_mobn", norm),
                "test error of the other, minus that of WN with mean-only BN",
                0.0,
                PERCENT,
                case=f"beside {name}",
                learnt=learnt("wn_mobn", norm),
                published=better("wn_mobn", norm)(PUBLISHED),
            )
            for norm, name in NAMES.items()
        ),
        Claim(
            "b",
            "WN speeds up training",
            PAPER,
            faster("wn", "none"),
            "training loss over the first half, no norm minus WN",
            0.02,
            learnt=learnt("none", "wn"),
        ),
        *(
            Claim(
                "c",
                "Initialization from the data helps WN",
                "1602.07868, section 3",
                faster(norm, f"{norm}, drawn"),
                "training loss over the first half, drawn minus initialized from the data",
                0.02,
                case=name,
                learnt=learnt(norm),
            )
            for norm, name in (("wn", "WN"), ("wn_mobn", "WN with mean-only BN"))
        ),
    ]
)
