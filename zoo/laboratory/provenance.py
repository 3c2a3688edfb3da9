"""Which code made a result: the commit of the checkout, if the package is run from one."""

import subprocess
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[2]


def commit() -> str | None:
    """The commit in use, with "+" if files differ from it; None outside a checkout."""
    found = _git("rev-parse", "--short=10", "HEAD")
    return found and found + "+" * bool(_git("status", "--porcelain", "--untracked-files=no"))


def last_change(files: Iterable[Path]) -> dict[str, str] | None:
    """The commit that last changed any of these files, and its date.

    None outside a checkout, and where a file differs from its last commit.
    """
    names = list(map(str, files))
    found = _git("log", "-1", "--format=%h %cI", "--abbrev=10", "--", *names)
    if not found or _git("status", "--porcelain", "--", *names):
        return None
    return dict(zip(("commit", "date"), found.split(), strict=True))


def _git(*arguments: str) -> str | None:
    """What git prints; None if there is no git or no checkout."""
    try:
        done = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() if not done.returncode else None
