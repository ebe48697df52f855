"""What feeds a GPU: decoding on the CPU's cores or by nvJPEG, and how fast the network takes
images.

Run on a machine with an NVIDIA GPU: xceptlab bench gpu_loader --photographs FOLDER. Prints a table;
the measured one is in benchmarks/results/gpu.md.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision.io import ImageReadMode, decode_jpeg

from xceptlab.config.schema import DataConfig, ModelConfig
from xceptlab.data import SETS, augment, crop, order
from xceptlab.data.order import BatchKey
from xceptlab.data.prepare import prepare
from xceptlab.data.split import Split
from xceptlab.models.build import build

SIZE, BATCH, ROUNDS = 224, 256, 3
CUDA = torch.device("cuda")


def main() -> None:
    parser = argparse.ArgumentParser(prog="xceptlab bench gpu_loader")
    parser.add_argument(
        "--photographs", type=Path, required=True, help="a folder of classes of photographs"
    )
    options = parser.parse_args()
    print(
        f"{torch.cuda.get_device_name()}, {os.cpu_count()} cores,",
        f"torch {torch.__version__}, torchvision {torchvision.__version__}",
    )
    with tempfile.TemporaryDirectory() as scratch:
        decoding(options.photographs.resolve(), Path(scratch))
    small_images()
    network()


def show(what: str, rates: list[float]) -> None:
    print(
        f"{what}: {statistics.median(rates):,.0f} images/s ({min(rates):,.0f} to {max(rates):,.0f})",
        flush=True,
    )


def rounds(work: Callable[[], int]) -> list[float]:
    rates = []
    for _ in range(ROUNDS + 1):
        torch.cuda.synchronize()
        start = time.perf_counter()
        count = work()
        torch.cuda.synchronize()
        rates.append(count / (time.perf_counter() - start))
    return rates[1:]


def decoding(photographs: Path, scratch: Path) -> None:
    for split in ("train", "val"):
        (scratch / split).symlink_to(photographs)
    base = {
        "name": "folder",
        "root": str(scratch),
        "num_classes": len(list(photographs.iterdir())),
        "size": SIZE,
    }
    config = DataConfig(**base)
    reduced = DataConfig(**base, short_side=256)
    list(prepare(reduced, 0))
    n = 40 * BATCH
    for name, each in (("originals", config), ("prepared, short side 256", reduced)):
        source = SETS["imagenet"].load(each)[0]
        split = Split(source, np.arange(n) % len(source.labels), each, seed=0)
        keys = [BatchKey(0, np.arange(start, start + BATCH), 1.0) for start in range(0, n, BATCH)]
        for workers in (8, 16):
            loader = DataLoader(
                split,
                sampler=keys,
                batch_size=None,
                num_workers=workers,
                persistent_workers=True,
                pin_memory=True,
            )

            def epoch(loader: DataLoader = loader) -> int:
                for batch in loader:
                    augment.normalise(batch.pixels.to(CUDA, non_blocking=True), torch.float32)
                return n

            show(f"Loader, {name}, {workers} workers", rounds(epoch))
            del loader
    files = [
        torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8)
        for file in sorted(photographs.glob("*/*"))
    ]
    files = [file for file in files if decode_jpeg(file).shape[0] == 3]
    files = (files * 3)[:BATCH]
    show(
        "nvJPEG, decoding only, one process",
        rounds(lambda: len(decode_jpeg(files, ImageReadMode.RGB, CUDA))),
    )
    draws = order.draws(0, 0, np.arange(BATCH))

    def cropped() -> int:
        for image, draw in zip(decode_jpeg(files, ImageReadMode.RGB, CUDA), draws, strict=False):
            top, left, height, width = crop.random_box(draw, *image.shape[1:])
            region = image[None, :, top : top + height, left : left + width].float()
            F.interpolate(region, (SIZE, SIZE), mode="bilinear", antialias=True)
        return len(files)

    show("nvJPEG, decoding and random crops, one process", rounds(cropped))


def small_images() -> None:
    pixels = torch.randint(0, 256, (50_000, 32, 32, 3), dtype=torch.uint8, device=CUDA)

    def epoch() -> int:
        indices = order.permutation(0, 0, len(pixels))
        for start in range(0, len(indices), 512):
            index = indices[start : start + 512]
            draws = torch.from_numpy(order.draws(0, 0, index)).to(CUDA)
            augment.normalise(
                crop.crop_flip(pixels, torch.from_numpy(index).to(CUDA), draws, 4, True),
                torch.float32,
            )
        return len(indices)

    show("CIFAR-10's size on the device: crop, flip, normalise", rounds(epoch))


def network() -> None:
    for size, batch in ((224, 256), (299, 128)):
        for compiled in (False, True):
            net = build(ModelConfig(), 1000, 0).to(CUDA, memory_format=torch.channels_last)
            if compiled:
                net.compile(dynamic=False)
            optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9)
            images = torch.randn(batch, 3, size, size, device=CUDA).to(
                memory_format=torch.channels_last
            )
            labels = torch.randint(0, 1000, (batch,), device=CUDA)

            def steps(net=net, images=images, labels=labels, optimizer=optimizer) -> int:  # type: ignore[no-untyped-def]
                for _ in range(10):
                    with torch.autocast("cuda", torch.bfloat16):
                        loss = F.cross_entropy(net(images), labels)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                return 10 * len(images)

            name = "compiled" if compiled else "eager"
            show(f"Training step of Xception at {size}, bf16, {name}, batch {batch}", rounds(steps))
            del net, optimizer
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
