"""Who trains a run: one process at a time, whatever races, dies or falls asleep."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from xceptlab.errors import INTERRUPTED
from xceptlab.runs import leases
from xceptlab.runs.leases import Busy, Holder, Watch, hold

PROCESS = """
import os, pathlib, random, sys, time
from xceptlab.runs import leases
folder, elsewhere, code = pathlib.Path(sys.argv[1]), sys.argv[2] == "elsewhere", sys.argv[3]
leases.HEARTBEAT, leases.STALE = 0.1, 3.0
if elsewhere:  # as on a machine of its own: no other process can see whether this one lives
    leases._machine = lambda: f"machine {os.getpid()}"
exec(code)
"""

HOLD = "with leases.hold(folder): print('held', flush=True); sys.stdin.read()"

RACE = """
random.seed(os.getpid())
end = time.monotonic() + 9
while time.monotonic() < end:
    try:
        with leases.hold(folder):
            alone = os.open(folder / "alone", os.O_CREAT | os.O_EXCL)
            time.sleep(random.uniform(0, 0.02))
            print("took", flush=True)
            os.unlink(folder / "alone")
            if random.random() < 0.05:
                os.kill(os.getpid(), 9)
    except leases.Busy:
        time.sleep(random.uniform(0, 0.02))
"""


def process(folder, code, where="here"):
    command = [sys.executable, "-c", PROCESS, str(folder), where, code]
    return subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, text=True)


def kill_a_holder(folder, where):
    """Let a process hold the run, which nobody else then can, and kill it; when it died."""
    with process(folder, HOLD, where) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(Busy), hold(folder):
            pass
        holder.kill()
        holder.wait()
        return time.monotonic()


def left(folder):
    return [file.name for file in folder.glob("lease.*")]


def test_a_run_has_one_holder_at_a_time_and_nothing_is_left_of_it(tmp_path):
    with (
        hold(tmp_path),
        pytest.raises(
            Busy, match=f"another process is training this run .process {os.getpid()} on "
        ),
        hold(tmp_path),
    ):
        pass
    with hold(tmp_path):
        assert len(left(tmp_path)) == 1
    assert left(tmp_path) == []


def test_a_lease_ends_with_its_process_at_once_where_that_can_be_seen(tmp_path):
    died = kill_a_holder(tmp_path, "here")
    with hold(tmp_path):
        assert time.monotonic() - died < leases.STALE / 2
        assert len(left(tmp_path)) == 1  # the dead one's is gone


def test_another_machines_lease_holds_while_its_heart_beats_and_no_longer(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "STALE", 3.0)
    died = kill_a_holder(tmp_path, "elsewhere")
    with hold(tmp_path):
        assert time.monotonic() - died >= 3.0
    assert left(tmp_path) == []


def test_a_holder_that_was_asleep_while_another_took_over_ends_when_it_wakes(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "STALE", 3.0)
    with process(tmp_path, HOLD, "elsewhere") as holder:
        assert holder.stdout.readline() == "held\n"
        holder.send_signal(signal.SIGSTOP)
        with hold(tmp_path):
            holder.send_signal(signal.SIGCONT)
            assert holder.wait(300) == INTERRUPTED
            assert "another process has taken this run over" in holder.stderr.read()
            assert len(left(tmp_path)) == 1


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_racing_processes_that_also_die_never_hold_a_run_together(tmp_path, where):
    """``alone`` is created exclusively under the lease, so that two holders at once would end in a
    FileExistsError.
    """
    (tmp_path / "lease.dead").write_text(
        json.dumps({"host": "lost", "pid": 1, "machine": "elsewhere", "started": "1"})
    )
    code = RACE if where == "here" else RACE.replace("< 0.05", "< 0.0")
    racers = [process(tmp_path, code, where) for _ in range(6)]
    took, errors = 0, ""
    for racer in racers:
        out, error = racer.communicate(timeout=120)
        took, errors = took + out.count("took"), errors + error
        assert racer.returncode in (0, -signal.SIGKILL), error
    assert errors == ""
    assert took >= 10
    assert "lease.dead" not in left(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"more": 1}'])
def test_a_lease_that_cannot_be_read_counts_until_it_is_stale(tmp_path, monkeypatch, text):
    (tmp_path / "lease.0").write_text(text)
    assert Watch(tmp_path).holders() == {"lease.0": Holder()}
    monkeypatch.setattr(leases, "STALE", 0.5)
    with hold(tmp_path):
        assert "lease.0" not in left(tmp_path)


def test_a_process_that_has_another_ones_number_is_not_taken_for_it(tmp_path):
    holder = Holder.this_process()
    if not holder.machine:
        pytest.skip("this system does not tell when a process started")
    assert holder.here
    assert holder.alive
    (tmp_path / "lease.0").write_text(json.dumps(vars(holder) | {"started": "1"}))
    assert Watch(tmp_path).holders() == {}


def test_a_file_server_that_was_away_makes_no_holder_stale(tmp_path, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(leases.time, "monotonic", lambda: now)
    (tmp_path / "lease.0").write_text(json.dumps({"host": "other", "machine": "elsewhere"}))
    watch = Watch(tmp_path)
    assert watch.holders()
    now += 10 * leases.STALE  # one look that took long
    assert watch.holders()
    for _ in range(7):
        now += 10
        still = watch.holders()
    assert not still


def test_a_full_disk_leaves_no_lease(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(leases.json, "dumps", full)
    with pytest.raises(OSError, match="No space"), hold(tmp_path):
        pass
    assert left(tmp_path) == []


BUSY = """
import fcntl, sys, threading, time
import numpy as np
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
def work():
    values = np.ones(4_000_000)
    while True:
        values.sort()
for _ in range(8):
    threading.Thread(target=work, daemon=True).start()
print("up", flush=True)
time.sleep(100)
"""
"""A program with threads that take a moment to end, which has a file locked."""


def test_a_killed_holder_is_not_gone_before_its_last_thread(tmp_path):
    for _ in range(5):
        command = [sys.executable, "-c", BUSY, str(tmp_path / "locked")]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            assert leases._started(process.pid)
            process.kill()
            while leases._started(process.pid):
                pass
            with open(tmp_path / "locked", "w") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
