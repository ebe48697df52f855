"""The table: its rows are functions that count what holds. Each stands alone and leaves nothing
behind.
"""

import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table


class Counts(NamedTuple):
    """What a check counted: it holds where ``held`` equals ``of``; with ``of`` 0 it was skipped,
    ``note`` says why.
    """

    held: int
    of: int
    note: str = ""


Function = Callable[[Path, bool], Counts]


class Check(NamedTuple):
    """One row."""

    name: str
    must_hold: str
    run: Function
    """Given an empty folder and whether to run in full size."""


CHECKS: list[Check] = []


def check(name: str, must_hold: str) -> Callable[[Function], Function]:
    """Make a function a row of the table."""

    def add(function: Function) -> Function:
        CHECKS.append(Check(name, must_hold, function))
        return function

    return add


def show(checks: list[Check], full: bool) -> bool:
    """Run checks and print the table; returns whether all hold. One that raises does not, and the
    others go on.
    """
    table = Table("test", "must hold", "held", "s", "note", box=None, pad_edge=False)
    hold, total = True, 0.0
    for name, must_hold, run in checks:
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="endurance-") as folder:
            try:
                counts = run(Path(folder), full)
            except Exception as error:
                traceback.print_exc()
                counts = Counts(0, 1, f"{type(error).__name__} {error}")
        seconds = time.monotonic() - start
        hold, total = hold and counts.held == counts.of, total + seconds
        held = f"{counts.held} of {counts.of}" if counts.of else "skipped"
        print(f"{name}: {held}, {seconds:.0f} s; {counts.note}", flush=True)
        table.add_row(name, must_hold, held, f"{seconds:.0f}", counts.note)
    table.add_row("", "", "", f"{total:.0f}", "in all")
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    return hold
