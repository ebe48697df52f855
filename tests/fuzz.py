"""2,000 damaged inputs, each of which must end in results or in one clear line.

    make fuzz                              all of them; the suite runs some 100
    python tests/fuzz.py --only 1234       one of them again, and what it prints
    python tests/fuzz.py --start 2000      2,000 others

Every case runs in a process of its own, forked from this one, which has everything loaded. A
failure is whatever else happens: a traceback, words that only a programmer understands, something
else on standard error, another exit code, a signal, more than ``SECONDS`` or more than
``GIGABYTES``.
"""

import argparse
import contextlib
import faulthandler
import gc
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import damaged
from conftest import ROOT, TINY
from xceptlab import cli

SECONDS = 10
"""A command that takes longer hangs, where ``--seconds`` says nothing else: the suite, with other
tests beside, gives more.
"""
GIGABYTES = 2.0
"""Memory that a command may take beside what is loaded."""
LENGTH = 2000
"""Characters of a clear line, at most."""
PYTHON = re.compile(
    r"Traceback|object has no attribute|object is not|NoneType|unhashable|not supported between|<class '|object at 0x|__init__"
    r"|positional argument|codec can't|index out of range|recursion depth|too many values|invalid literal|PosixPath\("
)
"""What only a programmer of Python understands."""

LIBJPEG = re.compile(r"^(Corrupt|Premature end of) JPEG .*\n", re.M)
"""What libjpeg prints of what it conceals, without the file's name; `data check` gathers it and
names the file.
"""


@dataclass(frozen=True)
class Running:
    """A case whose process has not ended."""

    number: int
    folder: Path
    started: float


def preload(folder: Path) -> None:
    """Load everything that commands need, by running those that start no threads.

    To draw figures starts threads, without which they are never done in a process that is forked: a
    report is only imported, and its script comes from the cache, into which a process of its own
    puts it.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when it is loaded
    import altair  # noqa: F401
    import vl_convert  # noqa: F401

    import xceptlab.launch.preload  # noqa: F401
    from xceptlab.report.figures import script

    subprocess.run(
        [sys.executable, "-c", "from xceptlab.report.figures import script; script()"], check=True
    )
    script()

    residual = "experiments/residual"
    outputs = ["--runtime.outputs", str(folder)]
    os.chdir(ROOT)
    with open(os.devnull, "w") as nothing:
        sys.stdout = sys.stderr = nothing
        for command in (["train", "--print_config"], ["describe"], ["data", "check"]):
            exit_code([*command, *TINY, *outputs])
        for command in (["status"], ["plan"]):
            exit_code([*command, residual, *outputs])
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    gc.freeze()  # a collection would copy, in every process, all that is loaded


def exit_code(command: Sequence[str]) -> str:
    """What a command exits with; ``raised``, and a traceback on standard error, where it lets an
    exception out.
    """
    try:
        return str(cli.main(list(command)))
    except SystemExit as left:
        return str(left.code or 0)
    except BaseException:
        traceback.print_exc()
        return "raised"


def run(number: int, folder: Path, seconds: int) -> None:
    """Make a case in ``folder/input`` and try its commands, each for so long, in a process of its
    own.

    Of the first command ``0.command``, ``0.out``, ``0.err`` and, unless the process ends in it,
    ``0.code`` are left, and so on.
    """
    os.setsid()
    os.environ |= {"HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache"), "COLUMNS": "200"}
    (folder / "input").mkdir(parents=True)
    os.chdir(folder / "input")
    case = damaged.make(number)
    (folder / "damages").write_text(", ".join(case.damages))
    in_use = int(re.search(r"VmData:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024  # type: ignore[index]
    # spares the machine; what was taken is judged afterwards
    limit = in_use + int(4 * GIGABYTES * 2**30)
    # of memory that may be written: V8 reserves much more than that
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    for place, command in enumerate(case.commands):
        step = folder / str(place)
        step.with_suffix(".command").write_text(
            shlex.join(["xceptlab", *command]), errors="backslashreplace"
        )
        os.dup2(os.open(step.with_suffix(".out"), os.O_WRONLY | os.O_CREAT), 1)
        os.dup2(os.open(step.with_suffix(".err"), os.O_WRONLY | os.O_CREAT), 2)
        faulthandler.enable(2)
        faulthandler.dump_traceback_later(seconds, exit=True, file=2)
        with (
            open(1, "w", encoding="utf-8", closefd=False) as out,
            open(2, "w", errors="backslashreplace", closefd=False) as err,
        ):
            sys.stdout, sys.stderr = out, err
            code = exit_code(command)
        faulthandler.cancel_dump_traceback_later()
        step.with_suffix(".code").write_text(code)


def complaint(folder: Path, status: int, kilobytes: int) -> str:
    """What is wrong with how a case has ended; nothing if nothing is.

    Args:
        folder: What ``run`` has left.
        status: Of the process, as ``os.wait4`` has it.
        kilobytes: Memory that it took.
    """
    commands = sorted(folder.glob("*.command"))
    if not commands:
        return "the case could not be made"
    for command in commands:
        out, err = (
            command.with_suffix(suffix).read_text(errors="backslashreplace")
            for suffix in (".out", ".err")
        )
        if command.read_text().startswith("xceptlab train"):
            err = LIBJPEG.sub("", err)
        code = command.with_suffix(".code")
        if "Timeout (" in err:
            return f"hangs in {innermost(err)}"
        if not code.is_file():
            ended = (
                signal.Signals(os.WTERMSIG(status)).name
                if os.WIFSIGNALED(status)
                else f"exit {os.WEXITSTATUS(status)}"
            )
            return f"dies by {ended} in {innermost(err)}"
        if wrong := judge(code.read_text(), out, err):
            return wrong
    if kilobytes > GIGABYTES * 2**20:
        return f"takes {kilobytes / 2**20:.1f} GB"
    return ""


def judge(code: str, out: str, err: str) -> str:
    """What is wrong with a command's exit code and output; nothing if nothing is."""
    if code == "raised":
        return f"raises in {innermost(err)}: {err.splitlines()[-1][:200]}"
    if code not in ("0", "1", "2"):
        return f"exit code {code}"
    lines = [line for line in err.split("\n") if line and not line.startswith("Warning: ")]
    for line in err.split("\n"):
        if PYTHON.search(line) or not line.isprintable() or len(line) > LENGTH:
            return f"unclear: {line[:200]!r}"
    for line in lines:
        if not line.startswith("xceptlab: "):
            return f"another line: {line[:200]}"
    faults = re.search(r"^Faults: (\d+)$", out, re.M)
    expected = int(faults[1]) if faults else 1
    return f"{len(lines)} lines, not {expected}" if code != "0" and len(lines) != expected else ""


def innermost(err: str) -> str:
    """The innermost line of ours in a traceback; that of faulthandler begins with it."""
    frames = re.findall(r'File ".*/xceptlab/(.*)", line (\d+)', err)
    if not frames:
        return "no line of ours"
    return ":".join(frames[0 if "most recent call first" in err else -1])


def transcript(folder: Path) -> str:
    """The commands of a case with all that they have printed."""
    said = []
    for command in sorted(folder.glob("*.command")):
        said.append(f"$ {command.read_text()}")
        said += [
            command.with_suffix(suffix).read_text(errors="backslashreplace")
            for suffix in (".out", ".err")
        ]
    return "\n".join(said)


def fuzz(
    numbers: Sequence[int], jobs: int, keep: Path, seconds: int, show: bool = False
) -> Counter[str]:
    """Run cases, so many at a time, and count how they end; what those have left that fail stays in
    ``keep``.

    Args:
        seconds: After so many a command hangs.
        show: Print all that their commands have printed.
    """
    loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    waiting = list(reversed(numbers))
    running: dict[int, Running] = {}
    ends = Counter[str]()
    while waiting or running:
        while waiting and len(running) < jobs:
            number = waiting.pop()
            running[_fork(number, keep / str(number), seconds)] = Running(
                number, keep / str(number), time.monotonic()
            )
        process, status, usage = os.wait4(-1, os.WNOHANG)
        if not process:
            time.sleep(0.002)
            for late, case in running.items():
                if time.monotonic() > case.started + 5 * seconds:  # it could not even end itself
                    os.kill(late, signal.SIGKILL)
            continue
        case = running.pop(process)
        wrong = complaint(case.folder, status, usage.ru_maxrss - loaded)
        if show:
            print(transcript(case.folder))
        if wrong:
            ends["failures"] += 1
            damages = case.folder / "damages"
            done = damages.read_text() if damages.exists() else "?"
            print(f"{case.number} {damaged.kind_of(case.number)} ({done}): {wrong}", flush=True)
        else:
            codes = {file.read_text() for file in case.folder.glob("*.code")}
            ends["results" if codes == {"0"} else "clear lines"] += 1
            shutil.rmtree(case.folder)
    return ends


def _fork(number: int, folder: Path, seconds: int) -> int:
    shutil.rmtree(folder, ignore_errors=True)
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    try:
        run(number, folder, seconds)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; returns 1 if a case fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--cases", type=int, default=2000, metavar="N", help="how many (default: 2000)"
    )
    parser.add_argument(
        "--start", type=int, default=0, metavar="N", help="number of the first (default: 0)"
    )
    parser.add_argument("--kind", choices=damaged.KINDS, help="only those of this kind")
    parser.add_argument(
        "--only",
        type=int,
        nargs="+",
        metavar="N",
        help="these cases; of a single one also what it prints",
    )
    cores = len(os.sched_getaffinity(0))
    parser.add_argument(
        "--jobs",
        type=int,
        default=cores,
        metavar="N",
        help=f"cases at a time (default: {cores}, as many as cores)",
    )
    parser.add_argument(
        "--seconds",
        type=int,
        default=SECONDS,
        metavar="N",
        help=f"that a command may take (default: {SECONDS})",
    )
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="DIR",
        help="folder for what failing cases leave (default: a temporary one)",
    )
    options = parser.parse_args(arguments)
    keep = (options.keep or Path(tempfile.mkdtemp(prefix="fuzz-"))).resolve()
    numbers = options.only or range(options.start, options.start + options.cases)
    numbers = [number for number in numbers if options.kind in (None, damaged.kind_of(number))]
    with tempfile.TemporaryDirectory() as folder:
        preload(Path(folder))
    started = time.monotonic()
    ends = fuzz(numbers, options.jobs, keep, options.seconds, show=len(numbers) == 1)
    counts = ", ".join(f"{ends[end]} {end}" for end in ("results", "clear lines", "failures"))
    print(
        f"{len(numbers)} cases in {time.monotonic() - started:.0f} s: {counts}"
        + f"; see {keep}" * (ends["failures"] > 0)
    )
    with contextlib.suppress(OSError):
        keep.rmdir()  # only if nothing failed
    return int(ends["failures"] > 0)


if __name__ == "__main__":
    sys.exit(main())
