"""Trains a model: `python scripts/train.py --norm sn --replicas 2`."""

from zoo.commands.train import main

if __name__ == "__main__":
    main()
