"""A document of Markdown as one page of HTML, which needs no other file."""

import base64
import html
import os
import re
from pathlib import Path
from urllib.parse import unquote

import markdown

from zoo.laboratory.report import SYMBOLS, TITLE, mark


def page(text: str, folder: Path) -> str:
    """The page, with its figures and its looks inside.

    Args:
        text: a document in Markdown, as `report.document` gives it.
        folder: the folder from which the document's links lead to its figures.
    """

    def embed(match: re.Match[str]) -> str:
        path = Path(os.path.normpath(folder / unquote(html.unescape(match[1]))))
        data = path.read_bytes()
        # A PNG has its width in these bytes. Figures have 150 dots per inch, the page 100.
        width = int.from_bytes(data[16:20]) * 2 // 3
        shape = f'width="{width}"' + ' class="wide"' * (width > 700)
        return f'{shape} src="data:image/png;base64,{base64.b64encode(data).decode()}"'

    body = markdown.markdown(text, extensions=["tables"], output_format="html")
    body = re.sub(r'src="(.*?\.png)"', embed, body)
    body = body.replace("<p>⚠", '<p class="warning">⚠')
    for verdict in SYMBOLS:
        name = verdict.replace(" ", "-")
        pill = f'<td><span class="verdict {name}">{mark(verdict)}</span></td>'
        body = body.replace(f"<td>{mark(verdict)}</td>", pill)
    style = Path(__file__).with_name("report.css").read_text()
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{TITLE}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>\n{style}</style>\n<main>\n{body}\n</main>\n</html>\n"
    )
