"""Runs of before keep their ids.

The ids, and the files in ``runs_before``, were written by a version of which jsonargparse read the
configuration. A finished run whose configuration had another id would be trained again.
"""

import shlex
from pathlib import Path

import pytest

from conftest import ROOT
from xceptlab.config.loading import dump, load_run

WRITTEN = sorted((Path(__file__).parent / "runs_before").glob("*.yaml"))
IDS = [
    ("", "imagenet-seed0-4a1779511a"),
    ("-c model/xception_tiny -c data/digits -c train/digits --seed 7", "digits-seed7-5cffadf93e"),
    (
        "-c model/xception_cifar -c data/cifar10 -c train/cifar --model.residual none --train.lr 5e-2 --train.epochs 100",
        "cifar10-residual_none-epochs100-lr0.05-seed0-5e43fac322",
    ),
    (
        "-c model/xception_cifar -c data/cifar100 -c train/cifar --model.fc [64,32] --data.mixup 0.2 --data.cutmix 1 "
        "--train.epochs 100",
        "cifar100-fc64_32-mixup0.2-cutmix1-epochs100-seed0-048b1d90fc",
    ),
    (
        "-c model/xception -c data/imagenet -c train/imagenet_paper --data.short_side 342 --runtime.devices 8",
        "imagenet-short_side342-seed0-75ddb71dcc",
    ),
    (
        "-c data/imagenet -c train/jft_paper --train.precision bf16-mixed --train.compile true --seed 9223372036854775807",
        "imagenet-compile_true-seed9223372036854775807-96b2b7a767",
    ),
    (
        "-c data/imagenet -c train/imagenet_modern --model.timm inception_v3 --data.eval_interpolation bicubic",
        "imagenet-timm_inception_v3-eval_interpolation_bicubic-seed0-6bc5d50c55",
    ),
    (
        "--model.order pointwise_first --model.segments 4 --model.divisor 8 --model.width 2 --train.optimizer adamw "
        "--train.nesterov true",
        "imagenet-order_pointwise_first-segments4-width2-divisor8-etc-seed0-6c5f8a10e2",
    ),
    (
        "-c data/folder --data.title pets --data.content train+val-3-0123456789abcdef --data.num_classes 3 --data.root 010 "
        "--data.validation 1e-1",
        "pets-validation0.1-seed0-7fb699ca5d",
    ),
    (
        "--model.weights a/b.h5 --model.weights_digest 0123456789abcdef --model.bn_eps 1e-05 --runtime.arm 1e-3 "
        "--runtime.study 12:30",
        "imagenet-bn_eps1e-05-weights012345-seed0-0a5ec05814",
    ),
    (
        "--train.deterministic false --train.threads 4 --train.accumulate 2 --data.exif_orientation false "
        "--data.max_pixels 1000 --data.on_corrupt skip",
        "imagenet-on_corrupt_skip-max_pixels1000-exif_orientation_false-etc-seed0-4920fbae5f",
    ),
]


@pytest.mark.parametrize(("arguments", "run_id"), IDS, ids=[run_id for _, run_id in IDS])
def test_equal_arguments_are_the_same_run_as_before(arguments, run_id):
    pieces = shlex.split(arguments)
    files = {place + 1 for place, piece in enumerate(pieces) if piece == "-c"}
    found = [
        str(ROOT / "configs" / f"{piece}.yaml") if place in files else piece
        for place, piece in enumerate(pieces)
    ]
    assert load_run(found).run_id == run_id


@pytest.mark.parametrize("file", WRITTEN, ids=lambda file: file.stem)
def test_a_configuration_that_was_written_before_is_the_same_run_and_is_written_as_it_was(file):
    run = load_run(["-c", str(file)])
    assert run.run_id == file.stem
    assert dump(run) == file.read_text()
