"""``python -m geobiomass`` is the command line too."""

from geobiomass.cli import main

if __name__ == "__main__":
    main()
