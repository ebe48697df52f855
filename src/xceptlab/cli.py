"""The command line. Nothing heavy is imported before a command needs it.

Exit codes: 0 done, 1 a run failed or the disk is full, 2 bad input, 75 interrupted by a signal and to be continued by the same
command, 130 interrupted by the user.
"""

import argparse
import codecs
import difflib
import getpass
import io
import itertools
import os
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from xceptlab import __version__, commands
from xceptlab.config.loading import keys, synonyms
from xceptlab.config.schema import RunConfig
from xceptlab.errors import BAD_INPUT, CANCELLED, FAILED, INTERRUPTED, Interrupted, Refused
from xceptlab.runs.leases import Busy
from xceptlab.text import say

MENDABLE = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)

ASCII = {"–": "-", "—": "-", "−": "-", "→": "->", "×": "x", "±": "+/-", "≤": "<=", "≥": ">=", "…": "...", "’": "'"}
"""What stands for a character where a terminal or a file cannot show it; a question mark for all others."""

LAYERS = """\
Every field of a run can be layered and overridden: -c FILE (repeatable, the last wins), --train.lr 0.05, --runtime.outputs DIR.
`xceptlab train --help` lists the fields; `xceptlab train ... --print_config` shows the result."""


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        super().__init__(epilog=LAYERS, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        choice = re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message)
        meant = difflib.get_close_matches(choice[1], re.findall(r"[\w.-]+", choice[2]), n=1) if choice else []
        raise Refused(f"{message}; " + (f"did you mean {meant[0]}?" if meant else f"see {self.prog} --help"))

    def refuse(self, unknown: str) -> NoReturn:
        """Refuse an argument that this command does not know, with the option or the run's key that was probably meant."""
        word, known = unknown.split("=")[0], keys(RunConfig)
        meant = []
        if word.startswith("--"):
            options = [*self._option_string_actions, *(f"--{key}" for key in known)]
            meant = [f"--{key}" for key in synonyms(word.removeprefix("--"), known)]
            meant += difflib.get_close_matches(word, options, n=1)
        raise Refused(f"{unknown}: no such argument; " + (f"did you mean {meant[0]}?" if meant else f"see {self.prog} --help"))


def console() -> NoReturn:
    """What ``xceptlab`` and ``python -m xceptlab`` run."""
    sys.exit(main(sys.argv[1:]))


def main(argv: list[str]) -> int:
    """Run a command and return its exit code; whatever the user can mend is one line on standard error."""
    _print_what_can_be_shown()
    _have_a_home()
    try:
        return _dispatch(argv)
    except BrokenPipeError:
        return FAILED
    except Interrupted as error:
        return _say(str(error), INTERRUPTED)
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename else _raised(error)
        return _say(message, BAD_INPUT if isinstance(error, MENDABLE) else FAILED)
    except Refused as error:
        return _say(_raised(error), BAD_INPUT)
    except Busy as error:
        return _say(str(error), INTERRUPTED)
    except KeyboardInterrupt:
        return _say("interrupted; the same command continues", CANCELLED)


def _print_what_can_be_shown() -> None:
    """Let nothing that is printed be an error, whatever the encoding of the terminal or the file is."""
    codecs.register_error("xceptlab", _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="xceptlab")


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(ASCII.get(character, "?") for character in error.object[error.start : error.end]), error.end


def _have_a_home() -> None:
    """Give libraries a folder for their caches, and a name, where the system knows no user of this number, as in containers."""
    try:
        Path.home()
    except RuntimeError:
        home = Path(tempfile.gettempdir()) / f"xceptlab-{os.getuid()}"
        home.mkdir(mode=0o700, exist_ok=True)
        if home.stat().st_uid != os.getuid():
            home = Path(tempfile.mkdtemp(prefix="xceptlab-"))
        os.environ["HOME"] = str(home)
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = str(os.getuid())


def _raised(error: Exception) -> str:
    """The message, without the traceback that a loader's worker puts before it."""
    return re.split(rf"\n(?:[\w.]+\.)?{type(error).__name__}: ", str(error))[-1]


def _say(message: str, code: int) -> int:
    say(message)
    return code


def _dispatch(argv: list[str]) -> int:
    layers, rest = _split(argv)
    options, unknown = _parser().parse_known_args(rest)
    if unknown:
        options.parser.refuse(unknown[0])
    return options.command(options, layers)


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    """The layers and overrides of a run's configuration, and everything else."""
    layers: list[str] = []
    rest: list[str] = []
    pieces = iter(argv)
    for piece in pieces:
        name = piece.split("=")[0]
        if name in ("-c", "--config", "--seed") or (name.startswith("--") and "." in name):
            layers += [piece, *itertools.islice(pieces, 0 if "=" in piece else 1)]
        elif name == "--print_config":
            layers.append(piece)
        else:
            rest.append(piece)
    return layers, rest


def _parser() -> _Parser:
    about = "Controlled ablation studies of Xception: one study file, one command, a statistically sound verdict."
    parser = _Parser(prog="xceptlab", description=about)
    parser.add_argument("--version", action="version", version=f"xceptlab {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(command: Callable[[argparse.Namespace, list[str]], int], **options: Any) -> argparse.ArgumentParser:
        """A command is named after its function, and its help is the docstring."""
        name, text = command.__name__, command.__doc__
        own = subparsers.add_parser(name, help=text, description=text, **options)
        own.set_defaults(command=command, main=main, parser=own)
        return own

    def add_seeds(own: argparse.ArgumentParser) -> None:
        few = (
            "a first look with the first N of the study's seeds: a study by itself (STUDY+seedsN), which shares its runs with it"
        )
        own.add_argument("--seeds", type=int, metavar="N", help=few)

    study = "a study's folder (with a study.yaml in it; docs/study.md explains its keys), its file, or the name of a shipped one"
    own = add(commands.study)
    own.add_argument("study", metavar="STUDY", help=study)
    own.add_argument("--jobs", type=int, metavar="N", help="runs at a time (default: as many as there are GPUs or cores for)")
    add_seeds(own)
    for command in (commands.plan, commands.status):
        own = add(command)
        own.add_argument("study", metavar="STUDY", help=study)
        add_seeds(own)
    own = add(commands.report)
    add_seeds(own)
    own.add_argument("studies", metavar="STUDY", nargs="+", help=f"{study}; several are compared on one page, too")
    own.add_argument("--publish", action="store_true", help="copy report.md, its figures and results.csv beside the study file")
    own.add_argument(
        "--format", choices=("html", "latex"), default="html", help="latex: report.tex too, the arms and claims as tables"
    )
    own = add(commands.judge)
    own.add_argument("scores", metavar="SCORES.csv", type=Path, help="columns arm, seed and one per metric, or metric and value")
    contrast = "arms a and b, for the claim that a is better than b, or equal; several are several claims"
    own.add_argument("--contrast", nargs=2, metavar=("A", "B"), action="append", help=contrast)
    own.add_argument("--kind", choices=("superior", "equivalent"), help="default: superior")
    own.add_argument("--margin", type=float, metavar="M", help="smallest difference that matters (default: 0)")
    own.add_argument("--metric", metavar="NAME", help="default: test/top1")
    own.add_argument("--statistic", choices=("mean", "median"), help="of the differences over seeds (default: mean)")
    own.add_argument(
        "--lower-is-better", action=argparse.BooleanOptionalAction, help="of this metric (default: if its name ends in loss)"
    )
    own.add_argument("--claims", metavar="FILE", help="in place of the above: YAML with claims, as those of a study, and alpha")
    own.add_argument("--arm-column", default="arm", metavar="NAME", help="the column that tells the arms apart (default: arm)")
    own.add_argument("--seed-column", default="seed", metavar="NAME", help="the column that pairs their runs (default: seed)")
    own.add_argument("--output", type=Path, metavar="DIR", help="write report.md and its figure there")
    own = add(commands.sync)
    own.add_argument("names", metavar="STUDY|RUN", nargs="+", help=f"{study}, with all its runs, or a run's folder or id")
    add_seeds(own)
    own = add(commands.train, add_help=False)
    own.add_argument("-h", "--help", action="store_true")
    weights = (
        "a run's folder or id, its model.safetensors, a checkpoint, a Keras or timm file of Xception, or timm's legacy_xception; "
        "-c gives the network of a lone file"
    )
    own = add(commands.evaluate)
    own.add_argument("weights", metavar="RUN", help=weights)
    own.add_argument("--split", choices=("test", "val"), default="test", help="images to evaluate on (default: test)")
    own = add(commands.export)
    own.add_argument("weights", metavar="RUN", help=weights)
    output = "file to write: .onnx (checked against onnxruntime), .pt2 (torch.export) or .safetensors (timm's layout)"
    own.add_argument("output", metavar="OUTPUT", help=output)
    own = add(commands.data)
    action = "check: counts, classes, and whether images decode; prepare: write what data.short_side reads, or continue to"
    own.add_argument("action", metavar="{check,prepare}", choices=("check", "prepare"), help=action)
    everything = "check decodes every image, not 200 of each split, and verifies every checksum of prepared ones"
    own.add_argument("--all", action="store_true", help=everything)
    own = add(commands.bench)
    own.add_argument("name", metavar="NAME", nargs="?", help=", ".join(commands.benchmarks()) or "there are none here")
    own.add_argument("arguments", nargs=argparse.REMAINDER, help="its own arguments")
    own = add(commands.describe)
    own.add_argument("run", metavar="RUN", nargs="?", help="a run's folder or id, whose network is shown")
    own.add_argument("--depth", type=int, default=3, metavar="N", help="levels of modules to show (default: 3)")
    own.add_argument(
        "--compare", nargs=2, metavar=("A", "B"), help="show the networks of two configuration files or runs side by side"
    )
    return parser
