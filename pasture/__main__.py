"""The command line, run as ``python -m pasture``."""

from pasture.cli import main

if __name__ == "__main__":
    main()
