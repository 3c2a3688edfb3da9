"""Reports on studies: `python scripts/report.py`."""

import dataclasses
from pathlib import Path
from typing import Annotated

from zoo.commands.common import call, silent_libraries

with silent_libraries():
    import tyro

    from zoo.laboratory import report


@dataclasses.dataclass(frozen=True)
class Options:
    """Tells what studies have found: answers to four questions, then every study in full.

    Reads what scripts/study.py wrote, and writes a page that needs no other file. All is composed
    from the results; a study that was not run is named.

        python scripts/report.py                                # what docs/results holds
        python scripts/report.py runs/studies                   # all that was run here
        python scripts/report.py runs/studies/style-cpu --collect docs/results
    """

    results: tyro.conf.Positional[tuple[Path, ...]] = (Path("docs/results"),)
    """Folders of results, folders of such folders, or result.json files."""
    html: Path = Path("report.html")
    """The page to write."""
    markdown: Path | None = None
    """The same as Markdown, if wanted. Its figures stay where they are, and it links to them."""
    collect: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Copies the results to DIR/STUDY first, figures with them and bulky curves left out, to be
    committed; the report is then of all that DIR holds."""


def main(args=None):
    call(write, tyro.cli(Options, args=args))


def write(options):
    """Writes the report as a page, and as Markdown where asked."""
    found = report.read(options.results)
    if options.collect:
        report.collect(found, options.collect)
        found = report.read([options.collect])
    if options.markdown:
        _write(options.markdown, report.document(found, options.markdown.parent))
    _write(options.html, report.page(report.document(found, Path()), Path()))


def _write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    print(f"report: {path}")


if __name__ == "__main__":
    main()
