"""The command line. Nothing heavy is imported before a command needs it.

Exit codes: 0 done, 1 a run failed or the disk is full, 2 bad input, 75 interrupted by a signal and to be continued by the same
command, 130 interrupted by the user.
"""

import argparse
import ast
import codecs
import dataclasses
import difflib
import getpass
import io
import itertools
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from xceptlab import __version__, shipped
from xceptlab.errors import Refused
from xceptlab.interruption import BAD_INPUT, CANCELLED, FAILED, INTERRUPTED, Interrupted, Requests
from xceptlab.leases import Busy
from xceptlab.loading import keys, load_run, overrides, synonyms
from xceptlab.records import RunDirectory
from xceptlab.schema import DataConfig, RunConfig
from xceptlab.text import say
from xceptlab.world import World

if TYPE_CHECKING:
    from xceptlab.models.cost import Row
    from xceptlab.report.summary import Summary
    from xceptlab.study import Expansion

MENDABLE = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)

EXPORTS = (".onnx", ".pt2", ".safetensors")

ASCII = {"–": "-", "—": "-", "−": "-", "→": "->", "×": "x", "±": "+/-", "≤": "<=", "≥": ">=", "…": "...", "’": "'"}
"""What stands for a character where a terminal or a file cannot show it; a question mark for all others."""

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

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
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(command: Callable[[argparse.Namespace, list[str]], int], **options: Any) -> argparse.ArgumentParser:
        """A command is named after its function, and its help is the docstring."""
        name, text = command.__name__.removeprefix("_"), command.__doc__
        own = commands.add_parser(name, help=text, description=text, **options)
        own.set_defaults(command=command, parser=own)
        return own

    def add_seeds(own: argparse.ArgumentParser) -> None:
        few = (
            "a first look with the first N of the study's seeds: a study by itself (STUDY+seedsN), which shares its runs with it"
        )
        own.add_argument("--seeds", type=int, metavar="N", help=few)

    study = "a study's folder (with a study.yaml in it; docs/study.md explains its keys), its file, or the name of a shipped one"
    own = add(_study)
    own.add_argument("study", metavar="STUDY", help=study)
    own.add_argument("--jobs", type=int, metavar="N", help="runs at a time (default: as many as there are GPUs or cores for)")
    add_seeds(own)
    for command in (_plan, _status):
        own = add(command)
        own.add_argument("study", metavar="STUDY", help=study)
        add_seeds(own)
    own = add(_report)
    add_seeds(own)
    own.add_argument("studies", metavar="STUDY", nargs="+", help=f"{study}; several are compared on one page, too")
    own.add_argument("--publish", action="store_true", help="copy report.md, its figures and results.csv beside the study file")
    own.add_argument(
        "--format", choices=("html", "latex"), default="html", help="latex: report.tex too, the arms and claims as tables"
    )
    own = add(_judge)
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
    own = add(_sync)
    own.add_argument("names", metavar="STUDY|RUN", nargs="+", help=f"{study}, with all its runs, or a run's folder or id")
    add_seeds(own)
    own = add(_train, add_help=False)
    own.add_argument("-h", "--help", action="store_true")
    weights = (
        "a run's folder or id, its model.safetensors, a checkpoint, a Keras or timm file of Xception, or timm's legacy_xception; "
        "-c gives the network of a lone file"
    )
    own = add(_evaluate)
    own.add_argument("weights", metavar="RUN", help=weights)
    own.add_argument("--split", choices=("test", "val"), default="test", help="images to evaluate on (default: test)")
    own = add(_export)
    own.add_argument("weights", metavar="RUN", help=weights)
    output = "file to write: .onnx (checked against onnxruntime), .pt2 (torch.export) or .safetensors (timm's layout)"
    own.add_argument("output", metavar="OUTPUT", help=output)
    own = add(_data)
    action = "check: counts, classes, and whether images decode; prepare: write what data.short_side reads, or continue to"
    own.add_argument("action", metavar="{check,prepare}", choices=("check", "prepare"), help=action)
    everything = "check decodes every image, not 200 of each split, and verifies every checksum of prepared ones"
    own.add_argument("--all", action="store_true", help=everything)
    own = add(_bench)
    own.add_argument("name", metavar="NAME", nargs="?", help=", ".join(_benchmarks()) or "there are none here")
    own.add_argument("arguments", nargs=argparse.REMAINDER, help="its own arguments")
    own = add(_describe)
    own.add_argument("run", metavar="RUN", nargs="?", help="a run's folder or id, whose network is shown")
    own.add_argument("--depth", type=int, default=3, metavar="N", help="levels of modules to show (default: 3)")
    own.add_argument(
        "--compare", nargs=2, metavar=("A", "B"), help="show the networks of two configuration files or runs side by side"
    )
    return parser


def _study(options: argparse.Namespace, layers: list[str]) -> int:
    """Run what is missing of a study and report the verdicts."""
    from xceptlab.report.summary import read_records
    from xceptlab.verdict import grown

    expansion = _expand(options.study, layers, options.seeds)
    if options.jobs is not None and options.jobs < 1:
        raise Refused(f"--jobs: {options.jobs} is not allowed; it must be at least 1")
    if None in read_records(expansion).values():
        _networks(expansion)
    from xceptlab.launch.study import run_missing
    from xceptlab.mirror import chosen
    from xceptlab.report.terminal import show_summary

    failed = run_missing(expansion, options.jobs, main)
    while not failed and (more := grown(expansion, read_records)).look > expansion.look:  # until every claim is decided
        expansion = more
        failed = run_missing(expansion, options.jobs, main)
    summary = _write(expansion)
    show_summary(summary)
    for run_id, log in failed.items():
        say(f"{run_id}: see {log}", "failed")  # the summary has the reasons
    try:
        if summary.links and chosen(next(iter(expansion.arms.values())).runtime) == "online":
            _sync_study(summary)
    except Refused as error:
        _warn([error])
    return FAILED if failed else 0


def _plan(options: argparse.Namespace, layers: list[str]) -> int:
    """Show what a study would run and how its arms differ; trains nothing."""
    expansion = _expand(options.study, layers, options.seeds)
    networks = _networks(expansion)
    from xceptlab.report.terminal import show_plan

    show_plan(expansion, networks)
    from xceptlab.data import identity, locate
    from xceptlab.report.summary import read_records

    records = read_records(expansion)
    changes = identity.changes((run, records[key]) for key, run in expansion.runs().items())
    _warn(f"the data here are not those that the runs were trained on: {change}" for change in changes)
    data = next(iter(expansion.arms.values())).data
    if not data.download:  # which would be done here and now
        try:
            locate(data)
        except Refused as error:
            _warn([error])
    return 0


def _status(options: argparse.Namespace, layers: list[str]) -> int:
    """Show how far a study is, live in a terminal; from any machine that sees its outputs."""
    from xceptlab.launch.status import show

    show(_expand(options.study, layers, options.seeds))
    return 0


def _report(options: argparse.Namespace, layers: list[str]) -> int:
    """Judge the records there are and write the report; trains nothing."""
    from xceptlab.report.terminal import show_summary
    from xceptlab.report.write import publish, write_comparison
    from xceptlab.study import locate

    expansions = [_expand(study, layers, options.seeds) for study in options.studies]
    summaries = [_write(expansion, latex=options.format == "latex") for expansion in expansions]
    for study, summary in zip(options.studies, summaries, strict=True):
        show_summary(summary)
        if options.format == "latex":
            print(f"LaTeX: {summary.expansion.directory() / 'report.tex'}")
        if options.publish:
            folder = locate(study).parent
            publish(summary, folder)
            print(f"Published to {folder}")
    if len(summaries) > 1:
        print(f"Comparison: {write_comparison(summaries)}")
    return 0


def _judge(options: argparse.Namespace, layers: list[str]) -> int:
    """Judge scores that any other tool made, from a CSV file."""
    from xceptlab.loading import load_file
    from xceptlab.report.terminal import show_verdicts
    from xceptlab.report.write import write_judged
    from xceptlab.scores import ClaimsFile, ScoreClaim, judge_scores

    if layers:
        raise Refused(f"{layers[0]}: there is no run to configure; see xceptlab judge --help")
    if bool(options.claims) == bool(options.contrast):
        raise Refused("judge: either --contrast A B or --claims FILE says what is claimed")
    of_contrasts = {name: getattr(options, name) for name in ("kind", "margin", "metric", "statistic", "lower_is_better")}
    given = {name: value for name, value in of_contrasts.items() if value is not None}
    if options.claims:
        if given:
            raise Refused(f"--{next(iter(given)).replace('_', '-')}: not allowed with --claims, whose file says it of each claim")
        claimed = load_file(ClaimsFile, options.claims)
    else:
        common: dict[str, Any] = {"kind": "superior", "metric": "test/top1", "margin": 0.0} | given
        claims = [ScoreClaim(id=f"{a} {common['kind']} {b}", contrast=(a, b), **common) for a, b in options.contrast]
        claimed = ClaimsFile(claims=claims)
    verdicts = judge_scores(options.scores, claimed.claims, claimed.alpha, options.arm_column, options.seed_column)
    show_verdicts(verdicts)
    if options.output:
        print(f"Report: {write_judged(options.scores, verdicts, options.output)}")
    return 0


def _sync(options: argparse.Namespace, layers: list[str]) -> int:
    """Send runs and studies to Weights & Biases: what ran offline, or what it lacks; trains nothing."""
    from xceptlab.mirror import check_key, sync

    outputs = Path(load_run(layers, "sync").runtime.outputs)
    runtime = [f"--{key}={value}" for key, value in overrides(layers) if key.startswith("runtime.")]  # else a run is as it was
    check_key()
    code = 0
    for name in options.names:
        candidates = (Path(name), RunDirectory.of(str(outputs), name).path)
        path = next((path for path in candidates if (path / "config.yaml").is_file()), None)
        if path and options.seeds is not None:
            raise Refused(f"--seeds: {options.seeds} is not allowed with the run {name}; a first look is one at a study")
        expansion = None if path else _expand(_study_named(name, outputs), layers, options.seeds)
        runs = expansion.runs().values() if expansion else []
        paths = [path] if path else [RunDirectory.of(run.runtime.outputs, run.run_id).path for run in runs]
        for run in [run for run in paths if (run / "metrics.jsonl").is_file()]:
            try:
                config = load_run(["-c", str(run / "config.yaml"), *runtime], "sync")
                print(f"{run.name}: {sync(config, RunDirectory(run))}", flush=True)
            except (Busy, Refused) as error:  # the others can be sent all the same
                code = _say(str(error), BAD_INPUT)
        if expansion:
            _sync_study(_write(expansion))
    return code


def _study_named(name: str, outputs: Path) -> str:
    from xceptlab.study import locate

    try:
        return str(locate(name))
    except Refused:
        raise Refused(f"{name}: neither a study nor a run under {outputs / 'runs'}") from None


def _train(options: argparse.Namespace, layers: list[str]) -> int:
    """Train, evaluate and record one run."""
    config = load_run([*layers, *(["--help"] if options.help else [])])
    world = World.join(config.runtime)
    from xceptlab.data import locate, resolved

    locate(config.data)
    config = resolved(config)
    directory = RunDirectory.of(config.runtime.outputs, config.run_id)
    with Requests(tells=world.first):  # a signal may come before all is loaded
        from xceptlab.train import train

        if world.first:
            _warn(_few_images(config.data))
        trained = directory.record() is not None
        try:
            record = train(config, progress=sys.stderr.isatty())
        except Busy as error:
            raise Busy(f"{error}{world.why_busy}") from None
    scores = ", ".join(f"{name} {value:.4g}" for name, value in record.metrics.items())
    if world.first:
        print(f"{directory.path}: {scores or record.status}{' (was trained before)' if trained else ''}")
    return 0


def _evaluate(options: argparse.Namespace, layers: list[str]) -> int:
    """Evaluate a run or a checkpoint on a split."""
    config, weights = _trained(options.weights, layers, "evaluate")
    world = World.join(config.runtime)
    from xceptlab.data import locate

    locate(config.data)
    config = _evaluated(config, weights)
    from xceptlab.train import evaluate

    given = {key for key, _ in overrides(layers)}
    scores = evaluate(config, weights, options.split, given)
    if world.first:
        for name, value in scores.items():
            print(f"{name} {value:.6g}")
    return 0


def _export(options: argparse.Namespace, layers: list[str]) -> int:
    """Write a run's network for other tools."""
    output = Path(options.output)
    if output.suffix not in EXPORTS:
        raise Refused(f"{output}: the suffix must be one of {', '.join(EXPORTS)}")
    config, weights = _trained(options.weights, layers, "export")
    from xceptlab.export import export

    print(export(_with_classes(config), weights, output))
    return 0


def _data(options: argparse.Namespace, layers: list[str]) -> int:
    """Check a data set as a run would use it, or prepare reduced photographs (data.short_side)."""
    config = load_run(layers, "data")
    warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than cores do no harm
    if options.action == "prepare":
        return _prepare(config)
    from rich.console import Console
    from rich.table import Table

    from xceptlab.data.check import Counts, Remark, check
    from xceptlab.data.identity import resolved_data

    view = Table("split", "images", "classes", "smallest class", "largest class")
    wrong = 0
    data = resolved_data(config.data)
    for found in check(data, options.all, config.runtime.workers):
        if isinstance(found, Counts):
            images = f"{found.images:,}" + (f" of {found.available:,}" if found.images < found.available else "")
            view.add_row(found.split, images, *(f"{size:,}" for size in (found.classes, found.smallest, found.largest)))
            _warn(found.notes)
        elif isinstance(found, Remark):
            _warn([found.text])
        else:
            say(found)
            wrong += 1
    if view.rows:
        print(f"{data.splits()}.")
        Console().print(view)
    print(f"Faults: {wrong}" if wrong else f"All {'' if options.all else 'sampled '}images decode.")
    return BAD_INPUT if wrong else 0


def _prepare(config: RunConfig) -> int:
    if not config.data.short_side:
        raise Refused("data.short_side: 0 is not allowed; to prepare, it must be the pixels wanted, such as 256")
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from xceptlab.data.imagenet import prepared
    from xceptlab.data.prepare import prepare

    with Progress("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as view:
        task = view.add_task("Photographs", total=None)
        for done, total in prepare(config.data, config.runtime.workers):
            view.update(task, completed=done, total=total)
    print(f"Prepared in {prepared(config.data)}; `xceptlab data check --all` with the same options verifies every checksum.")
    return 0


def _bench(options: argparse.Namespace, layers: list[str]) -> int:
    """Measure on this machine: run a program of benchmarks/ in the repository; without a name, list them."""
    import runpy

    if not _benchmarks():
        raise Refused(f"bench: the benchmarks are in the repository, not in the installed package: no {BENCHMARKS}")
    if not options.name:
        for name in _benchmarks():
            print(f"{name:22}{_about(name).splitlines()[0]}")
        return 0
    if options.name not in _benchmarks():
        meant = difflib.get_close_matches(options.name, _benchmarks(), n=1)
        there = f"did you mean {meant[0]}?" if meant else f"there are {', '.join(_benchmarks())}"
        raise Refused(f"{options.name}: no such benchmark; {there}")
    if {"-h", "--help"} & {*options.arguments}:
        print(_about(options.name))
        if "argparse" not in (BENCHMARKS / f"{options.name}.py").read_text("utf-8"):  # it would run, or show another's help
            return 0
    sys.argv = [options.name, *options.arguments, *layers]
    sys.path.insert(0, str(BENCHMARKS))  # as if it were run by its file's name
    runpy.run_path(str(BENCHMARKS / f"{options.name}.py"), run_name="__main__")
    return 0


def _benchmarks() -> list[str]:
    """The programs; what they share is in files whose names begin with ``_``."""
    return sorted(file.stem for file in BENCHMARKS.glob("[!_]*.py"))


def _about(name: str) -> str:
    """What a benchmark's file says of itself."""
    return ast.get_docstring(ast.parse((BENCHMARKS / f"{name}.py").read_text("utf-8"))) or "it does not say what it measures"


def _describe(options: argparse.Namespace, layers: list[str]) -> int:
    """Show the network as a table: modules, output shapes, parameters, multiply-accumulates."""
    from xceptlab.describe import compare, describe

    if options.compare:
        if options.run:
            raise Refused(f"--compare: shows two networks side by side; {options.run} is a third")
        files = [_configuration(name, layers) for name in options.compare]
        a, b = (_with_classes(load_run([*layers, "-c", file], "describe")) for file in files)
        compare(a, b, options.compare)
    elif options.run:
        config = load_run(["-c", _configuration(options.run, layers), *layers], "describe")
        describe(_with_classes(config), options.depth)
    else:
        describe(_with_classes(load_run(layers, "describe")), options.depth)
    return 0


def _configuration(name: str, layers: list[str]) -> str:
    """The configuration file that a run's folder or id, or the file itself, names."""
    path = _found(name, layers, "describe")
    if not path.exists():
        raise Refused(f"{name}: neither a configuration file nor a run under {path.parent}")
    return str(path / "config.yaml" if path.is_dir() else path)


def _found(name: str, layers: list[str], command: str) -> Path:
    """The file or folder of this name, or else where the run of this id is or would be."""
    path = shipped.find(name)
    if path.exists():
        return path
    return RunDirectory.of(load_run(layers, command).runtime.outputs, name).path


def _expand(path: str, layers: list[str], seeds: int | None = None) -> "Expansion":
    """A study with its arms resolved, their widths solved where they are to match a budget, and the seeds it needs by now."""
    from xceptlab.estimands import refuse_too_few_seeds
    from xceptlab.report.summary import read_records
    from xceptlab.study import expand, locate, refuse_namesake
    from xceptlab.verdict import grown

    expansion = expand(path, layers, seeds)
    if not expansion.planned:  # a first look decides nothing anyway
        refuse_too_few_seeds(expansion.study, locate(path))
    if next(iter(expansion.arms.values())).model.match != "none":
        from xceptlab.control import matched

        expansion = matched(expansion)
    refuse_namesake(expansion)
    return grown(expansion, read_records)


def _networks(expansion: "Expansion") -> "dict[str, list[Row]]":
    """Every arm's module tree, refused where it is not controlled and with a warning where it shows no difference."""
    from xceptlab.control import trees, twins

    found = trees(expansion)
    sets = dict.fromkeys(arm.data for arm in expansion.arms.values())
    lacking = [line for data in sets for line in [*_few_images(data), *_absent_classes(data)]]
    _warn([*twins(expansion, found), *dict.fromkeys(lacking)])
    return found


def _few_images(data: DataConfig) -> list[str]:
    """Splits that are known to have fewer images than there are classes."""
    splits = zip(("training", "validation", "test"), data.images(), strict=True)
    return [f"{count} {split} images for {data.classes} classes" for split, count in splits if 0 < count < data.classes]


def _absent_classes(data: DataConfig) -> list[str]:
    """Classes of which a split of an own data set has no image; none where the files are not here, which others say."""
    from xceptlab.data.check import absent_classes

    if data.name == "folder":
        with suppress(Refused):
            return list(absent_classes(dataclasses.replace(data, download=False)))
    return []


def _warn(lines: Iterable[object]) -> None:
    for line in lines:
        say(line, "Warning")


def _trained(name: str, layers: list[str], command: str) -> "tuple[RunConfig, Path | str]":
    """The configuration and the weights of a run's folder or id, of a file, or of timm's Xception by its name."""
    path = _found(name, layers, command)
    if not path.exists():
        if name.split(".")[0].endswith("xception"):
            return load_run(layers, command), name
        raise Refused(f"{name}: neither a file, a folder, a run under {path.parent} nor timm's legacy_xception")
    weights = path / "model.safetensors" if path.is_dir() else path
    if not weights.is_file():
        raise Refused(f"{path}: not the folder of a run that is done; there is no model.safetensors in it")
    own = next((folder / "config.yaml" for folder in weights.parents[:2] if (folder / "config.yaml").is_file()), None)
    one_device = ["--runtime.devices=1", "--runtime.num_nodes=1", "--runtime.accelerator=auto"]  # whatever the run had
    return load_run([*(["-c", str(own)] if own else []), *one_device, *layers], command), weights


def _evaluated(config: RunConfig, weights: Path | str) -> RunConfig:
    """The configuration to evaluate with; other data than those of the training are allowed, and pointed out."""
    from xceptlab.data import identity

    data = identity.resolved_data(dataclasses.replace(config.data, content=""))
    here = dataclasses.replace(config, data=data)
    parents = Path(weights).parents[:2]
    record = next((found for folder in parents if (found := RunDirectory(folder).record())), None)
    if record is None:
        return here
    difference = identity.changed(here.data, record)
    science = here.science()
    if not difference and any(science[key] != record.science.get(key, "") for key in ("data.name", "data.content")):
        difference = f"the run was trained on {record.science['data.name']} {record.science.get('data.content', '')}".rstrip()
        difference += f", {here.data.root} holds {here.data.name} {here.data.content}".rstrip()
    names = identity.class_names(here.data)
    if record.classes and names and [*names] != record.classes:
        difference += (
            f"; of other classes: {', '.join(names)[:100]} in place of {', '.join(record.classes)[:100]}, by their order"
        )
    if difference:
        _warn([f"other data than the run was trained on: {difference.removeprefix('; ')}"])
    return here


def _with_classes(config: RunConfig) -> RunConfig:
    """A configuration whose number of classes is known: of an own data set the files tell, which are looked at only for that."""
    from xceptlab.data.identity import resolved_data

    return config if config.data.num_classes else dataclasses.replace(config, data=resolved_data(config.data))


def _write(expansion: "Expansion", latex: bool = False) -> "Summary":
    """Write a study's report.

    Raises:
        Refused: There is nothing to report, perhaps because the outputs are elsewhere.
    """
    from xceptlab.report.summary import summarise
    from xceptlab.report.write import write_report
    from xceptlab.study import remember_files

    if nothing := expansion.nothing_found():
        raise Refused(nothing)
    summary = summarise(expansion)
    remember_files(expansion)
    write_report(summary, latex)
    return summary


def _sync_study(summary: "Summary") -> None:
    from xceptlab.report.write import sync

    print(f"{summary.expansion.name}: {sync(summary)}")
