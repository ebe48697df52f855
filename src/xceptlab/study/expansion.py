"""A study with every arm's configuration resolved, and the runs that follow from it."""

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


@dataclass(frozen=True, kw_only=True)
class Expansion:
    """A study with every arm's configuration resolved."""

    name: str
    """The study's folder or file name, with the layers of the command line: ``residual+cifar10``.
    """
    study: Study
    arms: dict[str, RunConfig]
    """The configuration of each arm with the first seed, by the arm's name; the first one is the
    baseline.
    """
    command: str = ""
    """The command that runs the study."""
    interim_analysis: int = 0
    """The index in ``Seeds.analyses`` that the study has come to, where it adds seeds until its
    claims are decided.
    """
    seeds_by_stopped_arm: Mapping[str, int] = field(default_factory=dict)
    """The number of seeds, by arm, of the arms that get no more of them: all their claims are
    settled, while others are open.
    """
    planned: int = 0
    """The number of seeds of the whole study, at most, where this is a first look with fewer of
    them; else 0.
    """
    files: tuple[Path, ...] = ()
    """The absolute paths of the study file and of the layers that the name tells of."""

    @property
    def baseline(self) -> RunConfig:
        """The first arm's configuration."""
        return next(iter(self.arms.values()))

    @property
    def first_look(self) -> str:
        """What to say of a first look with fewer seeds than the study has; empty for a whole study."""
        few = f"a first look with {len(self.seeds)} of the study's {self.planned} seeds; its verdicts are not the study's"
        return few if self.planned else ""

    @property
    def seeds(self) -> list[int]:
        """The seeds of the study, as far as it has come."""
        seeds = self.study.seeds
        if isinstance(seeds, Seeds):
            return list(range(seeds.analyses[self.interim_analysis]))
        return seeds

    def seeds_of(self, arms: Iterable[str]) -> list[int]:
        """The seeds that all of these arms are trained with."""
        stopped = self.seeds_by_stopped_arm
        fewest = min((stopped[arm] for arm in arms if arm in stopped), default=len(self.seeds))
        return self.seeds[:fewest]

    @functools.cached_property
    def trials(self) -> dict[str, Trial]:
        """The trials, by name, that are trained with every seed: the arms or, where keys are tuned,
        every arm at each value.
        """
        return trials(self.arms, self.study.tune)

    def trials_of(self, arm: str) -> dict[str, Trial]:
        """The trials of one arm, by name."""
        return {name: trial for name, trial in self.trials.items() if trial.arm == arm}

    def run(self, trial: str, seed: int) -> RunConfig:
        """The configuration of one trial's run with one seed; without tuned keys a trial is an arm."""
        return dataclasses.replace(self.trials[trial].config, seed=seed)

    def runs(self) -> dict[tuple[str, int], RunConfig]:
        """The configuration of every run by (trial, seed), in the order of the seeds, so that an
        unfinished study is balanced.
        """
        seeds_of = {arm: self.seeds_of([arm]) for arm in self.arms}
        runs = {}
        for seed in self.seeds:
            for name, trial in self.trials.items():
                if seed in seeds_of[trial.arm]:
                    runs[name, seed] = self.run(name, seed)
        return runs

    def directories(self) -> dict[tuple[str, int], RunDirectory]:
        """Every run's directory by (trial, seed)."""
        return {
            key: RunDirectory.of(run.runtime.outputs, run.run_id)
            for key, run in self.runs().items()
        }

    def records(self) -> dict[tuple[str, int], Record | None]:
        """Every run's record by (trial, seed), or None where a run has none yet.

        Raises:
            Refused: A file is not a record, or is of a run that is not what its id says.
        """
        return {key: directory.record_of_its_id() for key, directory in self.directories().items()}

    def differences(self, arm: str) -> dict[str, tuple[Any, Any]]:
        """The science in which an arm differs from the baseline: ``{key: (baseline, arm)}``.

        A field that does not apply to one of the two, such as Nesterov's momentum to AdamW, is no
        difference. Weights to start from, which a digest tells apart, are named as an arm declares
        them.
        """
        baseline, config = self.baseline, self.arms[arm]
        before, after = baseline.science(), config.science()
        # extensions follow from other keys
        not_applicable = baseline.train.unused | config.train.unused | {"extensions"}
        found: dict[str, tuple[Any, Any]] = {}
        for key in before:
            if key not in not_applicable and before[key] != after[key]:
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
        """Which part of the data set is which split, in words; of each data set, should the arms
        have several.
        """
        return "; ".join(dict.fromkeys(config.data.splits() for config in self.arms.values()))

    def directory(self) -> Path:
        """Where the study's registration and report are kept."""
        return Path(self.baseline.runtime.outputs) / "studies" / self.name

    def nothing_found(self) -> str:
        """What to say where the outputs hold neither the study nor a run of it, as from another
        working folder; else empty.
        """
        runs = [directory.path for directory in self.directories().values()]
        if any(path.exists() for path in (self.directory(), *runs)):
            return ""
        return f"{self.name}: no run of it is in {runs[0].parent.resolve()}; --runtime.outputs names another outputs folder"
