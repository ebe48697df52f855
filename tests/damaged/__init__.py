"""Damaged inputs for ``fuzz.py``: configuration files, studies, parquet tables, trees of
photographs.

An input is a sound one to which a few small functions were applied, whose names say what was done.
Which ones is decided by the case's number alone, so that a case can be repeated by it.
"""

import random
from collections.abc import Callable

from damaged.case import Case
from damaged.configurations import configuration
from damaged.studies import study
from damaged.tables import table
from damaged.trees import tree

KINDS: dict[str, Callable[[Case], None]] = {
    "configuration": configuration,
    "study": study,
    "table": table,
    "tree": tree,
}
"""Each writes an input into the working directory and says with which commands it is tried."""


def make(number: int) -> Case:
    """Write the input of a case into the working directory."""
    case = Case(random.Random(number))
    KINDS[kind_of(number)](case)
    return case


def kind_of(number: int) -> str:
    """The kind of a case; the kinds take turns."""
    return list(KINDS)[number % len(KINDS)]
