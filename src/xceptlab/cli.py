"""The command line: the parser of all commands, and ``main``, which turns errors and signals into
the exit codes of ``errors``.

Nothing heavy is imported before a command needs it.
"""

import argparse
import codecs
import difflib
import errno
import getpass
import inspect
import io
import itertools
import os
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from xceptlab import __version__, register
from xceptlab.commands import bench, data, run, study
from xceptlab.config.field_errors import synonyms
from xceptlab.config.fields import keys
from xceptlab.config.schema import RunConfig
from xceptlab.errors import BAD_INPUT, CANCELLED, FAILED, INTERRUPTED, Interrupted, Refused
from xceptlab.runs.leases import Busy
from xceptlab.text import number, say, whole_number

MENDABLE = (
    FileNotFoundError,
    FileExistsError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
)
"""Errors of the operating system that the user can mend, and that end with ``BAD_INPUT``, as does a
file's name that is too long; any other, such as a full disk, ends with ``FAILED``.
"""

ASCII = {
    "–": "-",
    "—": "-",
    "−": "-",
    "→": "->",
    "×": "x",
    "±": "+/-",
    "≤": "<=",
    "≥": ">=",
    "…": "...",
    "’": "'",
}
"""ASCII text that is printed in place of a character which the terminal's or the file's encoding
lacks. A question mark stands for characters that are not listed.
"""

LAYERS = """\
Every field of a run can be layered and overridden: -c FILE (repeatable, the last wins), --train.lr 0.05, --runtime.outputs DIR.
`xceptlab train --help` lists the fields; `xceptlab train ... --print_config` shows the result."""


class _Parser(argparse.ArgumentParser):
    """A parser that raises its errors as ``Refused``, with a suggestion for a misspelt choice."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            epilog=LAYERS,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            **options,
        )

    def error(self, message: str) -> NoReturn:
        choice = re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message)
        similar = []
        if choice:
            allowed = re.findall(r"[\w.-]+", choice[2])
            similar = difflib.get_close_matches(choice[1], allowed, n=1)
        raise Refused(f"{message}; {self._hint(similar)}")

    def _hint(self, similar: list[str]) -> str:
        """Return the end of an error message: a question whether the first of the ``similar`` words
        was meant, or a pointer to the command's help where there are none.
        """
        if similar:
            return f"did you mean {similar[0]}?"
        return f"see {self.prog} --help"

    def refuse(self, unknown: str) -> NoReturn:
        """Refuse an argument that this command does not know; the message suggests the option or
        the key of a run's configuration that was probably meant, or else names the command's help.

        Raises:
            Refused: Always.
        """
        word = unknown.split("=")[0]
        known = keys(RunConfig)
        similar = []
        if word.startswith("--"):
            similar = [f"--{key}" for key in synonyms(word.removeprefix("--"), known)]
            options = [*self._option_string_actions, *(f"--{key}" for key in known)]
            similar += difflib.get_close_matches(word, options, n=1)
            similar = [one for one in similar if one != word]
        raise Refused(f"{unknown}: no such argument; {self._hint(similar)}")


def console() -> NoReturn:
    """Run the command line and end the process: the entry point of ``xceptlab`` and
    ``python -m xceptlab``.
    """
    sys.exit(main(sys.argv[1:]))


def main(argv: list[str]) -> int:
    """Run a command and return its exit code: 0, or one of those in ``errors``.

    What the user can mend, what the operating system refuses and a request to stop are said in one
    line on standard error; only a pipe that its reader has closed ends the command without a word,
    with ``FAILED``. Any other error is a defect of this program: it is raised and keeps its
    traceback. So is an error of the operating system about a file of this package.

    Args:
        argv: The arguments of the command line, without the program's name.

    Raises:
        SystemExit: The command ends the process itself, as ``--help`` and ``--print_config`` do,
            and as the program of a benchmark may.
    """
    _replace_characters_that_cannot_be_shown()
    _have_a_home()
    try:
        return _dispatch(argv)
    except BrokenPipeError:
        return FAILED
    except Interrupted as error:
        return _say(str(error), INTERRUPTED)
    except OSError as error:
        if _is_of_this_package(error.filename):
            raise
        message = f"{error.filename}: {error.strerror}" if error.filename else _raised(error)
        is_mendable = isinstance(error, MENDABLE) or error.errno == errno.ENAMETOOLONG
        return _say(message, BAD_INPUT if is_mendable else FAILED)
    except Refused as error:
        return _say(_raised(error), BAD_INPUT)
    except Busy as error:
        return _say(str(error), INTERRUPTED)
    except SystemExit as error:
        # Its exit code would be this program's, and 0 would say that all is done.
        culprit = register.that_raised(error, register.all_loaded())
        if culprit is None:
            raise
        return _say(str(culprit.failure(error)), BAD_INPUT)
    except KeyboardInterrupt:
        return _say("interrupted; the same command continues", CANCELLED)


def _replace_characters_that_cannot_be_shown() -> None:
    """Let standard output and standard error print ``ASCII`` text for characters that their
    encoding lacks. By default Python raises a ``UnicodeEncodeError`` on the former, and prints
    escapes such as ``\\u2013`` on the latter.
    """
    codecs.register_error("xceptlab", _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="xceptlab")


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    """Return ASCII text for characters that cannot be encoded, and the position after them, as
    ``codecs.register_error`` wants it of a handler. An error of decoding is raised again.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(ASCII.get(character, "?") for character in lacking), error.end


def _have_a_home() -> None:
    """Set HOME to a temporary folder where the user's home cannot be found, and LOGNAME to the
    user's number where the user's name cannot, as in containers whose system does not know the user
    of this process.

    Libraries ask for a user's name and for a folder for their caches.
    """
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


def _is_of_this_package(file: object) -> bool:
    """Whether a file is one that is installed with this package, which no user can mend; False for
    what is no path, such as an error's ``filename`` that is None.
    """
    if not isinstance(file, str | Path):
        return False
    return Path(os.path.realpath(file)).is_relative_to(Path(os.path.realpath(__file__)).parent)


def _raised(error: Exception) -> str:
    """Return an error's message, without the traceback that torch's ``DataLoader`` puts before the
    message of an error in a worker.
    """
    return re.split(rf"\n(?:[\w.]+\.)?{type(error).__name__}: ", str(error))[-1]


def _say(message: str, code: int) -> int:
    """Print the message of an error on standard error, and return ``code``."""
    say(message)
    return code


def _dispatch(argv: list[str]) -> int:
    """Parse the arguments, run the command that they name, and return its exit code. Whatever the
    command raises is passed on.

    Raises:
        Refused: An argument is unknown, missing or wrong, or the command refuses its input.
        SystemExit: ``--help`` or ``--version`` is among the arguments, or the command exits.
    """
    layers, rest = _split(argv)
    options, unknown = _parser().parse_known_args(rest)
    if unknown:
        options.parser.refuse(unknown[0])
    return options.command(options, layers)


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    """Split the command line's arguments in two.

    Returns:
        The arguments that make a run's configuration, such as ``-c FILE``, ``--seed 1`` and
        ``--train.lr 0.05``, and with them ``--print_config``; and all other arguments, which are
        left to the parser.
    """
    layers: list[str] = []
    rest: list[str] = []
    pieces = iter(argv)
    for piece in pieces:
        name = piece.split("=")[0]
        if name in ("-c", "--config", "--seed", "--extensions") or (
            name.startswith("--") and "." in name
        ):
            layers += [piece, *itertools.islice(pieces, 0 if "=" in piece else 1)]
        elif name == "--print_config":
            layers.append(piece)
        else:
            rest.append(piece)
    return layers, rest


STUDY_HELP = "a study's folder (with a study.yaml in it; docs/study.md explains its keys), its file, or the name of a shipped one"
WEIGHTS_HELP = (
    "a run's folder or id, its model.safetensors, a checkpoint, a Keras or timm file of Xception, or timm's legacy_xception; "
    "-c gives the network of a lone file"
)

Command = Callable[[argparse.Namespace, list[str]], int]


def _parser() -> _Parser:
    """Make the parser of all commands."""
    about = "Controlled ablation studies of Xception: one study file, one command, a statistically sound verdict."
    parser = _Parser(prog="xceptlab", description=about)
    parser.add_argument("--version", action="version", version=f"xceptlab {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(command: Command, **options: Any) -> argparse.ArgumentParser:
        """Add a command to the parser, with the name of its function and its docstring as help, and
        return the command's own parser.
        """
        name = command.__name__
        text = inspect.cleandoc(command.__doc__ or "")
        added = subparsers.add_parser(name, help=text, description=text, **options)
        added.set_defaults(command=command, main=main, parser=added)
        return added

    _add_study_arguments(add(study.study))
    _add_study_and_seeds(add(study.plan))
    _add_study_and_seeds(add(study.status))
    _add_report_arguments(add(study.report))
    _add_judge_arguments(add(study.judge))
    _add_sync_arguments(add(study.sync))
    _add_train_arguments(add(run.train, add_help=False))
    _add_evaluate_arguments(add(run.evaluate))
    _add_export_arguments(add(run.export))
    _add_data_arguments(add(data.data))
    _add_bench_arguments(add(bench.bench))
    _add_describe_arguments(add(run.describe))
    return parser


# ---- arguments of several commands ---------------------------------------------------------------


def _whole_number(text: str) -> int:
    """Parse an option's whole number.

    Raises:
        argparse.ArgumentTypeError: The text is no whole number. argparse catches this error and
            puts its message after the option's name.
    """
    try:
        return whole_number(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None


def _add_study_and_seeds(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", metavar="STUDY", help=STUDY_HELP)
    _add_seeds(parser)


def _add_seeds(parser: argparse.ArgumentParser) -> None:
    first_look = (
        "take a first look, with the first N of the study's seeds: it is judged as a study by itself "
        "(STUDY+seedsN), decides no claim of the whole study, and shares its runs with it"
    )
    parser.add_argument("--seeds", type=_whole_number, metavar="N", help=first_look)


def _add_calibrate(parser: argparse.ArgumentParser) -> None:
    simulate = (
        "simulate such studies, with differences drawn from these, and say how often their verdicts "
        "are wrong (some seconds)"
    )
    parser.add_argument("--calibrate", action="store_true", help=simulate)


# ---- arguments of one command --------------------------------------------------------------------


def _add_study_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", metavar="STUDY", help=STUDY_HELP)
    at_a_time = "runs at a time (default: as many as there are GPUs or cores for)"
    parser.add_argument("--jobs", type=_whole_number, metavar="N", help=at_a_time)
    _add_seeds(parser)


def _add_report_arguments(parser: argparse.ArgumentParser) -> None:
    _add_seeds(parser)
    parser.add_argument(
        "studies",
        metavar="STUDY",
        nargs="+",
        help=f"{STUDY_HELP}; several are compared on one page, too",
    )
    parser.add_argument(
        "--publish",
        action="store_true",
        help="copy report.md, its figures, results.csv and the registration beside the study",
    )
    _add_calibrate(parser)
    latex = "latex: report.tex too, the arms and claims as tables"
    parser.add_argument("--format", choices=("html", "latex"), default="html", help=latex)


def _add_judge_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "scores",
        metavar="SCORES.csv",
        type=Path,
        help="columns arm, seed and one per metric, or metric and value",
    )
    contrast = (
        "arms a and b, for the claim that a is better than b, or equal; several are several claims"
    )
    add("--contrast", nargs=2, metavar=("A", "B"), action="append", help=contrast)
    add("--kind", choices=("superior", "equivalent"), help="default: superior")
    add("--margin", type=number, metavar="M", help="smallest difference that matters (default: 0)")
    add("--metric", metavar="NAME", help="default: test/top1")
    add(
        "--alpha",
        type=number,
        metavar="A",
        help="chance of any false supported, and of any false contradicted, over all contrasts (default: 0.05)",
    )
    add(
        "--statistic",
        choices=("mean", "median"),
        help="of the differences over seeds (default: mean)",
    )
    pairing = "seed: equal seeds form pairs; none: the arms have nothing in common (default: seed)"
    add("--pairing", choices=("seed", "none"), help=pairing)
    lower_is_better = "of this metric (default: if its name ends in loss; has to be said of error, rmse and the like)"
    add("--lower-is-better", action=argparse.BooleanOptionalAction, help=lower_is_better)
    add(
        "--claims",
        metavar="FILE",
        help="in place of the above: YAML with claims, as those of a study, and alpha",
    )
    add(
        "--arm-column",
        default="arm",
        metavar="NAME",
        help="the column that tells the arms apart (default: arm)",
    )
    add(
        "--seed-column",
        default="seed",
        metavar="NAME",
        help="the column that pairs their runs (default: seed)",
    )
    _add_calibrate(parser)
    add("--output", type=Path, metavar="DIR", help="write report.md and its figure there")


def _add_sync_arguments(parser: argparse.ArgumentParser) -> None:
    names = f"{STUDY_HELP}, with all its runs, or a run's folder or id"
    parser.add_argument("names", metavar="STUDY|RUN", nargs="+", help=names)
    _add_seeds(parser)


def _add_train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-h", "--help", action="store_true")


def _add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("weights", metavar="RUN", help=WEIGHTS_HELP)
    parser.add_argument(
        "--split",
        choices=("test", "val"),
        default="test",
        help="images to evaluate on (default: test)",
    )


def _add_export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("weights", metavar="RUN", help=WEIGHTS_HELP)
    output = "file to write: .onnx (checked against onnxruntime), .pt2 (torch.export) or .safetensors (timm's layout)"
    parser.add_argument("output", metavar="OUTPUT", help=output)


def _add_data_arguments(parser: argparse.ArgumentParser) -> None:
    action = "check: counts, classes, and whether images decode; prepare: write what data.short_side reads, or continue to"
    parser.add_argument(
        "action", metavar="{check,prepare}", choices=("check", "prepare"), help=action
    )
    everything = "check decodes every image, not 200 of each split, and verifies every checksum of prepared ones"
    parser.add_argument("--all", action="store_true", help=everything)


def _add_bench_arguments(parser: argparse.ArgumentParser) -> None:
    names = ", ".join(bench.benchmarks()) or "there are none here"
    parser.add_argument("name", metavar="NAME", nargs="?", help=names)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="its own arguments")


def _add_describe_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run", metavar="RUN", nargs="?", help="a run's folder or id, whose network is shown"
    )
    parser.add_argument(
        "--depth",
        type=_whole_number,
        metavar="N",
        help=f"levels of modules to show (default: {run.DEPTH})",
    )
    side_by_side = "show the networks of two configuration files or runs side by side"
    parser.add_argument("--compare", nargs=2, metavar=("A", "B"), help=side_by_side)
