"""What a metric is, and that all else follows from it."""

import math
from fnmatch import fnmatch
from typing import get_args

import pytest
import torch

from xceptlab import register
from xceptlab.runs import directory
from xceptlab.runs.metrics import (
    METRICS,
    NAMES,
    measured,
    metric_of,
    metric_of_another_tool,
    on_split,
    split_of,
)
from xceptlab.study.claims import Claim
from xceptlab.study.tuning import Tune
from xceptlab.training.metrics import ACCURACIES, PER_IMAGE


def test_every_metric_is_described_and_computed_under_the_same_name():
    assert PER_IMAGE.keys() == METRICS.keys()


def test_no_registered_metric_takes_the_name_or_the_file_of_a_built_in_one_or_the_count_of_images():
    files = {
        metric.per_image_file.removeprefix("test_").removesuffix(".npy")
        for metric in METRICS.values()
    }
    assert METRICS.keys() | files | {"images"} == set(register.RESERVED_METRICS)


def test_the_files_of_all_metrics_are_those_that_the_list_of_a_runs_files_has():
    assert "test_*.npy " in directory.__doc__
    for metric in METRICS.values():
        assert fnmatch(metric.per_image_file, "test_*.npy")


def test_the_values_that_arms_are_tuned_to_are_chosen_by_any_metric_of_validation():
    (field,) = (f for f in Tune.__dataclass_fields__.values() if f.name == "select")
    built_in, registered = get_args(field.type)
    assert get_args(built_in) == tuple(f"val/{name}" for name in METRICS)
    assert registered is str


def test_claims_are_on_every_metric_of_the_two_splits():
    (field,) = (f for f in Claim.__dataclass_fields__.values() if f.name == "metric")
    assert get_args(get_args(field.type)[0]) == NAMES  # or the name of a registered one
    assert set(NAMES) == {f"{split}/{name}" for split in ("test", "val") for name in METRICS}


@pytest.mark.parametrize(
    ("name", "lower_is_better", "difference", "decimals"),
    [
        ("test/top1", False, "points", 2),
        ("val/top5", False, "points", 2),
        ("test/loss", True, "nats", 4),
        ("valid_loss", False, "", 4),
        ("kappa", False, "", 4),
    ],
)
def test_a_score_of_a_run_is_in_the_metric_that_it_is_named_after(
    name, lower_is_better, difference, decimals
):
    metric = metric_of(name)
    assert metric.lower_is_better == lower_is_better
    assert metric.unit_of_difference == difference
    assert metric.decimals == decimals


@pytest.mark.parametrize(
    ("name", "taken_for"),
    [
        ("test/loss", "loss"),
        ("valid_loss", "loss"),
        ("logLoss", "loss"),
        ("MSELoss", "loss"),
        ("CrossEntropyLoss", "loss"),
        ("val-top1", "top1"),
        ("kappa", "kappa"),
    ],
)
def test_a_score_of_another_tool_is_taken_for_the_metric_that_its_name_ends_in(name, taken_for):
    assert metric_of_another_tool(name).name == taken_for


def test_accuracies_are_the_metrics_whose_value_for_an_image_is_right_or_wrong():
    assert ACCURACIES == ("top1", "top5")
    labels = torch.tensor([0, 1, 1])
    for name in METRICS:
        values = PER_IMAGE[name](torch.eye(3, 6), labels)
        assert METRICS[name].is_accuracy == (values.dtype == torch.bool)


def test_the_split_is_what_stands_before_the_name():
    assert split_of("val/top5") == "val"
    assert split_of("val") == ""
    values = {"val/top1": 1.0, "val": 2.0, "validation/top1": 3.0, "test/top1": 4.0, "lr": 5.0}
    assert on_split(values, "val") == {"val/top1": 1.0}


@pytest.mark.parametrize(
    ("classes", "names"), [(5, ["top1", "loss"]), (6, ["top1", "top5", "loss"])]
)
def test_among_the_five_best_of_five_classes_is_every_one_so_that_it_is_not_measured(
    classes, names
):
    assert [metric.name for metric in measured(classes)] == names


@pytest.mark.parametrize("classes", [6, 10, 1000])
def test_a_network_that_guesses_scores_what_guessing_is_said_to_score(classes):
    labels = torch.arange(classes)
    # one ranking, whatever the image
    logits = torch.arange(classes, dtype=torch.float64).expand(classes, -1)
    uniform = torch.zeros(classes, classes, dtype=torch.float64)
    for name in ("top1", "top5"):
        assert 100 * PER_IMAGE[name](logits, labels).double().mean() == pytest.approx(
            METRICS[name].guessing(classes)
        )
    assert PER_IMAGE["loss"](uniform, labels).mean() == pytest.approx(
        METRICS["loss"].guessing(classes)
    )


def test_of_a_metric_that_is_not_known_nobody_knows_what_guessing_scores():
    assert math.isnan(metric_of("kappa").guessing(10))


def test_equal_logits_are_ranked_alike_among_the_best_and_the_five_best():
    labels = torch.arange(10)
    best = PER_IMAGE["top1"](torch.zeros(10, 10), labels)
    assert best.sum() == 1
    assert (PER_IMAGE["top5"](torch.zeros(10, 10), labels) | ~best).all()
