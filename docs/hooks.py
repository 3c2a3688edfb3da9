"""What `make docs` needs beside mkdocs.yml: pages of the root folder, examples of docstrings."""

import re
from pathlib import Path

import griffe
from mkdocs.structure.files import File

PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CHANGELOG.md": "CHANGELOG.md",
}
DOCTEST = re.compile(r"^( *)>>> .*(?:\n *\S.*)*", re.MULTILINE)


def on_files(files, config):
    """Adds the pages of the root folder; their links become those of a page in docs."""
    root = Path(config.config_file_path).parent
    for source, page in PAGES.items():
        text = (root / source).read_text().replace("](docs/", "](")
        files.append(File.generated(config, page, content=text))
    return files


class Doctests(griffe.Extension):
    """Shows examples as code; in Markdown, `>>>` begins a quotation."""

    def on_instance(self, *, obj, **kwargs):
        """Puts a fence around each example of a docstring."""
        if obj.docstring:
            fenced = DOCTEST.sub(r"\1```pycon\n\g<0>\n\1```", obj.docstring.value)
            obj.docstring.value = fenced
