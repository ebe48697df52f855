"""Which images a split has: each class in proportion to its size, by a seed of its own."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from xceptlab import data
from xceptlab.config.schema import DataConfig
from xceptlab.data import order
from xceptlab.data.sources import Arrays

SEEDS = st.integers(0, 2**32 - 1)
LABELS = st.integers(1, 8).flatmap(
    lambda classes: arrays(np.int64, st.integers(1, 200), elements=st.integers(0, classes - 1))
)
"""Labels of up to 200 images in up to 8 classes, of which some may be empty."""


@given(LABELS, st.floats(0, 1), SEEDS)
def test_a_stratified_choice_has_as_many_images_as_asked_for_each_once_and_in_order(
    labels, part, seed
):
    count = round(part * len(labels))
    chosen = order.stratified(labels, count, seed)
    assert len(chosen) == count
    assert np.array_equal(chosen, np.unique(chosen))
    assert set(chosen) <= set(range(len(labels)))
    assert np.array_equal(chosen, order.stratified(labels, count, seed))


@given(LABELS, st.floats(0, 1), SEEDS)
def test_a_stratified_choice_keeps_the_classes_proportions(labels, part, seed):
    """Within one image for classes of the mean size or less; of a larger class as many more as it
    is larger, since the small ones round down together.
    """
    count = round(part * len(labels))
    chosen = order.stratified(labels, count, seed)
    classes, sizes = np.unique(labels, return_counts=True)
    for label, size in zip(classes, sizes, strict=True):
        exact = count * size / len(labels)
        bound = (1 + size / sizes.mean()) / 2
        assert abs((labels[chosen] == label).sum() - exact) <= bound + 1e-9


@given(st.integers(1, 8), st.integers(1, 50), st.floats(0, 1), SEEDS)
def test_classes_of_one_size_get_the_same_number_of_images_or_one_more(classes, size, part, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(classes), size))
    chosen = order.stratified(labels, round(part * len(labels)), seed)
    counts = np.bincount(labels[chosen], minlength=classes)
    assert counts.max() - counts.min() <= 1


@given(LABELS, st.floats(0, 1), st.floats(0, 1), SEEDS)
def test_fewer_images_are_some_of_more(labels, part, other_part, seed):
    fewer, more = sorted(round(p * len(labels)) for p in (part, other_part))
    assert set(order.stratified(labels, fewer, seed)) <= set(order.stratified(labels, more, seed))


@given(SEEDS, SEEDS)
def test_another_seed_chooses_other_images(seed, other_seed):
    assume(seed != other_seed)
    labels = np.arange(1000) % 3
    chosen, other = (set(order.stratified(labels, 500, each)) for each in (seed, other_seed))
    assert len(chosen & other) < 400  # 250 by chance


# ---- the splits of a data set --------------------------------------------------------------------


def splits(train, test, **fields):
    """The numbers of the images in each split of a set with these labels."""

    def load(config):
        return [
            Arrays(np.zeros((len(labels), 8, 8, 3), np.uint8), labels) for labels in (train, test)
        ]

    config = DataConfig(name="digits", size=8, crop="none", **fields)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "data_set", lambda name: SimpleNamespace(load=load))
        found = data.splits(config)
    return {name: members for name, (_, members) in found.items()}


@given(LABELS, LABELS, st.data())
def test_the_images_for_validation_are_held_out_of_those_that_are_used(train, test, choose):
    assume(len(train) > 1)
    used = choose.draw(st.just(0) | st.integers(2, len(train)))
    tested = choose.draw(st.integers(0, len(test)))
    part = choose.draw(st.just(0.0) | st.floats(1 / (used or len(train)), 0.5))
    counts = {"train_images": used, "test_images": tested}
    found = splits(train, test, validation=part, **counts)
    images = splits(train, test, validation=0.0, **counts)["train"]
    assert len(images) == (used or len(train))
    assert len(found["validation"]) == round(part * len(images))
    assert np.array_equal(np.union1d(found["train"], found["validation"]), images)
    assert len(found["train"]) + len(found["validation"]) == len(images)
    assert len(found["test"]) == (tested or len(test))


@given(LABELS, SEEDS, SEEDS)
def test_the_seed_of_validation_decides_nothing_else(train, seed, other_seed):
    assume(len(train) > 3)
    one, other = (
        splits(train, train, validation=0.4, validation_seed=each, train_images=len(train) - 1)
        for each in (seed, other_seed)
    )
    for found in (one, other):
        found["used"] = np.union1d(found.pop("train"), found.pop("validation"))
    assert {name: list(members) for name, members in one.items()} == {
        name: list(members) for name, members in other.items()
    }
