"""Which image at which step: pure functions, whatever the world around them does."""

import re

import numpy as np
import pytest

from xceptlab.data import order


def test_the_hash_is_pinned():
    """Identity of every run ever made: these bits must never change."""
    assert [int(order.bits(1, 2, n)[0]) for n in range(3)] == [
        16613338946343043936,
        13264548337748323810,
        16803123258551283528,
    ]


def test_an_epoch_is_a_permutation_and_epochs_and_seeds_differ():
    orders = [order.permutation(seed, epoch, 1000) for seed in (0, 1) for epoch in (0, 1)]
    for one in orders:
        assert np.array_equal(np.sort(one), np.arange(1000))
    assert all((a != b).mean() > 0.9 for i, a in enumerate(orders) for b in orders[:i])


def test_draws_are_uniform_and_belong_to_the_image():
    index = np.arange(20_000)
    draws = order.draws(3, 5, index)
    assert draws.dtype == np.float32
    assert draws.min() >= 0
    assert draws.max() < 1
    assert np.abs(draws.mean(axis=0) - 0.5).max() < 5 * np.sqrt(1 / 12 / len(index))
    assert np.abs(np.corrcoef(draws.T) - np.eye(order.DRAWS)).max() < 0.05
    shuffled = np.random.default_rng(0).permutation(index)[:100]
    assert np.array_equal(order.draws(3, 5, shuffled), draws[shuffled])
    assert not np.array_equal(order.draws(3, 6, index), draws)
    assert not np.array_equal(order.draws(4, 5, index), draws)


@pytest.mark.parametrize("count", [1, 57, 500, 999])
def test_a_stratified_choice_keeps_the_classes_proportions(count):
    labels = np.random.default_rng(0).choice(3, size=1000, p=[0.7, 0.2, 0.1])
    chosen = order.stratified(labels, count, seed=0)
    assert len(chosen) == len(set(chosen)) == count
    for label in range(3):
        assert abs((labels[chosen] == label).sum() - count * (labels == label).mean()) <= 1.5
    assert not np.array_equal(chosen, order.stratified(labels, count, seed=1))


def epoch_of(world, accumulate=1, n=1000, batch_size=128, epoch=3, done=0):
    """Per step the images of all ranks and accumulated batches, and the weights."""
    orders = [
        order.TrainingOrder(
            n=n,
            batch_size=batch_size,
            accumulate=accumulate,
            seed=7,
            rank=rank,
            world=world,
            position=lambda: (epoch, done),
        )
        for rank in range(world)
    ]
    return list(zip(*map(list, orders), strict=True))


def test_each_image_once_per_epoch():
    for world in (1, 2, 4):
        for accumulate in (1, 2):
            images = np.concatenate(
                [key.number for step in epoch_of(world, accumulate) for key in step]
            )
            assert np.array_equal(np.sort(images), np.arange(1000))


def test_every_world_size_sees_the_same_global_batches():
    one = [set(step[0].number) for step in epoch_of(1)]
    for world in (2, 4):
        assert [
            set(np.concatenate([key.number for key in step])) for step in epoch_of(world)
        ] == one


@pytest.mark.parametrize("batch_size", [128, 90])
def test_images_that_may_be_mixed_share_a_process(batch_size):
    """2k and 2k + 1 of each global batch, also of the last, which has an odd number of images."""
    partner = {}
    for (key,) in epoch_of(1, n=1003, batch_size=batch_size):
        for first, second in key.number[: len(key.number) // 2 * 2].reshape(-1, 2):
            partner[first], partner[second] = second, first
    for world, accumulate in ((2, 1), (3, 2), (2, 3)):
        for step in epoch_of(world, accumulate, n=1003, batch_size=batch_size):
            for key in step:
                for first, second in key.number[: len(key.number) // 2 * 2].reshape(-1, 2):
                    assert partner[first] == second


@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (2, 1), (4, 1), (1, 2), (2, 3)])
def test_weights_make_the_gradient_the_mean_over_the_global_batch(world, accumulate):
    """Lightning divides by the accumulated batches, DDP averages over processes: each image must
    count 1 / global batch.
    """
    batches = epoch_of(world, accumulate)
    for step in range(0, len(batches), accumulate):
        keys = [key for part in batches[step : step + accumulate] for key in part]
        total = sum(len(key.number) for key in keys)
        for key in keys:
            assert key.weight / (world * accumulate) == pytest.approx(1 / total)


def test_a_run_continues_where_it_stood():
    whole = epoch_of(2, 2)
    for done in range(len(whole)):
        rest = epoch_of(2, 2, done=done)
        assert len(rest) == len(whole) - done
        for a, b in zip(rest, whole[done:], strict=True):
            assert all(np.array_equal(x.number, y.number) for x, y in zip(a, b, strict=True))


def test_a_last_batch_too_small_for_batchnorm_says_so():
    with pytest.raises(
        ValueError,
        match=r"the 129 training images would have 1 of at least 2 images, which BatchNorm needs; ",
    ):
        epoch_of(1, n=129)
    with pytest.raises(
        ValueError,
        match="7 of at least 8 images, two for each of 2 processes x 2 accumulated batches; ",
    ):
        epoch_of(2, 2, n=128 + 7)


@pytest.mark.parametrize(("n", "size", "said"), [
    (321, 32, "31 or 33 would do"), (129, 64, "63 or 65 would do"), (5, 4, "3 or 5 would do"),
    (3, 2, "3 would do"), (1, 1, "there are too few training images"),
])  # fmt: skip
def test_of_a_last_batch_too_small_the_nearest_sizes_that_fit_are_said_and_do_fit(n, size, said):
    def of_size(batch_size):
        return order.TrainingOrder(
            n=n,
            batch_size=batch_size,
            accumulate=1,
            seed=0,
            rank=0,
            world=1,
            position=lambda: (0, 0),
        )

    with pytest.raises(ValueError, match=f"; {said}$"):
        of_size(size)
    for fitting in re.findall(r"\d+", said):
        of_size(int(fitting))


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_evaluation_counts_each_image_once(world):
    orders = [
        order.EvaluationOrder(n=103, batch_size=10, rank=rank, world=world) for rank in range(world)
    ]
    keys = [list(one) for one in orders]
    assert [len(one) for one in orders] == [len(batches) for batches in keys]
    assert np.array_equal(
        np.sort(np.concatenate([key.number for batches in keys for key in batches])), np.arange(103)
    )
