"""The ``DataModule``, one LightningDataModule for all data sets: they differ only in the source of
their images.
"""

import functools
import sys
from typing import Any, Literal, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from xceptlab.config.schema import RunConfig
from xceptlab.data import augment, crop, order, sources, splits
from xceptlab.data.photographs import Photographs
from xceptlab.data.sources import Arrays
from xceptlab.data.split import LoadedBatch, Split
from xceptlab.data.tree import left_alone
from xceptlab.errors import Refused
from xceptlab.runs.metrics import ACCURACY
from xceptlab.signals import belong_to_parent
from xceptlab.text import say


class Batch(NamedTuple):
    """One batch of one process as the network gets it: on the device, normalised and, in training,
    augmented.
    """

    images: Tensor
    """Images (B, 3, size, size), normalised to the range -1 to 1."""
    labels: Tensor
    """Labels (B,) of the images."""
    number: Tensor
    """Numbers (B,) of the images in their split."""
    label_weight: Tensor | None
    """Weight (B,) of each image's own label in its loss; the label of the image that it is mixed
    with (``augment.partners``) has the rest. None where nothing is mixed.
    """
    weight: float
    """Factor by which the batch's summed loss is multiplied: the average of the gradients over
    processes and accumulated batches is then that of the mean over the global batch. It is 1 in
    evaluation.
    """
    replaced: int
    """Number of photographs of the batch that could not be decoded and have others in their place.
    """


class DataModule(pl.LightningDataModule):
    """Training, validation and test images of a run, as ``Batch`` objects.

    The order of the images is a function of the seed and the epoch alone, and the random numbers of
    an image's augmentation are one of seed, epoch and image. Workers, processes and interruptions
    change neither.

    Without a Trainer, as in a notebook, call ``setup("test")`` and then a loader, such as
    ``test_dataloader()``. ``train_dataloader()`` then gives the batches of the first epoch of one
    process.
    """

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        self.config = config
        self.train: Split
        # Lightning then calls prepare_data in one process only, not in one on each machine.
        self.prepare_data_per_node = False
        self._reported_left_alone = False
        self._on_device: dict[Arrays, Tensor] = {}
        """For each set in memory that was used, all its images (n, size, size, 3) uint8 on the
        device.
        """

    def prepare_data(self) -> None:
        """Load the splits, and tell the user once how many files in the folders of the photographs
        are ignored, and why. Lightning calls this in the first process only.

        Raises:
            OSError, Refused, RuntimeError: The splits cannot be loaded.
        """
        self.setup("fit")
        if self._reported_left_alone:
            return
        self._reported_left_alone = True
        sources = [self.train.source, self.test.source]
        # Validation images that are held out of the training ones have the same source.
        if self.validation.source is not self.train.source:
            sources.append(self.validation.source)
        stores = [source.store for source in sources if isinstance(source, Photographs)]
        for line in left_alone(stores):
            say(line)

    def setup(self, stage: str) -> None:
        """Load the splits, at the first call only; the stage makes no difference.

        Raises:
            OSError: A file cannot be read; or, for ImageNet's tar files, the user's cache cannot be
                written.
            Refused: The data set is not there or cannot be used, has too few images for what is
                asked of it, or has validation images of its own although ``data.validation`` is not
                0.
            RuntimeError: ImageNet's tar files need a cache, and the user has no home for one.
        """
        if hasattr(self, "train"):
            return
        data = self.config.data
        by_name = splits(data)
        self.train = Split(*by_name["train"], data, self.config.seed)
        self.validation = Split(*by_name["validation"], data)
        self.test = Split(*by_name["test"], data)

    @property
    def steps_per_epoch(self) -> int:
        """Number of optimizer steps in an epoch."""
        return self.config.train.steps_per_epoch(len(self.train))

    def fingerprint(self) -> str:
        """Return the hashes, joined by hyphens, of the sources of the images: of training, of test
        and, if it has its own files, of validation. Each is of all labels and of all images, for
        photographs of up to 16 images as they are cropped for evaluation.
        """
        return sources.fingerprint([self.train.source, self.test.source, self.validation.source])

    def majority_class(self) -> dict[str, float]:
        """Return the accuracy in percent of always answering with a split's most frequent class, by
        metric: ``test/top1`` and, where there are images to validate on, ``val/top1``.
        """
        scores = {}
        for name, split in (("val", self.validation), ("test", self.test)):
            if len(split):
                counts = np.bincount(split.source.labels[split.members])
                scores[f"{name}/{ACCURACY}"] = 100 * float(counts.max()) / len(split)
        return scores

    def _rank_and_world_size(self) -> tuple[int, int]:
        """Return the number of this process, from 0, and the number of processes; without a Trainer
        there is one process.
        """
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size

    def train_dataloader(self) -> DataLoader:
        """Return a loader of this process's training batches, from where the run stands to the end
        of the epoch.

        Raises:
            Refused: ``train.batch_size`` leaves too few images for the last batch of an epoch.
        """
        rank, world = self._rank_and_world_size()
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
        """Return where the run stands when an epoch begins or the run continues: the epoch, from 0,
        and the number of its batches that are done. Without a Trainer both are 0.

        Lightning's loops count both. They keep the count of an epoch's batches until the next epoch
        has begun: at its beginning the second number is that of all batches of the epoch before.
        """
        if self.trainer is None:
            return 0, 0
        loop = self.trainer.fit_loop
        epochs: Any = loop.epoch_progress.current
        return epochs.processed, loop.epoch_loop.batch_progress.current.ready

    def val_dataloader(self) -> DataLoader | list:
        """Return a loader of this process's part of the validation images; an empty list, by which
        Lightning skips validation, where there are none.

        Raises:
            Refused: There are more processes than images.
        """
        if not len(self.validation):
            return []
        return self._evaluation_loader(self.validation)

    def test_dataloader(self) -> DataLoader:
        """Return a loader of this process's part of the test images.

        Raises:
            Refused: There are more processes than images.
        """
        return self._evaluation_loader(self.test)

    def as_in_evaluation(self, split: Literal["train", "val", "test"]) -> DataLoader:
        """Return a loader of a split's images in their order, each once, and without augmentation,
        even for the training split. Without a Trainer it gives the whole split as ``Batch``
        objects; with one it gives this process's part as ``LoadedBatch`` objects.

        Raises:
            Refused: There are fewer images than processes, such as none to validate on.
        """
        of_split = {"train": self.train, "val": self.validation, "test": self.test}[split]
        return self._evaluation_loader(Split(of_split.source, of_split.members, self.config.data))

    def _evaluation_loader(self, split: Split) -> DataLoader:
        """Return a loader of this process's part of a split: consecutive images in the split's
        order, each once, and none that another process has. One process alone has the whole split.

        Raises:
            Refused: There are more processes than images.
        """
        rank, world = self._rank_and_world_size()
        if len(split) < world:
            raise Refused(
                f"runtime.devices: {world} processes are too many to evaluate {len(split)} images together"
            )
        train = self.config.train
        batch_size = max(1, train.batch_size // (train.accumulate * world))
        sampler = order.EvaluationOrder(n=len(split), batch_size=batch_size, rank=rank, world=world)
        return self._loader(split, sampler)

    def _loader(
        self, split: Split, sampler: order.TrainingOrder | order.EvaluationOrder
    ) -> DataLoader:
        """Return a loader of the batches of a split that a sampler asks for: of ``LoadedBatch``
        objects, from which ``on_after_batch_transfer`` makes a ``Batch`` on the device, or without
        a Trainer of ``Batch`` objects.
        """
        in_memory = isinstance(split.source, Arrays)
        workers = 0 if in_memory else self.config.runtime.workers
        # A Trainer calls on_after_batch_transfer to finish a batch; without one the loader does it.
        collate = None
        if self.trainer is None:
            collate = functools.partial(self._finished, split)
        # Workers are forked from the run itself: a forkserver would start them as its own children,
        # and they would outlive the run.
        context = "fork" if workers and sys.platform == "linux" else None
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return DataLoader(
            split,
            sampler=sampler,
            # Each key of the sampler stands for a whole batch, so that the loader makes none.
            batch_size=None,
            collate_fn=collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=on_gpu,
            worker_init_fn=belong_to_parent,
            multiprocessing_context=context,
        )

    def on_after_batch_transfer(self, batch: LoadedBatch, dataloader_idx: int) -> Batch:
        """Make the network's input from a batch that Lightning has moved to the device: normalise
        its pixels and, in training, apply the configured cutout, mixup and CutMix. Training images
        of a data set in memory are cropped and flipped here, too; photographs were in the loader.
        """
        assert self.trainer is not None
        if self.trainer.training:
            split = self.train
        elif self.trainer.testing:
            split = self.test
        else:
            split = self.validation
        return self._finished(split, batch)

    def _finished(self, split: Split, loaded: LoadedBatch) -> Batch:
        """Make the network's input from a batch of ``split``: normalise its pixels and, if
        ``split`` is the training split itself, apply the configured cutout, mixup and CutMix and,
        to images of a set in memory, the crop and flip.
        """
        training = split is self.train
        pixels = self._pixels(split, loaded)  # (B, size, size, 3) uint8
        dtype = torch.float64 if self.config.train.precision == "64-true" else torch.float32
        images = augment.normalise(pixels, dtype)  # (B, 3, size, size)
        side = self.config.data.cutout
        if training and side:
            assert loaded.draws is not None
            images = augment.cutout(images, loaded.draws, side)
        label_weight = None
        if training and loaded.mixing is not None:
            images, label_weight = augment.mix(images, loaded.mixing)
        return Batch(
            images=images,
            labels=loaded.labels,
            number=loaded.number,
            label_weight=label_weight,
            weight=loaded.weight,
            replaced=loaded.replaced,
        )

    def _pixels(self, split: Split, loaded: LoadedBatch) -> Tensor:
        """Return the pixels (B, size, size, 3) uint8 of a batch: of photographs as they were
        loaded, of a set in memory cropped and flipped if the batch is of the training split.
        """
        if not isinstance(split.source, Arrays):
            assert loaded.pixels is not None
            return loaded.pixels
        data = self.config.data
        whole_set = self._moved(split.source, loaded.source_index.device)
        pad = data.pad if data.crop == "pad" else 0
        if split is self.train and (data.crop == "pad" or data.flip):
            assert loaded.draws is not None
            return crop.crop_flip(whole_set, loaded.source_index, loaded.draws, pad, data.flip)
        return whole_set[loaded.source_index]

    def _moved(self, source: Arrays, device: torch.device) -> Tensor:
        """Return all images (n, size, size, 3) uint8 of a set in memory on a device. They are moved
        there at the first call for this set and kept; a later call has to name the same device.
        """
        if source not in self._on_device:
            self._on_device[source] = torch.from_numpy(source.images).to(device).contiguous()
        return self._on_device[source]
