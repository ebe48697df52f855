"""Runs the command line for ``python -m xceptlab``."""

from xceptlab.cli import console

if __name__ == "__main__":
    console()
