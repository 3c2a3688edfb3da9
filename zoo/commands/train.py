"""Trains a model: `python scripts/train.py --norm sn --replicas 2`."""

import pathlib
import sys

from zoo.commands.common import call, silent_libraries

with silent_libraries():
    import tyro
    from absl import logging

    from zoo.training import TrainOptions, train
    from zoo.training.callbacks import Terminated


def main():
    options = tyro.cli(TrainOptions)
    logging.set_verbosity(logging.ERROR)
    call(run, options)


def run(options):
    """Trains, and says what came of it and what to look at next."""
    try:
        record = train(options)
    except Terminated as end:
        print(end, file=sys.stderr)
        sys.exit(128 + end.signal)
    run, results = record["options"]["log_dir"], record["results"]
    if results is None:
        print(f"trained; the first worker has written {run}")
        return
    if "bits_per_character" in results:
        print("", pathlib.Path(run, "sample.txt").read_text(), sep="\n")
        score = f"bits per character: {results['bits_per_character']:.3f}"
    else:
        score = f"accuracy: {results['accuracy']:.2%}"
    print(f"test {score} after {results['seconds']:.0f} s")
    if results["importance"]:
        print(f"which statistics each layer chose: python scripts/preferences.py {run}")
    print(f"curves: tensorboard --logdir {run}")


if __name__ == "__main__":
    main()
