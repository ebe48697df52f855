"""Checkpoints: when they are written, what a kill or a bad disk can do to them, and that runs
continue from them.
"""

import errno
import os
import socket
from fractions import Fraction

import pytest
import torch

import processes
from conftest import TINY
from xceptlab import cli
from xceptlab.runs.directory import RunDirectory
from xceptlab.training import checkpoints
from xceptlab.training.checkpoints import CheckpointFiles, newest, oldest_first
from xceptlab.training.task import Task
from xceptlab.training.train import train


def save(directory, *steps):
    for step in steps:
        CheckpointFiles().save_checkpoint(
            {"step": step, "weights": torch.full((1000,), float(step))},
            directory / f"step{step:08d}",
        )


def step_of(path):
    return CheckpointFiles().load_checkpoint(path, weights_only=True)["step"]


def test_the_newest_two_are_kept_and_named_by_their_checksum(tmp_path):
    save(tmp_path, 3, 20, 100)
    assert [step_of(path) for path in oldest_first(tmp_path)] == [20, 100]
    assert all(
        checkpoints.checksum(path.read_bytes()) in path.name for path in oldest_first(tmp_path)
    )
    assert step_of(newest(tmp_path)) == 100


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty(path):
    os.truncate(path, 0)


@pytest.mark.parametrize("damage", [cut, flip, empty])
def test_a_corrupt_newest_falls_back_to_the_one_before_aloud(tmp_path, capsys, damage):
    save(tmp_path, 1, 2)
    bad = newest(tmp_path)
    damage(bad)
    assert step_of(newest(tmp_path)) == 1
    assert f"{bad}: corrupt" in capsys.readouterr().err
    save(tmp_path, 2)  # the run comes by again
    assert step_of(newest(tmp_path)) == 2
    damage(newest(tmp_path))
    damage(newest(tmp_path))
    assert newest(tmp_path) is None


def test_a_kill_while_writing_leaves_nothing(tmp_path):
    save(tmp_path, 1)
    (tmp_path / ".step00000002.ckpt.77.tmp").write_bytes(b"half")
    assert step_of(newest(tmp_path)) == 1
    save(tmp_path, 2)
    assert sorted(tmp_path.iterdir()) == oldest_first(tmp_path)


def test_a_full_disk_keeps_the_old_ones(tmp_path, monkeypatch):
    save(tmp_path, 1, 2)

    def full(file_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left on device"):
            save(tmp_path, 3)
    assert [step_of(path) for path in oldest_first(tmp_path)] == [1, 2]
    assert len(list(tmp_path.iterdir())) == 2


def test_what_is_no_checkpoint_is_refused_by_name(tmp_path):
    (tmp_path / "step00000001.ckpt").write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match=r"step00000001.ckpt: not a readable checkpoint"):
        CheckpointFiles().load_checkpoint(tmp_path / "step00000001.ckpt")


def test_no_caller_has_a_checkpoint_executed(tmp_path):
    torch.save({"step": Fraction(1)}, tmp_path / "step00000001.ckpt")
    with pytest.raises(ValueError, match=r"step00000001.ckpt: not a readable checkpoint"):
        CheckpointFiles().load_checkpoint(tmp_path / "step00000001.ckpt", weights_only=False)


@pytest.fixture
def crashed(tiny, monkeypatch):
    """A run that crashed when it had one checkpoint."""
    config = tiny("--runtime.checkpoint_steps=4")
    with monkeypatch.context() as patch:
        patch.setattr(Task, "validation_step", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(config, progress=False)
    return config


def test_processes_that_see_different_checkpoints_do_not_train(crashed, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    def process(rank, outputs):
        group = {  # as torchrun has it, which gives all processes the same arguments
            **{"TORCHELASTIC_RUN_ID": "none", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
            **{
                "WORLD_SIZE": "2",
                "LOCAL_WORLD_SIZE": "2",
                "GROUP_RANK": "0",
                "RANK": rank,
                "LOCAL_RANK": rank,
            },
        }
        arguments = ["train", *TINY, "--runtime.devices=2", f"--runtime.outputs={outputs}"]
        return processes.start(arguments, tmp_path / rank, os.environ | group)

    both = {
        rank: process(rank, outputs)
        for rank, outputs in (("0", crashed.runtime.outputs), ("1", tmp_path / "elsewhere"))
    }
    for rank, one in both.items():
        one.join(300)
        assert one.exitcode == 2
        said = (tmp_path / rank / "stderr").read_text()
        assert "the processes would continue from different checkpoints (step00000004-" in said
        assert "Traceback" not in said


def test_a_checkpoint_of_a_version_with_other_weights_is_refused_in_one_line(crashed, capsys):
    folder = RunDirectory.of(crashed.runtime.outputs, crashed.run_id).path / "checkpoints"
    checkpoint = CheckpointFiles().load_checkpoint(newest(folder), weights_only=True)
    checkpoint["state_dict"]["network.a"] = checkpoint["state_dict"].pop(
        "network.classifier.weight"
    )
    CheckpointFiles().save_checkpoint(checkpoint, folder / "step00000009")
    file = folder.parent / "config.yaml"
    assert cli.main(["train", "-c", str(file)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith(
        "xceptlab: the checkpoint to continue from is of another version: network.a differs;"
    )
    assert len([line for line in said if line.startswith("xceptlab:")]) == 1


@pytest.mark.parametrize(
    ("when", "steps"),
    [
        ([], [5, 10]),
        (["--runtime.checkpoint_steps=2"], [2, 4, 5, 6, 8, 10]),
        (["--runtime.checkpoint_minutes=1e-9", "--train.accumulate=2"], list(range(1, 11))),
    ],
)
def test_checkpoints_are_written_at_ends_of_epochs_by_steps_and_by_time(
    tiny, monkeypatch, when, steps
):
    written = []
    monkeypatch.setattr(
        CheckpointFiles,
        "save_checkpoint",
        lambda self, checkpoint, path, **_: written.append(path.name),
    )
    train(tiny(*when), progress=False)
    assert written == [f"step{step:08d}" for step in steps]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("crash", [3, 9])  # batches of 20, 10 an epoch
def test_a_run_continues_in_mid_epoch_to_the_same_bits(
    tiny, made, tmp_path, monkeypatch, workers, crash
):
    science = (*made, "--model.dropout=0.2", "--train.ema=0.9", "--train.accumulate=2")
    runtime = (
        "--runtime.checkpoint_steps=1",
        "--runtime.log_every=3",
        f"--runtime.workers={workers}",
    )
    config, undisturbed = (
        tiny(*science, *runtime, f"--runtime.outputs={tmp_path / name}") for name in "ab"
    )
    step, batches = Task.training_step, []

    def crashing(self, batch, batch_idx):
        batches.append(batch.number.tolist())
        return step(self, batch, batch_idx) if len(batches) <= crash else 1 / 0

    with monkeypatch.context() as patch:
        patch.setattr(Task, "training_step", crashing)
        with pytest.raises(ZeroDivisionError):
            train(config, progress=False)
    records = [train(one, progress=False) for one in (config, undisturbed)]
    directories = [
        RunDirectory.of(one.runtime.outputs, one.run_id) for one in (config, undisturbed)
    ]
    assert records[0].metrics == records[1].metrics
    assert (
        len({(directory.path / "model.safetensors").read_bytes() for directory in directories}) == 1
    )
    timeless = [
        [
            {k: v for k, v in line.items() if k not in ("time", "seconds", "images_per_second")}
            for line in directory.log()
        ]
        for directory in directories
    ]
    assert timeless[0] == timeless[1]
