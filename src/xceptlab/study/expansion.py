"""The ``Expansion``: a study with every arm's configuration resolved, and the runs that follow."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xceptlab.config import options
from xceptlab.config.schema import RunConfig
from xceptlab.runs.directory import RunDirectory
from xceptlab.runs.record import Record
from xceptlab.study.definition import Seeds, Study
from xceptlab.study.tuning import Trial, trials

UNMATCHED = 0.01
"""Relative difference beyond which two arms' budgets, such as parameters, count as unmatched."""


@dataclass(frozen=True, kw_only=True)
class Expansion:
    """A study with every arm's configuration resolved and, where seeds are added until the claims
    are decided, with the seeds of the analysis that it has come to.
    """

    name: str
    """Name of the study: that of its folder or file, then the configuration files and overrides of
    the command line that can change a result, and the number of seeds of a first look, such as
    ``residual+cifar10+seeds3``.
    """
    study: Study
    """The study as its file declares it; in a first look (``--seeds``), with a list of its first
    seeds only.
    """
    arms: dict[str, RunConfig]
    """The configuration of each arm with the study's first seed, by the arm's name; the first arm
    is the baseline.
    """
    command: str = ""
    """The command that runs the study, as one would type it; empty where it is not known."""
    interim_analysis: int = 0
    """The index in ``Seeds.analyses`` of the analysis that the study has come to; 0 in a study with
    a list of seeds.
    """
    seeds_by_stopped_arm: Mapping[str, int] = field(default_factory=dict)
    """The number of seeds of each arm that gets no more of them, by arm: after an earlier analysis
    no claim on it was open, while others were. It is the study's number of seeds at that analysis,
    or more where runs of the arm with further seeds had finished already.
    """
    seeds_of_whole_study: int = 0
    """The largest number of seeds of the whole study, where this is a first look at some of them
    (``--seeds``); 0 where this is the whole study.
    """
    files: tuple[Path, ...] = ()
    """The absolute paths of the study file and of the configuration files that ``name`` includes.
    """

    @property
    def baseline(self) -> RunConfig:
        """The first arm's configuration."""
        return next(iter(self.arms.values()))

    @property
    def is_first_look(self) -> bool:
        """Whether this has a list of the study's first seeds, as ``--seeds`` asked for: fewer than
        the study has or, where seeds are added until the claims are decided, up to all of them.
        """
        return self.seeds_of_whole_study > 0

    @property
    def first_look(self) -> str:
        """A clause that tells the reader of a first look how many of the study's seeds it has, and
        that its verdicts are not the study's; empty for the whole study.
        """
        if not self.is_first_look:
            return ""
        return (
            f"a first look with {len(self.seeds)} of the study's {self.seeds_of_whole_study} seeds; "
            "its verdicts are not the study's"
        )

    @property
    def seeds(self) -> list[int]:
        """The seeds of the study; where seeds are added until the claims are decided, all that the
        analysis it has come to uses.
        """
        seeds = self.study.seeds
        if isinstance(seeds, Seeds):
            return list(range(seeds.analyses[self.interim_analysis]))
        return seeds

    def at_most(self) -> "Expansion":
        """Return the study with the largest number of seeds that it may come to, in every arm."""
        seeds = self.study.seeds
        if not isinstance(seeds, Seeds):
            return self
        last = len(seeds.analyses) - 1
        return dataclasses.replace(self, interim_analysis=last, seeds_by_stopped_arm={})

    @property
    def ended_arms(self) -> dict[str, int]:
        """The number of seeds, by arm, of each arm that has fewer than the study has come to, since
        no claim on it was open any more.

        A stopped arm whose runs have finished with all these seeds nevertheless, as an earlier
        version of xceptlab trained them, is left out.
        """
        seeds = len(self.seeds)
        return {arm: n for arm, n in self.seeds_by_stopped_arm.items() if n < seeds}

    def seeds_of(self, arms: Iterable[str]) -> list[int]:
        """Return those of the study's ``seeds`` with which all of these arms, given by name, are
        trained.
        """
        stopped = self.seeds_by_stopped_arm
        fewest = min((stopped[arm] for arm in arms if arm in stopped), default=len(self.seeds))
        return self.seeds[:fewest]

    @functools.cached_property
    def trials(self) -> dict[str, Trial]:
        """What is trained with every seed, by name: the arms or, where keys are tuned, every arm at
        each of the tuned values, such as ``residual@0.1``.

        Raises:
            Refused: A tuned value is not allowed.
        """
        return trials(self.arms, self.study.tune)

    def trials_of(self, arm: str) -> dict[str, Trial]:
        """Return the trials of an arm, which is given by name, by their own names: the arm at each
        of the tuned values or, in a study that tunes nothing, just the arm.
        """
        return {name: trial for name, trial in self.trials.items() if trial.arm == arm}

    def run(self, trial: str, seed: int) -> RunConfig:
        """Return the configuration with which a trial is trained with a seed. ``trial`` is the name
        of an arm, or of an arm at one of the tuned values.
        """
        return dataclasses.replace(self.trials[trial].config, seed=seed)

    def runs(self) -> dict[tuple[str, int], RunConfig]:
        """Return the configuration of every run of the study by (trial, seed), seed by seed. An arm
        that gets no more seeds has no runs with the later ones.

        In this order an unfinished study has about as many runs of every arm.
        """
        seeds_of = {arm: self.seeds_of([arm]) for arm in self.arms}
        runs = {}
        for seed in self.seeds:
            for name, trial in self.trials.items():
                if seed in seeds_of[trial.arm]:
                    runs[name, seed] = self.run(name, seed)
        return runs

    def directories(self) -> dict[tuple[str, int], RunDirectory]:
        """Return the directory of every run by (trial, seed), whether it exists or not."""
        return {
            key: RunDirectory.of(run.runtime.outputs, run.run_id)
            for key, run in self.runs().items()
        }

    def records(self) -> dict[tuple[str, int], Record | None]:
        """Read the record of every run by (trial, seed); None where a run has not finished.

        Raises:
            Refused: A file is not a record, or is the record of a run with another id; or an
                earlier version of xceptlab trained a run in a way that its id does not tell.
        """
        return {key: directory.record_of_its_id() for key, directory in self.directories().items()}

    def differences(self, arm: str) -> dict[str, tuple[Any, Any]]:
        """Return the differences of an arm from the baseline in all that can change a result, as
        ``{key: (value in the baseline, value in the arm)}``.

        A key that does not apply to one of the two, such as Nesterov's momentum to AdamW, is no
        difference. Initial weights are compared by their digest, and shown as ``model.weights``,
        the key that an arm declares.
        """
        baseline, config = self.baseline, self.arms[arm]
        before, after = baseline.science(), config.science()
        # The registered components that a run uses (``extensions``) follow from its other keys.
        not_applicable = baseline.train.unused | config.train.unused | {"extensions"}
        found: dict[str, tuple[Any, Any]] = {}
        for key in before:
            if key not in not_applicable and options.differ(before[key], after[key]):
                found[key] = (before[key], after[key])
        if found.pop(options.OPTIONS, None):
            found |= options.differences(baseline.model.all_options(), config.model.all_options())
        if found.pop("model.weights_digest", None):
            found["model.weights"] = (
                baseline.model.initial_weights_description,
                config.model.initial_weights_description,
            )
        return found

    def data(self) -> str:
        """Return in words what the data set is, and which part of it is which split. Where arms
        differ in this, it is said of each, separated by semicolons.
        """
        return "; ".join(dict.fromkeys(config.data.splits() for config in self.arms.values()))

    def directory(self) -> Path:
        """Return the folder of the study's registration and report; it need not exist."""
        return Path(self.baseline.runtime.outputs) / "studies" / self.name

    def nothing_found(self) -> str:
        """Return a message if the outputs folder holds neither the study nor a run of it, as in
        another working folder; else an empty text.
        """
        runs = [directory.path for directory in self.directories().values()]
        if any(path.exists() for path in (self.directory(), *runs)):
            return ""
        return f"{self.name}: no run of it is in {runs[0].parent.resolve()}; --runtime.outputs names another outputs folder"
