"""The commands, a function each, whose docstring is its help. Nothing heavy is imported before a command needs it."""

import argparse
import ast
import dataclasses
import difflib
import sys
import warnings
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xceptlab.config import shipped
from xceptlab.config.loading import load_run, overrides
from xceptlab.config.schema import DataConfig, RunConfig
from xceptlab.errors import BAD_INPUT, FAILED, Refused
from xceptlab.runs.directory import RunDirectory
from xceptlab.runs.leases import Busy
from xceptlab.runs.world import World
from xceptlab.signals import StopSignals
from xceptlab.text import say

if TYPE_CHECKING:
    from xceptlab.models.cost import Row
    from xceptlab.report.summary import Summary
    from xceptlab.study.expansion import Expansion

EXPORTS = (".onnx", ".pt2", ".safetensors")

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def study(options: argparse.Namespace, layers: list[str]) -> int:
    """Run what is missing of a study and report the verdicts."""
    from xceptlab.study.plan import expand
    from xceptlab.study.verdict import with_needed_seeds

    expansion = expand(options.study, layers, options.seeds)
    if options.jobs is not None and options.jobs < 1:
        raise Refused(f"--jobs: {options.jobs} is not allowed; it must be at least 1")
    if None in expansion.records().values():
        _networks(expansion)
    from xceptlab.launch.study import run_missing
    from xceptlab.report.console import show_summary
    from xceptlab.training.weights_and_biases import chosen

    failed = run_missing(expansion, options.jobs, options.main)
    while not failed and (more := with_needed_seeds(expansion)).look > expansion.look:  # until every claim is decided
        expansion = more
        failed = run_missing(expansion, options.jobs, options.main)
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
    data = next(iter(expansion.arms.values())).data
    if not data.download:  # which would be done here and now
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
    from xceptlab.study.plan import expand, locate

    expansions = [expand(study, layers, options.seeds) for study in options.studies]
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


def judge(options: argparse.Namespace, layers: list[str]) -> int:
    """Judge scores that any other tool made, from a CSV file."""
    from xceptlab.config.loading import load_file
    from xceptlab.report.console import show_verdicts
    from xceptlab.report.write import write_judged
    from xceptlab.study.scores import ClaimsFile, ScoreClaim, judge_scores

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


def sync(options: argparse.Namespace, layers: list[str]) -> int:
    """Send runs and studies to Weights & Biases: what ran offline, or what it lacks; trains nothing."""
    from xceptlab.study.plan import expand
    from xceptlab.training.weights_and_biases import check_key, sync

    outputs = Path(load_run(layers, "sync").runtime.outputs)
    runtime = [f"--{key}={value}" for key, value in overrides(layers) if key.startswith("runtime.")]  # else a run is as it was
    check_key()
    code = 0
    for name in options.names:
        candidates = (Path(name), RunDirectory.of(str(outputs), name).path)
        path = next((path for path in candidates if (path / "config.yaml").is_file()), None)
        if path and options.seeds is not None:
            raise Refused(f"--seeds: {options.seeds} is not allowed with the run {name}; a first look is one at a study")
        expansion = None if path else expand(_study_named(name, outputs), layers, options.seeds)
        runs = expansion.runs().values() if expansion else []
        paths = [path] if path else [RunDirectory.of(run.runtime.outputs, run.run_id).path for run in runs]
        for run in [run for run in paths if (run / "metrics.jsonl").is_file()]:
            try:
                config = load_run(["-c", str(run / "config.yaml"), *runtime], "sync")
                print(f"{run.name}: {sync(config, RunDirectory(run))}", flush=True)
            except (Busy, Refused) as error:  # the others can be sent all the same
                code = BAD_INPUT
                say(str(error))
        if expansion:
            _sync_study(_write(expansion))
    return code


def _study_named(name: str, outputs: Path) -> str:
    from xceptlab.study.plan import locate

    try:
        return str(locate(name))
    except Refused:
        raise Refused(f"{name}: neither a study nor a run under {outputs / 'runs'}") from None


def train(options: argparse.Namespace, layers: list[str]) -> int:
    """Train, evaluate and record one run."""
    config = load_run([*layers, *(["--help"] if options.help else [])])
    world = World.join(config.runtime)
    from xceptlab.data import require_files, resolved

    require_files(config.data)
    config = resolved(config)
    directory = RunDirectory.of(config.runtime.outputs, config.run_id)
    with StopSignals(explain=world.first):  # a signal may come before all is loaded
        from xceptlab.training.train import train

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


def evaluate(options: argparse.Namespace, layers: list[str]) -> int:
    """Evaluate a run or a checkpoint on a split."""
    config, weights = _trained(options.weights, layers, "evaluate")
    world = World.join(config.runtime)
    from xceptlab.data import require_files

    require_files(config.data)
    config = _evaluated(config, weights)
    from xceptlab.training.train import evaluate

    given = {key for key, _ in overrides(layers)}
    scores = evaluate(config, weights, options.split, given)
    if world.first:
        for name, value in scores.items():
            print(f"{name} {value:.6g}")
    return 0


def export(options: argparse.Namespace, layers: list[str]) -> int:
    """Write a run's network for other tools."""
    output = Path(options.output)
    if output.suffix not in EXPORTS:
        raise Refused(f"{output}: the suffix must be one of {', '.join(EXPORTS)}")
    config, weights = _trained(options.weights, layers, "export")
    from xceptlab.models.export import export

    print(export(_with_classes(config), weights, output))
    return 0


def data(options: argparse.Namespace, layers: list[str]) -> int:
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
        meant = difflib.get_close_matches(options.name, benchmarks(), n=1)
        there = f"did you mean {meant[0]}?" if meant else f"there are {', '.join(benchmarks())}"
        raise Refused(f"{options.name}: no such benchmark; {there}")
    if {"-h", "--help"} & {*options.arguments}:
        print(_about(options.name))
        if "argparse" not in (BENCHMARKS / f"{options.name}.py").read_text("utf-8"):  # it would run, or show another's help
            return 0
    sys.argv = [options.name, *options.arguments, *layers]
    sys.path.insert(0, str(BENCHMARKS))  # as if it were run by its file's name
    runpy.run_path(str(BENCHMARKS / f"{options.name}.py"), run_name="__main__")
    return 0


def benchmarks() -> list[str]:
    """The programs; what they share is in files whose names begin with ``_``."""
    return sorted(file.stem for file in BENCHMARKS.glob("[!_]*.py"))


def _about(name: str) -> str:
    """What a benchmark's file says of itself."""
    return ast.get_docstring(ast.parse((BENCHMARKS / f"{name}.py").read_text("utf-8"))) or "it does not say what it measures"


def describe(options: argparse.Namespace, layers: list[str]) -> int:
    """Show the network as a table: modules, output shapes, parameters, multiply-accumulates."""
    from xceptlab.models.describe import compare, describe

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


def _networks(expansion: "Expansion") -> "dict[str, list[Row]]":
    """Every arm's module tree, refused where it is not controlled and with a warning where it shows no difference."""
    from xceptlab.study.comparison import identical_arms, module_trees

    found = module_trees(expansion)
    sets = dict.fromkeys(arm.data for arm in expansion.arms.values())
    lacking = [line for data in sets for line in [*_few_images(data), *_absent_classes(data)]]
    _warn([*identical_arms(expansion, found), *dict.fromkeys(lacking)])
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
    from xceptlab.study.registration import remember_files

    if nothing := expansion.nothing_found():
        raise Refused(nothing)
    summary = summarise(expansion)
    remember_files(expansion)
    write_report(summary, latex)
    return summary


def _sync_study(summary: "Summary") -> None:
    from xceptlab.report.write import sync

    print(f"{summary.expansion.name}: {sync(summary)}")
