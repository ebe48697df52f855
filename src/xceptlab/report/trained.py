"""Describe what a study trained in a few lines: the data, the network and the recipe."""

import json
import shlex
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from xceptlab import register
from xceptlab.config import loading
from xceptlab.config.schema import RunConfig
from xceptlab.runs.record import Record
from xceptlab.study.choice import ArmRecords
from xceptlab.study.definition import Seeds
from xceptlab.study.expansion import Expansion
from xceptlab.study.registration import Registration
from xceptlab.study.tuning import Tune, value_name


def recipe(expansion: Expansion, records: ArmRecords) -> dict[str, str]:
    """Return the rows of the table "What was trained" in their order, as ``{name: text}``. Where
    arms, or the values at which they are tuned, differ, the text says in what.

    Args:
        expansion: The study.
        records: Records of the runs that stand for the arms, by (arm, seed).

    Raises:
        Refused: The registration is damaged, or another study's.
    """

    configs = {name: trial.config for name, trial in expansion.trials.items()}

    def row(words: Callable[[RunConfig], str]) -> str:
        """Return the text of a row of the table: the baseline's, and after it the other texts that
        arms, or the values at which they are tuned, have in its place.

        ``words`` returns the text for a single configuration.
        """
        return _by_arm({name: words(config) for name, config in configs.items()})

    def recorded_row(words: Callable[[RunConfig, Record | None], str]) -> str:
        """Return the text of a row of the table: the baseline's, and after it the other texts that
        arms have in its place.

        ``words`` returns the text for an arm's configuration and the record of one of its runs,
        which is None before any of them is done.
        """
        texts = {}
        for arm, config in expansion.arms.items():
            texts[arm] = words(config, _first(arm, records))
        return _by_arm(texts)

    rows = {
        "data set": row(_data_set),
        "images": recorded_row(_images),
        "image size": row(_image_size),
        "augmentation": row(_augmentation),
        "network": _network(expansion),
        "initial weights": recorded_row(_initial_weights),
        "epochs": row(_epochs),
        "batch size": row(_batch_size),
        "optimizer": row(_optimizer),
        "learning rate": row(_learning_rate),
        "regularisation": row(_regularisation),
    }
    if any(config.train.callbacks for config in configs.values()):
        rows["callbacks"] = row(lambda config: ", ".join(config.train.callbacks) or "none")
    if expansion.study.tune:
        rows["tuning"] = _tuning(expansion.study.tune)
    return rows | {
        "precision": row(lambda config: config.train.precision),
        "seeds": _seeds(expansion),
        "base files": ", ".join([*expansion.study.base, *_configuration_files(expansion)]),
        "registered": _registered(expansion),
    }


def shared_science(expansion: Expansion) -> dict[str, str]:
    """Return the settings that can change a result and that are equal in all trials of the study,
    as JSON text by dotted key, without the seed. A trial is an arm or, where keys are tuned, an arm
    at one of the tuned values.
    """
    first, *others = (trial.config.science() for trial in expansion.trials.values())
    shared = {}
    for key, value in first.items():
        if key != "seed" and _all_have(others, key, value):
            shared[key] = json.dumps(value)
    return shared


def _all_have(configs: Iterable[Mapping[str, Any]], key: str, value: Any) -> bool:
    """Whether all configurations, mappings by dotted key, have this value at this key."""
    return all(config.get(key) == value for config in configs)


# ---- rows ----------------------------------------------------------------------------------------


def _by_arm(words: dict[str, str]) -> str:
    """Join the texts of all arms or trials, which are given by name, into one: what the first one,
    the baseline, has, and what others have in its place, such as ``60; long: 120``.
    """
    arms_with: dict[str, list[str]] = {}
    for arm, text in words.items():
        arms_with.setdefault(text, []).append(arm)
    baseline, *others = arms_with
    parts = [baseline]
    for text in others:
        parts.append(f"{', '.join(arms_with[text])}: {text}")
    return "; ".join(parts)


def _first(arm: str, records: ArmRecords) -> Record | None:
    """Return the first record that an arm has; None without any."""
    for (name, _), record in records.items():
        if name == arm and record:
            return record
    return None


def _data_set(config: RunConfig) -> str:
    """Return in words the number of classes, the data set, and which part is which split."""
    return f"{config.data.classes:,} classes of {config.data.splits()}"


def _images(config: RunConfig, record: Record | None) -> str:
    """Return the numbers of images in the splits in words, such as ``50,000 to train on, 10,000 to
    test on``: those of a record or, where it is None or lacks one, those that the configuration
    tells.
    """
    train, validation, test = config.data.images()
    if record:
        train = record.train_images or train
        validation = record.validation_images or validation
        test = record.test_images or test
    parts = [_count(train, "to train on")]
    if config.data.has_validation_images:
        parts.append(_count(validation, "for validation"))
    parts.append(_count(test, "to test on"))
    return ", ".join(parts)


def _count(images: int, use: str) -> str:
    """Return a number of images with their use in words, such as ``50,000 to train on``; 0 is a
    number that is not known.
    """
    return f"{images:,} {use}" if images else f"an unknown number {use}"


def _image_size(config: RunConfig) -> str:
    """Return the size of the network's input images in words, such as ``32 x 32 pixels``."""
    return f"{config.data.size} x {config.data.size} pixels"


def _augmentation(config: RunConfig) -> str:
    """Return the augmentations of the training images in words; ``none`` without any."""
    data = config.data
    crops = {
        "none": "",
        "pad": f"random crop after {data.pad} pixels of padding",
        "resized": "random resized crop",
    }
    used = {
        crops[data.crop]: data.crop != "none",
        "flip": data.flip,
        f"cutout {data.cutout}": data.cutout,
        f"colour {data.colour:g}": data.colour,
        f"RandAugment {data.rand_augment}": data.rand_augment,
        f"mixup {data.mixup:g}": data.mixup,
        f"CutMix {data.cutmix:g}": data.cutmix,
    }
    return _listed(used) or "none"


def _listed(used: dict[str, Any]) -> str:
    """Join those parts of a recipe whose value is not 0 or false; ``used`` has the values by the
    parts' texts.
    """
    return ", ".join(part for part, value in used.items() if value)


_SAID_ELSEWHERE = ("model.timm", "model.family", "model.dropout", "model.weights_digest")
"""Fields of ``model`` that are not listed among those of the network: its name stands before them,
and the others have rows of their own.
"""


def _network(expansion: Expansion) -> str:
    """Return the arms' network in words: its name, or each arm's where the names differ, and then
    the fields of ``model`` that have the same value in all arms and not their default, that of the
    paper's Xception. If all arms have one name and differ in other fields, the last clause says so.
    """
    names = {arm: _name_of_network(config) for arm, config in expansion.arms.items()}
    fields = _shared_fields_of_network(expansion)
    settings = ", ".join(f"{field} {value}" for field, value in fields.items())
    words = _by_arm(names)
    if settings:
        words += f"; in all of them {settings}" if len(set(names.values())) > 1 else f", {settings}"
    if _arms_differ_in_network(expansion):
        return f"{words}; the arms differ in it"
    return words


def _name_of_network(config: RunConfig) -> str:
    """Return a network's name: ``Xception``, ``timm's NAME`` for a model of timm's, or the name of
    a family that a user's module has registered.
    """
    if config.model.timm:
        return f"timm's {config.model.timm}"
    return "Xception" if config.model.is_xception else config.model.family


def _shared_fields_of_network(expansion: Expansion) -> dict[str, Any]:
    """Return the fields of ``model``, without this prefix, that have the same value in all arms and
    not their default; all but the network's name, and ``dropout`` and ``weights_digest``, which
    have other rows.
    """
    first, *others = (config.changed() for config in expansion.arms.values())
    shared = {}
    for key, value in first.items():
        if not key.startswith("model.") or key in _SAID_ELSEWHERE:
            continue
        if _all_have(others, key, value):
            shared[key.removeprefix("model.")] = value
    return shared


def _arms_differ_in_network(expansion: Expansion) -> bool:
    """Whether an arm differs from the baseline in its network, leaving initial weights and dropout
    aside, which stand in other rows.
    """
    for arm in expansion.arms:
        for key in expansion.differences(arm):
            if key.startswith("model.") and key not in ("model.weights", *_SAID_ELSEWHERE):
                return True
    return False


def _initial_weights(config: RunConfig, record: Record | None) -> str:
    """Return in words the weights from which the training starts; a run's record, if there is one,
    knows more of them than its configuration.
    """
    if record and record.weights:
        return f"{record.weights}, as {config.model.weights_digest}"
    return config.model.initial_weights_description


def _seeds(expansion: Expansion) -> str:
    """Return the study's seeds so far as text and, where seeds are added, how many there may be."""
    seeds = ", ".join(map(str, expansion.seeds))
    plan = expansion.study.seeds
    if isinstance(plan, Seeds):
        return f"{seeds} ({plan.max} at most, until the claims are decided)"
    return seeds


def _tuning(tune: Tune) -> str:
    """Return in words how the arms are tuned, and the values that are tried."""
    values = []
    for value in tune.trial_values:
        name = value_name(value)
        values.append(f"({name})" if len(value) > 1 else name)
    sentence = tune.described.removesuffix(".")
    return f"{sentence}: {', '.join(values)}"


def _configuration_files(expansion: Expansion) -> list[str]:
    """Return the configuration files that the study's command names, which apply after the base
    files of the study.
    """
    # The command is `xceptlab study STUDY` and then what the command line has given.
    arguments = shlex.split(expansion.command)[3:]
    return [value for key, value in loading.overrides(arguments) if key == "config" and value]


def _registered(expansion: Expansion) -> str:
    """Return as text when the claims were registered, in UTC, and the digest of the registration;
    ``not yet`` where there is none.
    """
    registration = Registration.load_for(expansion)
    if not registration:
        return "not yet"
    date = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(registration.time))
    return f"{date}, as {registration.digest}"


def _epochs(config: RunConfig) -> str:
    """Return the number of epochs as text."""
    return f"{config.train.epochs:,}"


def _batch_size(config: RunConfig) -> str:
    """Return as text the number of images in an optimizer step and, if gradients are accumulated
    over several smaller batches, over how many.
    """
    train = config.train
    if train.accumulate > 1:
        return f"{train.batch_size:,} in {train.accumulate} parts"
    return f"{train.batch_size:,}"


def _optimizer(config: RunConfig) -> str:
    """Return the optimizer in words, with its weight decay and, unless it is AdamW, its momentum;
    of a registered one just the name.
    """
    train = config.train
    if register.find("optimizer", train.optimizer):
        # What a user's function reads of the configuration is not known.
        return train.optimizer
    words: list[str] = [train.optimizer]
    if train.optimizer != "adamw":
        words.append(f"momentum {train.momentum:g}")
        if train.nesterov:
            words.append("Nesterov's")
    decay = f"weight decay {train.weight_decay:g}"
    if not train.decay_norm_bias:
        decay += " (not on BatchNorm and biases)"
    words.append(decay)
    return ", ".join(words)


def _learning_rate(config: RunConfig) -> str:
    """Return the learning rate in words, with its schedule and warm-up."""
    train = config.train
    schedules = {
        "constant": "constant",
        "exponential": f"times {train.decay_rate:g} every {train.decay_epochs:g} epochs",
        "cosine": "cosine to 0",
    }
    # A registered schedule is told by its name.
    words = f"{train.lr:g}, {schedules.get(train.schedule, train.schedule)}"
    if train.warmup:
        words += f", linear warm-up over {100 * train.warmup:g}% of the training"
    return words


def _regularisation(config: RunConfig) -> str:
    """Return in words which of dropout, label smoothing, gradient clipping and averaged weights a
    run uses; ``none besides weight decay`` where it uses none of them. Augmentations, such as
    mixup, are left out, since they have a row of their own.
    """
    train = config.train
    used = {
        f"dropout {config.model.dropout:g}": config.model.dropout,
        f"label smoothing {train.label_smoothing:g}": train.label_smoothing,
        f"gradients clipped at {train.gradient_clip:g}": train.gradient_clip,
        f"averaged weights, decay {train.ema:g}": train.ema,
    }
    return _listed(used) or "none besides weight decay"
