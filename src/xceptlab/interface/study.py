"""Studies from Python: plan and train them, and read their runs as tables and their verdicts."""

import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xceptlab.config.schema import RunConfig
from xceptlab.errors import Refused
from xceptlab.interface.judging import Verdicts
from xceptlab.interface.run import POINT, Layer, Run, arguments, points
from xceptlab.runs.directory import RunDirectory
from xceptlab.runs.metrics import split_of
from xceptlab.runs.record import Record
from xceptlab.study.expansion import Expansion

if TYPE_CHECKING:
    import pandas as pd

    from xceptlab.models.cost import Row

RECORDED = (
    "parameters",
    "macs",
    "seconds",
    "images_per_second",
    "device",
    "world_size",
    "precision",
)
"""The fields of a finished run's record that the table of runs shows, after the scores."""


class Study:
    """A study: its arms, its runs as tables, its verdicts.

    Args:
        path: The study's folder (with a study.yaml in it), its file, or the name of a shipped one.
        layers: Configuration files and values by key, as ``configure`` takes them, which apply
            after the study's base and before its arms.
        seeds: Number of the study's first seeds, for a first look, which is judged as a study by
            itself and shares its runs with the whole one. None, or the number of all seeds of a
            list, for the whole study.

    Raises:
        Refused: There is no such study, it is not well formed, its comparison is not controlled or
            its claims cannot be judged; the layers or the number of seeds are not allowed; files of
            data or weights are missing or have changed; another study has the name already; or,
            where seeds are added until the claims are decided, a finished run lacks a score that
            this needs.
    """

    def __init__(
        self, path: str | os.PathLike[str], *layers: Layer, seeds: int | None = None
    ) -> None:
        from xceptlab.study.plan import expand

        if seeds is not None and type(seeds) is not int:
            raise Refused(f"seeds: {seeds!r} is not allowed; it must be a whole number")
        self._expansion = expand(os.fspath(path), arguments(layers), seeds)

    def __repr__(self) -> str:
        records = self.expansion.records()
        done = sum(record is not None for record in records.values())
        return f"<Study {self.name}: {len(self.arms)} arms, {done} of {len(records)} runs done>"

    @property
    def expansion(self) -> Expansion:
        """The study with every arm's configuration resolved, at its present number of seeds. Where
        seeds are added until the claims are decided, it grows as runs finish.
        """
        from xceptlab.study.sequential import with_needed_seeds

        self._expansion = with_needed_seeds(self._expansion)
        return self._expansion

    @property
    def name(self) -> str:
        """Name of the study: that of its folder or file and, joined by ``+``, what makes it another
        study: layers that can change a result, and the number of seeds of a first look. An example
        is ``residual+cifar10+seeds3``.
        """
        return self._expansion.name

    @property
    def question(self) -> str:
        """The question that the study answers."""
        return self._expansion.study.question

    @property
    def arms(self) -> dict[str, RunConfig]:
        """The configuration of every arm with the first seed, by the arm's name; the first one is
        the baseline.
        """
        return self._expansion.arms

    def __getitem__(self, arm_and_seed: tuple[str, int]) -> Run:
        """Return a run that has begun, by arm and seed: ``study["residual", 0]``.

        Where keys are tuned, an arm has a run for each tuned value: ``study["residual@0.1", 0]``.

        Raises:
            Refused: There is no such run, or it has not begun.
        """
        expansion = self.expansion
        directories = expansion.directories()
        if arm_and_seed not in directories:
            names = "trials" if expansion.study.tune else "arms"
            seeds = ", ".join(map(str, expansion.seeds))
            there = f"{names} {', '.join(expansion.trials)} and seeds {seeds}"
            for arm, n in expansion.ended_arms.items():
                there += f" (of {arm} the first {n}, as its claims were settled)"
            raise Refused(f"{self.name}: there is no run {arm_and_seed!r}; there are the {there}")
        return Run(directories[arm_and_seed].path)

    def plan(self) -> "pd.DataFrame":
        """Return a table with a row per arm: its values of the keys in which arms differ, its
        number of trainable parameters and its multiply-accumulates for one image.

        Arms whose declared difference may do nothing are warned of.

        Raises:
            Refused: A network cannot be built, or an arm differs in more than it declares.
        """
        import pandas as pd

        rows_by_arm = self._module_trees()
        factors = _factors(self._expansion)
        rows = []
        for arm, (whole_network, *_) in rows_by_arm.items():
            costs = {"parameters": whole_network.parameters, "macs": whole_network.macs}
            rows.append({"arm": arm, **factors[arm], **costs})
        return pd.DataFrame(rows)

    def run(self, jobs: int | None = None, progress: bool = False) -> "Study":
        """Train the runs that are missing, as ``xceptlab study`` does, and return the study. Where
        seeds are added until claims are decided, their runs are trained, too.

        Every run is trained in a process of its own, on this machine or on the cluster that
        ``launcher.name`` chooses. If runs are missing, arms whose declared difference may do
        nothing are warned of.

        Args:
            jobs: Largest number of runs at a time; None for as many as there are free GPUs or cores
                for or, on a cluster, as it has room for.
            progress: Show the runs as the command does.

        Raises:
            Refused: ``jobs`` is below 1; a network cannot be built, or an arm differs in more than
                it declares; data, weights or what the launcher needs are missing; the data are
                others than those of finished runs; a record is damaged or lacks a score that is
                needed; the study's directory holds another study's registration; a run can never
                start here, or the cluster accepts no job; or runs failed. Runs that are done stay
                done.
            Interrupted, KeyboardInterrupt: A signal asked to stop; the same call continues.
        """
        from xceptlab.cli import main
        from xceptlab.launch.study import run_until_decided

        if jobs is not None and jobs < 1:
            raise Refused(f"jobs: {jobs} is not allowed; it must be at least 1")
        expansion = self.expansion
        if None in expansion.records().values():
            self._module_trees()
        self._expansion, failed = run_until_decided(expansion, jobs, main, quiet=not progress)
        if failed:
            run_id, log = next(iter(failed.items()))
            reason = RunDirectory(log.parent).failure() or "no reason is known"
            raise Refused(f"{self.name}: {len(failed)} runs failed; {run_id}: {reason} (see {log})")
        return self

    def runs(self) -> "pd.DataFrame":
        """Return a table with a row per run: arm, seed, its values of the keys in which arms
        differ, status, scores, costs and id. What is not known yet is NaN.

        Where keys are tuned, an arm has a run for each tuned value at each seed. The table then
        also has the tuned values and ``chosen``, which is True for the run that stands for the arm
        at this seed; for none until they have all finished.
        """
        import pandas as pd

        from xceptlab.launch.status import Overview
        from xceptlab.study.choice import chosen

        expansion = self.expansion
        factors = _factors(expansion)
        records = expansion.records()
        statuses = Overview(expansion).read({})
        tuned_keys = _tuned_keys(expansion)
        choice = chosen(expansion, records) if tuned_keys else {}
        rows = []
        for (trial, seed), run in _by_arm(expansion).items():
            arm = expansion.trials[trial].arm
            row: dict[str, Any] = {
                "arm": arm,
                "seed": seed,
                "status": statuses[run.run_id].state,
                "run_id": run.run_id,
            }
            row |= factors[arm]
            row |= expansion.trials[trial].values
            row["chosen"] = choice.get((arm, seed)) == trial
            record = records[trial, seed]
            if record:
                row |= record.metrics
                row |= {name: getattr(record, name) for name in RECORDED}
            rows.append(row)
        tuned_columns = [*tuned_keys, "chosen"] if tuned_keys else []
        columns = [
            "arm",
            "seed",
            *next(iter(factors.values())),
            *tuned_columns,
            "status",
            *_metric_columns(records.values()),
            *RECORDED,
            "run_id",
        ]
        return pd.DataFrame(rows, columns=columns)

    def curves(self) -> "pd.DataFrame":
        """Return the logs of all runs as a tidy table, a row per logged value: arm, seed, tuned
        values, step, epoch (in fractions), metric and value. A run that has logged nothing has no
        rows.
        """
        import pandas as pd

        expansion = self.expansion
        directories = expansion.directories()
        rows = []
        for trial, seed in _by_arm(expansion):
            run = (expansion.trials[trial].arm, seed, *expansion.trials[trial].values.values())
            rows += [(*run, *point) for point in points(directories[trial, seed])]
        return pd.DataFrame(rows, columns=["arm", "seed", *_tuned_keys(expansion), *POINT])

    def verdicts(self) -> Verdicts:
        """Judge the study's claims by the runs that have finished, and return the verdicts by the
        claims' ids. A claim that needs more runs has the outcome ``incomplete``.

        What the report warns of, such as claims that were edited after the runs, is warned of here,
        too.

        Raises:
            Refused: A file of a run or of the registration is damaged, or does not fit the study.
        """
        from xceptlab.report.summary import summarise

        summary = summarise(self.expansion)
        for line in summary.warnings:
            warnings.warn(line, stacklevel=2)
        return Verdicts.of(summary.verdicts)

    def report(self) -> Path:
        """Write the study's report, and return the path of its page, ``report.html``.

        Raises:
            Refused: There is nothing to report yet, or a file of a run or of the registration is
                damaged or does not fit the study.
            OSError: The report cannot be written.
        """
        from xceptlab.report.write import make_report

        return make_report(self.expansion).expansion.directory() / "report.html"

    def _module_trees(self) -> "dict[str, list[Row]]":
        """Build every arm's network, and return the rows of its module tree, by arm; the first row
        is the whole network.

        Arms whose declared difference may do nothing are warned of.

        Raises:
            Refused: A network cannot be built, or an arm differs in more than it declares.
        """
        from xceptlab.study.comparison import identical_arms, module_trees

        rows_by_arm = module_trees(self._expansion)
        for line in identical_arms(self._expansion, rows_by_arm):
            warnings.warn(line, stacklevel=3)
        return rows_by_arm


def _factors(expansion: Expansion) -> dict[str, dict[str, Any]]:
    """Return, by arm and then by key, the values of all keys in which any arm differs from the
    baseline. Every arm has the same keys.
    """
    differences = {arm: expansion.differences(arm) for arm in expansion.arms}
    baseline: dict[str, Any] = {}
    for found in differences.values():
        for key, (value_of_baseline, _) in found.items():
            baseline[key] = value_of_baseline
    factors = {}
    for arm, found in differences.items():
        config = expansion.arms[arm]
        science = config.science()
        factors[arm] = dict(baseline)
        # A key that does not apply to the arm is no difference, and has its default there.
        for key in baseline.keys() & config.train.unused:
            factors[arm][key] = science[key]
        for key, (_, value_of_arm) in found.items():
            factors[arm][key] = value_of_arm
    return factors


def _by_arm(expansion: Expansion) -> dict[tuple[str, int], RunConfig]:
    """Return the configuration of every run by (trial, seed), arm by arm.

    A trial is an arm or, where keys are tuned, an arm at one of the tuned values.
    """
    runs = expansion.runs()
    by_arm = {}
    for trial in expansion.trials:
        for seed in expansion.seeds:
            if (trial, seed) in runs:
                by_arm[trial, seed] = runs[trial, seed]
    return by_arm


def _tuned_keys(expansion: Expansion) -> list[str]:
    """Return the keys that the study tunes; empty for one that tunes nothing."""
    tune = expansion.study.tune
    return list(tune.keys) if tune else []


def _metric_columns(records: Iterable[Record | None]) -> list[str]:
    """Return the metrics that any run has, those on the test split first."""
    names: set[str] = set()
    for record in records:
        if record:
            names |= record.metrics.keys()
    return sorted(names, key=_test_first)


def _test_first(metric: str) -> tuple[bool, str]:
    """Return a sorting key for metrics: the test split before others, then by name."""
    return split_of(metric) != "test", metric
