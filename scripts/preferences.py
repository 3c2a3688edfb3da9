"""Shows what trained layers chose: `python scripts/preferences.py RUN [RUN ...]`."""

from zoo.commands.preferences import main

if __name__ == "__main__":
    main()
