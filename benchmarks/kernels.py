"""Triton kernels for the memory half of Xception's step beside the library's, per shape of the
network.

Run: xceptlab bench kernels [--batch N] [--write]. bf16, channels last. For each shape of a
separable convolution at 299 pixels, and for each max pooling: microseconds of PyTorch's operations
and of ours (the best tile of those tried), forward and backward, their ratio, and how much of the
bandwidth of a copy ours reaches for the bytes that it must move. ``--write`` puts the table into
benchmarks/results/kernels.md. That they are right to rounding is tested in Triton's interpreter.
Needs a GPU; never ran on one.
"""

import argparse
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
import triton
from torch import Tensor
from torch.nn import functional as F

from _kernels import Tile, depthwise, depthwise_backward, max_pool, max_pool_backward
from xceptlab.training.provenance import device_name

SEPARABLE = [
    (64, 147, 1),
    (128, 147, 1),
    (128, 74, 1),
    (256, 74, 1),
    (256, 37, 1),
    (728, 37, 1),
    (728, 19, 26),
    (1024, 10, 1),
    (1536, 10, 1),
]
"""Channels, side and number of the depthwise convolutions of the paper's network at 299 pixels."""
POOLS = [(128, 147, 74), (256, 74, 37), (728, 37, 19), (1024, 19, 10)]
"""Channels, side before and after its max poolings."""
TILES: list[Tile] = [
    (4, 16, 32),
    (8, 8, 32),
    (8, 16, 32),
    (8, 16, 64),
    (8, 32, 32),
    (16, 8, 64),
    (16, 16, 32),
]


def main() -> None:
    parser = argparse.ArgumentParser(prog="xceptlab bench kernels")
    parser.add_argument("--batch", type=int, default=128, help="images")
    parser.add_argument(
        "--write", action="store_true", help="put the table into benchmarks/results/"
    )
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("xceptlab bench kernels: there is no GPU here")
    lines = [
        "# Kernels for the memory half of the step",
        "",
        f"{date.today()}, {device_name(torch.device('cuda'))}, torch {torch.__version__}, Triton {triton.__version__};",
        f"`xceptlab bench kernels`: batch {options.batch}, bf16, channels last.",
        "",
        "| | PyTorch, us | ours, us | times as fast | of the copy bandwidth | tile |",
        "|---|---:|---:|---:|---:|---|",
    ]
    print("\n".join(lines), flush=True)
    totals = [0.0, 0.0]
    for channels, side, number in SEPARABLE:
        for name, theirs, ours, bytes_moved in separable(options.batch, channels, side):
            lines.append(
                row(
                    f"{name} {channels} x {side} x {side}",
                    theirs,
                    ours,
                    bytes_moved,
                    number,
                    totals,
                )
            )
    for channels, side, out in POOLS:
        for name, theirs, ours, bytes_moved in pool(options.batch, channels, side, out):
            lines.append(
                row(f"{name} {channels} x {side} x {side}", theirs, ours, bytes_moved, 1, totals)
            )
    lines.append(
        f"| a whole step | {totals[0]:,.0f} | {totals[1]:,.0f} | {totals[0] / totals[1]:.2f} | | |"
    )
    print(lines[-1], flush=True)
    if options.write:
        target = Path(__file__).parent / "results" / "kernels.md"
        target.write_text("\n".join(lines) + "\n", encoding="utf-8")


Measured = tuple[str, Callable[[], object], dict[str, Callable[[], object]], int]
"""What it is, PyTorch's way, ours by tile, and the bytes that must be moved."""


def row(
    name: str,
    theirs: Callable[[], object],
    ours: dict[str, Callable[[], object]],
    moved: int,
    number: int,
    totals: list[float],
) -> str:
    """A line of the table, printed; its times, as often as the network has them, are added to the
    totals.
    """
    reference = milliseconds(theirs)
    tile, best = min(
        ((tile, milliseconds(way)) for tile, way in ours.items()), key=lambda found: found[1]
    )
    share = moved / best / copy_bandwidth()
    totals[0] += 1000 * reference * number
    totals[1] += 1000 * best * number
    line = f"| {name} | {1000 * reference:,.0f} | {1000 * best:,.0f} | {reference / best:.2f} | {share:.2f} | {tile} |"
    print(line, flush=True)
    return line


def milliseconds(work: Callable[[], object]) -> float:
    """The median time of one call on the GPU, its second-level cache emptied before each."""
    return float(triton.testing.do_bench(work, warmup=5, rep=30, return_mode="median"))


BANDWIDTH: list[float] = []


def copy_bandwidth() -> float:
    """Bytes a millisecond, read and written, of a copy of 1 GiB; measured once."""
    if not BANDWIDTH:
        source = torch.empty(2**29, dtype=torch.bfloat16, device="cuda")
        target = torch.empty_like(source)
        BANDWIDTH.append(2 * source.nbytes / milliseconds(lambda: target.copy_(source)))
    return BANDWIDTH[0]


def images(batch: int, channels: int, side: int) -> Tensor:
    made = torch.randn(batch, channels, side, side, device="cuda", dtype=torch.bfloat16)
    return made.contiguous(memory_format=torch.channels_last)


def separable(batch: int, channels: int, side: int) -> list[Measured]:
    """BatchNorm's scale and shift, ReLU and the depthwise convolution."""
    x, dy = images(batch, channels, side), images(batch, channels, side)
    weight = torch.randn(channels, 1, 3, 3, device="cuda", dtype=torch.bfloat16)
    scale, shift = torch.rand(channels, device="cuda"), torch.randn(channels, device="cuda")
    a_scale, a_shift = (each.bfloat16().view(1, -1, 1, 1) for each in (scale, shift))

    def forward() -> Tensor:
        return F.conv2d(
            torch.addcmul(a_shift, x, a_scale).relu_(), weight, padding=1, groups=channels
        )

    def backward() -> object:
        a = torch.addcmul(a_shift, x, a_scale).relu_()
        mask = [True, True, False]
        da, dw, _ = torch.ops.aten.convolution_backward(
            dy, a, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], channels, mask
        )
        dz = torch.ops.aten.threshold_backward(da, a, 0)
        return dz, dw, dz.sum((0, 2, 3)), (dz * x).sum((0, 2, 3))

    return [
        (
            "forward",
            forward,
            {str(t): lambda t=t: depthwise(x, weight, scale, shift, t) for t in TILES},
            2 * x.nbytes,
        ),
        (
            "backward",
            backward,
            {str(t): lambda t=t: depthwise_backward(x, dy, weight, scale, shift, t) for t in TILES},
            3 * x.nbytes,
        ),
    ]


def pool(batch: int, channels: int, side: int, out: int) -> list[Measured]:
    """Max pooling with TensorFlow's padding: behind, and before only where the side is odd."""
    x = images(batch, channels, side)
    pad = side % 2
    padded = F.pad(x, (pad, 1, pad, 1), value=float("-inf")).contiguous(
        memory_format=torch.channels_last
    )
    y, place = max_pool(x, pad, (out, out))
    dy = torch.randn_like(y)
    _, indices = torch.ops.aten.max_pool2d_with_indices(padded, [3, 3], [2, 2])

    def backward() -> object:
        return torch.ops.aten.max_pool2d_with_indices_backward(
            dy, padded, [3, 3], [2, 2], [0, 0], [1, 1], False, indices
        )

    def forward() -> object:
        return torch.ops.aten.max_pool2d_with_indices(
            F.pad(x, (pad, 1, pad, 1), value=float("-inf")), [3, 3], [2, 2]
        )

    sizes = (16, 32, 64)
    ours = {f"{n} pixels": lambda n=n: max_pool(x, pad, (out, out), n, 32) for n in sizes}
    back = {
        f"{n} pixels": lambda n=n: max_pool_backward(dy, place, pad, (side, side), n, 32)
        for n in sizes
    }
    return [
        ("pool forward", forward, ours, x.nbytes + y.nbytes + place.nbytes),
        ("pool backward", backward, back, x.nbytes + y.nbytes + place.nbytes),
    ]


if __name__ == "__main__":
    main()
