"""Reports on studies: `python scripts/report.py`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from zoo.commands.common import parse, run_command, silent_libraries

with silent_libraries():
    import tyro

    from keras_norms.page import page
    from zoo.laboratory import archive, report


@dataclasses.dataclass(frozen=True)
class Options:
    """Reports what studies have found: answers to four questions, then every study in full.

    It reads the results of scripts/study.py, and writes a page that needs no other file. The page
    names the studies that have no results.

        python scripts/report.py                                # the results in docs/results
        python scripts/report.py runs/studies                   # all studies that were run here
        python scripts/report.py runs/studies/style-cpu --collect docs/results
    """

    results: tyro.conf.Positional[tuple[Path, ...]] = (Path("docs/results"),)
    """What to report on: folders of results, folders of such folders, or result.json files."""
    html: Path = Path("report.html")
    """The page to write."""
    markdown: Path | None = None
    """The same as Markdown, if wanted. It links to the figures, which stay where they are."""
    collect: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """First copies the results to DIR/STUDY, so that they can be committed. The report is then
    about everything in DIR."""
    redraw: bool = False
    """First draws the figures of the results anew, from their rows."""


def main(args: Sequence[str] | None = None) -> None:
    run_command(write, parse(Options, args))


def write(options: Options) -> None:
    """Writes the report as a page, and also as Markdown if asked."""
    found = archive.read(options.results)
    if options.collect:
        archive.collect(found, options.collect)
        found = archive.read([options.collect])
    if options.redraw:
        for result in found:
            result.redraw()
    if options.markdown:
        _write(options.markdown, report.document(found, options.markdown.parent))
    _write(options.html, page(report.document(found, Path()), Path(), report.TITLE, report.MARKS))


def _write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    print(f"report: {path}")


if __name__ == "__main__":
    main()
