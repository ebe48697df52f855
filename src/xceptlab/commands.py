"""The commands: a function for each, whose docstring is its help.

A command takes the parsed options and the layers of a run's configuration, and returns the exit code. Nothing heavy is imported
before a command needs it.
"""

import argparse
import ast
import dataclasses
import difflib
import sys
import warnings
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from xceptlab.config import shipped
from xceptlab.config.loading import load_run, overrides
from xceptlab.config.schema import DataConfig, RunConfig
from xceptlab.errors import BAD_INPUT, FAILED, Refused
from xceptlab.runs.directory import RunDirectory, refuse_other_versions
from xceptlab.runs.leases import Busy
from xceptlab.runs.metrics import metric_of
from xceptlab.runs.world import World
from xceptlab.signals import StopSignals
from xceptlab.text import counted, say

if TYPE_CHECKING:
    from xceptlab.models.cost import Row
    from xceptlab.report.summary import Summary
    from xceptlab.study.expansion import Expansion

EXPORTS = (".onnx", ".pt2", ".safetensors")
"""Suffixes of the formats that ``export`` writes."""

WEIGHTS = (".safetensors", ".ckpt", ".pth", ".pt", ".h5", ".keras")
"""Suffixes of files that hold weights, or a checkpoint."""

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
"""The folder of the benchmarks in a checkout of the repository."""
READ_BY_EVALUATIONS = [f"train.{name}" for name in ("batch_size", "compile", "deterministic", "metrics", "precision", "threads")]
"""Keys of the training that change an evaluation, too: its batches, its arithmetic or what is measured."""
UNLIKE = 0.02
"""Relative difference of two scores of the same weights that no other device or precision explains."""


def study(options: argparse.Namespace, layers: list[str]) -> int:
    """Run what is missing of a study and report the verdicts."""
    from xceptlab.study.plan import expand

    expansion = expand(options.study, layers, options.seeds)
    if options.jobs is not None and options.jobs < 1:
        raise Refused(f"--jobs: {options.jobs} is not allowed; it must be at least 1")
    if None in expansion.records().values():
        _networks(expansion)
    from xceptlab.launch.study import run_until_decided
    from xceptlab.report.console import show_summary
    from xceptlab.training.weights_and_biases import chosen

    expansion, failed = run_until_decided(expansion, options.jobs, options.main)
    summary, written = _reported(expansion)
    show_summary(summary, written)
    for run_id, log in failed.items():
        say(f"{run_id}: see {log}", "failed")  # the summary has said why
    try:
        if written and summary.links and chosen(expansion.baseline.runtime) == "online":
            _sync_study(summary)
    except Refused as error:
        _warn([error])
    return 0 if written and not failed else FAILED


def plan(options: argparse.Namespace, layers: list[str]) -> int:
    """Show what a study would run and how its arms differ; trains nothing."""
    from xceptlab.study.plan import expand

    expansion = expand(options.study, layers, options.seeds)
    networks = _networks(expansion)
    from xceptlab.data import identity, require_files
    from xceptlab.report.console import show_plan

    show_plan(expansion, networks)
    records = expansion.records()
    changes = identity.changes((run, records[key]) for key, run in expansion.runs().items())
    _warn(f"the data here are not those that the runs were trained on: {change}" for change in changes)
    data = expansion.baseline.data
    if not data.download:  # checking would download the data here and now
        try:
            require_files(data)
        except Refused as error:
            _warn([error])
    return 0


def status(options: argparse.Namespace, layers: list[str]) -> int:
    """Show how far a study is, live in a terminal; from any machine that sees its outputs."""
    from xceptlab.launch.status import show
    from xceptlab.study.plan import expand

    show(expand(options.study, layers, options.seeds))
    return 0


def report(options: argparse.Namespace, layers: list[str]) -> int:
    """Judge the records there are and write the report; trains nothing."""
    from xceptlab.report.console import show_summary
    from xceptlab.report.write import publish, write_comparison
    from xceptlab.study.plan import expand, find_study_file

    expansions = [expand(study, layers, options.seeds) for study in options.studies]
    names = [expansion.name for expansion in expansions]
    for study, name in zip(options.studies, names, strict=True):
        if names.count(name) > 1:
            raise Refused(f"{study}: is given twice; a study is compared with others")
    latex = options.format == "latex"
    reports = [_reported(expansion, latex, options.calibrate) for expansion in expansions]
    for study, (summary, written) in zip(options.studies, reports, strict=True):
        show_summary(summary, written)
        if not written:
            continue
        if latex:
            print(f"LaTeX: {summary.expansion.directory() / 'report.tex'}")
        if options.publish:
            folder = find_study_file(study).parent
            publish(summary, folder, latex)
            print(f"Published to {folder}")
    if not all(written for _, written in reports):
        return FAILED
    if len(reports) > 1:
        print(f"Comparison: {write_comparison([summary for summary, _ in reports])}")
    return 0


def judge(options: argparse.Namespace, layers: list[str]) -> int:
    """Judge scores that any other tool made, from a CSV file."""
    from xceptlab.config.loading import load_file
    from xceptlab.report.calibrated import calibrated
    from xceptlab.report.console import show_verdicts
    from xceptlab.report.write import write_judged
    from xceptlab.study.calibration import calibrate_scores
    from xceptlab.study.score_tables import ClaimsFile, claims_on, judge_scores

    if layers:
        raise Refused(f"{layers[0]}: there is no run to configure; see xceptlab judge --help")
    if bool(options.claims) == bool(options.contrast):
        raise Refused("judge: either --contrast A B or --claims FILE says what is claimed")
    names = ("kind", "margin", "metric", "statistic", "pairing", "lower_is_better", "alpha")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if options.claims:
        if given:
            raise Refused(f"--{next(iter(given)).replace('_', '-')}: not allowed with --claims, whose file says it")
        claimed = load_file(ClaimsFile, options.claims)
    else:
        claimed = claims_on(options.contrast, given)
    verdicts = judge_scores(options.scores, claimed.claims, claimed.alpha, options.arm_column, options.seed_column)
    calibration = None
    if options.calibrate:
        calibration = calibrated(calibrate_scores(verdicts, claimed.alpha))
    show_verdicts(verdicts, calibration)
    if options.output:
        print(f"Report: {write_judged(options.scores, verdicts, options.output, calibration)}")
    return 0


def sync(options: argparse.Namespace, layers: list[str]) -> int:
    """Send runs and studies to Weights & Biases: what ran offline, or what it lacks; trains nothing."""
    from xceptlab.report.write import make_report
    from xceptlab.study.plan import expand
    from xceptlab.training.weights_and_biases import check_key

    outputs = Path(load_run(layers).runtime.outputs)
    check_key()
    code = 0
    for name in options.names:
        run = RunDirectory.find(name, outputs)
        if run:
            if options.seeds is not None:
                raise Refused(f"--seeds: {options.seeds} is not allowed with the run {name}; a first look is one at a study")
            code = _sync_runs([run], layers) or code
        else:
            expansion = expand(_study_named(name, outputs), layers, options.seeds)
            code = _sync_runs(expansion.directories().values(), layers) or code
            _sync_study(make_report(expansion))
    return code


def _sync_runs(runs: Iterable[RunDirectory], layers: list[str]) -> int:
    """Send those of the runs that have begun; returns the exit code, as a run that cannot be sent keeps no other from it."""
    from xceptlab.training.weights_and_biases import sync_run

    runtime = [f"--{key}={value}" for key, value in overrides(layers) if key.startswith("runtime.")]
    code = 0
    for run in runs:
        if not (run.path / "metrics.jsonl").is_file():
            continue
        try:
            config = load_run(runtime, of_run=str(run.path / "config.yaml"))
            print(f"{run.path.name}: {sync_run(config, run)}", flush=True)
        except (Busy, Refused) as error:
            code = BAD_INPUT
            say(str(error))
    return code


def _study_named(name: str, outputs: Path) -> str:
    from xceptlab.study.plan import find_study_file

    try:
        return str(find_study_file(name))
    except Refused:
        raise Refused(f"{name}: neither a study nor a run under {outputs / 'runs'}") from None


def train(options: argparse.Namespace, layers: list[str]) -> int:
    """Train, evaluate and record one run."""
    if options.help:
        from xceptlab.config.help import print_help

        print_help()
        return 0
    config = load_run(layers)
    world = World.join(config.runtime)
    from xceptlab.data import require_files, resolved

    require_files(config.data)
    config = resolved(config)
    directory = RunDirectory.of(config.runtime.outputs, config.run_id)
    with StopSignals(explain=world.first):  # from here on, as torch takes seconds to load
        from xceptlab.training.train import train

        if world.first:
            _warn(_few_images(config.data))
            given = {key for key, _ in overrides(layers)}
            _warn(f"--{key}: changes nothing with {why}" for key, why in config.keys_without_effect().items() if key in given)
            if config.model.match != "none" and not config.runtime.study:
                _warn([f"model.match: {config.model.match} changes nothing here; a study matches its arms to the first one"])
        was_trained = directory.record() is not None
        try:
            record = train(config, progress=sys.stderr.isatty())
        except Busy as error:
            raise Busy(f"{error}{world.why_busy}") from None
    if world.first:
        scores = ", ".join(f"{name} {value:.4g}" for name, value in record.metrics.items())
        remark = " (was trained before)" if was_trained else ""
        print(f"{directory.path}: {scores or record.status}{remark}")
    return 0


def evaluate(options: argparse.Namespace, layers: list[str]) -> int:
    """Evaluate a run or a checkpoint on a split."""
    config, weights = _trained(options.weights, layers)
    world = World.join(config.runtime)
    from xceptlab.data import require_files

    require_files(config.data)
    given = {key for key, _ in overrides(layers)}
    config = _evaluated(config, weights, given)
    if world.first:
        _warn(_of_training(layers, "an evaluation", READ_BY_EVALUATIONS))
        evaluated_on = {"val": "validation"}.get(options.split, options.split)
        _warn(line for line in _absent_classes(config.data) if line.startswith((f"{evaluated_on} ", f"{evaluated_on}:")))
    from xceptlab.training.train import evaluate

    scores = evaluate(config, weights, options.split, given)
    if world.first:
        for name, value in scores.items():
            print(f"{name} {value:.6g}")
        if all(key in ("extensions", "data.root") or key.startswith("runtime.") for key in given):
            _warn(_unlike_its_record(weights, config, scores))
    return 0


def _unlike_its_record(weights: Path | str, config: RunConfig, scores: Mapping[str, float]) -> list[str]:
    """Scores of a run, evaluated as it was trained and on the same data, that its record has otherwise."""
    run = RunDirectory.around(Path(weights))
    record = run.record() if run else None
    if record is None or record.science.get("data.content", "") != config.data.content:
        return []
    few_images = 2 * 100 / record.test_images  # percent, which rounding may change on another device
    remarks = []
    for name, value in scores.items():
        recorded = record.metrics.get(name, value)
        tolerance = UNLIKE * max(abs(value), abs(recorded))
        if metric_of(name).in_percent:
            tolerance = max(tolerance, few_images)
        if abs(value - recorded) > tolerance:
            remarks.append(
                f"{name}: the run's record has {recorded:.6g}; the data, the weights or the metric's code have changed"
            )
    return remarks


def export(options: argparse.Namespace, layers: list[str]) -> int:
    """Write a run's network for other tools."""
    output = Path(options.output)
    if output.suffix not in EXPORTS:
        raise Refused(f"{output}: the suffix must be one of {', '.join(EXPORTS)}")
    config, weights = _trained(options.weights, layers)
    _warn(_of_training(layers, "an export"))
    from xceptlab.models.export import export

    print(export(_with_classes(config), weights, output))
    return 0


def data(options: argparse.Namespace, layers: list[str]) -> int:
    """Check a data set as a run would use it, or prepare reduced photographs (data.short_side)."""
    config = load_run(layers)
    warnings.filterwarnings("ignore", "This DataLoader will create")  # more loader workers than cores are what the user asked for
    if options.action == "prepare":
        return _prepare_photographs(config)
    return _check_data(config, options.all)


def _check_data(config: RunConfig, everything: bool) -> int:
    from rich.console import Console
    from rich.table import Table

    from xceptlab.data.check import Counts, Remark, check
    from xceptlab.data.identity import resolved_data

    view = Table("split", "images", "classes", "smallest class", "largest class")
    faults = 0
    data = resolved_data(config.data)
    for finding in check(data, everything, config.runtime.workers):
        if isinstance(finding, Counts):
            images = f"{finding.images:,}"
            if finding.images < finding.available:
                images += f" of {finding.available:,}"
            view.add_row(finding.split, images, f"{finding.classes:,}", f"{finding.smallest:,}", f"{finding.largest:,}")
            _warn(finding.notes)
        elif isinstance(finding, Remark):
            _warn([finding.text])
        else:
            say(finding)
            faults += 1
    if view.rows:
        print(f"{data.splits()}.")
        Console().print(view)
    if faults:
        print(f"Faults: {faults}")
        return BAD_INPUT
    print("All images decode." if everything else "All sampled images decode.")
    return 0


def _prepare_photographs(config: RunConfig) -> int:
    if not config.data.short_side:
        raise Refused("data.short_side: 0 is not allowed; to prepare, it must be the pixels wanted, such as 256")
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from xceptlab.data.layouts import prepared_folder
    from xceptlab.data.prepare import prepare

    with Progress("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as view:
        task = view.add_task("Photographs", total=None)
        for done, total in prepare(config.data, config.runtime.workers):
            view.update(task, completed=done, total=total)
    print(
        f"Prepared in {prepared_folder(config.data)}; `xceptlab data check --all` with the same options verifies every checksum."
    )
    return 0


def bench(options: argparse.Namespace, layers: list[str]) -> int:
    """Measure on this machine: run a program of benchmarks/ in the repository; without a name, list them."""
    import runpy

    if not benchmarks():
        raise Refused(f"bench: the benchmarks are in the repository, not in the installed package: no {BENCHMARKS}")
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
        if "argparse" not in program:  # it takes no options: it would run, or show another program's help
            return 0
    sys.argv = [options.name, *options.arguments, *layers]
    sys.path.insert(0, str(BENCHMARKS))  # benchmarks import their neighbours, as when they are run as scripts
    runpy.run_path(str(BENCHMARKS / f"{options.name}.py"), run_name="__main__")
    return 0


def benchmarks() -> list[str]:
    """The names of the benchmarks; what they share is in files whose names begin with ``_``."""
    return sorted(file.stem for file in BENCHMARKS.glob("[!_]*.py"))


def _about(name: str) -> str:
    """A benchmark's docstring, read without running it."""
    module = ast.parse((BENCHMARKS / f"{name}.py").read_text("utf-8"))
    return ast.get_docstring(module) or "it does not say what it measures"


def describe(options: argparse.Namespace, layers: list[str]) -> int:
    """Show the network as a table: modules, output shapes, parameters, multiply-accumulates."""
    from xceptlab.models.describe import compare, describe

    if options.run:
        _warn(_of_training(layers, "the description of a run's network"))
    if options.compare:
        if options.run:
            raise Refused(f"--compare: shows two networks side by side; {options.run} is a third")
        a, b = (_with_classes(_configured(name, layers)) for name in options.compare)
        compare(a, b, options.compare)
    elif options.run:
        describe(_with_classes(_configured(options.run, layers)), options.depth)
    else:
        describe(_with_classes(load_run(layers)), options.depth)
    return 0


def _configured(name: str, layers: list[str]) -> RunConfig:
    """The configuration of a run, by its folder or id, or of a configuration file, with layers over it."""
    path = _file_or_run(name, layers)
    if not path.exists():
        raise Refused(f"{name}: neither a configuration file nor a run under {path.parent}")
    if path.is_dir():
        return load_run(layers, of_run=str(path / "config.yaml"))
    if path.suffix not in WEIGHTS:
        return load_run(["-c", str(path), *layers])
    run = RunDirectory.around(path)
    if run is None:
        raise Refused(f"{name}: weights alone do not tell their network; there is no config.yaml beside them, -c gives one")
    return load_run(layers, of_run=str(run.path / "config.yaml"))


def _file_or_run(name: str, layers: list[str]) -> Path:
    """The file or folder of this name, or else where the run of this id is or would be."""
    path = shipped.find(name)
    if path.exists():
        return path
    return RunDirectory.of(load_run(layers).runtime.outputs, name).path


def _networks(expansion: "Expansion") -> "dict[str, list[Row]]":
    """Every arm's module tree, with warnings where arms do not differ, or where a data set lacks images.

    Raises:
        Refused: The comparison is not controlled.
    """
    from xceptlab.study.comparison import identical_arms, module_trees

    trees = module_trees(expansion)
    warnings_of_data = []
    for data in dict.fromkeys(arm.data for arm in expansion.arms.values()):
        warnings_of_data += _few_images(data)
        warnings_of_data += _absent_classes(data)
    _warn(identical_arms(expansion, trees))
    _warn(dict.fromkeys(warnings_of_data))
    return trees


def _few_images(data: DataConfig) -> list[str]:
    """Splits that are known to have fewer images than there are classes."""
    splits = zip(("training", "validation", "test"), data.images(), strict=True)
    return [
        f"{counted(count, f'{split} image')} for {data.classes} classes" for split, count in splits if 0 < count < data.classes
    ]


def _absent_classes(data: DataConfig) -> list[str]:
    """Classes of which a split of an own data set has no image; an empty list where the files are not here."""
    from xceptlab.data.check import absent_classes

    if data.name == "folder":
        with suppress(Refused):
            return list(absent_classes(dataclasses.replace(data, download=False)))
    return []


def _warn(lines: Iterable[object]) -> None:
    for line in lines:
        say(line, "Warning")


def _trained(name: str, layers: list[str]) -> "tuple[RunConfig, Path | str]":
    """The configuration and the weights of a run's folder or id, of a file, or of timm's Xception by its name."""
    path = _file_or_run(name, layers)
    if not path.exists():
        if name.split(".")[0].endswith("xception"):
            return load_run(layers), name
        raise Refused(f"{name}: neither a file, a folder, a run under {path.parent} nor timm's legacy_xception")
    weights = path / "model.safetensors" if path.is_dir() else path
    if not weights.is_file():
        raise Refused(f"{path}: not the folder of a run that is done; there is no model.safetensors in it")
    # whatever devices the run was trained on
    layers = ["--runtime.devices=1", "--runtime.num_nodes=1", "--runtime.accelerator=auto", *layers]
    run = RunDirectory.around(weights)
    if run is None:
        return load_run(layers), weights
    config = load_run(layers, of_run=str(run.path / "config.yaml"))
    refuse_other_versions(config, run)
    return config, weights


def _of_training(layers: list[str], what: str, read: Collection[str] = ()) -> list[str]:
    """Which keys that the command line gives change nothing in ``what``: those of the training that it has not ``read``."""
    keys = sorted({key for key, _ in overrides(layers)})
    of_training = [key for key in keys if key == "seed" or key.startswith("train.")]
    return [f"--{key}: changes nothing in {what}" for key in of_training if key not in read]


def _evaluated(config: RunConfig, weights: Path | str, given: Collection[str]) -> RunConfig:
    """The configuration to evaluate with; other data than those of the training are allowed, and pointed out.

    Args:
        config: As it was loaded.
        weights: Those that are evaluated, in the folder of their run perhaps.
        given: The keys that the command line gives.
    """
    from xceptlab.data import identity

    data = identity.resolved_data(dataclasses.replace(config.data, content=""))
    here = dataclasses.replace(config, data=data)
    records = [RunDirectory(folder).record() for folder in Path(weights).parents[:2]]
    record = next(filter(None, records), None)
    if record is None:
        return here
    difference = identity.changed(here.data, record)
    science = here.science()
    if not difference and any(science[key] != record.science.get(key, "") for key in ("data.name", "data.content")):
        difference = f"the run was trained on {record.science['data.name']} {record.science.get('data.content', '')}".rstrip()
        difference += f", {here.data.root} holds {here.data.name} {here.data.content}".rstrip()
    told_below = ("data.name", "data.content", "data.num_classes")
    for key in sorted(key for key in given if key.startswith("data.") and key in science and key not in told_below):
        if key in record.science and science[key] != record.science[key]:
            _warn([f"{key}: evaluated with {science[key]}, the run was trained with {record.science[key]}"])
    classes = identity.other_classes(identity.class_names(here.data), record.classes)
    differences = [text for text in (difference, classes) if text]
    if differences:
        _warn([f"other data than the run was trained on: {'; '.join(differences)}"])
    return here


def _with_classes(config: RunConfig) -> RunConfig:
    """A configuration whose number of classes is known; an own data set's files are read where it does not say it."""
    from xceptlab.data.identity import resolved_data

    if config.data.num_classes:
        return config
    return dataclasses.replace(config, data=resolved_data(config.data))


def _reported(expansion: "Expansion", latex: bool = False, calibrate: bool = False) -> "tuple[Summary, bool]":
    """Judge a study and write its report; where that cannot be written say so, as the verdicts can be shown all the same.

    Returns:
        What the records say, and whether the report was written.
    """
    from xceptlab.report.write import gather, write_study

    summary = gather(expansion, calibrate)
    try:
        write_study(summary, latex)
    except OSError as error:
        say(f"no report was written: {error.filename or expansion.directory()}: {error.strerror or error}")
        return summary, False
    return summary, True


def _sync_study(summary: "Summary") -> None:
    from xceptlab.report.write import sync_report

    print(f"{summary.expansion.name}: {sync_report(summary)}")
