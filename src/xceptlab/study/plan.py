"""From a study file to what is to be run: arms resolved, widths matched, seeds added until the claims are decided."""

import dataclasses
import functools
import hashlib
import math
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xceptlab.config import loading, options, shipped
from xceptlab.config.field_errors import shown
from xceptlab.config.layers import Layer, file_layer, layer, resolve
from xceptlab.config.schema import RunConfig
from xceptlab.data import identity, resolved
from xceptlab.errors import Refused
from xceptlab.runs.metrics import ACCURACY, METRICS, SPLITS, measured, split_of
from xceptlab.study.choice import refuse_untunable
from xceptlab.study.definition import FACTORS, Claim, Seeds, Study
from xceptlab.study.estimands import refuse_too_few_seeds
from xceptlab.study.expansion import Expansion
from xceptlab.study.images import refuse_scope
from xceptlab.study.registration import Registration, refuse_namesake
from xceptlab.study.sequential import with_needed_seeds


def find_study_file(path: str) -> Path:
    """The study file that a folder, a file or the name of a shipped study names."""
    for candidate in (Path(path), shipped.root() / path, shipped.root() / "experiments" / path):
        file = candidate / "study.yaml" if candidate.is_dir() else candidate
        if file.is_file():
            return file
        if Path(path).exists():
            break
    raise Refused(f"{path}: no study there; give a study's folder (with a study.yaml in it), its file, or a shipped one's name")


def expand(path: str, args: Sequence[str] = (), seeds: int | None = None) -> Expansion:
    """Read a study and resolve its arms; ``args`` are layers and overrides that apply after the base and before the arms.

    ``seeds`` asks for a first look with so many of the study's first seeds: a study by itself, whose name says so, which shares
    its runs with the whole one.

    Raises:
        Refused: One line, for a study that is not well formed, an arm that differs from the baseline in a key that neither
            declares, two arms of equal science, or an override of what the study itself decides.
    """
    file = find_study_file(path)
    study = loading.load_file(Study, str(file))
    _refuse_overrides_of(study, args, file)
    planned = 0
    if seeds is not None:
        study, planned = _first_look(study, seeds)
    given = loading.layers_of(args)
    named = _naming_layers(args, given)
    layers_of_the_name = [shipped.find(value).resolve() for key, value in named if key == "config"]
    loaded = Expansion(
        name=_name(file, named, seeds if planned and seeds else 0),
        study=study,
        arms=_arms(study, file, given),
        command=_command(path, args, seeds),
        planned=planned,
        files=(file.resolve(), *layers_of_the_name),
    )
    expansion = dataclasses.replace(loaded, arms=_resolved(loaded))
    _control(file, expansion)
    _check_metrics(file, expansion)
    refuse_untunable(expansion, file)
    refuse_scope(study, file)
    if not expansion.planned:  # a first look decides nothing anyway
        refuse_too_few_seeds(study, file)
    if expansion.baseline.model.match != "none":
        from xceptlab.study.comparison import matched  # builds networks, for which torch is needed

        expansion = matched(expansion)
    refuse_namesake(expansion)
    return with_needed_seeds(expansion)


def _refuse_overrides_of(study: Study, args: Sequence[str], file: Path) -> None:
    """Refuse a command line that sets what the study itself decides."""
    decided = {"seed"}
    if study.tune:
        decided |= study.tune.keys.keys()
    for declared in study.cells().values():
        decided |= declared.keys()
    for key, _ in loading.overrides(args):
        if key == "print_config":
            raise Refused("--print_config: xceptlab train shows a configuration; xceptlab plan shows a study")
        if key in decided:
            raise Refused(f"--{key}: the study {file} decides it; edit the study to change it")


def _arms(study: Study, file: Path, given: Sequence[Layer]) -> dict[str, RunConfig]:
    """By arm its configuration with the first seed: the study's base, what the command line has given, and what it declares."""
    base = [file_layer(_find(name, file)) for name in study.base]
    base.append(layer({"extensions": study.extensions}, str(file)))
    first_seed = 0 if isinstance(study.seeds, Seeds) else study.seeds[0]
    arms = {}
    for name, declared in study.cells().items():
        values = {**declared, "seed": first_seed}
        if "model.weights" in values:
            values["model.weights"] = _beside(values["model.weights"], file)
        arms[name] = resolve([*base, *given, layer(values, f"{file}: arm {name!r}")])
    return arms


def _command(path: str, args: Sequence[str], seeds: int | None) -> str:
    """The command that runs the study, as one would type it."""
    first_look = [f"--seeds={seeds}"] if seeds is not None else []
    typed = shlex.join(["xceptlab", "study", path, *first_look, *args])
    return os.fsencode(typed).decode("utf-8", errors="replace")  # arguments are in the terminal's encoding, the report in UTF-8


def _first_look(study: Study, seeds: int) -> tuple[Study, int]:
    """The study with its first seeds only, and how many it has in all; 0 where these are all of a list."""
    every = list(range(study.seeds.max)) if isinstance(study.seeds, Seeds) else study.seeds
    if not 1 <= seeds <= len(every):
        raise Refused(f"--seeds: {seeds} is not allowed; it must be between 1 and {len(every)}, the seeds of the study")
    whole = every[:seeds] == study.seeds
    return dataclasses.replace(study, seeds=every[:seeds]), 0 if whole else len(every)


def _resolved(expansion: Expansion) -> dict[str, RunConfig]:
    """The arms with all that their identity needs; where an own data set is not at hand, as they were registered."""
    read_contents = functools.cache(identity.contents)  # the arms share their data
    try:
        registration = Registration.load(expansion.directory())
    except (OSError, ValueError):  # Registration.read says what is wrong with it
        registration = None
    registered = registration.arms if registration else {}
    return {name: resolved(config, registered.get(name), read_contents) for name, config in expansion.arms.items()}


def _control(file: Path, expansion: Expansion) -> None:
    """Refuse a comparison that is not controlled: see docs/control.md."""
    cells = expansion.study.cells()
    baseline = next(iter(cells))
    for arm in expansion.arms:
        declared = {*cells[arm], *cells[baseline]}
        more = [key for key in expansion.differences(arm) if not options.is_declared(key, declared)]
        if more:
            raise Refused(
                f"{file}: arm {arm!r} differs from {baseline!r} in {', '.join(sorted(more))}, which it does not declare"
            )
    seen: dict[str, str] = {}
    for arm, config in expansion.arms.items():
        if config.run_id in seen:
            raise Refused(f"{file}: the arms {seen[config.run_id]!r} and {arm!r} are the same science; an arm must differ")
        seen[config.run_id] = arm


def _check_metrics(file: Path, expansion: Expansion) -> None:
    """Refuse a claim on a metric that an arm does not measure, or of which a diverged run would have no score."""
    for claim in expansion.study.claims:
        for arm in expansion.study.arms_of(claim):
            if fault := _metric_fault(claim, arm, expansion.arms[arm]):
                raise Refused(f"{file}: claim {claim.id!r}: {fault}")


def _metric_fault(claim: Claim, arm: str, config: RunConfig) -> str:
    """Why a claim cannot be on its metric in an arm; empty where it can."""
    if split_of(claim.metric) == "val" and not config.data.has_validation_images:
        return f"metric: {claim.metric} needs data.validation, which is 0 in arm {arm!r}"
    registered = config.train.metrics
    names = [f"{split}/{name}" for split in SPLITS for name in (*METRICS, *registered)]
    if claim.metric not in names:
        return f"metric: {shown(claim.metric)} is not allowed; it must be one of {', '.join(names)}"
    metric, classes = claim.measure, config.data.classes
    guessing = metric.guessing(classes)
    if claim.diverged is None and math.isnan(guessing):
        return f"diverged: is missing; nothing says what guessing scores in {claim.metric}"
    if metric.name not in [one.name for one in measured(classes, registered)]:
        always = f"{claim.metric} is always {guessing:g}{metric.unit} with {classes} classes"
        return f"metric: {always}, as in arm {arm!r}; claim {ACCURACY}"
    return ""


def _beside(path: Any, file: Path) -> Any:
    """A path of a study file as it is from the working directory: beside the study file, or as it stands there."""
    if not isinstance(path, str) or not path:
        return path
    beside = file.parent / os.path.expanduser(path)
    return str(beside) if beside.exists() else path


def _find(base: str, file: Path) -> str:
    for candidate in (Path(_beside(base, file)), shipped.find(base)):
        if candidate.is_file():
            return str(candidate)
    raise Refused(f"{file}: base {base!r} is neither beside the study file nor in the working directory, nor shipped")


def _naming_layers(args: Sequence[str], layers: Sequence[Layer]) -> list[tuple[str, str]]:
    """Of the command line the layers and overrides that make another study, because they can change a result."""
    science = {*FACTORS, "model.match"}
    naming = []
    for (key, text), given in zip(loading.overrides(args), layers, strict=True):
        if science & set(map(options.field_of, given.values)):
            naming.append((key, text or ""))
    return naming


def _name(file: Path, layers: Sequence[tuple[str, str]], seeds: int) -> str:
    """The study's name, with the layers and overrides that make another study, and the number of seeds of a first look.

    At most 60 characters: it is also a folder and a tag in W&B, which takes 64.
    """
    parts = [file.parent.resolve().name if file.name == "study.yaml" else file.stem]
    for key, value in layers:
        parts.append(Path(value).stem if key == "config" else f"{key}={value}")
    if seeds:
        parts.append(f"seeds{seeds}")
    name = re.sub(r"[^\w.=+-]", "_", "+".join(parts)).lstrip(".")
    if len(name) <= 60:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[:51]}-{digest}"
