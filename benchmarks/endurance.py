"""Runs that survive anything, counted: kills, pre-emptions, corrupt files, several processes. Prints a table.

Run: make endurance SIZE=full (or small, the default, which the CI runs); ONLY=word runs the checks with this word in their name.
Each check is a function that counts, stands alone and leaves nothing behind. Exit code 1 if one does not hold.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Counts:
    """What a check counted: it holds where ``held`` equals ``of``; with ``of`` 0 it was skipped, ``note`` says why."""

    held: int
    of: int
    note: str = ""


@dataclass(frozen=True)
class Check:
    """One row of the table."""

    name: str
    must_hold: str
    run: Callable[[Path, bool], Counts]
    """Given an empty folder and whether to run in full size."""


CHECKS: list[Check] = []


def check(name: str, must_hold: str) -> Callable[[Callable[[Path, bool], Counts]], Callable[[Path, bool], Counts]]:
    """Make a function of (empty folder, full size) a row of the table."""

    def add(function: Callable[[Path, bool], Counts]) -> Callable[[Path, bool], Counts]:
        CHECKS.append(Check(name, must_hold, function))
        return function

    return add


# ---- the table ------------------------------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=("small", "full"), default="small")
    parser.add_argument("--only", default="", metavar="WORD", help="run the checks with this word in their name")
    options = parser.parse_args()
    table = Table("test", "must hold", "held", "s", "note", box=None, pad_edge=False)
    failed = False
    for one in CHECKS:
        if options.only.lower() not in one.name.lower():
            continue
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="endurance-") as folder:
            counts = one.run(Path(folder), options.size == "full")
        failed |= counts.held != counts.of
        held = f"{counts.held} of {counts.of}" if counts.of else "skipped"
        print(f"{one.name}: {held} {counts.note}", flush=True)
        table.add_row(one.name, one.must_hold, held, f"{time.monotonic() - start:.0f}", counts.note)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
