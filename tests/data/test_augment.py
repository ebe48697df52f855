"""Augmentation against slow references."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision.transforms import RandomResizedCrop

from xceptlab.data import augment, order


@pytest.mark.parametrize(("pad", "flip"), [(4, True), (4, False), (0, True), (2, True)])
def test_crop_and_flip_equal_padding_and_cutting(pad, flip):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (64, 11, 9, 3), generator=generator, dtype=torch.uint8)
    draws = torch.rand(64, order.DRAWS, generator=generator)
    result = augment.crop_flip(images, torch.arange(64), draws, pad, flip)
    for image, draw, got in zip(images, draws, result, strict=True):
        padded = F.pad(image.permute(2, 0, 1).float(), (pad,) * 4, mode="reflect") if pad else image.permute(2, 0, 1).float()
        top, left = (int(d * (2 * pad + 1)) for d in draw[:2])
        want = padded[:, top : top + 11, left : left + 9]
        want = want.flip(2) if flip and draw[2] < 0.5 else want
        assert torch.equal(got.permute(2, 0, 1).float(), want)


def test_every_place_and_both_sides_are_drawn():
    images = torch.arange(32 * 32, dtype=torch.int32).reshape(1, 32, 32, 1)
    draws = torch.from_numpy(order.draws(0, 0, np.arange(4000)))
    result = augment.crop_flip(images, torch.zeros(4000, dtype=torch.long), draws, 4, True)
    assert len({(int(a), int(b)) for a, b in zip(result[:, 8, 8, 0], result[:, 8, 9, 0], strict=True)}) == 9 * 9 * 2


def test_normalised_images_are_in_the_papers_range_and_channels_last():
    images = torch.tensor([0, 127, 255], dtype=torch.uint8).reshape(1, 1, 1, 3).expand(2, 5, 4, 3).contiguous()
    result = augment.normalise(images, torch.float32)
    assert result.shape == (2, 3, 5, 4)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert result[0, :, 0, 0].tolist() == pytest.approx([-1, 127 / 127.5 - 1, 1])


def test_resized_crops_are_distributed_as_torchvisions():
    height, width, n = 375, 500, 4000
    draws = order.draws(0, 0, np.arange(n))
    ours = np.array([augment.resized_crop(draw, height, width) for draw in draws])
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = np.array([RandomResizedCrop.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(n)])
    assert (ours >= 0).all()
    assert (ours[:, 0] + ours[:, 2] <= height).all()
    assert (ours[:, 1] + ours[:, 3] <= width).all()
    for column in range(4):
        a, b = ours[:, column], theirs[:, column]
        assert abs(a.mean() - b.mean()) < 5 * np.sqrt((a.var() + b.var()) / n)
        assert a.std() == pytest.approx(b.std(), rel=0.05)


def test_a_crop_of_an_extreme_image_stays_inside():
    for height, width in ((1, 1000), (1000, 1), (1, 1), (20, 21)):
        for draw in order.draws(0, 0, np.arange(200)):
            top, left, h, w = augment.resized_crop(draw, height, width)
            assert 0 <= top <= top + h <= height
            assert 0 <= left <= left + w <= width
            assert h >= 1
            assert w >= 1


def pairs(n, mixup, cutmix, size=32):
    draws = order.draws(0, 0, np.arange(n))
    return augment.mixing(draws, size, mixup, cutmix)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.2, 0.0), (1.0, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_mixed_images_are_what_their_labels_parts_say(mixup, cutmix):
    """An image of ones mixed with one of zeros has the mean of its own part, by mixup and by cutmix."""
    plan = torch.from_numpy(pairs(64, mixup, cutmix))
    images = torch.arange(64).remainder(2).float()[:, None, None, None].expand(-1, 3, 32, 32).contiguous()
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
    assert 0.30 < area.mean() < 0.34  # 0.321 with alpha 1, since boxes are cut off at the borders (Yun et al.'s code)
    assert 0.15 < (area > 0.5).mean() < 0.21


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0])
def test_ratios_are_from_the_beta_distribution(alpha):
    from scipy.stats import beta, kstest

    part = pairs(20_000, alpha, 0.0)[::2, 0]
    assert kstest(part, lambda x: 2 * beta.cdf(x, alpha, alpha)).pvalue > 1e-3  # the smaller of a ratio and its complement


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
    grey = [augment.vary(image, draw, flip=False, colour=0.4, rand_augment=0) for draw in order.draws(0, 0, np.arange(300))]
    values = torch.stack(grey).float().mean((1, 2, 3))
    assert 58 <= values.min() < 65
    assert 135 < values.max() <= 141
