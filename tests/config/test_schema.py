"""What a configuration allows, and the identity of a run."""

import dataclasses
import math

import pytest

from xceptlab.config.field_errors import shown
from xceptlab.config.loading import load_run
from xceptlab.config.schema import (
    DataConfig,
    LauncherConfig,
    ModelConfig,
    RunConfig,
    RuntimeConfig,
    TrainConfig,
)
from xceptlab.config.schema.run import EXTENSION_DEFAULTS
from xceptlab.errors import Refused

THREE_PARTS = {"name": "folder", "content": "train+val+test-3-0123456789abcdef"}
REFUSED = [
    (ModelConfig, {"order": "sideways"}, "model.order", "one of depthwise_first, pointwise_first"),
    (ModelConfig, {"order": None}, "model.order", "one of depthwise_first, pointwise_first"),
    (
        ModelConfig,
        {"intermediate": "tan"},
        "model.intermediate",
        "one of none, relu, elu, gelu, silu",
    ),
    (ModelConfig, {"intermediate_norm": 1}, "model.intermediate_norm", "true or false"),
    (
        ModelConfig,
        {"segments": 0, "order": "pointwise_first"},
        "model.segments",
        "all or a whole number of at least 1",
    ),
    (
        ModelConfig,
        {"segments": True, "order": "pointwise_first"},
        "model.segments",
        "a whole number or all",
    ),
    (
        ModelConfig,
        {"segments": "some", "order": "pointwise_first"},
        "model.segments",
        "a whole number or all",
    ),
    (ModelConfig, {"segments": 4}, "model.segments", "all, unless model.order is pointwise_first"),
    (
        ModelConfig,
        {"segments": 4, "order": "pointwise_first", "convolution": "regular"},
        "model.segments",
        "all, unless",
    ),
    (ModelConfig, {"convolution": "dilated"}, "model.convolution", "one of separable, regular"),
    (ModelConfig, {"divisor": 0}, "model.divisor", "at least 1"),
    (ModelConfig, {"match": "flops"}, "model.match", "one of none, parameters, macs"),
    (ModelConfig, {"timm": None}, "model.timm", "text"),
    (ModelConfig, {"fc": [4096, 0]}, "model.fc", "a list of numbers of units"),
    (ModelConfig, {"fc": 4096}, "model.fc", "a list (each a whole number)"),
    (ModelConfig, {"init": "zeros"}, "model.init", "one of keras, timm"),
    (ModelConfig, {"residual": "some"}, "model.residual", "one of all, none"),
    (ModelConfig, {"residual": True}, "model.residual", "one of all, none"),
    (ModelConfig, {"stem": "mnist"}, "model.stem", "one of imagenet, cifar"),
    (ModelConfig, {"padding": "valid"}, "model.padding", "one of same, symmetric"),
    (ModelConfig, {"width": 0.0}, "model.width", "at least 0.016"),
    (ModelConfig, {"width": -1.0}, "model.width", "at least 0.016"),
    (ModelConfig, {"width": 0.015}, "model.width", "at least 0.016"),
    (ModelConfig, {"width": 16.1}, "model.width", "at most 16"),
    (ModelConfig, {"width": math.nan}, "model.width", "a finite number"),
    (ModelConfig, {"width": math.inf}, "model.width", "a finite number"),
    (ModelConfig, {"width": "wide"}, "model.width", "a finite number"),
    (ModelConfig, {"width": True}, "model.width", "a finite number"),
    (ModelConfig, {"width": None}, "model.width", "a finite number"),
    (ModelConfig, {"middle_blocks": -1}, "model.middle_blocks", "between 0 and 32"),
    (ModelConfig, {"middle_blocks": 33}, "model.middle_blocks", "between 0 and 32"),
    (ModelConfig, {"middle_blocks": 4.0}, "model.middle_blocks", "a whole number"),
    (ModelConfig, {"middle_blocks": True}, "model.middle_blocks", "a whole number"),
    (ModelConfig, {"dropout": 1.0}, "model.dropout", "at least 0 and below 1"),
    (ModelConfig, {"dropout": -0.1}, "model.dropout", "at least 0 and below 1"),
    (ModelConfig, {"bn_eps": 0.0}, "model.bn_eps", "above 0"),
    (ModelConfig, {"bn_momentum": 0.0}, "model.bn_momentum", "above 0 and at most 1"),
    (ModelConfig, {"bn_momentum": 1.1}, "model.bn_momentum", "above 0 and at most 1"),
    (ModelConfig, {"weights": None}, "model.weights", "text"),
    (
        ModelConfig,
        {"weights": "x.h5", "timm": "inception_v3"},
        "model.weights",
        "left out with model.timm",
    ),
    (
        ModelConfig,
        {"weights": "x.h5", "weights_digest": "0123"},
        "model.weights_digest",
        "what xceptlab has filled in",
    ),
    (
        ModelConfig,
        {"weights_digest": "0123456789abcdef"},
        "model.weights_digest",
        "left out without model.weights",
    ),
    (
        DataConfig,
        {"name": "mnist"},
        "data.name",
        "one of digits, cifar10, cifar100, imagenet, folder",
    ),
    (
        DataConfig,
        {"title": "pets"},
        "data.title",
        "left out for imagenet: it is for data.name: folder",
    ),
    *(
        (
            DataConfig,
            {"name": "folder", "title": title},
            "data.title",
            "made of letters, digits, '_', '.' and '-', the first one",
        )
        for title in (
            "../pets",
            "..",
            ".",
            "-",
            "-pets",
            ".pets",
            "_pets",
            "+pets",
            "cats+dogs",
            "my pets",
            "pets\n",
        )
    ),
    (DataConfig, {"num_classes": 5}, "data.num_classes", "is read with --data.name folder"),
    *(
        (
            DataConfig,
            images | {"max_pixels": 1000},
            "data.max_pixels",
            f"178956970 for {images['name']}: it is for photographs",
        )
        for images in (
            {"name": "digits", "crop": "none"},
            {"name": "cifar10", "crop": "pad", "size": 32},
        )
    ),
    (
        DataConfig,
        {"content": "train+val-3-0123456789abcdef"},
        "data.content",
        "left out for imagenet",
    ),
    (
        DataConfig,
        {"name": "folder", "content": "train-3-0123456789abcdef"},
        "data.content",
        "what xceptlab has filled in",
    ),
    (
        DataConfig,
        THREE_PARTS | {"validation": 0.1},
        "data.validation",
        "0, as val holds images to validate on",
    ),
    (DataConfig, {"root": None}, "data.root", "text"),
    (DataConfig, {"download": 1}, "data.download", "true or false"),
    (DataConfig, {"flip": "yes"}, "data.flip", "true or false"),
    (DataConfig, {"size": 7}, "data.size", "between 8 and 2048"),
    (DataConfig, {"size": 2049}, "data.size", "between 8 and 2048"),
    (DataConfig, {"name": "cifar10", "crop": "pad", "size": 33}, "data.size", "32 for cifar10"),
    (DataConfig, {"name": "cifar100", "crop": "pad", "size": 16}, "data.size", "32 for cifar100"),
    (DataConfig, {"validation": 0.51}, "data.validation", "between 0 and 0.5"),
    (DataConfig, {"validation": -0.1}, "data.validation", "between 0 and 0.5"),
    (
        DataConfig,
        {"validation": 0.01, "train_images": 50},
        "data.validation",
        "0, or enough to hold out one of 50 images",
    ),
    (
        DataConfig,
        {"validation": 1e-7},
        "data.validation",
        "0, or enough to hold out one of 1281167 images",
    ),
    (DataConfig, {"validation_seed": -1}, "data.validation_seed", "at least 0"),
    (DataConfig, {"train_images": 1}, "data.train_images", "0 (all) or at least 2"),
    (DataConfig, {"train_images": -5}, "data.train_images", "0 (all) or at least 2"),
    (DataConfig, {"test_images": -1}, "data.test_images", "at least 0"),
    (DataConfig, {"crop": "centre"}, "data.crop", "one of none, pad, resized"),
    (DataConfig, {"crop": "pad"}, "data.crop", "one of none, resized for imagenet"),
    (DataConfig, {"name": "digits", "crop": "resized"}, "data.crop", "one of none, pad for digits"),
    (DataConfig, {"pad": -1}, "data.pad", "at least 0"),
    (
        DataConfig,
        {"name": "digits", "crop": "pad", "size": 8, "pad": 8},
        "data.pad",
        "at least 0 and below data.size",
    ),
    (DataConfig, {"eval_crop": 0.0}, "data.eval_crop", "above 0 and at most 1"),
    (DataConfig, {"eval_crop": 1.1}, "data.eval_crop", "above 0 and at most 1"),
    (
        DataConfig,
        {"eval_interpolation": "nearest"},
        "data.eval_interpolation",
        "one of bilinear, bicubic",
    ),
    (
        DataConfig,
        {"name": "digits", "crop": "none", "eval_interpolation": "bicubic"},
        "data.eval_interpolation",
        "bilinear for dig",
    ),
    (
        DataConfig,
        {"name": "digits", "crop": "none", "exif_orientation": False},
        "data.exif_orientation",
        "true for digits",
    ),
    (DataConfig, {"max_pixels": 0}, "data.max_pixels", "at least 1"),
    (DataConfig, {"name": "folder", "num_classes": 1}, "data.num_classes", "0 or at least 2"),
    (
        DataConfig,
        {"num_classes": 3},
        "data.num_classes",
        "0 or 1000 for imagenet; photographs of one's own are data.name: folder",
    ),
    (
        DataConfig,
        {"name": "digits", "crop": "none", "num_classes": 9},
        "data.num_classes",
        "0 or 10 for digits",
    ),
    (TrainConfig, {"epochs": 0}, "train.epochs", "at least 1"),
    (TrainConfig, {"accumulate": 0}, "train.accumulate", "at least 1"),
    (TrainConfig, {"threads": 0}, "train.threads", "at least 1"),
    (TrainConfig, {"batch_size": 1}, "train.batch_size", "at least 2"),
    (
        TrainConfig,
        {"batch_size": 8, "accumulate": 5},
        "train.accumulate",
        "at most half of train.batch_size",
    ),
    (TrainConfig, {"optimizer": "lion"}, "train.optimizer", "one of sgd, rmsprop, adamw"),
    (TrainConfig, {"schedule": "linear"}, "train.schedule", "one of constant, exponential, cosine"),
    (
        TrainConfig,
        {"precision": "bf16"},
        "train.precision",
        "one of 32-true, bf16-mixed, 16-mixed, 64-true",
    ),
    (TrainConfig, {"lr": 0.0}, "train.lr", "above 0"),
    (TrainConfig, {"lr": -math.inf}, "train.lr", "a finite number"),
    (TrainConfig, {"decay_epochs": 0.0}, "train.decay_epochs", "above 0"),
    (TrainConfig, {"decay_rate": 0.0}, "train.decay_rate", "above 0"),
    (TrainConfig, {"weight_decay": -1e-5}, "train.weight_decay", "at least 0"),
    (TrainConfig, {"gradient_clip": -1.0}, "train.gradient_clip", "at least 0"),
    (TrainConfig, {"momentum": 1.0}, "train.momentum", "at least 0 and below 1"),
    (TrainConfig, {"warmup": 1.0}, "train.warmup", "at least 0 and below 1"),
    (TrainConfig, {"label_smoothing": -0.1}, "train.label_smoothing", "at least 0 and below 1"),
    (TrainConfig, {"ema": 1.0}, "train.ema", "at least 0 and below 1"),
    (TrainConfig, {"nesterov": True, "momentum": 0.0}, "train.nesterov", "false without momentum"),
    (RuntimeConfig, {"accelerator": "tpu"}, "runtime.accelerator", "one of auto, cpu, gpu, mps"),
    (RuntimeConfig, {"devices": 0}, "runtime.devices", "at least 1"),
    (RuntimeConfig, {"num_nodes": 0}, "runtime.num_nodes", "at least 1"),
    (RuntimeConfig, {"log_every": 0}, "runtime.log_every", "at least 1"),
    (RuntimeConfig, {"checkpoint_steps": -1}, "runtime.checkpoint_steps", "at least 0"),
    (RuntimeConfig, {"checkpoint_minutes": 0}, "runtime.checkpoint_minutes", "above 0"),
    (RuntimeConfig, {"workers": -1}, "runtime.workers", "at least 0"),
    (RuntimeConfig, {"wandb": "maybe"}, "runtime.wandb", "one of auto, online, offline, disabled"),
    (RuntimeConfig, {"outputs": 3}, "runtime.outputs", "text"),
    (LauncherConfig, {"name": "k8s"}, "launcher.name", "one of local, slurm, ray"),
    (LauncherConfig, {"gpus": -1}, "launcher.gpus", "at least 0"),
    (LauncherConfig, {"minutes": 2}, "launcher.minutes", "at least 3"),
    (LauncherConfig, {"options": ["--exclusive"]}, "launcher.options", "each NAME=VALUE"),
    (RunConfig, {"seed": -1}, "seed", "between 0 and 2**63 - 1"),
    (RunConfig, {"seed": 2**63}, "seed", "between 0 and 2**63 - 1"),
    (RunConfig, {"seed": 1.0}, "seed", "a whole number"),
    (RunConfig, {"model": {}}, "model", "a mapping with keys of order"),
]


@pytest.mark.parametrize(
    ("section", "values", "key", "allowed"), REFUSED, ids=[f"{key}-{v}" for _, v, key, _ in REFUSED]
)
def test_an_impossible_value_is_refused_in_one_line_with_key_value_and_what_is_allowed(
    section, values, key, allowed
):
    with pytest.raises(ValueError) as error:
        section(**values)
    message = str(error.value)
    assert message.startswith(f"{key}: ")
    value = values[key.split(".")[-1]]
    assert shown(value) in message
    assert allowed in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("section", "values"),
    [
        (ModelConfig, {"width": 0.016}),
        (ModelConfig, {"width": 16.0, "middle_blocks": 0, "dropout": 0.0, "bn_momentum": 1.0}),
        (ModelConfig, {"middle_blocks": 32}),
        (
            ModelConfig,
            {
                "order": "pointwise_first",
                "segments": 1,
                "divisor": 1,
                "intermediate": "tanh",
                "fc": (),
            },
        ),
        (
            DataConfig,
            {"size": 8, "validation": 0.5, "eval_crop": 1.0, "train_images": 2, "test_images": 1},
        ),
        (DataConfig, {"name": "folder", "size": 2048, "num_classes": 2}),
        (DataConfig, {"size": 2048, "num_classes": 1000}),
        (DataConfig, {"name": "digits", "crop": "pad", "size": 8, "pad": 7, "num_classes": 10}),
        (TrainConfig, {"epochs": 1, "batch_size": 2, "momentum": 0.0, "weight_decay": 0.0}),
        (TrainConfig, {"batch_size": 8, "accumulate": 4}),
        (RuntimeConfig, {"workers": 0, "devices": 1, "log_every": 1}),
        (RunConfig, {"seed": 2**63 - 1}),
    ],
)
def test_the_limits_themselves_are_allowed(section, values):
    assert dataclasses.asdict(section(**values)).items() >= values.items()


def test_the_defaults_are_the_papers_network_and_recipe():
    run = RunConfig()
    assert (run.model.order, run.model.intermediate, run.model.residual) == (
        "depthwise_first",
        "none",
        "all",
    )
    assert (run.model.width, run.model.middle_blocks, run.model.stem) == (1.0, 8, "imagenet")
    assert (run.data.name, run.data.size, run.data.classes) == ("imagenet", 299, 1000)
    assert (run.train.optimizer, run.train.lr, run.train.momentum) == ("sgd", 0.045, 0.9)
    assert (run.train.decay_rate, run.train.decay_epochs, run.train.weight_decay) == (
        0.94,
        2.0,
        1e-5,
    )
    assert run.seed == 0
    assert run.changed() == {}


def test_a_configuration_cannot_be_changed_after_it_was_checked():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().seed = 1


def test_widths_round_to_whole_channels():
    assert [ModelConfig(width=w).channels(728) for w in (1.0, 0.5, 0.125, 0.1)] == [
        728,
        364,
        91,
        73,
    ]


@pytest.mark.parametrize(("name", "classes"), [("digits", 10), ("cifar10", 10), ("cifar100", 100)])
def test_every_data_set_knows_its_number_of_classes(name, classes):
    assert DataConfig(name=name, size=32, crop="none").classes == classes


# ---- identity ------------------------------------------------------------------------------------

BASE = RunConfig(model=ModelConfig(order="pointwise_first"), data=DataConfig(crop="none", size=32))
"""Each value of ``OTHER`` is allowed in it alone; segments need this order."""
OWN = DataConfig(
    name="folder", content="train+val-3-fedcba9876543210", num_classes=3, crop="none", size=32
)
"""An own data set that was looked at, for the fields that only it may have."""
STARTED = ModelConfig(order="pointwise_first", weights="x.h5", weights_digest="fedcba9876543210")
"""A network that starts from weights that were looked at."""
OTHER = {
    "model": {
        "order": "depthwise_first",
        "intermediate": "elu",
        "intermediate_norm": True,
        "residual": "none",
        "segments": 4,
        "convolution": "regular",
        "divisor": 8,
        "timm": "inception_v3",
        "fc": [4096, 4096],
        "init": "timm",
        "width": 0.5,
        "middle_blocks": 7,
        "stem": "cifar",
        "dropout": 0.5,
        "padding": "symmetric",
        "bn_eps": 1e-5,
        "bn_momentum": 0.1,
        "weights_digest": "0123456789abcdef",
    },
    "data": {
        "name": "digits",
        "size": 33,
        "validation": 0.1,
        "validation_seed": 1,
        "train_images": 100,
        "test_images": 100,
        "crop": "resized",
        "pad": 3,
        "flip": False,
        "on_corrupt": "skip",
        "max_pixels": 1_000_000,
        "exif_orientation": False,
        "short_side": 256,
        "quality": 0,
        "cutout": 8,
        "colour": 0.4,
        "rand_augment": 9,
        "mixup": 0.2,
        "cutmix": 1.0,
        "eval_crop": 1.0,
        "eval_interpolation": "bicubic",
        "num_classes": 1000,
        "content": "train+test-3-0123456789abcdef",
    },
    "train": {
        "epochs": 99,
        "batch_size": 512,
        "accumulate": 2,
        "optimizer": "adamw",
        "lr": 0.1,
        "momentum": 0.8,
        "nesterov": True,
        "weight_decay": 1e-4,
        "decay_norm_bias": False,
        "schedule": "cosine",
        "decay_rate": 0.95,
        "decay_epochs": 3.0,
        "warmup": 0.1,
        "label_smoothing": 0.1,
        "gradient_clip": 1.0,
        "ema": 0.99,
        "precision": "bf16-mixed",
        "threads": 2,
        "compile": True,
        "deterministic": False,
    },
}
NO_SCIENCE = {
    "model": {"match": "macs", "weights": "elsewhere.h5"},
    "data": {"title": "pets", "root": "/elsewhere", "download": True, "cache": "/scratch"},
    "runtime": {
        "outputs": "/elsewhere",
        "accelerator": "gpu",
        "devices": 8,
        "num_nodes": 2,
        "workers": 4,
        "capture": False,
        "log_every": 1,
        "checkpoint_steps": 7,
        "checkpoint_minutes": 1.0,
        "wandb": "disabled",
        "wandb_project": "other",
        "wandb_weights": True,
        "tensorboard": True,
        "study": "residual",
        "arm": "none",
    },
    "launcher": {
        "name": "slurm",
        "gpus": 8,
        "memory": 64,
        "minutes": 60,
        "partition": "gpu",
        "account": "lab",
        "options": ("qos=long",),
        "address": "192.0.2.1:6379",
    },
}


def alter(run: RunConfig, section: str, name: str, value) -> RunConfig:
    return dataclasses.replace(
        run, **{section: dataclasses.replace(getattr(run, section), **{name: value})}
    )


def test_the_lists_of_this_file_hold_every_field():
    # in tests/test_extending.py: only a module of one's own makes them anything else
    tested_with_modules = EXTENSION_DEFAULTS
    listed = {
        f"{s}.{n}"
        for part in (OTHER, NO_SCIENCE, tested_with_modules)
        for s, names in part.items()
        for n in names
        if s
    }
    assert listed == {
        f"{s}.{f.name}"
        for s in ("model", "data", "train", "runtime", "launcher")
        for f in dataclasses.fields(getattr(BASE, s))
    }


@pytest.mark.parametrize(
    ("section", "name", "value"), [(s, n, v) for s, part in OTHER.items() for n, v in part.items()]
)
def test_every_science_field_makes_another_run(section, name, value):
    base = dataclasses.replace(BASE, data=OWN) if name == "content" else BASE
    base = dataclasses.replace(BASE, model=STARTED) if name == "weights_digest" else base
    other = alter(base, section, name, value)
    assert other.run_id != base.run_id
    assert other.science() == base.science() | {f"{section}.{name}": value}


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [(s, n, v) for s, part in NO_SCIENCE.items() for n, v in part.items()],
)
def test_where_and_how_a_run_runs_does_not_change_its_identity(section, name, value):
    base = dataclasses.replace(BASE, data=OWN) if name == "title" else BASE
    base = dataclasses.replace(BASE, model=STARTED) if name == "weights" else base
    other = alter(base, section, name, value)
    assert other.run_id.rpartition("-")[2] == base.run_id.rpartition("-")[2]
    assert (other.run_id == base.run_id) == (name != "title")  # by which the set is called
    assert other.science() == base.science()


def test_images_are_counted_as_far_as_the_configuration_tells():
    assert DataConfig(name="digits", crop="none", validation=0.1).images() == (1167, 130, 500)
    assert DataConfig(validation=0.5, train_images=8, test_images=4).images() == (4, 4, 4)
    assert DataConfig(name="folder", num_classes=3, validation=0.01).images() == (0, 0, 0)


def test_a_run_of_an_own_data_set_has_no_id_before_its_files_were_looked_at():
    run = RunConfig(data=DataConfig(name="folder"))
    for ask in (lambda: run.run_id, lambda: run.data.classes):
        with pytest.raises(Refused, match=r"xceptlab\.data\.resolved\(config\) does") as refused:
            ask()
        assert "\n" not in str(refused.value)
    with pytest.raises(Refused, match=r"xceptlab\.data\.resolved\(config\) does"):
        _ = RunConfig(model=ModelConfig(weights="x.h5")).run_id
    assert RunConfig(data=OWN).run_id.startswith("folder-size32-crop_none-seed0-")
    assert RunConfig(data=dataclasses.replace(OWN, title="pets")).run_id.startswith(
        "pets-size32-crop_none-seed0-"
    )


@pytest.mark.parametrize(
    ("data", "splits"),
    [
        (
            DataConfig(validation=0.01),
            "training on train, validation on 0.01 of train, test on val",
        ),
        (
            DataConfig(name="digits", crop="none"),
            "training on train, validation on none, test on test",
        ),
        (OWN, "training on train, validation on none, test on val"),
        (
            dataclasses.replace(OWN, validation=0.1),
            "training on train, validation on 0.1 of train, test on val",
        ),
        (DataConfig(**THREE_PARTS), "training on train, validation on val, test on test"),
    ],
)
def test_which_part_of_the_data_is_which_split_is_said_in_words(data, splits):
    assert data.splits() == f"{data.name}, {splits}"
    assert data.has_validation_images == ("validation on none" not in splits)


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop"])
def test_nesterovs_momentum_does_not_apply_to_other_optimizers_and_makes_no_other_run(optimizer):
    runs = [
        RunConfig(train=TrainConfig(optimizer=optimizer, nesterov=nesterov))
        for nesterov in (True, False)
    ]
    assert runs[0] == runs[1]
    assert runs[0].run_id == runs[1].run_id


def test_another_seed_is_another_run():
    assert len({RunConfig(seed=seed).run_id for seed in (0, 1, 2**63 - 1)}) == 3


def test_one_and_one_point_zero_are_the_same_run():
    whole = RunConfig(model=ModelConfig(width=2), train=TrainConfig(lr=1, decay_epochs=3))
    decimal = RunConfig(model=ModelConfig(width=2.0), train=TrainConfig(lr=1.0, decay_epochs=3.0))
    assert whole == decimal
    assert whole.run_id == decimal.run_id


def test_layers_given_as_a_list_are_compared_as_json_and_yaml_keep_them():
    run = alter(BASE, "model", "fc", (64, 32))
    assert run.science()["model.fc"] == [64, 32]
    assert run == alter(BASE, "model", "fc", [64, 32])
    assert hash(run.model)


def test_the_identity_is_readable_and_does_not_drift():
    """If a hash fails, finished runs would be trained again: only a raised SCIENCE_VERSION may
    change these.
    """
    tiny = RunConfig(
        model=ModelConfig(
            width=0.125,
            middle_blocks=4,
            stem="cifar",
            bn_momentum=0.1,
            residual="none",
            intermediate="relu",
        ),
        data=DataConfig(name="digits", size=16, validation=0.1, crop="none", flip=False),
        train=TrainConfig(
            epochs=6,
            batch_size=64,
            lr=0.1,
            nesterov=True,
            weight_decay=1e-4,
            schedule="cosine",
            warmup=0.1,
        ),
        seed=3,
    )
    assert tiny.run_id == "digits-intermediate_relu-residual_none-seed3-c6a3e5812a"
    assert RunConfig().run_id == "imagenet-seed0-4a1779511a"


TINY = load_run(
    [
        "-c=configs/model/xception_tiny.yaml",
        "-c=configs/data/digits.yaml",
        "-c=configs/train/digits.yaml",
    ]
)


@pytest.mark.parametrize(
    ("changes", "readable"),
    [
        ({}, "digits-seed0"),
        ({"train.lr": 0.05}, "digits-lr0.05-seed0"),
        ({"data.validation_seed": 2_000_000}, "digits-validation_seed2000000-seed0"),
        ({"model.residual": "none", "train.lr": 0.05}, "digits-residual_none-lr0.05-seed0"),
        ({"model.fc": (64, 32)}, "digits-fc64_32-seed0"),
        ({"data.flip": True}, "digits-flip_true-seed0"),
        ({"model.timm": "hf_hub:timm/some"}, "digits-timm_hf_hub_timm_some-seed0"),
        ({"model.width": 0.1234567}, "digits-width0.123457-seed0"),
        (
            {"model.weights": "a/b.h5", "model.weights_digest": "0123456789abcdef"},
            "digits-weights012345-seed0",
        ),
        (
            {"model.order": "pointwise_first", "model.segments": 4},
            "digits-order_pointwise_first-segments4-seed0",
        ),
    ],
)
def test_the_readable_part_of_a_runs_id_is_what_differs_from_the_closest_shipped_recipe(
    changes, readable
):
    run = TINY
    for key, value in changes.items():
        run = alter(run, *key.split("."), value)
    assert run.run_id.rpartition("-")[0] == readable


def test_it_stays_short_and_says_where_it_is_cut():
    run = alter(
        alter(TINY, "model", "intermediate", "hardswish"), "model", "order", "pointwise_first"
    )
    run = alter(alter(run, "train", "label_smoothing", 0.1), "train", "lr", 0.05)
    readable = run.run_id.rpartition("-")[0]
    assert readable == "digits-order_pointwise_first-intermediate_hardswish-lr0.05-etc-seed0"
    assert len(readable) < 72
