"""Shows which statistics a trained model prefers: `python scripts/preferences.py RUN [RUN ...]`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from zoo.commands.common import parse, run_command, silent_libraries

with silent_libraries():
    import tyro

    from keras_norms import analysis, comparison, figures


@dataclasses.dataclass(frozen=True)
class Options:
    """Shows which statistics each layer of a trained model prefers, and compares runs.

    For each run it prints the switches (weights of IN, LN and BN, for mean and variance) or gates:
    layer by layer, then their means by stage and over the net. It adds which published findings
    the run shows. Files: preferences.png (stacked bars by depth), preferences_map.png,
    preferences.csv and preferences.json.

    Several runs are compared too; those that differ only in their seed are averaged. Files:
    comparison.png, comparison.csv and comparison.json.

        python scripts/preferences.py runs/sn-b32
        python scripts/preferences.py runs/sn-b32-s0 runs/sn-b32-s1 runs/sn-b2-s0 --output report
    """

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN [RUN ...]")]
    """What to show: run folders of scripts/train.py, log-dirs of
    keras_norms.callbacks.SwitchLogger, or .keras files."""
    output: Path | None = None
    """Folder for the files; of several runs, each gets a folder in it. None: each run's files go
    into its folder (or beside the .keras file), the comparison beside the first run."""


def main(args: Sequence[str] | None = None) -> None:
    run_command(show, parse(Options, args))


def show(options: Options) -> None:
    """Prints and draws the preferences of each run, and of several runs side by side."""
    try:
        _show(options)
    except OSError as error:
        raise OSError(f"{error}. Choose another folder for the files with --output.") from error


def _show(options: Options) -> None:
    if not options.runs:
        raise ValueError("Name at least one run: python scripts/preferences.py RUN [RUN ...]")
    runs = [analysis.read(path) for path in options.runs]
    # Runs that cannot be compared raise here, before half of the files are written.
    compared = comparison.compare(runs) if len(runs) > 1 else None
    for number, (path, run) in enumerate(zip(options.runs, runs, strict=True)):
        folder = path if path.is_dir() else path.parent
        if options.output:
            folder = options.output / f"{number}-{path.name}" if compared else options.output
        folder.mkdir(parents=True, exist_ok=True)
        print(run.text(), "\nWhat this one run shows of the published findings:", sep="\n")
        print(*comparison.claims(run), sep="\n")
        if not compared:
            print(comparison.batch_size_claim(comparison.compare(runs)))
        figures.stacked_bars(run).savefig(folder / "preferences.png")
        figures.heat_map(run).savefig(folder / "preferences_map.png")
        run.to_csv(folder / "preferences.csv")
        run.to_json(folder / "preferences.json")
        print(f"\nfigure: {folder / 'preferences.png'} (also preferences_map.png, .csv, .json)")
        if run.log_dir:
            print(f"step by step, in the tab Norms: tensorboard --logdir {path}")
        print()
    if compared:
        folder = options.output or options.runs[0].parent
        print(compared.text(), comparison.batch_size_claim(compared), sep="\n")
        figures.compared_bars(compared).savefig(folder / "comparison.png")
        compared.to_csv(folder / "comparison.csv")
        compared.to_json(folder / "comparison.json")
        print(f"\nfigure: {folder / 'comparison.png'} (also .csv, .json)")


if __name__ == "__main__":
    main()
