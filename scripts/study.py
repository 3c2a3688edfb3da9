"""Runs a study: `python scripts/study.py preferences --data-dir DIR`."""

from zoo.commands.study import main

if __name__ == "__main__":
    main()
