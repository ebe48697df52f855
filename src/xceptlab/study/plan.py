"""Expand a study file to what is to be run: arms resolved, widths matched, and seeds added until
the claims are decided.
"""

import dataclasses
import functools
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xceptlab.config import loading, options, shipped
from xceptlab.config.layers import Layer, Origin, file_layer, layer, resolve
from xceptlab.config.loading import Argument, Value
from xceptlab.config.schema import RunConfig
from xceptlab.data import identity, resolved
from xceptlab.errors import Refused
from xceptlab.study.checks import check
from xceptlab.study.definition import FACTORS, Seeds, Study
from xceptlab.study.expansion import Expansion
from xceptlab.study.registration import Registration, refuse_namesake
from xceptlab.study.sequential import with_needed_seeds
from xceptlab.text import short_name


def find_study_file(path: str) -> Path:
    """Return the study file that a path names: a study's folder, its file, or the name of a shipped
    study.

    Raises:
        Refused: There is no study.
    """
    given = Path(os.path.expanduser(path))
    for candidate in (given, shipped.root() / path, shipped.root() / "experiments" / path):
        file = candidate / "study.yaml" if candidate.is_dir() else candidate
        if file.is_file():
            return file
        if given.exists():
            break
    raise Refused(
        f"{path}: no study there; give a study's folder (with a study.yaml in it), its file, or a shipped one's name"
    )


def expand(path: str, args: Sequence[Argument] = (), seeds: int | None = None) -> Expansion:
    """Read a study, resolve its arms, check it, and judge the records there are to see how many
    seeds its claims need.

    Args:
        path: The study's folder, its file, or the name of a shipped one.
        args: Configuration files and overrides, as on the command line or as values, which apply
            after the study's base and before its arms.
        seeds: Number of the study's first seeds, for a first look: a study by itself, whose name
            says so, and which shares its runs with the whole one. None, or the number of all seeds
            of a list, for the whole study.

    Raises:
        Refused: There is no study, or it is not well formed; its arms are not controlled, or its
            claims cannot be judged (``checks.check``); an argument is not allowed, or an override
            sets what the study itself decides; a network whose width is to be matched cannot be
            built; ``seeds`` is below 1 or above the study's number; files of data or
            weights are missing or have changed; the study's directory belongs to another study; or
            seeds are added until the claims are decided, and a finished run lacks a score that this
            needs, or has one that is not finite or too large. The message is one line.
    """
    file = find_study_file(path)
    whole = loading.load_file(Study, str(file))
    _refuse_overrides_of(whole, args, file)
    study = whole if seeds is None else _with_first_seeds(whole, seeds)
    is_first_look = study.seeds != whole.seeds
    given = loading.layers_of(args)
    named = _naming_layers(args, given)
    layers_of_the_name = [shipped.find(value).resolve() for key, value in named if key == "config"]
    loaded = Expansion(
        name=_name(file, named, seeds if is_first_look else None),
        study=study,
        arms=_arms(study, file, given),
        command=_command(path, args, seeds),
        seeds_of_whole_study=len(_all_seeds(whole)) if is_first_look else 0,
        files=(file.resolve(), *layers_of_the_name),
    )
    expansion = dataclasses.replace(loaded, arms=_resolved(loaded))
    check(expansion, file)
    if expansion.baseline.model.match != "none":
        # The import loads torch, which building networks needs and reading a study does not.
        from xceptlab.study.comparison import matched

        expansion = matched(expansion)
    refuse_namesake(expansion)
    return with_needed_seeds(expansion)


def _refuse_overrides_of(study: Study, args: Sequence[Argument], file: Path) -> None:
    """Refuse overrides of the seed, of a tuned key and of a key that an arm declares, and
    ``--print_config``. A configuration file among the arguments may set these keys.
    """
    decided = {"seed"}
    if study.tune:
        decided |= study.tune.keys.keys()
    for declared in study.cells().values():
        decided |= declared.keys()
    given = loading.overrides(args)
    if loading.PRINT_CONFIG in given:
        raise Refused(
            "--print_config: xceptlab train shows a configuration; xceptlab plan shows a study"
        )
    for key, _ in given:
        if key in decided:
            raise Refused(f"--{key}: the study {file} decides it; edit the study to change it")


def _arms(study: Study, file: Path, given: Sequence[Layer]) -> dict[str, RunConfig]:
    """Return the configuration of each arm with the study's first seed, by the arm's name.

    Later layers win: the study's base, the ``given`` ones of the command line, what the arm
    declares.

    Raises:
        Refused: A file of the base is not found or cannot be read, or a key or a value is not
            allowed.
    """
    base = [file_layer(_find(name, file)) for name in study.base]
    base.append(layer({"extensions": study.extensions}, Origin.of_file(str(file))))
    first_seed = 0 if isinstance(study.seeds, Seeds) else study.seeds[0]
    arms = {}
    for name, declared in study.cells().items():
        values = {**declared, "seed": first_seed}
        if "model.weights" in values:
            values["model.weights"] = _beside(values["model.weights"], file)
        origin = Origin(f"{file}: arm {name!r}", file.parent)
        arms[name] = resolve([*base, *given, layer(values, origin)])
    return arms


def _command(path: str, args: Sequence[Argument], seeds: int | None) -> str:
    """Return the command that runs the study, as one would type it."""
    first_look = [f"--seeds={seeds}"] if seeds is not None else []
    pieces = [piece.option if isinstance(piece, Value) else piece for piece in args]
    typed = shlex.join(["xceptlab", "study", path, *first_look, *pieces])
    # The report is in UTF-8, but an argument may hold any bytes. Those that are no UTF-8 are
    # replaced.
    return os.fsencode(typed).decode("utf-8", errors="replace")


def _all_seeds(study: Study) -> list[int]:
    """Return the seeds of the whole study; where seeds are added, as many as there may be."""
    if isinstance(study.seeds, Seeds):
        return list(range(study.seeds.max))
    return study.seeds


def _with_first_seeds(study: Study, n: int) -> Study:
    """Return the study with its first n seeds only, as a list.

    Raises:
        Refused: The study has fewer seeds, or n is below 1.
    """
    every = _all_seeds(study)
    if not 1 <= n <= len(every):
        raise Refused(
            f"--seeds: {n} is not allowed; it must be between 1 and {len(every)}, the seeds of the study"
        )
    return dataclasses.replace(study, seeds=every[:n])


def _resolved(expansion: Expansion) -> dict[str, RunConfig]:
    """Return the configurations by arm, with the digests of their data and initial weights, on
    which run ids depend.

    Where the files of a user's own data set, or of weights, are not at hand, the digest is that of
    the configuration or else the registered one.

    Raises:
        Refused: There is no such digest, or the files are others than the configuration says.
    """
    # Arms share their data, which take long to read.
    read_contents = functools.cache(identity.contents)
    try:
        registration = Registration.load_file(expansion.directory())
    except (OSError, Refused):
        # Whoever needs the registration calls load_for, which says what is wrong with the file.
        registration = None
    registered = registration.arms if registration else {}
    arms = {}
    for name, config in expansion.arms.items():
        arms[name] = resolved(config, registered.get(name), read_contents)
    return arms


def _beside(path: Any, file: Path) -> Any:
    """Return the path that a study file names: beside the study file if it exists there, else as it
    is named, from the working directory.

    Anything but a path is returned as it is: the type check of its field refuses it.
    """
    if not isinstance(path, str) or not path:
        return path
    beside = file.parent / os.path.expanduser(path)
    return str(beside) if beside.exists() else path


def _find(base: str, file: Path) -> str:
    """Return the configuration file that a study file names in its base: beside the study file,
    from the working directory, or a shipped one.

    Raises:
        Refused: There is no such file.
    """
    for candidate in (Path(_beside(base, file)), shipped.find(base)):
        if candidate.is_file():
            return str(candidate)
    raise Refused(
        f"{file}: base {base!r} is neither beside the study file nor in the working directory, nor shipped"
    )


def _naming_layers(args: Sequence[Argument], layers: Sequence[Layer]) -> list[tuple[str, str]]:
    """Return those files and overrides among the arguments that make another study, since they can
    change a result, as (key, text); for a file the key is ``config``.

    ``layers`` are the layers of the arguments, one for each file and override, in their order.
    """
    science = {*FACTORS, "model.match"}
    naming = []
    for (key, text), given in zip(loading.overrides(args), layers, strict=True):
        can_change_a_result = not science.isdisjoint(map(options.field_of, given.values))
        if can_change_a_result:
            naming.append((key, text or ""))
    return naming


def _name(file: Path, layers: Sequence[tuple[str, str]], first_look: int | None) -> str:
    """Return the study's name, such as ``residual+cifar10+train.lr=0.1+seeds3``.

    It has 60 characters at most: it is also a folder and a tag in W&B, which takes 64.

    Args:
        file: The study file.
        layers: The files and overrides that make another study, as ``_naming_layers`` returns them.
        first_look: The number of seeds of a first look; None for the whole study.
    """
    parts = [file.parent.resolve().name if file.name == "study.yaml" else file.stem]
    for key, value in layers:
        parts.append(Path(value).stem if key == "config" else f"{key}={value}")
    if first_look is not None:
        parts.append(f"seeds{first_look}")
    name = re.sub(r"[^\w.=+-]", "_", "+".join(parts)).lstrip(".")
    return short_name(name, 60)
