"""Which norm for a model: `python scripts/compare.py model.keras --data FILE.py:FUNCTION`."""

from zoo.commands.compare import main

if __name__ == "__main__":
    main()
