"""What a notebook wants: studies and runs as Python objects and pandas tables. ``docs/python.md`` shows all of it.

A thin layer over what the commands do, quiet by default. What a user can mend is a ``Refused`` of one line. Nothing heavy is
imported before it is needed: reading results needs pandas, networks need torch.
"""

import functools
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from xceptlab.config.layers import by_dotted_key
from xceptlab.config.loading import load_file, load_run
from xceptlab.config.schema import RunConfig
from xceptlab.errors import Refused
from xceptlab.runs.directory import RunDirectory, refuse_other_versions
from xceptlab.runs.record import Record
from xceptlab.study.expansion import Expansion
from xceptlab.study.verdict import Verdict

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor, nn

    from xceptlab.data.transform import Transform
    from xceptlab.models.cost import Row

Layer = str | os.PathLike[str] | Mapping[str, Any]
"""A layer of configuration: a file, or values by key, ``{"train.lr": 0.05}`` or ``{"train": {"lr": 0.05}}``."""
Pair = tuple[str, str]


def configure(*layers: Layer) -> RunConfig:
    """The configuration of a run: layers in their order, the last wins; without any the paper's network on ImageNet.

    Args:
        layers: Configuration files, looked up as on the command line, and values by key.

    Raises:
        Refused: A key, a value or a file that is not as the schema allows.
    """
    return load_run(_arguments(layers))


def train(*layers: Layer | RunConfig, progress: bool = False) -> "Run":
    """Train, evaluate and record one run in this process, or continue it where it stopped; one that is done is only returned.

    PyTorch stays configured as the run asks for: ``train.threads``, deterministic algorithms, no TF32.

    Args:
        layers: A configuration, or what ``configure`` takes.
        progress: Show a progress bar.

    Raises:
        Refused: The configuration does not fit the data, the device or what is installed, or asks for several devices.
        Busy: Another process is training this run.
    """
    first, *others = layers or ({},)
    config = first if isinstance(first, RunConfig) and not others else configure(*layers)  # type: ignore[arg-type]
    processes = config.runtime.devices * config.runtime.num_nodes
    if processes > 1:
        raise Refused(f"runtime.devices: a run on {processes} devices needs processes of its own: `xceptlab train`, or a study")
    from xceptlab.data import require_files, resolved
    from xceptlab.training.train import train

    require_files(config.data)
    config = resolved(config)
    train(config, progress=progress, quiet=not progress)
    return Run(RunDirectory.of(config.runtime.outputs, config.run_id).path)


class Run:
    """One run, as its folder shows it.

    Args:
        name: The run's folder, or its id.
        outputs: The folder that holds ``runs/``, where an id is given.
        extensions: Modules that register what the run uses from outside, unless this process has loaded them already.

    Raises:
        Refused: There is no such run.
    """

    def __init__(
        self, name: str | os.PathLike[str], outputs: str | os.PathLike[str] = "outputs", *, extensions: Sequence[str] = ()
    ) -> None:
        found = RunDirectory.find(name, outputs)
        if found is None:
            raise Refused(f"{os.fspath(name)}: neither a run's folder nor a run under {Path(outputs) / 'runs'}")
        self._directory = found
        self.config = load_run(_arguments([{"extensions": list(extensions)}]), of_run=str(self.path / "config.yaml"))
        refuse_other_versions(self.config, self._directory)

    def __repr__(self) -> str:
        scores = ", ".join(f"{name} {value:.4g}" for name, value in self.metrics.items())
        return f"<Run {self.id}: {self.status}{f', {scores}' if scores else ''}>"

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self._directory.path

    @property
    def id(self) -> str:
        """The run's id."""
        return self.path.name

    @property
    def record(self) -> Record | None:
        """What the finished run left behind; None while it is not done."""
        return self._directory.record()

    @property
    def status(self) -> str:
        """done, diverged, running, failed, stopped (it has begun, and nobody trains it now) or waiting."""
        from xceptlab.launch.status import run_status

        return run_status(self._directory, self._directory.follow(), self.config.train.epochs).state

    @property
    def metrics(self) -> dict[str, float]:
        """The final scores by name, such as ``test/top1`` in percent; empty while the run is not done, or where it diverged."""
        record = self.record
        return record.metrics if record else {}

    def curves(self) -> "pd.DataFrame":
        """The log as a tidy table: a row per step, epoch (in fractions), metric and value."""
        import pandas as pd

        return pd.DataFrame(_points(self._directory), columns=POINT)

    @functools.cached_property
    def network(self) -> "nn.Module":
        """The network with its evaluated weights, on the CPU, in eval mode; yours to move: ``run.network.cuda()``.

        Raises:
            Refused: The run is not done, or diverged.
        """
        import torch

        from xceptlab.models import pretrained
        from xceptlab.models.build import build

        weights = self.path / "model.safetensors"
        if not weights.is_file():
            raise Refused(f"{self.path}: {self.status}, so that there is no model.safetensors in it")
        network = build(self.config.model, self.config.data.classes)
        if self.config.train.precision == "64-true":
            network = network.double()
        pretrained.fit(network, pretrained.read_tensors(weights), str(weights))
        return network.to(memory_format=torch.channels_last).eval()

    @property
    def transform(self) -> "Transform":
        """Prepares a picture, Pillow's or an array of uint8, for the network: (3, size, size)."""
        import torch

        from xceptlab.data.transform import Transform

        exact = self.config.train.precision == "64-true"
        return Transform(self.config.data, torch.float64 if exact else torch.float32)

    def features(self, images: "Tensor") -> "Tensor":
        """What the classifier sees of images (N, 3, size, size) that ``transform`` has prepared: (N, D)."""
        from xceptlab.models.features import features

        return features(self.network, images)

    def split_features(self, split: Literal["train", "val", "test"]) -> "Features":
        """What the classifier sees of every image of a split, in the split's order and without augmentation.

        Raises:
            Refused: The split is empty, or the data are not there.
        """
        import torch

        from xceptlab.data import resolved
        from xceptlab.data.module import DataModule

        data = DataModule(resolved(self.config))
        data.setup("test")
        if split not in SPLITS:
            raise Refused(f"{split!r} is no split; there are {', '.join(SPLITS)}")
        if split == "val" and not len(data.validation):
            raise Refused(f"val is empty; data.validation of {self.id} is 0")
        rows, labels = [], []
        for batch in data.as_in_evaluation(split):
            rows.append(self.features(batch.images).cpu())
            labels.append(batch.labels)
        return Features(torch.cat(rows), torch.cat(labels))


SPLITS = ("train", "val", "test")
POINT = ("step", "epoch", "metric", "value")
"""The columns of a learning curve."""


class Features(NamedTuple):
    """The activations before the classifier, of every image of a split."""

    values: "Tensor"
    """(N, D)"""
    labels: "Tensor"
    """(N,)"""


class Study:
    """A study: its arms, its runs as tables, its verdicts.

    Args:
        path: The study's folder (with a study.yaml in it), its file, or the name of a shipped one.
        layers: Configuration that applies after the study's base and before its arms; what ``configure`` takes.
        seeds: For a first look with so many of the study's first seeds.

    Raises:
        Refused: The study is not well formed, or its comparison is not controlled.
    """

    def __init__(self, path: str | os.PathLike[str], *layers: Layer, seeds: int | None = None) -> None:
        from xceptlab.study.plan import expand

        self._expansion = expand(os.fspath(path), _arguments(layers), seeds)

    def __repr__(self) -> str:
        records = self.expansion.records()
        done = sum(record is not None for record in records.values())
        return f"<Study {self.name}: {len(self.arms)} arms, {done} of {len(records)} runs done>"

    @property
    def expansion(self) -> Expansion:
        """The study with every arm resolved, and with the seeds that its claims need by the records there are."""
        from xceptlab.study.sequential import with_needed_seeds

        self._expansion = with_needed_seeds(self._expansion)
        return self._expansion

    @property
    def name(self) -> str:
        """The study's name, with the layers that make another study of it."""
        return self._expansion.name

    @property
    def question(self) -> str:
        """What the study answers."""
        return self._expansion.study.question

    @property
    def arms(self) -> dict[str, RunConfig]:
        """Every arm's configuration, with the first seed; the first arm is the baseline."""
        return self._expansion.arms

    def __getitem__(self, arm_and_seed: tuple[str, int]) -> Run:
        """A run that has begun: ``study["residual", 0]``; where keys are tuned, of a trial by its name.

        Raises:
            Refused: There is no such run, or it has not begun.
        """
        directories = self.expansion.directories()
        if arm_and_seed not in directories:
            there = f"arms {', '.join(self.arms)} and seeds {', '.join(map(str, self.expansion.seeds))}"
            for arm, n in self.expansion.seeds_by_stopped_arm.items():
                there += f" (of {arm} the first {n}, as its claims were settled)"
            raise Refused(f"{self.name}: there is no run {arm_and_seed!r}; there are the {there}")
        return Run(directories[arm_and_seed].path)

    def plan(self) -> "pd.DataFrame":
        """An arm per row: the science in which it differs from others, its parameters and multiply-accumulates.

        Raises:
            Refused: The comparison is not controlled: an arm differs in more than it declares.
        """
        import pandas as pd

        trees = self._module_trees()
        factors = _factors(self._expansion)
        rows = [{"arm": arm, **factors[arm], "parameters": trees[arm][0].parameters, "macs": trees[arm][0].macs} for arm in trees]
        return pd.DataFrame(rows)

    def run(self, jobs: int | None = None, progress: bool = False) -> "Study":
        """Train what is missing, as ``xceptlab study`` does: in processes of their own, or on the cluster that the layers name.

        Args:
            jobs: Runs at a time; None for as many as there are GPUs or cores for.
            progress: Show the runs as the command does.

        Raises:
            Refused: The comparison is not controlled, a run can never start here, or runs failed; what is done stays.
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
        """A run per row: arm, seed, the science in which arms differ, status, scores and costs; what is not known yet is NaN."""
        import pandas as pd

        from xceptlab.launch.status import Overview

        expansion = self.expansion
        factors, records = _factors(expansion), expansion.records()
        seen = Overview(expansion).read({})
        rows = []
        for (trial, seed), run in _by_arm(expansion).items():
            arm, tuned = expansion.trials[trial].arm, expansion.trials[trial].values
            row: dict[str, Any] = {"arm": arm, "seed": seed, **factors[arm], **tuned, "status": seen[run.run_id].state}
            if record := records[trial, seed]:
                row |= record.metrics | {name: getattr(record, name) for name in RECORDED}
            rows.append(row | {"run_id": run.run_id})
        metrics = sorted({name for record in records.values() if record for name in record.metrics}, key=_test_first)
        known = [*next(iter(factors.values())), *next(iter(expansion.trials.values())).values, "status", *metrics, *RECORDED]
        return pd.DataFrame(rows, columns=["arm", "seed", *known, "run_id"])

    def curves(self) -> "pd.DataFrame":
        """Every run's log as a tidy table: a row per arm, seed, step, epoch (in fractions), metric and value."""
        import pandas as pd

        expansion = self.expansion
        directories = expansion.directories()
        rows = []
        for trial, seed in _by_arm(expansion):
            run = (expansion.trials[trial].arm, seed, *expansion.trials[trial].values.values())
            rows += [(*run, *point) for point in _points(directories[trial, seed])]
        return pd.DataFrame(rows, columns=["arm", "seed", *next(iter(expansion.trials.values())).values, *POINT])

    def verdicts(self) -> "Verdicts":
        """The verdict on each claim, from the records there are."""
        from xceptlab.study.judging import judge_study

        expansion = self.expansion
        return Verdicts.of(judge_study(expansion, expansion.records()))

    def report(self) -> Path:
        """Write the study's report; returns the path of the page.

        Raises:
            Refused: There is nothing to report yet.
        """
        from xceptlab.report.write import make_report

        return make_report(self.expansion).expansion.directory() / "report.html"

    def _module_trees(self) -> "dict[str, list[Row]]":
        from xceptlab.study.comparison import identical_arms, module_trees

        trees = module_trees(self._expansion)
        for line in identical_arms(self._expansion, trees):
            warnings.warn(line, stacklevel=3)
        return trees


RECORDED = ("parameters", "macs", "seconds", "images_per_second", "device", "world_size", "precision")
"""What of a record the table of runs has, after the scores."""


class Verdicts(dict[str, Verdict]):
    """Verdicts by their claims' ids: ``verdicts["residual-helps"].outcome``."""

    @classmethod
    def of(cls, verdicts: Sequence[Verdict]) -> "Verdicts":
        """These verdicts, in their order."""
        return cls((verdict.claim.id, verdict) for verdict in verdicts)

    def __repr__(self) -> str:
        return "\n".join(map(str, self.values()))

    def _repr_html_(self) -> str:
        return self.table().to_html(index=False)

    def table(self) -> "pd.DataFrame":
        """A claim per row; estimate and interval are those of a - b, or b - a where lower is better."""
        import pandas as pd

        rows = []
        for v in self.values():
            claim = {"claim": v.claim.id, "a": v.claim.sides[0], "b": v.claim.sides[1], "metric": v.claim.metric}
            asked = {"kind": v.claim.kind, "margin": v.claim.margin}
            found = {"outcome": v.outcome, "estimate": v.estimate, "low": v.low, "high": v.high, "level": v.level}
            rows.append(claim | asked | found | {"n": v.n, "p_adjusted": v.p_adjusted, "summary": v.summary})
        return pd.DataFrame(rows)


def judge(
    scores: "pd.DataFrame",
    contrast: Pair | Sequence[Pair] | None = None,
    *,
    metric: str | None = None,
    kind: Literal["superior", "equivalent"] | None = None,
    margin: float | None = None,
    statistic: Literal["mean", "median"] | None = None,
    pairing: Literal["seed", "none"] | None = None,
    lower_is_better: bool | None = None,
    diverged: float | None = None,
    alpha: float | None = None,
    claims: str | os.PathLike[str] | None = None,
    arm: str = "arm",
    seed: str = "seed",
) -> Verdicts:
    """The verdicts on scores that any tool made, as ``xceptlab judge`` gives them.

    Args:
        scores: A row per run with a column per metric, or a row per run and metric with the columns ``metric`` and ``value``.
        contrast: Arms (a, b), for the claim that a is better than b, or equal; several are several claims.
        metric: The column that is compared; ``test/top1`` where it is left out.
        kind: ``superior`` (the default): a - b > margin; ``equivalent``: -margin < a - b < margin.
        margin: Smallest difference that matters, in the metric's unit; 0 where it is left out.
        statistic: Of the differences over seeds, their mean where it is left out.
        pairing: ``seed`` (the default): equal seeds form pairs; ``none``: the arms have nothing in common.
        lower_is_better: Whether the claim is about b - a; None decides by whether the metric's name ends in loss, and is
            refused for other names of errors.
        diverged: What a run scores that has no finite score; None refuses such runs.
        alpha: Chance of any false ``supported``, and of any false ``contradicted``, over all claims; 0.05 where it is left out.
        claims: A YAML file with ``claims`` and ``alpha``, in place of ``contrast`` and what belongs to it.
        arm: The column that tells the arms apart.
        seed: The column of whole numbers that pairs their runs.

    Raises:
        Refused: What is wrong with the table, or what a claim names that it does not have.
    """
    from xceptlab.study.score_files import Table
    from xceptlab.study.score_tables import ClaimsFile, claims_on, judge_table

    if (contrast is None) == (claims is None):
        raise Refused("judge: either contrast=(A, B) or claims=FILE says what is claimed")
    fields = {"metric": metric, "kind": kind, "margin": margin, "statistic": statistic}
    fields |= {"pairing": pairing, "lower_is_better": lower_is_better, "diverged": diverged, "alpha": alpha}
    given = {name: value for name, value in fields.items() if value is not None}
    if claims is not None:
        if given:
            raise Refused(f"judge: {', '.join(given)}: not allowed with claims, whose file says it of each claim")
        claimed = load_file(ClaimsFile, os.fspath(claims))
    else:
        pairs: Any = contrast
        if not any(isinstance(one, tuple | list) for one in pairs):
            pairs = [contrast]
        claimed = claims_on(pairs, given)
    each_once = scores.loc[:, ~scores.columns.duplicated()]  # a column that is there twice is refused, if it is needed
    rows = [{str(key): _cell(value) for key, value in row.items()} for row in each_once.to_dict("records")]
    table = Table(columns=[str(column) for column in scores.columns], rows=rows)
    return Verdicts.of(judge_table(table, "scores", claimed.claims, claimed.alpha, arm, seed))


def _cell(value: Any) -> str:
    """A value as a CSV file would hold it; pandas makes 0 of an integer column with gaps 0.0."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _arguments(layers: Sequence[Layer]) -> list[str]:
    """Layers as the command line has them."""
    arguments: list[str] = []
    for layer in layers:
        if isinstance(layer, Mapping):
            for key, value in by_dotted_key(layer, "the layer").items():
                arguments.append(f"--{key}={value if isinstance(value, str) else json.dumps(value, default=_plain)}")
        elif isinstance(layer, str | os.PathLike):
            arguments += ["-c", os.fspath(layer)]
        else:
            raise Refused(f"a layer is {type(layer).__name__}; it must be a configuration file or values by key")
    return arguments


def _plain(value: Any) -> Any:
    """A value of NumPy's as Python's; a path as text."""
    return value.item() if hasattr(value, "item") else str(value)


def _factors(expansion: Expansion) -> dict[str, dict[str, Any]]:
    """Per arm its values of all science in which any arm differs from the baseline."""
    differences = {arm: expansion.differences(arm) for arm in expansion.arms}
    baseline = {key: values[0] for found in differences.values() for key, values in found.items()}
    return {arm: baseline | {key: own for key, (_, own) in found.items()} for arm, found in differences.items()}


def _by_arm(expansion: Expansion) -> dict[tuple[str, int], RunConfig]:
    """Every run by (trial, seed), arm by arm; a trial is an arm, or an arm at one of the values of the keys that are tuned."""
    runs = expansion.runs()
    return {(trial, seed): runs[trial, seed] for trial in expansion.trials for seed in expansion.seeds if (trial, seed) in runs}


def _points(directory: RunDirectory) -> list[tuple[int, float, str, float]]:
    """What a log holds, as rows of ``POINT``."""
    points = []
    for line in directory.log():
        names = [name for name in line if name not in ("step", "epoch", "time")]
        points += [(line["step"], line["epoch"], name, line[name]) for name in names]
    return points


def _test_first(metric: str) -> tuple[bool, str]:
    return not metric.startswith("test/"), metric
