"""Images per second of the data pipelines, against torchvision's, in one run, alternating.

Run: xceptlab bench loader [--photographs FOLDER/<class>/*.JPEG] [--write]. Without a folder it
makes photographs of ImageNet's usual size (500 x 375) itself. Photographs are timed in one process
with one thread by the processor's time, which is what a core does, whatever else runs on the
machine; small images by the clock, torchvision's with a worker for each core. ``--write`` puts the
table into benchmarks/results/loader.md.
"""

import argparse
import itertools
import os
import pickle
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow
import torch
import torchvision
from PIL import Image
from pyarrow import parquet
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T

from _measure import spread
from xceptlab.config.schema import DataConfig, RunConfig, TrainConfig
from xceptlab.data import SETS, ilsvrc, imagenet, order, shards
from xceptlab.data.layouts import prepared_folder
from xceptlab.data.module import DataModule
from xceptlab.data.photographs import Photographs
from xceptlab.data.prepare import prepare
from xceptlab.data.shards import Shards
from xceptlab.data.sources import Arrays

ROUNDS = 7
NORM = T.Normalize((0.5,) * 3, (0.5,) * 3)


def main() -> None:
    parser = argparse.ArgumentParser(prog="xceptlab bench loader")
    parser.add_argument("--photographs", type=Path, help="a folder of classes of photographs")
    parser.add_argument(
        "--write", action="store_true", help="put the table into benchmarks/results/loader.md"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["XDG_CACHE_HOME"] = scratch
        photographs = options.photographs or made_up(Path(scratch) / "made-up")
        what = "real photographs" if options.photographs else "made-up photographs"
        table = [
            "# Data pipelines",
            "",
            f"{date.today()}, {processor()}, {os.cpu_count()} cores,",
            f"torch {torch.__version__}, torchvision {torchvision.__version__}.",
            "Images per second: of a core's time for photographs, of the clock's for small images; median of the rounds.",
            "Ratio: the median of the rounds' ratios, with the least and the largest.",
            "torchvision's pipeline normalises on the CPU; xceptlab's photographs stay uint8 until they are on the device.",
            "",
            *compared(
                f"Photographs, one core ({what}): RandomResizedCrop(224), flip",
                pipelines(photographs, Path(scratch)),
            ),
            *compared(
                f"CIFAR-10's size, {os.cpu_count()} cores: reflect-pad crop, flip, normalise, batches of 512",
                small_images(),
            ),
            *startup(),
        ]
    text = "\n".join(table)
    print(text)
    if options.write:
        file = Path(__file__).parent / "results" / "loader.md"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text + "\n")


def compared(title: str, ways: dict[str, Callable[[], float]]) -> list[str]:
    """A table of ways (each returns images per second), the first of which is the reference."""
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS + 1):  # the first warms up
        for name, way in ways.items():
            speeds[name].append(way())
    lines = [f"## {title}", "", "| | images/s | ratio |", "|---|---:|---:|"]
    reference = next(iter(speeds.values()))[1:]
    for name, rounds in speeds.items():
        ratios = [ours / theirs for ours, theirs in zip(rounds[1:], reference, strict=True)]
        lines.append(f"| {name} | {statistics.median(rounds[1:]):,.0f} | {spread(ratios, '.2f')} |")
    return [*lines, ""]


def timed(work: Iterator[int], clock: Callable[[], float] = time.perf_counter) -> float:
    """Images per second of work that yields numbers of images."""
    start = clock()
    return sum(work) / (clock() - start)


# ---- photographs ---------------------------------------------------------------------------------


def pipelines(photographs: Path, scratch: Path) -> dict[str, Callable[[], float]]:
    root = scratch / "root"
    root.mkdir()
    for split in ("train", "val"):
        (root / split).symlink_to(photographs.resolve())
    classes = sum(entry.is_dir() for entry in photographs.iterdir())
    base = {"name": "folder", "num_classes": classes, "size": 224}
    files = sorted(str(file) for file in photographs.glob("*/*"))
    ways = {
        "torchvision with Pillow": lambda: timed(torchvision_pipeline(files), time.process_time),
        "xceptlab, ImageFolder tree": ours(imagenet.load(DataConfig(root=str(root), **base))[0]),
    }
    tar = scratch / "ILSVRC2012_img_train.tar"
    with tarfile.open(tar, "w:") as outer:
        for folder in sorted(photographs.iterdir()):
            inner = scratch / f"{folder.name}.tar"
            with tarfile.open(inner, "w:") as one:
                for file in sorted(folder.iterdir()):
                    one.add(file, file.name)
            outer.add(inner, inner.name)
    ways["xceptlab, ILSVRC2012_img_train.tar in place"] = ours(
        Photographs(ilsvrc.train_archive(tar), DataConfig(**base))
    )
    shard = scratch / "train-00000-of-00001.parquet"
    rows = [
        {"image": {"bytes": Path(file).read_bytes(), "path": file}, "label": 0} for file in files
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), shard, row_group_size=100)
    shards = Photographs(Shards.of([shard]), DataConfig(**base))
    ways["xceptlab, parquet, 100 photographs of a row group one after another"] = ours(
        shards, forget=100
    )
    ways["xceptlab, parquet, a row group of 100 for each photograph"] = ours(shards, forget=1)
    for quality, name in ((90, "JPEG 90"), (0, "raw pixels")):
        config = DataConfig(
            root=str(root), cache=str(scratch / "cache"), short_side=256, quality=quality, **base
        )
        list(prepare(config, 0))
        size = (
            sum(file.stat().st_size for file in prepared_folder(config).glob("train-*.tar"))
            / len(files)
            / 1000
        )
        ways[f"xceptlab, prepared, short side 256, {name} ({size:.0f} kB each)"] = ours(
            imagenet.load(config)[0]
        )
    return ways


def torchvision_pipeline(files: list[str]) -> Iterator[int]:
    transform = T.Compose([T.RandomResizedCrop(224), T.RandomHorizontalFlip(), T.ToTensor(), NORM])
    for batch in (files[i : i + 25] for i in range(0, len(files), 25)):
        torch.stack([transform(Image.open(file).convert("RGB")) for file in batch])
        yield len(batch)


def ours(source: Photographs, forget: int = 0) -> Callable[[], float]:
    """As a loader's worker does it, in random order; normalisation is the device's, as in training,
    and not counted.

    Args:
        source: The photographs.
        forget: After so many photographs a worker keeps no row group of theirs; of ImageNet's
            12,812 it keeps a dozen.
    """

    def work(epoch: int) -> Iterator[int]:
        indices = order.permutation(0, epoch, len(source.labels))
        for start in range(0, len(indices), 25):
            index = indices[start : start + 25]
            for place, (i, draws) in enumerate(
                zip(index, order.draws(0, epoch, index), strict=True), start
            ):
                if forget and place % forget == 0:
                    shards._cache.clear()
                source.read(i, draws)
            yield len(index)

    epochs = itertools.count()
    return lambda: timed(work(next(epochs)), time.process_time)


def made_up(folder: Path) -> Path:
    """100 noisy photographs of ImageNet's usual size, about 110 kB each."""
    generator = np.random.default_rng(0)
    for label in range(10):
        (folder / f"class{label}").mkdir(parents=True)
        for i in range(10):
            small = Image.fromarray(generator.integers(0, 256, (25, 33, 3), dtype=np.uint8)).resize(
                (500, 375), Image.Resampling.BICUBIC
            )
            noisy = np.clip(
                np.asarray(small) + generator.normal(0, 12, (375, 500, 3)), 0, 255
            ).astype(np.uint8)
            Image.fromarray(noisy).save(folder / f"class{label}" / f"{i}.JPEG", quality=85)
    return folder


# ---- small images --------------------------------------------------------------------------------


class Pictures(Dataset):
    """As torchvision's CIFAR10: a Pillow image per index, transformed one by one."""

    transform = T.Compose(
        [
            T.RandomCrop(32, padding=4, padding_mode="reflect"),
            T.RandomHorizontalFlip(),
            T.ToTensor(),
            NORM,
        ]
    )

    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[i])), 0


def small_images() -> dict[str, Callable[[], float]]:
    images = np.random.default_rng(0).integers(0, 256, (10_000, 32, 32, 3), dtype=np.uint8)
    cores = os.cpu_count() or 1
    theirs = DataLoader(
        Pictures(images), 512, shuffle=True, num_workers=cores, persistent_workers=True
    )
    data = DataModule(
        RunConfig(
            data=DataConfig(name="cifar10", size=32, crop="pad", flip=True),
            train=TrainConfig(batch_size=512),
            model=RunConfig().model,
        )
    )
    source = Arrays(images, np.zeros(len(images), np.int64))
    SETS["cifar10"] = SimpleNamespace(load=lambda config: (source, source))  # type: ignore[assignment]
    data.setup("fit")
    batches = SimpleNamespace(batch_progress=SimpleNamespace(current=SimpleNamespace(ready=0)))
    epochs = SimpleNamespace(current=SimpleNamespace(processed=0))
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        global_rank=0,
        world_size=1,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
        fit_loop=SimpleNamespace(epoch_progress=epochs, epoch_loop=batches),
        training=True,
        testing=False,
    )
    loader = data.train_dataloader()

    def work() -> Iterator[int]:
        for batch in loader:
            yield len(data.on_after_batch_transfer(batch, 0).images)

    return {
        f"torchvision's transforms, DataLoader with {cores} workers": lambda: timed(
            len(batch) for batch, _ in theirs
        ),
        "xceptlab, one process, one thread": lambda: timed(work()),
    }


# ---- a million photographs -----------------------------------------------------------------------

WORKER = """
import pickle, sys, time
import xceptlab.data.module
def held(): return 4096 * int(open("/proc/self/statm").read().split()[1])
begun, start = held(), time.perf_counter()
split = pickle.load(sys.stdin.buffer)
name = split.source.store.name(len(split) - 1)
print(time.perf_counter() - start, (held() - begun) / 1e6)
"""


def startup() -> list[str]:
    """What a loader's worker costs that is started afresh with ImageNet's 1,281,167 paths
    (simulated).
    """
    import pyarrow

    from xceptlab.data.photographs import Photographs
    from xceptlab.data.split import Split
    from xceptlab.data.tree import Tree

    n = 1_281_167
    files = pyarrow.concat_arrays(
        [pyarrow.array([f"n{k:08d}_{i}.JPEG" for i in range(1282)]) for k in range(1000)]
    )[:n]
    store = Tree(
        Path("/nowhere"),
        tuple(f"n{k:08d}" for k in range(1000)),
        np.repeat(np.arange(1000), 1282)[:n],
        files,
    )
    split = pickle.dumps(
        Split(Photographs(store, DataConfig()), np.arange(n), DataConfig(), seed=0)
    )
    done = subprocess.run(
        [sys.executable, "-c", WORKER], input=split, capture_output=True, check=True
    )
    seconds, megabytes = map(float, done.stdout.split())
    begin = time.perf_counter()
    order.permutation(0, 0, n)
    return [
        "## ImageNet's 1,281,167 paths (simulated)",
        "",
        f"A worker that is started afresh receives them in {seconds:.2f} s and holds {megabytes:.0f} MB for them;",
        f"the order of an epoch is computed in {time.perf_counter() - begin:.2f} s.",
        "",
    ]


def processor() -> str:
    from xceptlab.training.provenance import device_name

    return device_name(torch.device("cpu"))


if __name__ == "__main__":
    main()
