"""The local launcher, with runs that crash, hang, lie and are killed."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import ROOT
from launch import fakes
from xceptlab.launch import local
from xceptlab.launch.study import slots
from xceptlab.loading import load_run
from xceptlab.records import RunDirectory


@pytest.fixture
def run(tmp_path):
    return lambda seed, *overrides: load_run([f"--seed={seed}", f"--runtime.outputs={tmp_path}", *overrides])


@pytest.fixture
def launcher(monkeypatch):
    monkeypatch.setattr(local, "PATIENCE", 0.3)
    launchers = []

    def make(slots=("", "")):
        launchers.append(local.Local(fakes.record, slots))
        launchers[-1]._context.set_forkserver_preload([])  # the fakes need no torch
        return launchers[-1]

    yield make
    for one in launchers:
        one.stop()


def finish(launcher, until=lambda states: set(states.values()) <= {"done", "failed"}):
    deadline = time.monotonic() + 60
    while not until(states := launcher.poll()):
        assert time.monotonic() < deadline, states
        time.sleep(0.02)
    return states


def calls(tmp_path):
    return [json.loads(line) for line in (tmp_path / "calls.jsonl").read_text().splitlines()]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_one_runs_failure_stops_no_other_and_a_crash_is_tried_once_more(run, launcher, tmp_path):
    one = launcher()
    runs = {seed: run(seed) for seed in (0, 1, 2, 3, 4, 5)}
    one.start(list(runs.values()))
    states = finish(one)
    assert {seed: states[config.run_id] for seed, config in runs.items()} == {
        0: "done", 1: "failed", 2: "done", 3: "failed", 4: "failed", 5: "done",
    }  # fmt: skip
    attempts = [call["seed"] for call in calls(tmp_path)]
    assert [attempts.count(seed) for seed in range(6)] == [1, 2, 2, 2, 1, 4]
    assert "it crashed" in (RunDirectory.of(str(tmp_path), runs[1].run_id).path / "log.txt").read_text()


def test_no_more_runs_at_a_time_than_slots_and_each_has_its_gpus(run, launcher, tmp_path):
    one = launcher(slots=("0,1", "2,3"))
    one.start([run(seed) for seed in (7, 8, 9, 10)])
    states = finish(one, lambda states: list(states.values()).count("done") == 3)
    assert list(states.values()).count("running") == 1
    by_seed = {call["seed"]: call["gpus"] for call in calls(tmp_path)}
    assert by_seed == {7: "0,1", 8: "2,3", 9: "2,3", 10: "2,3"}


def test_stopping_ends_every_run_even_one_that_does_not_listen(run, launcher, tmp_path):
    one = launcher()
    one.start([run(6), run(7), run(8)])
    finish(one, lambda _: (tmp_path / "calls.jsonl").exists() and len(calls(tmp_path)) == 2)
    one.stop()
    assert not any(alive(call["pid"]) for call in calls(tmp_path))
    assert one.poll()[run(8).run_id] in ("waiting", "running")


COORDINATOR = """
import sys, time
from conftest import ROOT
from launch import fakes
from xceptlab.launch import local
from xceptlab.loading import load_run
if __name__ == "__main__":
    one = local.Local(fakes.record, [""])
    one._context.set_forkserver_preload([])
    one.start([load_run(["--seed=7", f"--runtime.outputs={sys.argv[1]}"])])
    one.poll()
    time.sleep(600)
"""


def test_runs_die_with_a_coordinator_that_is_killed(tmp_path):
    (tmp_path / "coordinator.py").write_text(COORDINATOR)
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests")}
    coordinator = subprocess.Popen([sys.executable, tmp_path / "coordinator.py", tmp_path], env=environment)
    deadline = time.monotonic() + 60
    while not (tmp_path / "calls.jsonl").exists() or not calls(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    coordinator.kill()
    coordinator.wait()
    (call,) = calls(tmp_path)
    while alive(call["pid"]):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_slots_are_shared_out(run, monkeypatch):
    cores = len(os.sched_getaffinity(0))
    assert slots(run(0, "--runtime.accelerator=cpu"), None) == [""] * cores
    assert slots(run(0, "--runtime.accelerator=cpu", f"--train.threads={cores}"), None) == [""]
    assert slots(run(0, "--runtime.accelerator=cpu"), 3) == [""] * 3
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,5")
    assert slots(run(0), None) == ["0", "1", "2", "3", "5"]
    assert slots(run(0, "--runtime.devices=2"), None) == ["0,1", "2,3"]
    assert slots(run(0), 7) == ["0", "1", "2", "3", "5", "0", "1"]
    with pytest.raises(ValueError, match=r"runtime.devices: 8 GPUs a run are asked for, 5 are there"):
        slots(run(0, "--runtime.devices=8"), None)
