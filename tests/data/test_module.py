"""The batches that training sees: the same tensors for any number of workers."""

import os
import signal

import pytest
import torch

from conftest import TINY
from xceptlab.data.module import DataModule, outlive_requests
from xceptlab.loading import load_run
from xceptlab.train import trainer_on_devices


def batches(overrides=(), epochs=2):
    """What the network would be given in each epoch, as the Trainer runs it."""
    import pytorch_lightning as pl

    seen = []

    class Spy(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def training_step(self, batch, i):
            seen.append((self.current_epoch, batch))
            return self.weight.sum() * 0

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    config = load_run([*TINY, "--data.crop=pad", "--data.pad=2", "--data.flip=true", *overrides])
    trainer = trainer_on_devices(
        config, max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False, limit_val_batches=0
    )
    trainer.fit(Spy(), datamodule=DataModule(config))
    return seen


@pytest.fixture(scope="module")
def alone():
    return batches()


@pytest.mark.parametrize("workers", [1, 3])
def test_tensors_are_bit_equal_for_any_number_of_workers(alone, workers):
    for (epoch, a), (other_epoch, b) in zip(alone, batches([f"--runtime.workers={workers}"]), strict=True):
        assert epoch == other_epoch
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)


def test_each_epoch_has_every_image_once_in_another_order(alone):
    first, second = (torch.cat([batch.number for e, batch in alone if e == epoch]) for epoch in (0, 1))
    assert torch.equal(first.sort().values, torch.arange(270))
    assert torch.equal(second.sort().values, torch.arange(270))
    assert not torch.equal(first, second)


def test_augmentation_changes_from_epoch_to_epoch(alone):
    def pixels(epoch):
        return torch.cat([b.images for e, b in alone if e == epoch])[
            torch.cat([b.number for e, b in alone if e == epoch]).argsort()
        ]

    changed = (pixels(0) != pixels(1)).flatten(1).any(1).float().mean()
    assert 0.8 < changed < 1


def test_arms_of_a_seed_see_the_same_images(alone):
    for (_, a), (_, b) in zip(alone, batches(["--model.residual=none", "--train.lr=0.3"]), strict=True):
        assert torch.equal(a.images, b.images)


def test_held_out_images_are_fixed_by_their_own_seed():
    def held_out(*overrides):
        data = DataModule(load_run([*TINY, *overrides]))
        data.setup("fit")
        assert not set(data.validation.members) & set(data.train.members)
        return set(data.validation.members)

    base = held_out()
    assert len(base) == 30
    assert held_out("--seed=9") == base
    assert held_out("--data.validation_seed=1") != base


def test_validation_zero_trains_on_all():
    data = DataModule(load_run([*TINY, "--data.validation=0", "--data.train_images=0"]))
    data.setup("fit")
    assert (len(data.train), len(data.validation)) == (1297, 0)


def test_a_loader_worker_survives_the_signals_of_a_scheduler_and_ends_with_the_main_process():
    numbers = (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        outlive_requests(0)
        for number in numbers:
            os.kill(os.getpid(), number)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # the second one, the main process's, ends it
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
