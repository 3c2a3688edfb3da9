"""What is claimed of instance norm and its mixtures with batch norm, and what decides it."""

from zoo.laboratory.claims.common import PERCENT, best, consistent
from zoo.laboratory.study import Claim, Effect, Learnt, gap, subtract

# What the style of an image is, in a data set.
NONE, NUISANCE, UNSEEN, LABEL = "absent", "a nuisance", "unseen in training", "the label"
IN = "1607.08022; ARTICLES 9"
BIN = "1805.07925; ARTICLES 11"


def learnt(role: str, *norms: str) -> Learnt:
    """The best of some nets has learnt a data set. Objects have ten classes, contrasts four."""
    share = 0.9 if role == LABEL else 0.5
    return Learnt(
        f"where style is {role}, at least {share:.0%} of the test images are classified by "
        f"{' or '.join(norms)}",
        best("accuracy", norms, **{"style is": role}),
        share,
    )


def accuracy(norm: str, than: str, role: str) -> Effect:
    """An effect: how much higher the test accuracy of one norm is than that of another."""
    return gap("accuracy", {"norm": norm}, {"norm": than}, **{"style is": role})


def against_style(role: str) -> list[Claim]:
    """The claims about a style that tells nothing about the label."""
    case = f"style is {role}"
    return [
        Claim(
            "a",
            "IN helps where contrast and colour are a nuisance",
            IN,
            accuracy("in", "bn", role),
            "test accuracy, IN minus BN",
            0.01,
            PERCENT,
            case=case,
            learnt=learnt(role, "in", "bn"),
        ),
        Claim(
            "e",
            "BIN drops style where it is a nuisance: as good as IN there",
            BIN,
            accuracy("bin", "in", role),
            "test accuracy, BIN minus IN",
            -0.01,
            PERCENT,
            case=case,
            learnt=learnt(role, "bin", "in"),
        ),
        Claim(
            "f",
            "The gates of the first layers are nearer to IN where style is a nuisance",
            BIN,
            gap("gate_stage1_batch", {"style is": NONE}, {"style is": role}, norm="bin"),
            "mean gate of the first stage (1 is batch), style absent minus present",
            0.05,
            case=case,
            learnt=learnt(role, "bin"),
        ),
    ]


CLAIMS = consistent(
    sorted(
        [
            *(claim for role in (NUISANCE, UNSEEN) for claim in against_style(role)),
            Claim(
                "b",
                "IN makes a net blind to contrast, at test time too",
                IN,
                lambda rows: subtract(0.3, rows.mean("accuracy", norm="in", **{"style is": LABEL})),
                "30% minus the test accuracy of IN where one of four contrasts is the label",
                0.0,
                PERCENT,
                learnt=learnt(NONE, "in"),
            ),
            Claim(
                "c",
                "IN hurts where contrast matters",
                IN,
                accuracy("bn", "in", LABEL),
                "test accuracy where contrast is the label, BN minus IN",
                0.1,
                PERCENT,
                remark="This is a property of IN: apart from epsilon, contrast cannot pass it.",
                learnt=learnt(LABEL, "bn", "in"),
            ),
            Claim(
                "d",
                "BIN keeps style where it matters",
                BIN,
                accuracy("bin", "in", LABEL),
                "test accuracy where contrast is the label, BIN minus IN",
                0.1,
                PERCENT,
                learnt=learnt(LABEL, "bin", "in"),
            ),
            *(
                Claim(
                    "g",
                    "BIN outperforms BN in classification",
                    BIN,
                    accuracy("bin", "bn", role),
                    "test accuracy, BIN minus BN",
                    0.0,
                    PERCENT,
                    case=f"style is {role}",
                    learnt=learnt(role, "bin", "bn"),
                    published=0.9429 - 0.9372 if role == NONE else None,  # CIFAR-10
                )
                for role in (NONE, NUISANCE, UNSEEN)
            ),
        ],
        key=lambda claim: claim.name,
    )
)
