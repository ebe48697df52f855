"""Runs that survive anything, counted: kills, pre-emptions, corrupt files, several processes.
Prints a table.

Run: make endurance (about 4 minutes on 2 cores, as in the CI), or SIZE=full (the first row alone
takes 12); ONLY=word runs the checks with this word in their name. Exit code 1 if one does not hold.
"""

import argparse
import sys

import one_run  # noqa: F401, adds its checks
import studies  # noqa: F401, adds its checks
from table import CHECKS, show


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=("small", "full"), default="small")
    parser.add_argument(
        "--only", default="", metavar="WORD", help="run the checks with this word in their name"
    )
    options = parser.parse_args()
    return int(
        not show(
            [one for one in CHECKS if options.only.lower() in one.name.lower()],
            options.size == "full",
        )
    )


if __name__ == "__main__":
    sys.exit(main())
