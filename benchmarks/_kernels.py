"""Triton kernels for the memory half of Xception's step, in channels last; not in the package
before they have paid on a GPU.

A separable convolution of Xception is ReLU, depthwise 3x3, pointwise 1x1, BatchNorm. What a
depthwise convolution costs is the bytes that it moves, so the BatchNorm and the ReLU before it are
applied on the way in, and their gradients on the way out:

    z = scale * x + shift        per channel, what BatchNorm does in one multiplication and one
    addition a = relu(z)                  never written y = depthwise(a, weight)     stride 1, one
    pixel of zeros around a

``backward`` reads x and dy once and gives dz, the gradient of the weight, and per channel the sums
of dz and of dz * x, which BatchNorm's gradient needs. Sums over images go into a row per program,
added up in a fixed order: the same bits each time.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _forward(
    x,
    weight,
    scale,
    shift,
    y,
    height,
    width,
    channels,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """ROWS x COLUMNS pixels of CHANNELS channels of an image of y. Each row of x is read once, for
    the three rows near it.
    """
    image, row_tile = (
        tl.program_id(0) // tl.cdiv(height, ROWS),
        tl.program_id(0) % tl.cdiv(height, ROWS),
    )
    w = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    c = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    there = c < channels
    a_scale, a_shift = tl.load(scale + c, there, 0.0), tl.load(shift + c, there, 0.0)
    first = row_tile * ROWS
    # of the output row above the input row, which ends with it
    above = tl.zeros((COLUMNS, CHANNELS), tl.float32)
    beside = tl.zeros((COLUMNS, CHANNELS), tl.float32)
    for step in tl.static_range(ROWS + 2):
        row = first + step - 1
        below = tl.zeros((COLUMNS, CHANNELS), tl.float32)
        for tap in tl.static_range(3):
            column = w + tap - 1
            inside = (
                ((column >= 0) & (column < width))[:, None]
                & there[None, :]
                & (row >= 0)
                & (row < height)
            )
            at = (
                x
                + ((image * height + row) * width + column)[:, None].to(tl.int64) * channels
                + c[None, :]
            )
            a = tl.maximum(tl.load(at, inside, 0.0).to(tl.float32) * a_scale + a_shift, 0.0)
            a = tl.where(inside, a, 0.0)
            above += a * tl.load(weight + (6 + tap) * channels + c, there, 0.0).to(tl.float32)
            beside += a * tl.load(weight + (3 + tap) * channels + c, there, 0.0).to(tl.float32)
            below += a * tl.load(weight + tap * channels + c, there, 0.0).to(tl.float32)
        if step >= 2:
            out = row - 1
            inside = (w < width)[:, None] & there[None, :] & (out < height)
            at = (
                y
                + ((image * height + out) * width + w)[:, None].to(tl.int64) * channels
                + c[None, :]
            )
            tl.store(at, above.to(y.dtype.element_ty), inside)
        above = beside
        beside = below


@triton.jit
def _backward_input(
    x, dy, weight, scale, shift, dz, sums, height, width, channels,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """dz for ROWS x COLUMNS pixels, and this program's sums of dz and of dz * x per channel."""
    image, row_tile = (
        tl.program_id(0) // tl.cdiv(height, ROWS),
        tl.program_id(0) % tl.cdiv(height, ROWS),
    )
    w = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    c = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    there = c < channels
    a_scale, a_shift = tl.load(scale + c, there, 0.0), tl.load(shift + c, there, 0.0)
    first = row_tile * ROWS
    above = tl.zeros((COLUMNS, CHANNELS), tl.float32)
    beside = tl.zeros((COLUMNS, CHANNELS), tl.float32)
    sum_dz = tl.zeros((COLUMNS, CHANNELS), tl.float32)
    sum_dz_x = tl.zeros((COLUMNS, CHANNELS), tl.float32)
    for step in tl.static_range(ROWS + 2):
        row = first + step - 1
        below = tl.zeros((COLUMNS, CHANNELS), tl.float32)
        for tap in tl.static_range(3):
            column = w + 1 - tap
            inside = (
                ((column >= 0) & (column < width))[:, None]
                & there[None, :]
                & (row >= 0)
                & (row < height)
            )
            at = (
                dy
                + ((image * height + row) * width + column)[:, None].to(tl.int64) * channels
                + c[None, :]
            )
            gradient = tl.load(at, inside, 0.0).to(tl.float32)
            above += gradient * tl.load(weight + tap * channels + c, there, 0.0).to(tl.float32)
            beside += gradient * tl.load(weight + (3 + tap) * channels + c, there, 0.0).to(
                tl.float32
            )
            below += gradient * tl.load(weight + (6 + tap) * channels + c, there, 0.0).to(
                tl.float32
            )
        if step >= 2:
            out = row - 1
            inside = (w < width)[:, None] & there[None, :] & (out < height)
            offsets = ((image * height + out) * width + w)[:, None].to(tl.int64) * channels + c[
                None, :
            ]
            value = tl.load(x + offsets, inside, 0.0).to(tl.float32)
            masked = tl.where(inside & (value * a_scale + a_shift > 0), above, 0.0)
            tl.store(dz + offsets, masked.to(dz.dtype.element_ty), inside)
            sum_dz += masked
            sum_dz_x += masked * value
        above = beside
        beside = below
    program = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    tl.store(sums + (program * 2) * channels + c, tl.sum(sum_dz, 0), there)
    tl.store(sums + (program * 2 + 1) * channels + c, tl.sum(sum_dz_x, 0), there)


@triton.jit
def _backward_weight(
    x, dy, scale, shift, sums, height, width, channels,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """This program's part of the weight's gradient, nine sums per channel, over ROWS x COLUMNS
    pixels of x.
    """
    image, row_tile = (
        tl.program_id(0) // tl.cdiv(height, ROWS),
        tl.program_id(0) % tl.cdiv(height, ROWS),
    )
    w = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    c = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    there = c < channels
    a_scale, a_shift = tl.load(scale + c, there, 0.0), tl.load(shift + c, there, 0.0)
    first = row_tile * ROWS
    program = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    for tap in tl.static_range(3):
        column = w + 1 - tap
        beside = (column >= 0) & (column < width)
        upper = tl.zeros((COLUMNS, CHANNELS), tl.float32)
        middle = tl.zeros((COLUMNS, CHANNELS), tl.float32)
        lower = tl.zeros((COLUMNS, CHANNELS), tl.float32)
        for step in tl.static_range(ROWS):
            row = first + step
            inside = (w < width)[:, None] & there[None, :] & (row < height)
            at = (
                x
                + ((image * height + row) * width + w)[:, None].to(tl.int64) * channels
                + c[None, :]
            )
            a = tl.maximum(tl.load(at, inside, 0.0).to(tl.float32) * a_scale + a_shift, 0.0)
            a = tl.where(inside, a, 0.0)
            at = (
                dy
                + ((image * height + row) * width + column)[:, None].to(tl.int64) * channels
                + c[None, :]
            )
            known = beside[:, None] & there[None, :]
            upper += a * tl.load(at + width * channels, known & (row + 1 < height), 0.0).to(
                tl.float32
            )
            middle += a * tl.load(at, known & (row < height), 0.0).to(tl.float32)
            lower += a * tl.load(
                at - width * channels, known & (row >= 1) & (row - 1 < height), 0.0
            ).to(tl.float32)
        tl.store(sums + (program * 9 + tap) * channels + c, tl.sum(upper, 0), there)
        tl.store(sums + (program * 9 + 3 + tap) * channels + c, tl.sum(middle, 0), there)
        tl.store(sums + (program * 9 + 6 + tap) * channels + c, tl.sum(lower, 0), there)


@triton.jit
def _block(pixels, channels, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):
    """What this program computes: (PIXELS,) of all images' pixels, (CHANNELS,), and which of the
    two together there are.
    """
    pixel = tl.program_id(0).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    return pixel, c, (pixel < pixels)[:, None] & (c < channels)[None, :]


@triton.jit
def _place(pixel, height, width):
    """The image, the row and the column of a pixel that is counted over all images."""
    in_image = pixel % (height * width)
    return pixel // (height * width), in_image // width, in_image % width


@triton.jit
def _pool_forward(
    x, y, place, pixels, height, width, out_height, out_width, channels,
    PAD: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """3x3 maximum, stride 2, PAD pixels before the first; ``place`` keeps which of the nine it was,
    the first of equals.
    """
    pixel, c, there = _block(pixels, channels, PIXELS, CHANNELS)
    image, out_row, out_column = _place(pixel, out_height, out_width)
    row, column = out_row * 2 - PAD, out_column * 2 - PAD
    best = tl.full((PIXELS, CHANNELS), float("-inf"), tl.float32)
    where = tl.zeros((PIXELS, CHANNELS), tl.int32)
    for tap in tl.static_range(9):
        h, w = row + tap // 3, column + tap % 3
        inside = ((h >= 0) & (h < height) & (w >= 0) & (w < width))[:, None] & there
        at = x + ((image * height + h) * width + w)[:, None] * channels + c[None, :]
        value = tl.load(at, inside, float("-inf")).to(tl.float32)
        # a NaN stays, so that divergence is noticed
        better = (value > best) | ((value != value) & (best == best))
        best = tl.where(better, value, best)
        where = tl.where(better, tap, where)
    tl.store(y + pixel[:, None] * channels + c[None, :], best.to(y.dtype.element_ty), there)
    tl.store(place + pixel[:, None] * channels + c[None, :], where.to(tl.uint8), there)


@triton.jit
def _pool_backward(
    dy, place, dx, pixels, height, width, out_height, out_width, channels,
    PAD: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Each pixel of x gathers the gradients of the windows, four at most, whose maximum it was."""
    pixel, c, there = _block(pixels, channels, PIXELS, CHANNELS)
    image, row, column = _place(pixel, height, width)
    row, column = row + PAD, column + PAD
    total = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for window in tl.static_range(4):
        i, j = row // 2 - window // 2, column // 2 - window % 2
        tap = (row - 2 * i) * 3 + column - 2 * j
        near = (
            (i >= 0)
            & (i < out_height)
            & (j >= 0)
            & (j < out_width)
            & (row - 2 * i < 3)
            & (column - 2 * j < 3)
        )
        inside = near[:, None] & there
        at = ((image * out_height + i) * out_width + j)[:, None] * channels + c[None, :]
        chosen = tl.load(place + at, inside, 255).to(tl.int32) == tap[:, None].to(tl.int32)
        total += tl.where(chosen, tl.load(dy + at, inside, 0.0).to(tl.float32), 0.0)
    tl.store(dx + pixel[:, None] * channels + c[None, :], total.to(dx.dtype.element_ty), there)


Tile = tuple[int, int, int]
"""Rows, columns and channels that a program computes."""
TILE: Tile = (8, 16, 32)


def depthwise(x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, tile: Tile = TILE) -> Tensor:
    """``conv2d(relu(scale * x + shift), weight, padding=1, groups=channels)``, (N, C, H, W) in
    channels last.

    Args:
        x: (N, C, H, W), any floating type, channels last.
        weight: (C, 1, 3, 3).
        scale: (C,) in float32.
        shift: (C,) in float32.
        tile: What a program computes.
    """
    y = torch.empty_like(x, memory_format=torch.channels_last)
    _, channels, height, width = x.shape
    grid = _grid(x, tile)
    _forward[grid](_nhwc(x), _taps(weight), scale, shift, y, height, width, channels, *tile)
    return y


def depthwise_backward(
    x: Tensor, dy: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, tile: Tile = TILE
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """dz as x, the gradient of the weight as it is, and per channel the sums of dz and of dz * x,
    in float32.
    """
    dz = torch.empty_like(x, memory_format=torch.channels_last)
    _, channels, height, width = x.shape
    grid = _grid(x, tile)
    programs = grid[0] * grid[1]
    sums = x.new_empty((programs, 2, channels), dtype=torch.float32)
    parts = x.new_empty((programs, 9, channels), dtype=torch.float32)
    x, dy = _nhwc(x), _nhwc(dy)
    _backward_input[grid](
        x, dy, _taps(weight), scale, shift, dz, sums, height, width, channels, *tile
    )
    _backward_weight[grid](x, dy, scale, shift, parts, height, width, channels, *tile)
    dz_sum, dz_x_sum = sums.sum(0)
    return dz, parts.sum(0).T.reshape(weight.shape), dz_sum, dz_x_sum


def max_pool(
    x: Tensor, pad: int, out: tuple[int, int], pixels: int = 64, channels: int = 32
) -> tuple[Tensor, Tensor]:
    """The maximum of 3x3 windows with stride 2 and its place in the window, 0 to 8, (N, C, *out) in
    channels last.

    Args:
        x: (N, C, H, W), channels last.
        pad: Pixels before the first row and column; those behind the last follow from ``out``.
        out: Height and width of what comes out.
        pixels: Pixels that a program computes.
        channels: Channels that it computes of them.
    """
    images, depth, height, width = x.shape
    y = torch.empty(
        (images, depth, *out), dtype=x.dtype, device=x.device, memory_format=torch.channels_last
    )
    place = torch.empty_like(y, dtype=torch.uint8)
    count = images * out[0] * out[1]
    grid = (triton.cdiv(count, pixels), triton.cdiv(depth, channels))
    _pool_forward[grid](
        _nhwc(x), y, place, count, height, width, *out, depth, pad, pixels, channels
    )
    return y, place


def max_pool_backward(
    dy: Tensor, place: Tensor, pad: int, size: tuple[int, int], pixels: int = 64, channels: int = 32
) -> Tensor:
    """The gradient of ``max_pool``'s input of height and width ``size``."""
    images, depth, *out = dy.shape
    dx = torch.empty(
        (images, depth, *size), dtype=dy.dtype, device=dy.device, memory_format=torch.channels_last
    )
    count = images * size[0] * size[1]
    grid = (triton.cdiv(count, pixels), triton.cdiv(depth, channels))
    _pool_backward[grid](
        _nhwc(dy), _nhwc(place), dx, count, *size, *out, depth, pad, pixels, channels
    )
    return dx


def _grid(x: Tensor, tile: Tile) -> tuple[int, int, int]:
    images, channels, height, width = x.shape
    rows, columns, of_channels = tile
    return (
        images * triton.cdiv(height, rows),
        triton.cdiv(width, columns),
        triton.cdiv(channels, of_channels),
    )


def _nhwc(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _taps(weight: Tensor) -> Tensor:
    """(C, 1, 3, 3) as (9, C), so that a tap's channels lie side by side."""
    return weight.flatten(1).T.contiguous()
