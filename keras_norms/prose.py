"""Lists of words, and texts and tables that Markdown and HTML show unchanged."""

import html
import re
from collections.abc import Iterable

from keras_norms.output import markdown_table


def listed(words: Iterable[str]) -> str:
    """The words with commas, and "and" before the last."""
    *words, last = words
    return f"{', '.join(words)} and {last}" if words else last


def answers(sentences: Iterable[str]) -> list[str]:
    """Sentences as quotes in Markdown."""
    return [f"> {escaped(sentence)}" for sentence in sentences]


def escaped(text: object) -> str:
    """A text in one line, without what Markdown or HTML would take for markup."""
    text = html.escape(" ".join(str(text).split()), quote=False).replace("|", "&#124;")
    return re.sub(r"([\\`*_\[\]])", r"\\\1", text)


def table(header: Iterable[object], lines: Iterable[Iterable[object]]) -> str:
    """A table in Markdown, whose cells are texts."""
    header, *lines = ([*map(escaped, line)] for line in (header, *lines))
    return markdown_table(header, lines)
