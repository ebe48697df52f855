"""The commands about single runs: ``train``, ``evaluate``, ``export`` and ``describe``."""

import argparse
import dataclasses
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from xceptlab import register
from xceptlab.commands.remarks import absent_classes, few_images, warn
from xceptlab.config import shipped
from xceptlab.config.loading import load_file, load_run, outputs_of, overrides
from xceptlab.config.options import differ
from xceptlab.config.run_id import science_of
from xceptlab.config.schema import ModelConfig, RunConfig
from xceptlab.errors import Refused
from xceptlab.runs.directory import RunDirectory, refuse_other_versions, weights_in
from xceptlab.runs.leases import Busy
from xceptlab.runs.metrics import metric_of, split_of
from xceptlab.runs.record import Record
from xceptlab.runs.world import World
from xceptlab.signals import StopSignals

EXPORTS = (".onnx", ".pt2", ".safetensors")
"""Suffixes of the formats that ``export`` writes."""
WEIGHTS = (".safetensors", ".ckpt", ".pth", ".pt", ".h5", ".keras")
"""Suffixes of files that hold weights, or a checkpoint."""
READ_BY_EVALUATIONS = [
    f"train.{name}"
    for name in (
        "accumulate",
        "batch_size",
        "compile",
        "deterministic",
        "metrics",
        "precision",
        "threads",
    )
]
"""Keys of the training that change an evaluation, too: the size of its batches, which is
``batch_size`` / ``accumulate`` over all processes; its arithmetic; or which metrics are measured.
"""
DEPTH = 3
"""How many levels of nested modules ``describe`` shows, where ``--depth`` does not say it."""
UNLIKE = 0.02
"""Relative difference of two scores of the same weights beyond which another device or precision
does not explain it.
"""


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
    # Loading torch takes seconds, in which a SIGTERM has to end in exit code INTERRUPTED, too.
    with StopSignals(explain=world.first):
        from xceptlab.training import train as training

        if world.first:
            warn(few_images(config.data))
            if not config.runtime.study:  # Another arm may use what this one does not.
                warn(register.unused(config.extensions, config.registered_versions()))
            warn(_given_in_vain(config, layers))
            if config.model.match != "none" and not config.runtime.study:
                warn(
                    [
                        f"model.match: {config.model.match} changes nothing here; a study matches its arms to the first one"
                    ]
                )
        was_trained = directory.record() is not None
        try:
            record = training.train(config, progress=sys.stderr.isatty())
        except Busy as error:
            raise Busy(f"{error}{world.why_busy}") from None
    if world.first:
        scores = ", ".join(f"{name} {value:.4g}" for name, value in record.metrics.items())
        remark = " (was trained before)" if was_trained else ""
        print(f"{directory.path}: {scores or record.status}{remark}")
    return 0


def _given_in_vain(config: RunConfig, layers: list[str]) -> list[str]:
    """Return a line for each key that an option of the command line gives, and that another setting
    of the configuration leaves without effect. Keys in configuration files are passed over.
    """
    given = {key for key, _ in overrides(layers)}
    return [
        f"--{key}: changes nothing with {why}"
        for key, why in config.keys_without_effect().items()
        if key in given
    ]


def evaluate(options: argparse.Namespace, layers: list[str]) -> int:
    """Evaluate a run or a checkpoint on a split."""
    config, weights = _trained(options.weights, layers)
    world = World.join(config.runtime)
    from xceptlab.data import require_files

    require_files(config.data)
    given = {key for key, _ in overrides(layers)}
    config, remarks = _resolved_for_evaluation(config, weights)
    if world.first:
        warn(remarks)
        warn(_without_effect(layers, "an evaluation", READ_BY_EVALUATIONS))
        evaluated_on = "validation" if options.split == "val" else options.split
        warn(absent.text for absent in absent_classes(config.data) if absent.split == evaluated_on)
    from xceptlab.training import train as training

    scores = training.evaluate(config, weights, options.split, given)
    if world.first:
        for name, value in scores.items():
            print(f"{name} {value:.6g}")
        warn(_unlike_its_record(weights, config, scores))
    return 0


def _resolved_for_evaluation(config: RunConfig, weights: Path | str) -> tuple[RunConfig, list[str]]:
    """Return the configuration to evaluate with, its data resolved, and warnings about data that
    differ from those that the run was trained on, which is allowed.

    Args:
        config: The configuration as it was loaded.
        weights: File of the weights, which may lie in their run's folder, or timm's name.

    Returns:
        The configuration with what the data's files tell filled in, and the warnings: one for each
        option of the data, such as ``data.size``, that has another value than the run had, and one
        where the images or the classes are others. There are none where nothing differs, or where
        the run has no record to compare with.

    Raises:
        Refused: The files of a user's own data set are not there or cannot be used, or the run's
            record is damaged.
    """
    from xceptlab.data import identity

    data = identity.resolved_data(dataclasses.replace(config.data, content=""))
    here = dataclasses.replace(config, data=data)
    record = _record_of(weights)
    if record is None:
        return here, []
    remarks = _other_options_of_data(here, record)
    other_data = _other_data(here, record)
    other_classes = identity.other_classes(identity.class_names(here.data), record.classes)
    differences = [text for text in (other_data, other_classes) if text]
    if differences:
        remarks.append(f"other data than the run was trained on: {'; '.join(differences)}")
    return here, remarks


def _other_options_of_data(config: RunConfig, record: Record) -> list[str]:
    """Return a sentence for each key of the data, such as ``data.size``, that has another value in
    the configuration of an evaluation than the run was trained with. Keys that say which data set
    it is, such as ``data.name``, or that change no result, such as ``data.root``, are left out.
    """
    reported_elsewhere = ("data.name", "data.content", "data.num_classes")
    remarks = []
    for key, (here, trained) in _differences(config, record).items():
        if not key.startswith("data.") or key in reported_elsewhere:
            continue
        remarks.append(f"{key}: evaluated with {here}, the run was trained with {trained}")
        if key in ("data.validation", "data.validation_seed"):
            remarks[-1] += "; its training images may be among these validation images"
    return remarks


def _differences(config: RunConfig, record: Record) -> dict[str, tuple[Any, Any]]:
    """Return what differs between the configuration of an evaluation and that with which a run was
    trained, of all that can change a result: ``{key: (value here, value of the run)}``, by sorted
    key. Keys that the run's record lacks, as that of an older version may, are left out.
    """
    found = {}
    for key, value in sorted(config.science().items()):
        if key in record.science and differ(value, record.science[key]):
            found[key] = (value, record.science[key])
    return found


def _other_data(config: RunConfig, record: Record) -> str:
    """Return a clause on how the data of a configuration differ from those that the run of a record
    was trained on; empty where no difference is found, as where the files of a known data set are
    not at hand to compare.
    """
    from xceptlab.data import identity

    difference = identity.changed(config.data, record)
    if difference:
        return difference
    name = record.science.get("data.name", "")
    content = record.science.get("data.content", "")
    science = config.science()
    if (name, content) == (science["data.name"], science["data.content"]):
        return ""
    trained_on = f"{name} {content}".rstrip()
    here = f"{config.data.name} {config.data.content}".rstrip()
    return f"the run was trained on {trained_on}, {config.data.root} holds {here}"


def _record_of(weights: Path | str) -> Record | None:
    """Return the record of the run to which a file of weights or a checkpoint belongs; None for a
    file outside of any run, for timm's name of the network, and while the run is not done.

    Raises:
        Refused: The record is damaged.
    """
    run = RunDirectory.around(Path(weights))
    return run.record() if run else None


def _unlike_its_record(
    weights: Path | str, config: RunConfig, scores: Mapping[str, float]
) -> list[str]:
    """Return a sentence for each score that differs from the run's record by more than another
    device or precision explains: by more than the part ``UNLIKE`` of the larger of the two and,
    for a metric in percent, by more than two images make. Empty where the run has no record.

    Args:
        weights: The run's weights, or timm's name of the network, which has no record.
        config: The configuration of the evaluation. Nothing is compared where it differs from the
            run's in anything that can change a result.
        scores: The scores of the evaluation, by metric; one that the record lacks is passed over.
    """
    record = _record_of(weights)
    if record is None or _differences(config, record):
        return []
    remarks = []
    for name, value in scores.items():
        recorded = record.metrics.get(name, value)
        tolerance = UNLIKE * max(abs(value), abs(recorded))
        images = record.validation_images if split_of(name) == "val" else record.test_images
        if metric_of(name).in_percent and images:
            # On another device rounding may change the answer for an image or two.
            tolerance = max(tolerance, 2 * 100 / images)
        # It is no score of the record's either where it is not finite.
        if not abs(value - recorded) <= tolerance:
            remarks.append(
                f"{name}: the run's record has {recorded:.6g}; "
                "the data, the weights, or the network's or the metric's code have changed"
            )
    return remarks


def export(options: argparse.Namespace, layers: list[str]) -> int:
    """Write a run's network for other tools."""
    output = Path(options.output)
    if output.suffix not in EXPORTS:
        raise Refused(f"{output}: the suffix must be one of {', '.join(EXPORTS)}")
    config, weights = _trained(options.weights, layers)
    warn(_without_effect(layers, "an export"))
    from xceptlab.models import export as exporting

    given = {key for key, _ in overrides(layers)}
    print(exporting.export(_with_classes(config), weights, output, given))
    return 0


def _trained(name: str, layers: list[str]) -> "tuple[RunConfig, Path | str]":
    """Find trained weights, and load the configuration of their network.

    Args:
        name: A run's folder or id, a file of weights, or timm's Xception by its name.
        layers: The command line's configuration files and overrides, which come after the run's
            configuration and win.

    Returns:
        The configuration, and the file of the weights or timm's name. With a file the configuration
        asks for one device of any kind, unless the layers say otherwise.

    Raises:
        Refused: There are no such weights, the configuration is not allowed, the layers ask for
            another network than that of the run whose weights they are, or the run was trained with
            other versions of registered components.
    """
    path = _file_or_run(name, layers)
    if not path.exists():
        if name.split(".")[0].endswith("xception"):
            return load_run(layers), name
        raise Refused(
            f"{name}: neither a file, a folder, a run under {path.parent} nor timm's legacy_xception"
        )
    weights = Path(weights_in(path))
    if not weights.is_file():
        raise Refused(
            f"{path}: not the folder of a run that is done; there is no model.safetensors in it"
        )
    # One device of any kind is enough, whatever devices the run was trained on.
    layers = ["--runtime.devices=1", "--runtime.num_nodes=1", "--runtime.accelerator=auto", *layers]
    run = RunDirectory.around(weights)
    if run is None:
        return load_run(layers), weights
    config = load_run(layers, of_run=str(run.path / "config.yaml"))
    _refuse_other_network(config.model, run)
    refuse_other_versions(config, run)
    return config, weights


def _refuse_other_network(model: ModelConfig, run: RunDirectory) -> None:
    """Refuse a network that differs from the one that a run has trained: the run's weights may fit
    it, but it was never trained.
    """
    trained = science_of(load_file(ModelConfig, str(run.path / "config.yaml"), "model"))
    for key, value in science_of(model).items():
        if value != trained[key]:
            raise Refused(
                f"--{key}: {value} is not allowed; it must be {trained[key]}, with which the weights in {run.path} were trained"
            )


def _without_effect(layers: list[str], what: str, read: Collection[str] = ()) -> list[str]:
    """Return a line for each key of the training (``seed``, or one of ``train``) that an option of
    the command line gives in vain. Keys in configuration files are passed over.

    Args:
        layers: The command line's configuration files and overrides.
        what: What is made, such as ``an export``.
        read: Keys of the training that do change it.
    """
    keys = sorted({key for key, _ in overrides(layers)})
    of_training = [key for key in keys if key == "seed" or key.startswith("train.")]
    return [f"--{key}: changes nothing in {what}" for key in of_training if key not in read]


def describe(options: argparse.Namespace, layers: list[str]) -> int:
    """Show the network as a table: modules, output shapes, parameters, multiply-accumulates."""
    from xceptlab.models import describe as describing

    depth = DEPTH if options.depth is None else options.depth
    if depth < 0:
        raise Refused(f"--depth: {depth} is not allowed; it must be at least 0")
    if options.run:
        warn(_without_effect(layers, "the description of a run's network"))
    if options.compare:
        if options.run:
            raise Refused(f"--compare: shows two networks side by side; {options.run} is a third")
        if options.depth is not None:
            raise Refused(
                "--depth: must be left out with --compare, which shows the topmost modules"
            )
        a, b = (_with_classes(_configured(name, layers)) for name in options.compare)
        describing.compare(a, b, options.compare)
        return 0
    config = _configured(options.run, layers) if options.run else load_run(layers)
    warn(_given_in_vain(config, layers))
    describing.describe(_with_classes(config), depth)
    return 0


def _configured(name: str, layers: list[str]) -> RunConfig:
    """Load the configuration that ``name`` stands for.

    Args:
        name: A run's folder, id or weights, or a configuration file.
        layers: The command line's configuration files and overrides, which come afterwards and win.

    Raises:
        Refused: There is no such run or file, weights lie outside of any run, or the configuration
            is not allowed.
    """
    path = _file_or_run(name, layers)
    if not path.exists():
        raise Refused(f"{name}: neither a configuration file nor a run under {path.parent}")
    if path.is_dir():
        return load_run(layers, of_run=str(path / "config.yaml"))
    if path.suffix not in WEIGHTS:
        return load_run(["-c", str(path), *layers])
    run = RunDirectory.around(path)
    if run is None:
        raise Refused(
            f"{name}: weights alone do not tell their network; there is no config.yaml beside them, -c gives one"
        )
    return load_run(layers, of_run=str(run.path / "config.yaml"))


def _file_or_run(name: str, layers: list[str]) -> Path:
    """Return the path of the file or folder of this name, which is looked up among the shipped
    files, too. Where there is none, return the folder of the run with this id in the outputs folder
    that the layers configure; it need not exist.
    """
    path = shipped.find(name)
    if path.exists():
        return path
    return RunDirectory.of(str(outputs_of(layers)), name).path


def _with_classes(config: RunConfig) -> RunConfig:
    """Return a configuration whose number of classes (``data.classes``) is known. That of a user's
    data set is read from its files unless ``data.num_classes`` says it, and filled in.

    Raises:
        Refused: The files are not there, or are others than ``data.content`` says.
    """
    from xceptlab.data.identity import resolved_data

    if config.data.num_classes:
        return config
    return dataclasses.replace(config, data=resolved_data(config.data))
