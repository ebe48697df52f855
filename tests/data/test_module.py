"""The batches that training sees: the same tensors for any number of workers."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import made
from conftest import TINY
from xceptlab.config.loading import load_run
from xceptlab.data import order
from xceptlab.data.module import DataModule
from xceptlab.data.sources import Arrays
from xceptlab.runs.world import World
from xceptlab.training.train import trainer_on_devices


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
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = trainer_on_devices(config, World(), max_epochs=epochs, limit_val_batches=0, **quiet)
    trainer.fit(Spy(), datamodule=DataModule(config))
    return seen


@pytest.fixture(scope="module")
def alone():
    return batches()


def test_each_epoch_has_every_image_once_in_another_order(alone):
    first, second = (
        torch.cat([batch.number for e, batch in alone if e == epoch]) for epoch in (0, 1)
    )
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
    for (_, a), (_, b) in zip(
        alone, batches(["--model.residual=none", "--train.lr=0.3"]), strict=True
    ):
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


# ---- photographs: every kind of augmentation at once ---------------------------------------------

EVERYTHING = [
    *(
        "--data.name=folder",
        "--data.num_classes=2",
        "--data.size=24",
        "--data.crop=resized",
        "--data.flip=true",
    ),
    *(
        "--data.colour=0.4",
        "--data.rand_augment=9",
        "--data.cutout=6",
        "--data.mixup=0.8",
        "--data.cutmix=1",
    ),
    *(
        "--data.validation=0.2",
        "--data.train_images=0",
        "--data.test_images=0",
        "--train.batch_size=6",
        "--seed=3",
    ),
]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """19 training photographs of 2 classes, of which 4 are held out: 3 batches, the last of 3."""
    root = made.photographs(tmp_path_factory.mktemp("photographs"), "ab", train=10, val=2)
    (root / "train" / "b" / "b9.jpg").unlink()
    return root


def stream(root, *overrides, rank=0, world=1, epoch=1, done=0):
    """The batches of one process, from where it continues, as they reach the network."""
    data = DataModule(load_run([*TINY, *EVERYTHING, f"--data.root={root}", *overrides]))
    data.setup("fit")
    where = SimpleNamespace(current=SimpleNamespace(ready=done))
    data.trainer = SimpleNamespace(
        global_rank=rank,
        world_size=world,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
        fit_loop=SimpleNamespace(
            epoch_progress=SimpleNamespace(current=SimpleNamespace(processed=epoch)),
            epoch_loop=SimpleNamespace(batch_progress=where),
        ),
        training=True,
        testing=False,
    )
    loader = data.train_dataloader()
    try:
        return [data.on_after_batch_transfer(batch, 0) for batch in loader]
    finally:
        if loader._iterator:  # left to the garbage collector, workers would be waited for in vain
            loader._iterator._shutdown_workers()


def joined(batches, field):
    return torch.cat([getattr(batch, field) for batch in batches])


FIELDS = ("images", "labels", "number", "label_weight")


def test_photographs_are_bit_equal_for_any_number_of_workers(photographs):
    alone = stream(photographs)
    assert [len(batch.images) for batch in alone] == [6, 6, 3]
    for workers in (1, 3):
        others = stream(photographs, f"--runtime.workers={workers}")
        assert all(torch.equal(joined(alone, field), joined(others, field)) for field in FIELDS)


def test_two_processes_have_the_photographs_of_one(photographs):
    """Bit for bit and in their places: the ranks' parts one after another are the global batch,
    mixed pairs and all.
    """
    alone = stream(photographs, "--train.batch_size=8")
    ranks = [stream(photographs, "--train.batch_size=8", rank=rank, world=2) for rank in (0, 1)]
    for whole, *parts in zip(alone, *ranks, strict=True):
        for field in FIELDS:
            assert torch.equal(
                getattr(whole, field), torch.cat([getattr(part, field) for part in parts])
            ), field


def test_photographs_continue_at_every_step(photographs):
    alone = stream(photographs)
    for done in range(len(alone)):
        rest = stream(photographs, done=done)
        assert all(
            torch.equal(joined(alone[done:], field), joined(rest, field)) for field in FIELDS
        )


def test_epochs_differ_and_everything_was_on(photographs):
    first, second = stream(photographs, epoch=0), stream(photographs, epoch=1)
    assert not torch.equal(joined(first, "images"), joined(second, "images"))
    label_weight = joined(first, "label_weight")
    assert (label_weight < 1).sum() >= len(label_weight) // 2


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_photograph_is_replaced_alike_in_every_arm_or_named(
    photographs, tmp_path, workers, capfd
):
    shutil.copytree(photographs, tmp_path, dirs_exist_ok=True)
    bad = tmp_path / "train" / "a" / "a4.jpg"
    bad.write_bytes(bad.read_bytes()[:500])
    overrides = ("--data.validation=0", "--train.batch_size=8", f"--runtime.workers={workers}")
    with pytest.raises(ValueError, match=r"a4.jpg: no readable image"):
        stream(tmp_path, *overrides)
    one, other = (
        stream(tmp_path, *overrides, "--data.on_corrupt=skip", f"--model.residual={residual}")
        for residual in ("all", "none")
    )
    assert sum(batch.replaced for batch in one) == 1
    assert all(torch.equal(joined(one, field), joined(other, field)) for field in FIELDS)
    numbers = joined(one, "number").tolist()
    assert numbers.count(5) == 2  # the next of the split, once for itself
    assert 4 not in numbers
    assert "a4.jpg: no readable image" in capfd.readouterr().err


def test_replacements_stay_in_their_split_and_end(photographs, tmp_path):
    """The photograph after a corrupt one may be held out for validation; a set without any good one
    ends with a message.
    """
    shutil.copytree(photographs, tmp_path, dirs_exist_ok=True)
    data = DataModule(load_run([*TINY, *EVERYTHING, f"--data.root={tmp_path}"]))
    data.setup("fit")
    held_out = set(data.validation.members)
    before = next(i for i in data.train.members if i + 1 in held_out)
    (
        tmp_path
        / "train"
        / ("a" if before < 10 else "b")
        / f"{'a' if before < 10 else 'b'}{before % 10}.jpg"
    ).write_bytes(b"x")
    batches = stream(tmp_path, "--data.on_corrupt=skip")
    assert sum(batch.replaced for batch in batches) == 1
    for file in (tmp_path / "train").glob("*/*"):
        file.write_bytes(b"x")
    with pytest.raises(
        ValueError,
        match=rf"no readable image .*; as are the 10 before it, in {tmp_path}: `xceptlab data check --all`",
    ):
        stream(tmp_path, "--data.on_corrupt=skip")


def test_only_the_corrupt_photograph_is_decoded_again(photographs, tmp_path, monkeypatch):
    shutil.copytree(photographs, tmp_path, dirs_exist_ok=True)
    for name in ("a4", "a5"):
        (tmp_path / "train" / "a" / f"{name}.jpg").write_bytes(b"x")
    data = DataModule(
        load_run(
            [
                *TINY,
                *EVERYTHING,
                f"--data.root={tmp_path}",
                "--data.validation=0",
                "--data.on_corrupt=skip",
            ]
        )
    )
    data.setup("fit")
    seen, read = [], type(data.train.source).read
    monkeypatch.setattr(
        type(data.train.source),
        "read",
        lambda self, i, draws: (seen.append(int(i)), read(self, i, draws))[1],
    )
    batch = data.train[order.BatchKey(1, np.array([3, 4, 8]), 1.0)]
    assert seen == [3, 4, 5, 6, 8]
    assert (batch.number.tolist(), batch.replaced) == ([3, 6, 8], 1)
    asked_for = data.train[order.BatchKey(1, np.array([3, 6, 8]), 1.0)]
    assert torch.equal(batch.pixels, asked_for.pixels)
    assert torch.equal(batch.draws, asked_for.draws)


def test_training_says_once_what_is_left_alone_in_a_tree(photographs, tmp_path, capsys):
    shutil.copytree(photographs, tmp_path, dirs_exist_ok=True)
    (tmp_path / "train" / "a" / "scan.tif").write_bytes(b"x")
    batches([*EVERYTHING, f"--data.root={tmp_path}"])
    said = [line for line in capsys.readouterr().err.splitlines() if "left alone" in line]
    assert len(said) == 1
    assert said[0].startswith(
        f"xceptlab: {tmp_path / 'train'}: files left alone: 1 (1 with other suffixes than"
    )
    # Lightning calls it in the first of all processes only
    assert not DataModule(load_run(TINY)).prepare_data_per_node


def test_training_says_what_is_left_alone_beside_the_validation_photographs(
    photographs, tmp_path, capsys
):
    shutil.copytree(photographs, tmp_path, dirs_exist_ok=True)
    shutil.copytree(photographs / "val", tmp_path / "test")
    (tmp_path / "val" / "a" / "scan.tif").write_bytes(b"x")
    argv = ["--data.name=folder", f"--data.root={tmp_path}", "--data.validation=0"]
    DataModule(load_run([*EVERYTHING, *argv])).prepare_data()
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "left alone" in line]
    assert said.startswith(f"xceptlab: {tmp_path / 'val'}: files left alone: 1 (1 with")


def test_evaluation_never_replaces_a_photograph(photographs, tmp_path):
    shutil.copytree(photographs, tmp_path, dirs_exist_ok=True)
    (tmp_path / "val" / "a" / "a1.jpg").write_bytes(b"x")
    data = DataModule(
        load_run([*TINY, *EVERYTHING, f"--data.root={tmp_path}", "--data.on_corrupt=skip"])
    )
    data.setup("test")
    with pytest.raises(
        ValueError,
        match=r"a1.jpg: no readable image .*; it must be evaluated, so mend or remove it",
    ):
        data.test[order.BatchKey(0, np.arange(4), 1.0)]


def test_images_in_memory_are_the_same_for_one_process_and_two_and_from_every_step():
    small = [
        "--data.name=digits",
        "--data.num_classes=0",
        "--data.size=8",
        "--data.crop=pad",
        "--data.pad=2",
        "--data.colour=0",
    ]
    small += ["--data.rand_augment=0", "--data.train_images=111", "--train.batch_size=16"]
    alone = stream("unused", *small)
    ranks = [stream("unused", *small, rank=rank, world=2) for rank in (0, 1)]
    for whole, *parts in zip(alone, *ranks, strict=True):
        for field in FIELDS:
            assert torch.equal(
                getattr(whole, field), torch.cat([getattr(part, field) for part in parts])
            ), field
    for done in range(len(alone)):
        # continued by another number of processes
        rest = stream("unused", *small, rank=1, world=2, done=done)
        assert all(
            torch.equal(joined(ranks[1][done:], field), joined(rest, field)) for field in FIELDS
        )


def test_more_processes_than_images_to_evaluate_are_refused(photographs):
    """One without a batch would leave the others waiting for its counts."""
    data = DataModule(load_run([*TINY, *EVERYTHING, f"--data.root={photographs}"]))
    data.setup("fit")
    data.trainer = SimpleNamespace(global_rank=0, world_size=5)
    with pytest.raises(
        ValueError,
        match=r"runtime\.devices: 5 processes are too many to evaluate 4 images together",
    ):
        data.test_dataloader()


# ---- without a Trainer ---------------------------------------------------------------------------


@pytest.mark.parametrize("photographs", [False, True])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_in_a_notebook_the_loaders_give_what_the_network_would_see(request, photographs, split):
    overrides = (
        request.getfixturevalue("made")
        if photographs
        else ("--data.crop=pad", "--data.pad=2", "--data.flip=true")
    )
    config = load_run([*TINY, "--data.validation=0.1", "--train.batch_size=8", *overrides])
    data = DataModule(config)
    data.setup("test")
    found = list(getattr(data, f"{split}_dataloader")())
    count = len({"train": data.train, "val": data.validation, "test": data.test}[split])
    assert sum(len(batch.labels) for batch in found) == count
    size = config.data.size
    assert {tuple(batch.images.shape[1:]) for batch in found} == {(3, size, size)}
    assert {batch.images.dtype for batch in found} == {torch.float32}
    assert all(batch.images.abs().max() <= 1 for batch in found)


def test_in_a_notebook_training_batches_are_those_of_the_first_epoch():
    (_, expected), *_ = batches(epochs=1)
    data = DataModule(load_run([*TINY, "--data.crop=pad", "--data.pad=2", "--data.flip=true"]))
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert torch.equal(batch.images, expected.images)
    assert torch.equal(batch.labels, expected.labels)


def test_images_whose_memory_is_in_another_order_are_copied_once_and_not_for_each_batch():
    data = DataModule(load_run(TINY))
    data.setup("fit")
    images = data.train.source.images
    turned = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
    source = Arrays(turned, data.train.source.labels)
    moved = data._moved(source, torch.device("cpu"))
    assert moved.is_contiguous()
    assert moved is data._moved(source, torch.device("cpu"))
    assert np.array_equal(moved.numpy(), images)
