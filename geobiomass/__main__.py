"""Command line as a module: ``python -m geobiomass``."""

from geobiomass.cli import main

if __name__ == "__main__":
    main()
