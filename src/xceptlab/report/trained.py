"""What a study trained, in a few lines: the data, the network and the recipe that its arms share."""

import json
import shlex
import time
from collections.abc import Callable
from typing import Any

from xceptlab.config import loading
from xceptlab.config.schema import DataConfig, RunConfig, TrainConfig
from xceptlab.runs.record import Record
from xceptlab.study.choice import Records
from xceptlab.study.definition import Seeds
from xceptlab.study.expansion import Expansion
from xceptlab.study.registration import Registration
from xceptlab.study.tuning import Tune, value_name


def recipe(expansion: Expansion, records: Records) -> dict[str, str]:
    """The rows of the table "What was trained", by name; where arms, or their trials, differ, a row says in what.

    Args:
        expansion: The study.
        records: Of the runs that stand for the arms, by (arm, seed).
    """

    def row(words: Callable[[RunConfig], str]) -> str:
        return _by_arm({name: words(trial.config) for name, trial in expansion.trials.items()})

    def recorded_row(words: Callable[[RunConfig, Record | None], str]) -> str:
        return _by_arm({arm: words(config, _first(arm, records)) for arm, config in expansion.arms.items()})

    registration = Registration.read(expansion)
    return {
        "data set": row(lambda config: f"{config.data.classes:,} classes of {config.data.splits()}"),
        "images": recorded_row(_images),
        "image size": row(lambda config: f"{config.data.size} x {config.data.size} pixels"),
        "augmentation": row(lambda config: _augmentation(config.data)),
        "network": _network(expansion),
        "initial weights": recorded_row(_start),
        "epochs": row(lambda config: f"{config.train.epochs:,}"),
        "batch size": row(lambda config: _batch(config.train)),
        "optimizer": row(lambda config: _optimizer(config.train)),
        "learning rate": row(lambda config: _learning_rate(config.train)),
        "regularisation": row(_regularisation),
        **({"tuning": _tuning(expansion.study.tune)} if expansion.study.tune else {}),
        "precision": row(lambda config: config.train.precision),
        "seeds": _seeds(expansion),
        "base files": ", ".join([*expansion.study.base, *_layers(expansion)]),
        "registered": f"{_date(registration.time)}, as {registration.digest}" if registration else "not yet",
    }


def shared_science(expansion: Expansion) -> dict[str, str]:
    """Every science key in which no arm and no trial differs from another, with its value; the seed is no such key."""
    first, *others = (trial.config.science() for trial in expansion.trials.values())
    shared = [key for key in first if key != "seed" and all(other.get(key) == first[key] for other in others)]
    return {key: json.dumps(first[key]) for key in shared}


def _by_arm(words: dict[str, str]) -> str:
    """What the baseline has, and what other arms have in its place."""
    arms_with: dict[str, list[str]] = {}
    for arm, text in words.items():
        arms_with.setdefault(text, []).append(arm)
    baseline, *others = arms_with
    parts = [baseline]
    for text in others:
        parts.append(f"{', '.join(arms_with[text])}: {text}")
    return "; ".join(parts)


def _first(arm: str, records: Records) -> Record | None:
    """The first record that an arm has."""
    for (name, _), record in records.items():
        if name == arm and record:
            return record
    return None


def _images(config: RunConfig, record: Record | None) -> str:
    """The sizes of the splits: a record's, or those that the configuration tells."""
    train, validation, test = config.data.images()
    if record:
        train = record.train_images or train
        validation = record.validation_images or validation
        test = record.test_images or test
    parts = [_count(train, "to train on")]
    if config.data.validates:
        parts.append(_count(validation, "for validation"))
    parts.append(_count(test, "to test on"))
    return ", ".join(parts)


def _count(images: int, use: str) -> str:
    return f"{images:,} {use}" if images else f"an unknown number {use}"


def _augmentation(data: DataConfig) -> str:
    crops = {"none": "", "pad": f"random crop after {data.pad} pixels of padding", "resized": "random resized crop"}
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
    """What of a recipe's parts is used, which is what has a value other than 0 or false."""
    return ", ".join(part for part, value in used.items() if value)


def _network(expansion: Expansion) -> str:
    """The network that the arms share, by the fields that differ from the paper's Xception."""
    first, *others = (config.changed() for config in expansion.arms.values())
    shared = {}
    for key, value in first.items():
        in_other_rows = key in ("model.dropout", "model.weights_digest")
        if key.startswith("model.") and not in_other_rows and all(other.get(key) == value for other in others):
            shared[key.removeprefix("model.")] = value
    name = f"timm's {shared.pop('timm')}" if "timm" in shared else str(shared.pop("family", "Xception"))
    words = ", ".join([name, *(f"{field} {value}" for field, value in shared.items())])
    differing = set().union(*(expansion.differences(arm) for arm in expansion.arms))
    if any(key.startswith("model.") and key != "model.weights" for key in differing):
        return f"{words}; the arms differ in it"
    return words


def _start(config: RunConfig, record: Record | None) -> str:
    """What the training starts from; the record of a run knows more of it than the configuration."""
    if record and record.weights:
        return f"{record.weights}, as {config.model.weights_digest}"
    return config.model.start


def _seeds(expansion: Expansion) -> str:
    seeds = ", ".join(map(str, expansion.seeds))
    plan = expansion.study.seeds
    if isinstance(plan, Seeds):
        return f"{seeds} ({plan.max} at most, until the claims are decided)"
    return seeds


def _tuning(tune: Tune) -> str:
    values = ", ".join(f"({value_name(value)})" if len(value) > 1 else value_name(value) for value in tune.values())
    return f"{tune.described.removesuffix('.')}: {values}"


def _layers(expansion: Expansion) -> list[str]:
    """The configuration files of the command line, which apply after the base."""
    arguments = shlex.split(expansion.command)[3:]  # after xceptlab study STUDY
    return [value for key, value in loading.overrides(arguments) if key == "config" and value]


def _date(when: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(when))


def _batch(train: TrainConfig) -> str:
    parts = f" in {train.accumulate} parts" if train.accumulate > 1 else ""
    return f"{train.batch_size:,}{parts}"


def _optimizer(train: TrainConfig) -> str:
    words: list[str] = [train.optimizer]
    if train.optimizer != "adamw":
        words.append(f"momentum {train.momentum:g}")
        if train.nesterov:
            words.append("Nesterov's")
    decay = f"weight decay {train.weight_decay:g}"
    if not train.decay_norm_bias:
        decay += " (not on BatchNorm and biases)"
    return ", ".join([*words, decay])


def _learning_rate(train: TrainConfig) -> str:
    schedules = {
        "constant": "constant",
        "exponential": f"times {train.decay_rate:g} every {train.decay_epochs:g} epochs",
        "cosine": "cosine to 0",
    }
    warmup = f", linear warm-up over {100 * train.warmup:g}% of the training" if train.warmup else ""
    return f"{train.lr:g}, {schedules[train.schedule]}{warmup}"


def _regularisation(config: RunConfig) -> str:
    train = config.train
    used = {
        f"dropout {config.model.dropout:g}": config.model.dropout,
        f"label smoothing {train.label_smoothing:g}": train.label_smoothing,
        f"gradients clipped at {train.gradient_clip:g}": train.gradient_clip,
        f"averaged weights, decay {train.ema:g}": train.ema,
    }
    return _listed(used) or "none besides weight decay"
