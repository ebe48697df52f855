"""The command ``bench``, which runs the programs of the repository's ``benchmarks/``."""

import argparse
import ast
import difflib
import sys
from pathlib import Path

from xceptlab.errors import Refused

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
"""The folder of the benchmarks in a checkout of the repository; outside of one it does not exist.
"""


def bench(options: argparse.Namespace, layers: list[str]) -> int:
    """Measure on this machine: run a program of benchmarks/ in the repository; without a name, list
    them.
    """
    import runpy

    if not benchmarks():
        raise Refused(
            f"bench: the benchmarks are in the repository, not in the installed package: no {BENCHMARKS}"
        )
    if not options.name:
        for name in benchmarks():
            print(f"{name:22}{_about(name).splitlines()[0]}")
        return 0
    if options.name not in benchmarks():
        similar = difflib.get_close_matches(options.name, benchmarks(), n=1)
        hint = f"did you mean {similar[0]}?" if similar else f"there are {', '.join(benchmarks())}"
        raise Refused(f"{options.name}: no such benchmark; {hint}")
    if {"-h", "--help"} & {*options.arguments}:
        print(_about(options.name))
        program = (BENCHMARKS / f"{options.name}.py").read_text("utf-8")
        # A benchmark without a parser would ignore --help and run.
        if "argparse" not in program:
            return 0
    sys.argv = [options.name, *options.arguments, *layers]
    # Benchmarks import their neighbours, as when they are run as scripts.
    sys.path.insert(0, str(BENCHMARKS))
    runpy.run_path(str(BENCHMARKS / f"{options.name}.py"), run_name="__main__")
    return 0


def benchmarks() -> list[str]:
    """Return the names of the benchmarks, which are their files' names without ``.py``, sorted;
    empty outside a checkout of the repository. Files whose names begin with ``_`` are no
    benchmarks, but hold what several of them use.
    """
    return sorted(file.stem for file in BENCHMARKS.glob("[!_]*.py"))


def _about(name: str) -> str:
    """Return a benchmark's docstring, which says what it measures, or a sentence that it has none;
    the benchmark is read and not run.
    """
    module = ast.parse((BENCHMARKS / f"{name}.py").read_text("utf-8"))
    return ast.get_docstring(module) or "it does not say what it measures"
