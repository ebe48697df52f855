"""The LightningDataModule: one for every data set, since they differ in their source only."""

import functools
import sys
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from xceptlab.config.schema import DataConfig, RunConfig
from xceptlab.data import augment, order, sources, splits
from xceptlab.data.order import Draws, Indices, Key
from xceptlab.data.photographs import Photographs
from xceptlab.data.sources import Arrays, Unreadable
from xceptlab.data.stores import left_alone
from xceptlab.errors import Refused
from xceptlab.signals import leave_signals_to_parent
from xceptlab.text import say

STAND_INS = 10
"""So many photographs after one that cannot be decoded are tried in its place."""
_LISTED = "`xceptlab data check --all` lists all such"


class Batch(NamedTuple):
    """One batch of one process."""

    images: Tensor
    """From the loader (B, size, size, 3) uint8, or of a set in memory the numbers (B,); (B, 3, size, size) once on the device."""
    labels: Tensor
    """(B,)"""
    number: Tensor
    """(B,), the images' numbers in their split."""
    draws: Tensor
    """(B, DRAWS), what augmentation may use; empty in evaluation."""
    plan: Tensor
    """(B, 5), what ``augment.mixing`` says; empty where nothing is mixed."""
    own: Tensor
    """(B,), the part of each image that is its own; the rest is its partner's. Empty where nothing is mixed."""
    weight: float
    """See ``order.Key``."""
    replaced: int
    """Images that could not be decoded and that others stand for."""


class Split(Dataset[Batch]):
    """Images of a source by their numbers in a split; asked for whole batches. ``seed`` is the run's, in training only."""

    def __init__(self, source: Arrays | Photographs, members: Indices, config: DataConfig, seed: int | None = None) -> None:
        self.source, self.members, self.config, self.seed = source, members, config, seed

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, key: Key) -> Batch:
        """Draws are made by the image's number in the source, so that holding out others does not change them."""
        number = key.index.copy()
        index = self.members[number]
        draws = self._draws(key.epoch, index)
        if isinstance(self.source, Arrays):
            images = torch.from_numpy(index)
        else:
            images = torch.empty((len(index), self.config.size, self.config.size, 3), dtype=torch.uint8)
            for row, i in enumerate(index):
                try:
                    images[row] = self.source.read(i, None if draws is None else draws[row])
                except Unreadable as error:
                    number[row], images[row] = self._stand_in(self.source, key.epoch, int(number[row]), error)
            if (number != key.index).any():
                index = self.members[number]
                draws = self._draws(key.epoch, index)
        nothing = torch.empty(0)
        mixed = self.config.mixup or self.config.cutmix
        return Batch(
            images=images,
            labels=torch.from_numpy(self.source.labels[index]),
            number=torch.from_numpy(number),
            draws=nothing if draws is None else torch.from_numpy(draws),
            plan=torch.from_numpy(augment.mixing(draws, self.config.size, self.config.mixup, self.config.cutmix))
            if mixed and draws is not None
            else nothing,
            own=nothing,
            weight=key.weight,
            replaced=int((number != key.index).sum()),
        )

    def _draws(self, epoch: int, index: Indices) -> Draws | None:
        return None if self.seed is None else order.draws(self.seed, epoch, index)

    def _stand_in(self, source: Photographs, epoch: int, number: int, error: Unreadable) -> tuple[int, Tensor]:
        """Number and pixels of the next photograph of the split that can be decoded, alike in every arm.

        Raises:
            Refused: None is to, or ``STAND_INS`` of them cannot be decoded either; of a kind that passes from a worker.
        """
        if self.seed is None:
            raise Refused(f"{error}; it must be evaluated, so mend or remove it; {_LISTED}") from None
        if self.config.on_corrupt == "error":
            raise Refused(f"{error}; {_LISTED}") from None
        for stand_in in ((number + 1 + i) % len(self) for i in range(STAND_INS)):
            say(f"{error}; the next of the split stands in for it")
            index = self.members[[stand_in]]
            try:
                return stand_in, source.read(index[0], order.draws(self.seed, epoch, index)[0])
            except Unreadable as another:
                error = another
        raise Refused(f"{error}; as are the {STAND_INS} before it, in {self.config.root}: {_LISTED}")


class DataModule(pl.LightningDataModule):
    """Training, validation and test images of a run.

    The order and the draws of augmentation are functions of (seed, epoch, step) alone: workers, processes and interruptions
    change neither.

    Without a Trainer, as in a notebook, ``setup("test")`` and then a loader give finished batches, those of training as in the
    first epoch of one process.
    """

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        self.config = config
        self.train: Split
        self.prepare_data_per_node = False  # what prepare_data says is said once
        self._said_what_is_left = False
        self._resident: dict[Arrays, Tensor] = {}

    def prepare_data(self) -> None:
        """Say once which files of a tree are left alone; Lightning calls this in the first process only."""
        self.setup("fit")
        stores = [split.source.store for split in (self.train, self.test) if isinstance(split.source, Photographs)]
        if not self._said_what_is_left:
            for line in left_alone(stores):
                say(line)
        self._said_what_is_left = True

    def setup(self, stage: str) -> None:
        if hasattr(self, "train"):
            return
        data = self.config.data
        found = splits(data)
        self.train = Split(*found["train"], data, self.config.seed)
        self.validation = Split(*found["validation"], data)
        self.test = Split(*found["test"], data)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        return -(-len(self.train) // self.config.train.batch_size)

    def fingerprint(self) -> str:
        """A hash of the decoded images and labels of training and test and, where they are a part of their own, of validation."""
        return sources.fingerprint([self.train.source, self.test.source, self.validation.source])

    def majority_class(self) -> dict[str, float]:
        """Percent that always answering with a split's majority class scores, by metric: ``val/top1``, ``test/top1``."""
        scores = {}
        for name, split in (("val", self.validation), ("test", self.test)):
            if len(split):
                counts = np.bincount(split.source.labels[split.members])
                scores[f"{name}/top1"] = 100 * float(counts.max()) / len(split)
        return scores

    @property
    def _process(self) -> tuple[int, int]:
        """The number of this process, and of how many."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def train_dataloader(self) -> DataLoader:
        rank, world = self._process
        train = self.config.train
        sampler = order.TrainingOrder(
            n=len(self.train),
            batch_size=train.batch_size,
            accumulate=train.accumulate,
            seed=self.config.seed,
            rank=rank,
            world=world,
            position=self._position,
        )
        return self._loader(self.train, sampler)

    def _position(self) -> tuple[int, int]:
        """Where the run stands when an epoch begins or the run continues: (epoch, batches done in it).

        Both are counted as the loops do it: an epoch's batches stay counted until the next epoch begins.
        """
        if self.trainer is None:
            return 0, 0
        loop = self.trainer.fit_loop
        epochs: Any = loop.epoch_progress.current
        return epochs.processed, loop.epoch_loop.batch_progress.current.ready

    def val_dataloader(self) -> DataLoader | list:
        return self._evaluation(self.validation) if len(self.validation) else []

    def test_dataloader(self) -> DataLoader:
        return self._evaluation(self.test)

    def _evaluation(self, split: Split) -> DataLoader:
        rank, world = self._process
        if len(split) < world:
            raise Refused(f"runtime.devices: {world} processes are too many to evaluate {len(split)} images together")
        train = self.config.train
        batch_size = max(1, train.batch_size // (train.accumulate * world))
        return self._loader(split, order.EvaluationOrder(n=len(split), batch_size=batch_size, rank=rank, world=world))

    def _loader(self, split: Split, sampler: order.TrainingOrder | order.EvaluationOrder) -> DataLoader:
        workers = 0 if isinstance(split.source, Arrays) else self.config.runtime.workers
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return DataLoader(
            split,
            sampler=sampler,
            batch_size=None,  # so it hands each key of the sampler to the split: a key is a batch
            collate_fn=None if self.trainer else functools.partial(self._finished, split),  # nobody else would finish it
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=on_gpu,
            worker_init_fn=leave_signals_to_parent,
            # a run forked from a server would start them from there, and they would outlive it
            multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        )

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Whole-batch augmentation and normalisation, on the device, where a set in memory already lies."""
        assert self.trainer is not None
        split = self.train if self.trainer.training else self.test if self.trainer.testing else self.validation
        return self._finished(split, batch)

    def _finished(self, split: Split, batch: Batch) -> Batch:
        data, training = self.config.data, split is self.train
        images, own = batch.images, batch.own
        if isinstance(split.source, Arrays):
            pixels = self._on_device(split.source, images.device)
            if training and (data.crop == "pad" or data.flip):
                images = augment.crop_flip(pixels, images, batch.draws, data.pad if data.crop == "pad" else 0, data.flip)
            else:
                images = pixels[images]
        images = augment.normalise(images, torch.float64 if self.config.train.precision == "64-true" else torch.float32)
        if training and data.cutout:
            images = augment.cutout(images, batch.draws, data.cutout)
        if training and len(batch.plan):
            images, own = augment.mix(images, batch.plan)
        nothing = torch.empty(0)
        return batch._replace(images=images, own=own, draws=nothing, plan=nothing)

    def _on_device(self, source: Arrays, device: torch.device) -> Tensor:
        """All images of a set in memory, (n, size, size, 3) uint8, moved once."""
        if source not in self._resident:
            self._resident[source] = torch.from_numpy(source.images).to(device)
        return self._resident[source]
