"""A document of Markdown as one page of HTML, which needs no other file."""

import base64
import html
import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

from keras_norms.optional import require


def page(text: str, folder: Path, title: str, marks: Mapping[str, str]) -> str:
    """The page, with its figures and its looks inside.

    Args:
        text: a document in Markdown.
        folder: the folder from which the document's links lead to its figures.
        title: of the page.
        marks: `{text of a cell: class}`: such cells of tables are marked by their colour. The
            classes are those of page.css: "holds", "does-not", "undecided", "not-tested"; "short"
            beside them keeps the table a table on a phone.

    Raises:
        ImportError: if the package Markdown is missing.
    """
    style = Path(__file__).with_name("page.css").read_text()
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{title}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>\n{style}</style>\n<main>\n{body(text, folder, marks)}\n</main>\n</html>\n"
    )


def body(text: str, folder: Path, marks: Mapping[str, str]) -> str:
    """The content of a page, without its looks."""
    (markdown,) = require("markdown", purpose="A page", extra="compare")

    def embed(match: re.Match[str]) -> str:
        path = Path(os.path.normpath(folder / unquote(html.unescape(match[1]))))
        data = path.read_bytes()
        # A PNG has its width in these bytes. Figures have 150 dots per inch, the page 100.
        width = int.from_bytes(data[16:20]) * 2 // 3
        shape = f'width="{width}"' + ' class="wide"' * (width > 700)
        return f'{shape} src="data:image/png;base64,{base64.b64encode(data).decode()}"'

    content = markdown.markdown(text, extensions=["tables"], output_format="html")
    content = re.sub(r'src="(.*?\.png)"', embed, content)
    content = content.replace("<p>⚠", '<p class="warning">⚠')
    for cell, kind in marks.items():
        pill = f'<td><span class="verdict {kind}">{cell}</span></td>'
        content = content.replace(f"<td>{cell}</td>", pill)
    return content
