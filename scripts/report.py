"""Reports on studies: `python scripts/report.py`."""

from zoo.commands.report import main

if __name__ == "__main__":
    main()
