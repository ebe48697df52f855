"""What tests make in place of the real thing: runs that are written by hand, photographs, and
differences between arms.
"""

import functools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import stats

from xceptlab.config.schema import DataConfig
from xceptlab.data.identity import fingerprint
from xceptlab.runs.directory import RunDirectory
from xceptlab.runs.record import Record
from xceptlab.study.claims import Claim
from xceptlab.study.expansion import Expansion
from xceptlab.study.resampling import Observed

CLAIM = {
    "id": "c",
    "contrast": ["a", "b"],
    "metric": "test/top1",
    "kind": "superior",
    "margin": 0.5,
}
"""A claim as a study file has it."""


@functools.cache
def data_fingerprint(data: DataConfig) -> str:
    """Of the digits the real one, which is compared before a record is trusted."""
    return fingerprint(data) if data.name == "digits" else "abc"


def log_lines(top1: float, epochs: int = 2) -> list[dict[str, float]]:
    """A log that ends one point below ``top1`` in validation."""
    lines: list[dict[str, float]] = []
    for epoch in range(1, epochs + 1):
        lines += [
            {
                "step": 10 * epoch - 5,
                "time": epoch - 0.5,
                "epoch": epoch - 0.5,
                "train/loss": 2.0,
                "train/top1": 20.0,
            },
            {
                "step": 10 * epoch,
                "time": epoch + 0.0,
                "epoch": epoch + 0.0,
                "train/loss": 1.0,
                "train/top1": 30.0 + 30 * epoch,
            },
            {
                "step": 10 * epoch,
                "time": epoch + 0.1,
                "epoch": epoch + 0.0,
                "val/top1": top1 - 59 + 29 * epoch,
                "val/loss": 1.0,
            },
        ]
    return lines


def record(**changes) -> Record:
    """The record of a run that finished, on 500 test images."""
    fields = {
        "run_id": "r",
        "status": "finished",
        "science": {},
        "metrics": {},
        "parameters": 245041,
        "macs": 1219644,
        "test_images": 500,
        "steps": 20,
        "seconds": 8.0,
        "images_per_second": 1500.0,
        "device": "a CPU",
        "world_size": 1,
        "precision": "32-true",
        "data_fingerprint": "abc",
        "versions": {"torch": "2.11.0"},
        "git": {"revision": "51fe86c", "dirty": False},
        "started": 1e9,
        "finished": 4e9,
    }
    return Record(**(fields | changes))


def leave(
    expansion: Expansion,
    arm: str,
    seed: int,
    top1: float,
    *,
    log: list | None = None,
    correct: Sequence[int] = (),
    **changes,
) -> RunDirectory:
    """Leave behind what a finished run leaves; ``record=None`` leaves a log only."""
    config = expansion.run(arm, seed)
    directory = RunDirectory.of(config.runtime.outputs, config.run_id)
    directory.create()
    lines = log_lines(top1) if log is None else log
    (directory.path / "metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines)
    )
    if len(correct):
        np.save(directory.path / "test_correct.npy", np.array(correct, dtype=np.uint8))
    fields = {
        "run_id": config.run_id,
        "science": config.science(),
        "metrics": {"test/top1": top1, "test/top5": 99.0, "test/loss": 0.25},
        "parameters": 245041 if config.model.residual == "all" else 242000,
        "arithmetic": "AVX2",
        "data_fingerprint": data_fingerprint(config.data),
        "train_images": 1167,
        "validation_images": 130,
        "majority_class": {"val/top1": 10.8, "test/top1": 10.4},
        "host": "a-machine",
        "registrations": directory.registrations(),
    }
    if changes.get("record", True) is not None:
        directory.write_record(record(**(fields | changes)))
    return directory


def photographs(root: Path, classes: str, *, train: int, val: int) -> Path:
    """A tree of smooth random ones of 60x50, so many of each class: ``train/a/a0.jpg`` and so on."""
    generator = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                small = Image.fromarray(generator.integers(0, 256, (5, 6, 3), dtype=np.uint8))
                small.resize((60, 50), Image.Resampling.BICUBIC).save(
                    root / split / name / f"{name}{i}.jpg"
                )
    return root


def observed(
    differences,
    *,
    failed_b: int = 0,
    failed_score: float = np.nan,
    points_per_image: float = 0.0,
    **changes,
) -> Observed:
    """What is known of a claim that a is better than b by 0.5, where b scores 88 in every run and
    its first runs failed.
    """
    differences = np.array(differences, dtype=float)
    fields = {
        "id": "x",
        "contrast": ("a", "b"),
        "metric": "test/top1",
        "kind": "superior",
        "margin": 0.5,
    }
    scores = np.stack([88 + differences, np.full(len(differences), 88.0)])
    failed = np.zeros(scores.shape, dtype=bool)
    failed[1, :failed_b] = True
    claim = Claim(**fields | changes)
    seeds = tuple(range(len(differences)))
    return Observed(
        claim=claim,
        scores=scores,
        seeds=seeds,
        failed=failed,
        failed_score=failed_score,
        points_per_image=points_per_image,
    )


def normal(n: int, mean: float = 1.0, spread: float = 0.4) -> np.ndarray:
    """Differences as even as a normal distribution's are, without chance."""
    return mean + spread * stats.norm.ppf((np.arange(n) + 0.5) / n)
