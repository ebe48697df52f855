"""Augmentation against slow references."""

import numpy as np
import pytest
import torch

from xceptlab.data import augment, order


def test_normalised_images_are_in_the_papers_range_and_channels_last():
    images = (
        torch.tensor([0, 127, 255], dtype=torch.uint8)
        .reshape(1, 1, 1, 3)
        .expand(2, 5, 4, 3)
        .contiguous()
    )
    result = augment.normalise(images, torch.float32)
    assert result.shape == (2, 3, 5, 4)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert result[0, :, 0, 0].tolist() == pytest.approx([-1, 127 / 127.5 - 1, 1])


def pairs(n, mixup, cutmix, size=32):
    draws = order.draws(0, 0, np.arange(n))
    return augment.mixing(draws, size, mixup, cutmix)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.2, 0.0), (1.0, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_mixed_images_are_what_their_labels_parts_say(mixup, cutmix):
    """An image of ones mixed with one of zeros has the mean of its own part, by mixup and by
    cutmix.
    """
    plan = torch.from_numpy(pairs(64, mixup, cutmix))
    images = (
        torch.arange(64)
        .remainder(2)
        .float()[:, None, None, None]
        .expand(-1, 3, 32, 32)
        .contiguous()
    )
    mixed, own = augment.mix(images, plan)
    expected = torch.where(images[:, 0, 0, 0] == 1, own, 1 - own)
    assert torch.allclose(mixed.mean((1, 2, 3)), expected, atol=1e-5)
    assert torch.equal(own[0::2], own[1::2])
    assert own.std() > 0.05


def test_a_coin_decides_between_mixup_and_cutmix():
    plan = pairs(4000, 0.8, 1.0)[::2]
    cut = plan[:, 0] == 1
    assert 0.45 < cut.mean() < 0.55
    assert (plan[~cut, 1:] == [0, 0, 32, 32]).all()
    area = (plan[cut, 3] - plan[cut, 1]) * (plan[cut, 4] - plan[cut, 2]) / 32**2
    # 0.321 with alpha 1, since boxes are cut off at the borders (Yun et al.'s code)
    assert 0.30 < area.mean() < 0.34
    assert 0.15 < (area > 0.5).mean() < 0.21


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0])
def test_ratios_are_from_the_beta_distribution(alpha):
    from scipy.stats import beta, kstest

    part = pairs(20_000, alpha, 0.0)[::2, 0]
    # the smaller of a ratio and its complement
    assert kstest(part, lambda x: 2 * beta.cdf(x, alpha, alpha)).pvalue > 1e-3


def test_the_last_of_an_odd_number_stays_alone():
    images = torch.rand(5, 3, 8, 8)
    mixed, own = augment.mix(images, torch.from_numpy(pairs(5, 1.0, 0.0, 8)))
    assert torch.equal(mixed[4], images[4])
    assert own[4] == 1
    assert augment.partners(5, torch.device("cpu")).tolist() == [1, 0, 3, 2, 4]


def test_cutout_blanks_a_square_inside_the_image_wherever_its_centre_lies():
    draws = torch.from_numpy(order.draws(0, 0, np.arange(2000)))
    holes = (augment.cutout(torch.ones(2000, 3, 32, 32), draws, 8) == 0)[:, 0]
    areas = holes.sum((1, 2))
    assert areas.max() == 64
    assert areas.min() >= 16  # a centre in the corner
    rows, columns = holes.any(2).sum(1), holes.any(1).sum(1)
    assert torch.equal(rows * columns, areas)
    assert holes.float().mean(0).min() > 0.01


def test_rand_augment_belongs_to_the_image_and_leaves_the_generator_alone():
    image = torch.randint(0, 256, (3, 48, 48), dtype=torch.uint8)
    draws = order.draws(0, 0, np.arange(40))

    def vary(draw):
        return augment.vary(image, draw, flip=False, colour=0.0, rand_augment=9)

    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = [vary(draw) for draw in draws]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert all(torch.equal(a, vary(draw)) for a, draw in zip(first, draws, strict=True))
    assert sum(not torch.equal(a, image) for a in first) > 30
    assert len({a.numpy().tobytes() for a in first}) > 25


def test_colours_vary_by_at_most_their_factor():
    image = torch.full((3, 8, 8), 100, dtype=torch.uint8)
    grey = [
        augment.vary(image, draw, flip=False, colour=0.4, rand_augment=0)
        for draw in order.draws(0, 0, np.arange(300))
    ]
    values = torch.stack(grey).float().mean((1, 2, 3))
    assert 58 <= values.min() < 65
    assert 135 < values.max() <= 141
