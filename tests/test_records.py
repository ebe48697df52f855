"""A run's directory: written whole or not at all, and read while others write."""

import dataclasses
import errno
import json
import math
import subprocess
import sys

import pytest

from xceptlab import records
from xceptlab.records import Progress, Record, RunDirectory, progress, write_atomically

RECORD = Record(
    run_id="digits-seed0-0123456789",
    status="finished",
    science={"seed": 0, "train.lr": 0.1},
    metrics={"test/top1": 97.4, "test/loss": 0.1},
    parameters=245041,
    macs=1219644,
    test_images=500,
    steps=114,
    seconds=8.0,
    images_per_second=1453.9,
    device="a CPU",
    world_size=1,
    precision="32-true",
    data_fingerprint="abc",
    versions={"torch": "2.14"},
    git={"revision": "51fe86c", "dirty": False},
    started=1.0,
    finished=9.0,
)


@pytest.fixture
def directory(tmp_path):
    directory = RunDirectory.of(str(tmp_path), "a-run")
    directory.create()
    return directory


# ---- writing ----------------------------------------------------------------------------------------------------------------


def test_writing_replaces_the_whole_file(tmp_path):
    file = tmp_path / "file"
    write_atomically(file, b"a longer old text")
    write_atomically(file, b"new")
    assert file.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_when_writing_fails_the_old_file_stands_and_nothing_else(tmp_path, monkeypatch, call, failure):
    file = tmp_path / "file"
    write_atomically(file, b"old")

    def fail(*args):
        raise failure

    monkeypatch.setattr(records.os, call, fail)
    with pytest.raises(type(failure)):
        write_atomically(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_kill_while_writing_leaves_the_old_file(tmp_path):
    """The new text is on the disk, whole, before the old name points to it."""
    file = tmp_path / "file"
    file.write_bytes(b"old")
    code = (
        "import os, pathlib, sys\n"
        "from xceptlab.records import write_atomically\n"
        "os.replace = lambda *args: os._exit(9)\n"
        "write_atomically(pathlib.Path(sys.argv[1]), b'new')\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(file)]).returncode == 9
    assert file.read_bytes() == b"old"
    write_atomically(file, b"newer")
    assert file.read_bytes() == b"newer"


# ---- records ----------------------------------------------------------------------------------------------------------------


def test_nothing_is_created_before_create(tmp_path):
    directory = RunDirectory.of(str(tmp_path / "outputs"), "a-run")
    assert directory.path == tmp_path / "outputs" / "runs" / "a-run"
    assert directory.record() is None
    assert directory.log() == []
    assert not (tmp_path / "outputs").exists()


def test_a_record_reads_back_as_it_was_written(directory):
    assert directory.record() is None
    directory.write_record(RECORD)
    assert directory.record() == RECORD


def test_a_record_holds_numbers_only(directory):
    with pytest.raises(ValueError):
        directory.write_record(dataclasses.replace(RECORD, metrics={"test/loss": math.nan}))
    assert directory.record() is None
    assert not list(directory.path.glob("*.tmp"))


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "3", "{}", json.dumps(dataclasses.asdict(RECORD) | {"more": 1}), "\x00", b"\xff\xfe"],
    ids=["empty", "cut", "list", "null", "number", "lacks all", "has more", "binary", "no text"],
)
def test_a_broken_record_is_one_line_that_names_the_file_and_the_way_out(directory, text):
    (directory.path / "record.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=r"record\.json: not a record of this version .*remove its folder") as error:
        directory.record()
    assert "\n" not in str(error.value)


# ---- the log ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", ["", "{", '{"step": 2, "ti', '{"step": 2}'])
def test_a_last_line_that_a_kill_cut_short_is_left_out(directory, cut):
    (directory.path / "metrics.jsonl").write_text('{"step": 0}\n{"step": 1}\n' + cut)
    assert directory.log() == [{"step": 0}, {"step": 1}]


def log(directory: RunDirectory, *lines: dict) -> None:
    (directory.path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_progress_of_a_run_that_has_not_begun(directory):
    assert progress(directory, 6) == Progress()


def test_progress_in_numbers(directory, monkeypatch):
    monkeypatch.setattr(records.time, "time", lambda: 130.0)
    log(
        directory,
        {"time": 100.0, "epoch": 0.5, "train/loss": 2.0, "train/top1": 30.0, "images_per_second": 500.0},
        {"time": 110.0, "epoch": 1.0, "train/loss": 1.0, "train/top1": 60.0, "images_per_second": 900.0},
        {"time": 112.0, "epoch": 1.0, "val/top1": 55.0, "val/loss": 1.1},
        {"time": 120.0, "epoch": 1.5, "train/loss": 0.5, "train/top1": 90.0, "images_per_second": 1000.0},
    )
    # 20 s an epoch, 4.5 epochs to go, of which 10 s have passed since the last line
    assert progress(directory, 6) == Progress(epoch=1.5, top1=55.0, images_per_second=1000.0, seconds_left=80.0)


def test_without_validation_progress_shows_the_training_accuracy(directory):
    log(directory, {"time": 100.0, "epoch": 0.5, "train/loss": 2.0, "train/top1": 30.0, "images_per_second": 500.0})
    assert progress(directory, 6) == Progress(epoch=0.5, top1=30.0, images_per_second=500.0, seconds_left=None)


def test_the_time_left_is_never_negative(directory, monkeypatch):
    monkeypatch.setattr(records.time, "time", lambda: 1e9)
    log(directory, *({"time": 100.0 + i, "epoch": i / 2, "train/loss": 1.0} for i in range(3)))
    assert progress(directory, 1).seconds_left == 0.0


# ---- the lock ---------------------------------------------------------------------------------------------------------------


def test_a_run_has_one_holder_at_a_time(directory, monkeypatch):
    monkeypatch.setattr(records, "LOCK_PATIENCE", 0.2)
    first, second = directory.locked(), directory.locked()
    with first, pytest.raises(records.Busy, match="a-run: another process is training this run"):
        second.__enter__()
    with directory.locked():
        pass


def test_the_lock_dies_with_its_process(directory, monkeypatch):
    monkeypatch.setattr(records, "LOCK_PATIENCE", 0.2)
    code = (
        "import os, pathlib, sys\n"
        "from xceptlab.records import RunDirectory\n"
        "held = RunDirectory(pathlib.Path(sys.argv[1])).locked()\n"
        "held.__enter__()\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(directory.path)], stdin=-1, stdout=-1, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(records.Busy), directory.locked():
            pass
        holder.kill()
        holder.wait()
        with directory.locked():
            pass
