"""The commands about studies: ``study``, ``plan``, ``status``, ``report``, ``judge`` and ``sync``."""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from xceptlab import register
from xceptlab.commands.remarks import absent_classes, few_images, warn
from xceptlab.config.loading import PRINT_CONFIG, load_run, outputs_of, overrides
from xceptlab.errors import BAD_INPUT, FAILED, INTERRUPTED, Refused
from xceptlab.runs.directory import RunDirectory
from xceptlab.runs.leases import Busy
from xceptlab.text import say

if TYPE_CHECKING:
    from xceptlab.models.cost import Row
    from xceptlab.report.summary import Summary
    from xceptlab.study.expansion import Expansion


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
    # The summary has said why runs failed.
    for run_id, log in failed.items():
        say(f"{run_id}: see {log}", "failed")
    try:
        if written and summary.links and chosen(expansion.baseline.runtime) == "online":
            _sync_study(summary)
    except Refused as error:
        warn([error])
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
    warn(
        f"the data here are not those that the runs were trained on: {change}" for change in changes
    )
    data = expansion.baseline.data
    # With data.download the check would download the data here and now.
    if not data.download:
        try:
            require_files(data)
        except Refused as error:
            warn([error])
    return 0


def _networks(expansion: "Expansion") -> "dict[str, list[Row]]":
    """Build every arm's network; warn where arms do not differ, where those of a claim are scored on
    different images or start from different trained weights, where a data set lacks images, or
    where a module registers nothing that an arm uses.

    Returns:
        By arm the rows of its module tree, the first of which is the whole network.

    Raises:
        Refused: A network cannot be built, does not take its images or cannot start from its
            weights; or the comparison is not controlled: an arm differs in more than it declares.
    """
    from xceptlab.study.comparison import identical_arms, module_trees
    from xceptlab.study.verdict_warnings import of_other_images, of_trained_weights

    rows_by_arm = module_trees(expansion)
    warnings_of_data = []
    for data in dict.fromkeys(arm.data for arm in expansion.arms.values()):
        warnings_of_data += few_images(data)
        warnings_of_data += [absent.text for absent in absent_classes(data)]
    used: set[str] = set()
    for trial in expansion.trials.values():
        used |= trial.config.registered_versions().keys()
    warn(register.unused(expansion.baseline.extensions, used))
    warn(identical_arms(expansion, rows_by_arm))
    claims_by_text: dict[str, list[str]] = {}
    for claim in expansion.study.claims:
        for text in (*of_other_images(claim, expansion), *of_trained_weights(claim, expansion)):
            claims_by_text.setdefault(text, []).append(claim.id)
    warn(f"claim {', '.join(ids)}: {text}" for text, ids in claims_by_text.items())
    warn(dict.fromkeys(warnings_of_data))
    return rows_by_arm


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


def _reported(
    expansion: "Expansion", latex: bool = False, calibrate: bool = False
) -> "tuple[Summary, bool]":
    """Judge a study and write its report. Where the report cannot be written, the user is told why
    and no error is raised, since the verdicts can be shown all the same.

    Args:
        expansion: The study.
        latex: Whether to write report.tex, too.
        calibrate: Whether to simulate how often such verdicts are wrong.

    Returns:
        What there is to show, and whether the report was written.

    Raises:
        Refused: There is nothing to report or no claim to calibrate; or a file of a run or of the
            registration is damaged, or does not fit the study.
    """
    from xceptlab.report.write import gather, write_study

    summary = gather(expansion, calibrate)
    try:
        write_study(summary, latex)
    except OSError as error:
        say(
            f"no report was written: {error.filename or expansion.directory()}: {error.strerror or error}"
        )
        return summary, False
    return summary, True


def judge(options: argparse.Namespace, layers: list[str]) -> int:
    """Judge scores that any other tool made, from a CSV file."""
    from xceptlab.report.calibrated import calibrated
    from xceptlab.report.console import show_verdicts
    from xceptlab.report.write import write_judged
    from xceptlab.study.calibration import calibrate_scores
    from xceptlab.study.score_tables import claims_given, judge_scores

    if layers:
        raise Refused(f"{layers[0]}: there is no run to configure; see xceptlab judge --help")
    names = ("kind", "margin", "metric", "statistic", "pairing", "lower_is_better", "alpha")
    claimed = claims_given(
        options.contrast,
        {name: getattr(options, name) for name in names},
        options.claims or None,
        either="judge: either --contrast A B or --claims FILE says what is claimed",
        not_with_file=lambda given: (
            f"--{given[0].replace('_', '-')}: not allowed with --claims, whose file says it"
        ),
    )
    verdicts = judge_scores(
        options.scores, claimed.claims, claimed.alpha, options.arm_column, options.seed_column
    )
    calibration = None
    if options.calibrate:
        calibration = calibrated(calibrate_scores(verdicts, claimed.alpha))
    show_verdicts(verdicts, calibration)
    if options.output:
        print(f"Report: {write_judged(options.scores, verdicts, options.output, calibration)}")
    return 0


def sync(options: argparse.Namespace, layers: list[str]) -> int:
    """Send runs and studies to Weights & Biases: what ran offline, or what W&B lacks. The studies'
    reports are written anew; nothing is trained.
    """
    from xceptlab.report.write import make_report
    from xceptlab.study.plan import expand
    from xceptlab.training.weights_and_biases import check_key

    if PRINT_CONFIG in overrides(layers):
        raise Refused(
            "--print_config: nothing is trained here; xceptlab train shows a configuration"
        )
    outputs = outputs_of(layers)
    # All names are looked up before W&B is asked for anything, so that a misspelt one is told first.
    named: list[RunDirectory | Expansion] = []
    for name in options.names:
        run = RunDirectory.find(name, outputs)
        if run and options.seeds is not None:
            raise Refused(
                f"--seeds: {options.seeds} is not allowed with the run {name}; a first look is one at a study"
            )
        named.append(run or expand(_study_named(name, outputs), layers, options.seeds))
    check_key()
    codes = []
    for sent in named:
        if isinstance(sent, RunDirectory):
            codes += _sync_runs([sent], layers)
        else:
            codes += _sync_runs(sent.directories().values(), layers)
            _sync_study(make_report(sent))
    # Input has to be mended before the same command can send everything.
    return BAD_INPUT if BAD_INPUT in codes else max(codes, default=0)


def _sync_runs(runs: Iterable[RunDirectory], layers: list[str]) -> list[int]:
    """Send runs to W&B, except those that have logged nothing yet. Where a run cannot be sent, the
    user is told why, and the others are sent all the same.

    Args:
        runs: The runs to send.
        layers: The command line's options, of which those of ``runtime`` apply.

    Returns:
        For each run that could not be sent, the exit code with which the command should end:
        ``INTERRUPTED`` where a process is training the run, otherwise ``BAD_INPUT``.
    """
    from xceptlab.training.weights_and_biases import sync_run

    runtime = [f"--{key}={value}" for key, value in overrides(layers) if key.startswith("runtime.")]
    codes = []
    for run in runs:
        if not (run.path / "metrics.jsonl").is_file():
            continue
        try:
            config = load_run(runtime, of_run=str(run.path / "config.yaml"))
            print(f"{run.path.name}: {sync_run(config, run)}", flush=True)
        except Busy as error:
            codes.append(INTERRUPTED)
            say(str(error))
        except Refused as error:
            codes.append(BAD_INPUT)
            say(str(error))
    return codes


def _study_named(name: str, outputs: Path) -> str:
    """Return the path of the file of the study that a user of ``sync`` names.

    Args:
        name: What the user has given. It is not the name of a run, which the caller has looked for.
        outputs: The folder that holds ``runs/``, for the error.

    Raises:
        Refused: There is no such study; the message says that there is no such run, either.
    """
    from xceptlab.study.plan import find_study_file

    try:
        return str(find_study_file(name))
    except Refused:
        raise Refused(f"{name}: neither a study nor a run under {outputs / 'runs'}") from None


def _sync_study(summary: "Summary") -> None:
    """Send a study's verdicts and report to W&B, and print their address there.

    Raises:
        Refused: W&B refuses or cannot be reached.
    """
    from xceptlab.report.write import sync_report

    print(f"{summary.expansion.name}: {sync_report(summary)}")
