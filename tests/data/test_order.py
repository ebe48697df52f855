"""Which image at which step: pure functions, whatever the world around them does."""

import math
import re
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from xceptlab.data import order

SEEDS = st.integers(0, 2**32 - 1)
EPOCHS = st.integers(0, 10_000)


def test_the_hash_is_pinned():
    """Identity of every run ever made: these bits must never change."""
    assert [int(order.bits(1, 2, n)[0]) for n in range(3)] == [
        16613338946343043936,
        13264548337748323810,
        16803123258551283528,
    ]


def test_what_each_random_number_of_an_image_decides_is_pinned():
    """As the bits are; no number decides two things."""
    columns = [
        *(order.TOP, order.LEFT, order.FLIP, order.TRIES, order.CUTOUT_CENTRE, order.COLOUR),
        *(order.MIX_RATIO, order.MIX_COIN, order.MIX_CENTRE, order.RAND_AUGMENT_SEED),
    ]
    decided = [np.atleast_1d(np.arange(order.DRAWS)[column]).tolist() for column in columns]
    assert np.concatenate(decided).tolist() == list(range(34))
    assert list(map(len, decided)) == [1, 1, 1, 20, 2, 3, 1, 1, 2, 2]
    assert np.arange(order.DRAWS)[order.PLACE].tolist() == [order.TOP, order.LEFT]


@given(SEEDS, EPOCHS, st.integers(0, 500))
def test_an_epoch_is_a_permutation(seed, epoch, n):
    assert np.array_equal(np.sort(order.permutation(seed, epoch, n)), np.arange(n))


@given(st.tuples(SEEDS, EPOCHS), st.tuples(SEEDS, EPOCHS))
@example((0, 0), (0, 1))
@example((0, 0), (1, 0))
@example((0, 1), (1, 0))
def test_epochs_and_seeds_differ_in_their_order(one, other):
    assume(one != other)
    assert (order.permutation(*one, 1000) != order.permutation(*other, 1000)).mean() > 0.9


def test_draws_are_uniform_and_independent_of_each_other():
    draws = order.draws(3, 5, np.arange(20_000))
    assert np.abs(draws.mean(axis=0) - 0.5).max() < 5 * np.sqrt(1 / 12 / len(draws))
    assert np.abs(np.corrcoef(draws.T) - np.eye(order.DRAWS)).max() < 0.05


@given(SEEDS, EPOCHS, st.lists(st.integers(0, 2_000_000), min_size=1, max_size=50))
def test_draws_belong_to_the_image_whatever_its_batch(seed, epoch, index):
    together = order.draws(seed, epoch, np.array(index))
    assert together.dtype == np.float32
    assert together.shape == (len(index), order.DRAWS)
    assert together.min() >= 0
    assert together.max() < 1
    alone = [order.draws(seed, epoch, np.array([image])) for image in index]
    assert np.array_equal(together, np.concatenate(alone))
    for other in (
        order.draws(seed + 1, epoch, np.array(index)),
        order.draws(seed, epoch + 1, np.array(index)),
    ):
        assert (together != other).mean() > 0.9


# ---- the batches of training ---------------------------------------------------------------------


@dataclass(frozen=True)
class Sizes:
    """What a user may choose of an epoch, and that its last batch is large enough for."""

    n: int
    batch_size: int
    accumulate: int
    world: int
    seed: int
    epoch: int

    def batches_of(self, rank, done=0):
        """The batches of one process, from where the run stands."""
        position = (self.epoch, done)
        return order.TrainingOrder(
            n=self.n,
            batch_size=self.batch_size,
            accumulate=self.accumulate,
            seed=self.seed,
            rank=rank,
            world=self.world,
            position=lambda: position,
        )

    def steps(self):
        """The batches of all processes, of each optimizer step in a list: of one accumulated batch
        after the other, of one process after the other.
        """
        of_ranks = [list(self.batches_of(rank)) for rank in range(self.world)]
        in_turn = list(zip(*of_ranks, strict=True))
        return [
            [key for batches in in_turn[first : first + self.accumulate] for key in batches]
            for first in range(0, len(in_turn), self.accumulate)
        ]


@st.composite
def sizes(draw):
    world, accumulate = draw(st.integers(1, 8)), draw(st.integers(1, 4))
    least = 2 * world * accumulate
    batch_size = draw(st.integers(least, least + 200))
    whole = draw(st.integers(0, 5))
    rest = draw(
        st.integers(least, batch_size)
        if whole == 0
        else st.just(0) | st.integers(least, batch_size)
    )
    return Sizes(
        whole * batch_size + rest, batch_size, accumulate, world, draw(SEEDS), draw(EPOCHS)
    )


@given(sizes())
def test_each_image_once_per_epoch(sizes):
    keys = [key for step in sizes.steps() for key in step]
    assert np.array_equal(np.sort(np.concatenate([key.number for key in keys])), np.arange(sizes.n))
    assert {key.epoch for key in keys} == {sizes.epoch}
    assert min(len(key.number) for key in keys) >= 2  # which BatchNorm needs
    lengths = {len(sizes.batches_of(rank)) for rank in range(sizes.world)}
    steps = math.ceil(sizes.n / sizes.batch_size)
    assert lengths == {steps * sizes.accumulate}
    assert len(sizes.steps()) == steps


@given(sizes())
def test_whatever_the_processes_and_accumulated_batches_the_global_batches_are_the_same(sizes):
    """And the images in their order."""
    whole = order.permutation(sizes.seed, sizes.epoch, sizes.n)
    for number, step in enumerate(sizes.steps()):
        first = number * sizes.batch_size
        images = np.concatenate([key.number for key in step])
        assert np.array_equal(images, whole[first : first + sizes.batch_size])


def pairs(keys):
    """The images that may be mixed with each other: 2k and 2k + 1 of a batch."""
    found = set()
    for key in keys:
        whole_pairs = key.number[: len(key.number) // 2 * 2].reshape(-1, 2)
        found |= set(map(tuple, whole_pairs.tolist()))
    return found


@given(sizes())
def test_images_that_may_be_mixed_share_a_process(sizes):
    """Also those of a batch of an odd number of images, whose last one stays alone."""
    for step in sizes.steps():
        together = np.concatenate([key.number for key in step])
        assert pairs(step) == pairs([order.BatchKey(0, together, 1.0)])


@given(sizes())
def test_weights_make_the_gradient_the_mean_over_the_global_batch(sizes):
    """Lightning divides by the accumulated batches, DDP averages over processes: each image must
    count 1 / global batch.
    """
    for step in sizes.steps():
        total = sum(len(key.number) for key in step)
        for key in step:
            assert key.weight / (sizes.world * sizes.accumulate) == pytest.approx(1 / total)


@given(sizes(), st.data())
def test_a_run_continues_where_it_stood(sizes, data):
    """Where all batches of an epoch are done, Lightning's count stays until the next one begins."""
    rank = data.draw(st.integers(0, sizes.world - 1))
    whole = list(sizes.batches_of(rank))
    done = data.draw(st.integers(0, len(whole)))
    rest = list(sizes.batches_of(rank, done=done))
    assert len(rest) == (len(whole) - done or len(whole))
    for a, b in zip(rest, whole[-len(rest) :], strict=True):
        assert (a.epoch, a.weight) == (b.epoch, b.weight)
        assert np.array_equal(a.number, b.number)


def refused(n, batch_size, accumulate=1, world=1):
    """Why these sizes are refused; empty where they are not."""
    try:
        Sizes(n, batch_size, accumulate, world, seed=0, epoch=0).batches_of(0)
    except ValueError as error:
        return str(error)
    return ""


def test_a_last_batch_too_small_for_batchnorm_says_so():
    assert (
        "the 129 training images would have 1 of at least 2 images, which BatchNorm needs; "
        in refused(129, 128)
    )
    assert (
        "7 of at least 8 images, two for each of 2 processes x 2 accumulated batches; "
        in refused(128 + 7, 128, 2, 2)
    )
    assert refused(129, 64).endswith("; 63 or 65 would do")
    assert refused(3, 2).endswith("; 3 would do")
    assert refused(1, 1).endswith("; there are too few training images")


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 3), st.integers(1, 3))
def test_of_a_last_batch_too_small_the_nearest_sizes_that_fit_are_said_and_do_fit(
    n, batch_size, accumulate, world
):
    last = n % min(batch_size, n) or min(batch_size, n)
    message = refused(n, batch_size, accumulate, world)
    assert bool(message) == (last < 2 * world * accumulate)
    if message:
        said = [int(size) for size in re.findall(r"\d+", message.rpartition("; ")[2])]
        fitting = [size for size in range(1, n + 1) if not refused(n, size, accumulate, world)]
        below = [size for size in fitting if size < batch_size]
        above = [size for size in fitting if size > batch_size]
        assert said == below[-1:] + above[:1]


# ---- the batches of evaluation -------------------------------------------------------------------


@given(st.integers(0, 500), st.integers(1, 64), st.integers(1, 9))
def test_evaluation_counts_each_image_once(n, batch_size, world):
    orders = [
        order.EvaluationOrder(n=n, batch_size=batch_size, rank=rank, world=world)
        for rank in range(world)
    ]
    keys = [list(one) for one in orders]
    assert [len(one) for one in orders] == [len(batches) for batches in keys]
    sizes = [sum(len(key.number) for key in batches) for batches in keys]
    assert max(sizes) - min(sizes) <= 1
    images = [key.number for batches in keys for key in batches]
    assert max(map(len, images), default=0) <= batch_size
    assert {(key.epoch, key.weight) for batches in keys for key in batches} <= {(0, 1.0)}
    assert np.array_equal(np.concatenate([*images, np.arange(0)]), np.arange(n))
