"""Trains a model: `python scripts/train.py --norm sn --replicas 2`."""

import pathlib
import sys

from zoo.commands.common import parse, run_command, silent_libraries

with silent_libraries():
    from absl import logging

    from zoo.training import TrainOptions, train
    from zoo.training.callbacks import Terminated
    from zoo.training.run_folder import Part


def main() -> None:
    options = parse(TrainOptions)
    logging.set_verbosity(logging.ERROR)
    run_command(run, options)


def run(options: TrainOptions) -> None:
    """Trains, then prints the score and the commands that show more."""
    try:
        record = train(options)
    except Terminated as termination:
        print(termination, file=sys.stderr)
        sys.exit(128 + termination.signal)
    run, results = record["options"]["log_dir"], record["results"]
    if results is None:
        print(f"trained; the first worker has written {run}")
        return
    if "bits_per_character" in results:
        print("", pathlib.Path(run, Part.SAMPLE).read_text(), sep="\n")
        score = f"bits per character: {results['bits_per_character']:.3f}"
    else:
        score = f"accuracy: {results['accuracy']:.2%}"
    print(f"test {score} after {results['seconds']:.0f} s")
    if results["importance"]:
        print(f"which statistics each layer chose: python scripts/preferences.py {run}")
    print(f"curves: tensorboard --logdir {run}")


if __name__ == "__main__":
    main()
