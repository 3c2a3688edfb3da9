"""Makes pages of the site of README and other files that stand in the root folder."""

from pathlib import Path

from mkdocs.structure.files import File

PAGES = {"README.md": "index.md", "CONTRIBUTING.md": None, "CHANGELOG.md": None}


def on_files(files, config):
    """Adds the pages; their links are those of a file in docs."""
    root = Path(config.config_file_path).parent
    for source, page in PAGES.items():
        text = (root / source).read_text().replace("](docs/", "](")
        files.append(File.generated(config, page or source, content=text))
    return files
