"""Crops against slow references."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision.transforms import RandomResizedCrop

from xceptlab.data import crop, order


@pytest.mark.parametrize(("pad", "flip"), [(4, True), (4, False), (0, True), (2, True)])
def test_crop_and_flip_equal_padding_and_cutting(pad, flip):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (64, 11, 9, 3), generator=generator, dtype=torch.uint8)
    draws = torch.rand(64, order.DRAWS, generator=generator)
    result = crop.crop_flip(images, torch.arange(64), draws, pad, flip)
    for image, draw, got in zip(images, draws, result, strict=True):
        padded = (
            F.pad(image.permute(2, 0, 1).float(), (pad,) * 4, mode="reflect")
            if pad
            else image.permute(2, 0, 1).float()
        )
        top, left = (int(d * (2 * pad + 1)) for d in draw[:2])
        want = padded[:, top : top + 11, left : left + 9]
        want = want.flip(2) if flip and draw[2] < 0.5 else want
        assert torch.equal(got.permute(2, 0, 1).float(), want)


def test_every_place_and_both_sides_are_drawn():
    images = torch.arange(32 * 32, dtype=torch.int32).reshape(1, 32, 32, 1)
    draws = torch.from_numpy(order.draws(0, 0, np.arange(4000)))
    result = crop.crop_flip(images, torch.zeros(4000, dtype=torch.long), draws, 4, True)
    assert (
        len({(int(a), int(b)) for a, b in zip(result[:, 8, 8, 0], result[:, 8, 9, 0], strict=True)})
        == 9 * 9 * 2
    )


def test_resized_crops_are_distributed_as_torchvisions():
    height, width, n = 375, 500, 4000
    draws = order.draws(0, 0, np.arange(n))
    ours = np.array([crop.random_box(draw, height, width) for draw in draws])
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = np.array(
        [RandomResizedCrop.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(n)]
    )
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
            top, left, h, w = crop.random_box(draw, height, width)
            assert 0 <= top <= top + h <= height
            assert 0 <= left <= left + w <= width
            assert h >= 1
            assert w >= 1
