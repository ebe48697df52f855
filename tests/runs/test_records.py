"""A run's directory: written whole or not at all, and read while others write."""

import dataclasses
import errno
import json
import math
import os
import stat
import subprocess
import sys

import pytest

from xceptlab import files
from xceptlab.files import write_atomically, write_once
from xceptlab.runs import directory as directories
from xceptlab.runs import log as logs
from xceptlab.runs.directory import RunDirectory
from xceptlab.runs.log import Progress
from xceptlab.runs.record import Record

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


# ---- writing -------------------------------------------------------------------------------------


def test_writing_replaces_the_whole_file(tmp_path):
    file = tmp_path / "file"
    write_atomically(file, b"a longer old text")
    write_atomically(file, b"new")
    assert file.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("links", [True, False])
def test_what_is_written_once_stays(tmp_path, monkeypatch, links):
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    if not links:
        monkeypatch.setattr(files.os, "link", refuse)
    file = tmp_path / "file"
    write_once(file, b"the first")
    write_once(file, b"the second")
    assert file.read_bytes() == b"the first"
    assert list(tmp_path.iterdir()) == [file]


def test_what_cannot_be_flushed_is_not_left_under_another_name(tmp_path, monkeypatch):
    flush = os.fsync

    def refuse_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, "Input/output error")
        flush(descriptor)

    monkeypatch.setattr(files.os, "fsync", refuse_folders)
    with pytest.raises(OSError, match="Input/output error"):
        write_once(tmp_path / "file", b"new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize(
    "failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()]
)
def test_when_writing_fails_the_old_file_stands_and_nothing_else(
    tmp_path, monkeypatch, call, failure
):
    file = tmp_path / "file"
    write_atomically(file, b"old")

    def fail(*args):
        raise failure

    monkeypatch.setattr(files.os, call, fail)
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
        "from xceptlab.files import write_atomically\n"
        "os.replace = lambda *args: os._exit(9)\n"
        "write_atomically(pathlib.Path(sys.argv[1]), b'new')\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(file)]).returncode == 9
    assert file.read_bytes() == b"old"
    write_atomically(file, b"newer")
    assert file.read_bytes() == b"newer"


# ---- records -------------------------------------------------------------------------------------


def test_nothing_is_created_before_create(tmp_path):
    directory = RunDirectory.of(str(tmp_path / "outputs"), "a-run")
    assert directory.path == tmp_path / "outputs" / "runs" / "a-run"
    assert directory.record() is None
    assert directory.log() == []
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("settled", [True, False])
def test_a_run_is_found_by_its_hash_whatever_the_rest_of_its_name_was(
    tmp_path, monkeypatch, settled
):
    if settled:
        monkeypatch.setattr(directories, "SETTLED", -1)
    old = tmp_path / "runs" / "digits-relu-seed3-c6a3e5812a"
    assert not RunDirectory.of(str(tmp_path), "digits-seed3-c6a3e5812a").path.exists()
    for name in (old.name, "digits-relu-seed3-0123456789", "digits-relu"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    for name in ("digits-intermediate_relu-seed3-c6a3e5812a", old.name, "c6a3e5812a"):
        assert RunDirectory.of(str(tmp_path), name).path == old
    for name in ("digits-intermediate_relu-seed3-c6a3e5812b", "other", "xc6a3e5812a", "c6a3e5812"):
        assert RunDirectory.of(str(tmp_path), name).path == tmp_path / "runs" / name
    both = tmp_path / "runs" / "digits-intermediate_relu-seed3-c6a3e5812a"
    both.mkdir()
    assert RunDirectory.of(str(tmp_path), both.name).path == both


def test_a_run_that_appears_is_seen_at_once_in_a_folder_that_was_listed_before(tmp_path):
    for number in range(30):
        name = f"old-seed0-{number:010x}"
        assert RunDirectory.of(str(tmp_path), f"new-seed0-{number:010x}").path.name.startswith(
            "new"
        )
        (tmp_path / "runs" / name).mkdir(parents=True)
        assert RunDirectory.of(str(tmp_path), f"new-seed0-{number:010x}").path.name == name


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
    [
        "",
        "{",
        "[]",
        "null",
        "3",
        "{}",
        json.dumps(dataclasses.asdict(RECORD) | {"more": 1}),
        "\x00",
        b"\xff\xfe",
    ],
    ids=["empty", "cut", "list", "null", "number", "lacks all", "has more", "binary", "no text"],
)
def test_a_broken_record_is_one_line_that_names_the_file_and_the_way_out(directory, text):
    (directory.path / "record.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(
        ValueError, match=r"record\.json: (damaged|not a record of this version).*remove its folder"
    ) as error:
        directory.record()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text", [b"", b"{", b"\x00", b"\xff\xfe", json.dumps(dataclasses.asdict(RECORD)).encode()[:-20]]
)
def test_a_record_that_is_cut_is_damaged_and_not_one_of_another_version(directory, text):
    (directory.path / "record.json").write_bytes(text)
    with pytest.raises(ValueError, match=r"record\.json: damaged, no whole JSON"):
        directory.record()


@pytest.mark.parametrize("section", ["compile: true", "deterministic: false"])
@pytest.mark.parametrize("beside", ["workers: 2\n  ", ""])
def test_a_run_that_an_earlier_version_trained_otherwise_is_not_taken_for_the_plain_one(
    directory, section, beside
):
    record = dataclasses.replace(RECORD, run_id=directory.path.name)
    directory.write_record(record)
    config = directory.path / "config.yaml"
    config.write_text(f"runtime:\n  {beside}{section}\nseed: 0\n")
    assert directory.record() == record  # it is read, as to evaluate it
    with pytest.raises(
        ValueError,
        match=rf"trained this run with runtime\.{section}, .* remove this folder to train",
    ):
        directory.record_of_its_id()
    config.write_text(f"runtime:\n  compile: false\n  deterministic: true\ntrain:\n  {section}\n")
    assert directory.record_of_its_id() == record
    config.write_text(f"train:\n  {section}\nruntime:\n  workers: 0\n")
    directory.write_record(
        dataclasses.replace(record, science=record.science | {"train.compile": True})
    )
    assert directory.record_of_its_id().science["train.compile"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"launcher.name": "x"}, "launcher.name: there is no such key"),
        ({"metrics": 3.0}, "metrics: 3.0 is not allowed; it must be a mapping"),
        (
            {"metrics": {"test/top1": "97"}},
            r"metrics\.test/top1: '97' is not allowed; it must be a finite number",
        ),
        ({"metrics": {"test/top1": math.nan}}, r"metrics\.test/top1: nan is not allowed"),
        ({"seconds": [8.0]}, r"seconds: \[8.0\] is not allowed"),
        ({"versions": ["torch"]}, "versions: .* it must be a mapping"),
        ({"status": "lost"}, "status: 'lost' is not allowed; it must be one of finished, diverged"),
        ({"git": {"revision": []}}, r"git\.revision: \[\] is not allowed"),
        ({"registrations": 3}, "registrations: 3 is not allowed"),
    ],
)
def test_a_records_fields_are_of_their_types(directory, changes, reason):
    (directory.path / "record.json").write_text(json.dumps(dataclasses.asdict(RECORD) | changes))
    with pytest.raises(
        ValueError,
        match=rf"record\.json: not a record of this version \({reason}.*remove its folder",
    ):
        directory.record()


@pytest.mark.parametrize("name", ["studies", "registrations"])
def test_lists_of_a_run_that_are_no_text_are_one_line(directory, name):
    (directory.path / f"{name}.txt").write_bytes(b"a\nb\xe9\n")
    with pytest.raises(ValueError, match=rf"{name}\.txt: not UTF-8 text: byte 0xe9 in line 2$"):
        getattr(directory, name)()


@pytest.mark.parametrize("text", ["", "3", "[]", '{"a": 1}', '{"a": "b"}', "\udcff"])
def test_a_note_of_the_data_that_is_none_is_one_line(directory, text):
    (directory.path / "data.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=r"data\.json: not what the run began with"):
        directory.began_with()


# ---- the log -------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", ["", "{", '{"step": 2, "ti', '{"step": 2}'])
def test_a_last_line_that_a_kill_cut_short_is_left_out(directory, cut):
    lines = [{"step": step, "time": 9.0, "epoch": 1.0, "train/loss": math.inf} for step in (0, 1)]
    (directory.path / "metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines) + cut
    )
    assert directory.log() == lines


@pytest.mark.parametrize(
    "line",
    [
        *("no log", "3", "[]", "null", "{}", "[" * 10**5, "\udcff", '{"step": 1, "time": 9.0}'),
        *(
            '{"step": 1, "time": 9.0, "epoch": null}',
            '{"step": 1, "time": 9.0, "epoch": 1.0, "train/loss": "2.0"}',
        ),
        *('{"step": [1], "time": 9.0, "epoch": 1.0}', '{"step": true, "time": 9.0, "epoch": 1.0}'),
        '{"step": 1, "time": 9.0, "epoch": ' + "9" * 400 + "}",
    ],
)
def test_a_line_that_is_none_of_a_log_is_named_and_no_progress(directory, line):
    log(directory, LINES[0])
    with (directory.path / "metrics.jsonl").open("a", errors="surrogateescape") as file:
        file.write(line + "\n")
    with pytest.raises(
        ValueError, match=r"metrics\.jsonl: line 2 is no line of a log; remove it, or its folder"
    ) as error:
        directory.log()
    assert "\n" not in str(error.value)
    assert look(directory, 6).epoch == 0.5


def log(directory: RunDirectory, *lines: dict) -> None:
    (directory.path / "metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines)
    )


def look(directory: RunDirectory, epochs: int) -> Progress:
    return directory.follow().progress(epochs)


def test_progress_of_a_run_that_has_not_begun(directory):
    assert look(directory, 6) == Progress()


LINES = [
    {
        "step": 10,
        "time": 100.0,
        "epoch": 0.5,
        "train/loss": 2.0,
        "train/top1": 30.0,
        "images_per_second": 500.0,
        "seconds": 12.0,
    },
    {
        "step": 20,
        "time": 110.0,
        "epoch": 1.0,
        "train/loss": 1.0,
        "train/top1": 60.0,
        "images_per_second": 900.0,
        "seconds": 8.0,
    },
    {"step": 20, "time": 112.0, "epoch": 1.0, "val/top1": 55.0, "val/loss": 1.1},
    {
        "step": 30,
        "time": 9120.0,
        "epoch": 1.5,
        "train/loss": 0.5,
        "train/top1": 90.0,
        "images_per_second": 1000.0,
        "seconds": 10.0,
    },
]


def test_progress_in_numbers(directory, monkeypatch):
    monkeypatch.setattr(logs.time, "time", lambda: 9130.0)
    log(directory, *LINES)
    # 20 s of training an epoch, whatever the pause; 4.5 epochs to go, of which 10 s have passed
    # since the last line
    assert look(directory, 6) == Progress(
        epoch=1.5, top1=55.0, images_per_second=1000.0, seconds_left=80.0
    )


def test_a_follower_reads_what_is_new_and_sees_the_same_as_one_that_reads_all(
    directory, monkeypatch
):
    monkeypatch.setattr(logs.time, "time", lambda: 9130.0)
    follower, file = directory.follow(), directory.path / "metrics.jsonl"
    assert follower.progress(6) == Progress()
    text = "".join(json.dumps(line) + "\n" for line in LINES)
    for end in range(0, len(text), 7):  # also in the midst of lines
        file.write_text(text[:end]) if end < 7 else file.open("a").write(text[end - 7 : end])
        assert follower.progress(6) == look(directory, 6)
    # a run that was interrupted drops what it repeats
    write_atomically(file, text[: text.index("\n") + 1].encode())
    assert follower.progress(6).epoch == 0.5
    file.open("a").write(text[text.index("\n") + 1 :])
    assert (
        follower.progress(6)
        == look(directory, 6)
        == Progress(epoch=1.5, top1=55.0, images_per_second=1e3, seconds_left=80.0)
    )


def test_a_look_at_a_long_log_reads_nothing_that_was_read_before(directory, monkeypatch):
    log(directory, *LINES * 1000)
    follower = directory.follow()
    first = follower.progress(6)
    monkeypatch.setattr(logs.json, "loads", lambda line: pytest.fail("parsed again"))
    assert follower.progress(6).epoch == first.epoch


def test_without_validation_progress_shows_the_training_accuracy(directory):
    log(directory, {name: value for name, value in LINES[0].items() if name != "seconds"})
    assert look(directory, 6) == Progress(
        epoch=0.5, top1=30.0, images_per_second=500.0, seconds_left=None
    )


def test_the_time_left_is_never_negative(directory, monkeypatch):
    monkeypatch.setattr(logs.time, "time", lambda: 1e9)
    log(directory, *LINES)
    assert look(directory, 6).seconds_left == 0.0


def test_what_a_kill_between_record_and_end_left_is_dropped_but_not_under_a_running_process(
    directory,
):
    (directory.path / "checkpoints" / "epoch1.ckpt").write_bytes(b"")
    with directory.locked():
        directory.tidy()
        assert (directory.path / "checkpoints").exists()
    other_machines = directory.path / "lease.elsewhere"
    other_machines.write_bytes(b"")
    directory.tidy()
    assert (directory.path / "checkpoints").exists()
    other_machines.unlink()
    directory.tidy()
    assert list(directory.path.iterdir()) == []
