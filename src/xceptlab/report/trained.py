"""What a study trained, in a few lines: the data, the network and the recipe that its arms share."""

import json
import shlex
import time
from collections.abc import Callable

from xceptlab.config import loading
from xceptlab.config.schema import DataConfig, RunConfig, TrainConfig
from xceptlab.runs.record import Record
from xceptlab.study.definition import Seeds
from xceptlab.study.expansion import Expansion
from xceptlab.study.registration import Registration
from xceptlab.study.verdict import Records


def recipe(expansion: Expansion, records: Records) -> dict[str, str]:
    """The rows of the table "What was trained", by name; where arms differ, a row says in what."""

    def row(words: Callable[[RunConfig], str]) -> str:
        return _by_arm({arm: words(config) for arm, config in expansion.arms.items()})

    registration = Registration.read(expansion)
    return {
        "data set": row(lambda config: f"{config.data.classes:,} classes of {config.data.splits()}"),
        "images": _by_arm({arm: _images(config, _first(arm, records)) for arm, config in expansion.arms.items()}),
        "image size": row(lambda config: f"{config.data.size} x {config.data.size} pixels"),
        "augmentation": row(lambda config: _augmentation(config.data)),
        "network": _network(expansion),
        "initial weights": _by_arm({arm: _start(config, _first(arm, records)) for arm, config in expansion.arms.items()}),
        "epochs": row(lambda config: f"{config.train.epochs:,}"),
        "batch size": row(lambda config: _batch(config.train)),
        "optimizer": row(lambda config: _optimizer(config.train)),
        "learning rate": row(lambda config: _learning_rate(config.train)),
        "regularisation": row(_regularisation),
        "precision": row(lambda config: config.train.precision),
        "seeds": _seeds(expansion),
        "base files": ", ".join([*expansion.study.base, *_layers(expansion)]),
        "registered": f"{_date(registration.time)}, as {registration.digest}" if registration else "not yet",
    }


def shared_science(expansion: Expansion) -> dict[str, str]:
    """Every science key in which no arm differs from another, with its value; the seed is no such key."""
    first, *others = (config.science() for config in expansion.arms.values())
    shared = [key for key in first if key != "seed" and all(other[key] == first[key] for other in others)]
    return {key: json.dumps(first[key]) for key in shared}


def _by_arm(words: dict[str, str]) -> str:
    """What the baseline has, and what other arms have in its place."""
    arms: dict[str, list[str]] = {}
    for arm, text in words.items():
        arms.setdefault(text, []).append(arm)
    baseline, *others = arms
    return "; ".join([baseline, *(f"{', '.join(arms[text])}: {text}" for text in others)])


def _first(arm: str, records: Records) -> Record | None:
    return next((record for (name, _), record in records.items() if name == arm and record), None)


def _images(config: RunConfig, record: Record | None) -> str:
    """The sizes of the splits: a record's, or those that the configuration tells."""
    planned = config.data.images()
    recorded = (record.train_images, record.validation_images, record.test_images) if record else (0, 0, 0)
    train, validation, test = (known or asked for known, asked in zip(recorded, planned, strict=True))
    parts = [(train, "to train on"), (validation, "for validation"), (test, "to test on")]
    if not config.data.validates:
        del parts[1]
    return ", ".join(f"{count:,} {use}" if count else f"an unknown number {use}" for count, use in parts)


def _augmentation(data: DataConfig) -> str:
    crops = {"none": "", "pad": f"random crop after {data.pad} pixels of padding", "resized": "random resized crop"}
    parts = [
        crops[data.crop],
        "flip" if data.flip else "",
        f"cutout {data.cutout}" if data.cutout else "",
        f"colour {data.colour:g}" if data.colour else "",
        f"RandAugment {data.rand_augment}" if data.rand_augment else "",
        f"mixup {data.mixup:g}" if data.mixup else "",
        f"CutMix {data.cutmix:g}" if data.cutmix else "",
    ]
    return ", ".join(filter(None, parts)) or "none"


def _network(expansion: Expansion) -> str:
    """The network that the arms share, by the fields that differ from the paper's Xception."""
    first, *others = (config.changed() for config in expansion.arms.values())
    keys = [key for key in first if key.startswith("model.") and key not in ("model.dropout", "model.weights_digest")]
    shared = {key.removeprefix("model."): first[key] for key in keys if all(other.get(key) == first[key] for other in others)}
    name = f"timm's {shared.pop('timm')}" if "timm" in shared else "Xception"
    differing = {key for arm in expansion.arms for key in expansion.differences(arm)} - {"model.weights"}
    vary = any(key.startswith("model.") for key in differing)
    return ", ".join([name, *(f"{key} {value}" for key, value in shared.items())]) + ("; the arms differ in it" if vary else "")


def _start(config: RunConfig, record: Record | None) -> str:
    """What the training starts from; the record of a run knows more of it than the configuration."""
    source = record.weights if record else ""
    return f"{source}, as {config.model.weights_digest}" if source else config.model.start


def _seeds(expansion: Expansion) -> str:
    seeds, plan = ", ".join(map(str, expansion.seeds)), expansion.study.seeds
    return f"{seeds} ({plan.max} at most, until the claims are decided)" if isinstance(plan, Seeds) else seeds


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
    momentum = ", Nesterov's" if train.nesterov else ""
    inertia = f", momentum {train.momentum:g}{momentum}" if train.optimizer != "adamw" else ""
    decay = f"weight decay {train.weight_decay:g}"
    return f"{train.optimizer}{inertia}, {decay}{'' if train.decay_norm_bias else ' (not on BatchNorm and biases)'}"


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
    parts = [
        f"dropout {config.model.dropout:g}" if config.model.dropout else "",
        f"label smoothing {train.label_smoothing:g}" if train.label_smoothing else "",
        f"gradients clipped at {train.gradient_clip:g}" if train.gradient_clip else "",
        f"averaged weights, decay {train.ema:g}" if train.ema else "",
    ]
    return ", ".join(filter(None, parts)) or "none besides weight decay"
