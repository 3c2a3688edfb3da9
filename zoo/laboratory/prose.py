"""Words, sentences and tables as Markdown that shows them as they are."""

import html
import re

from keras_norms.output import markdown_table


def listed(words):
    """Words, with "and" before the last."""
    *words, last = words
    return f"{', '.join(words)} and {last}" if words else last


def answers(sentences):
    """Answers, as quotes in Markdown."""
    return [f"> {escaped(sentence)}" for sentence in sentences]


def escaped(text):
    """A text that Markdown and HTML show as it is, in one line."""
    text = html.escape(" ".join(str(text).split()), quote=False).replace("|", "&#124;")
    return re.sub(r"([\\`*_\[\]])", r"\\\1", text)


def table(header, lines):
    """A table of texts."""
    header, *lines = ([*map(escaped, line)] for line in (header, *lines))
    return markdown_table(header, lines)
