"""The local launcher, with runs that crash, hang, lie and are killed."""

import os
import signal
import subprocess
import sys
import time

import pytest

from conftest import ROOT, TINY
from launch import fakes
from launch.fakes import alive, calls, finish
from xceptlab.config.loading import load_run
from xceptlab.launch import local
from xceptlab.launch.failures import describe_crash
from xceptlab.runs.directory import RunDirectory


@pytest.fixture
def run(tmp_path):
    return lambda seed, *overrides: load_run(
        [f"--seed={seed}", f"--runtime.outputs={tmp_path}", *overrides]
    )


@pytest.fixture
def launcher(monkeypatch):
    monkeypatch.setattr(local, "CHECKPOINT_SECONDS", 0.3)
    launchers = []

    def make(jobs=2):
        launchers.append(local.Local(fakes.record, jobs))
        launchers[-1]._context.set_forkserver_preload([])  # the fakes need no torch
        return launchers[-1]

    yield make
    for one in launchers:
        one.stop()


def test_an_interruption_is_no_crash_however_often_it_comes(run, launcher, tmp_path, monkeypatch):
    monkeypatch.setattr("xceptlab.launch.launcher.RETRY_SECONDS", 0.0)
    one = launcher()
    interrupted = run(5)  # three times
    one.accept([interrupted])
    assert finish(one)[interrupted.run_id] == "done"
    assert len(calls(tmp_path)) == 4


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGKILL"])
def test_a_native_crash_is_reported_as_one_and_what_to_try(run, launcher, name):
    one = launcher()
    crashes = run(100 + signal.Signals[name])
    one.accept([crashes])
    assert finish(one)[crashes.run_id] == "failed"
    reason = RunDirectory.of(crashes.runtime.outputs, crashes.run_id).failure()
    assert reason.startswith(f"ended by {name}")
    # where it was; nothing can tell that for SIGKILL
    assert ("in record (" in reason) == (name != "SIGKILL")
    assert ("out of memory, perhaps" in reason) == (name == "SIGKILL")


@pytest.mark.parametrize("code", [-1, -1000, 0, 1, 2, 75, 130, 143, -15])
def test_what_is_no_native_crash_is_not_called_one(code, tmp_path):
    assert describe_crash(code, tmp_path / "log.txt") == ""


def test_a_crash_counts_only_where_a_run_came_no_further(run, launcher, tmp_path):
    one = launcher()
    crashes = run(10)  # in its 1st, 2nd and 3rd epoch, and once more in its 3rd
    one.accept([crashes])
    assert finish(one)[crashes.run_id] == "failed"
    assert len(calls(tmp_path)) == 4


def test_no_more_runs_are_started_at_a_time_than_asked_for(run, launcher):
    one = launcher(jobs=2)
    one.accept([run(7), run(17), run(27)])
    assert sorted(one.poll().values()) == ["running", "running", "waiting"]


def test_each_run_has_its_own_gpus(run, launcher, tmp_path, monkeypatch):
    monkeypatch.setattr(local.Local, "gpus", ["0", "1", "2", "3", "5"])
    one = launcher(jobs=None)
    one.accept([run(seed) for seed in (7, 8, 17, 27, 37, 47)])
    finish(one, lambda states: list(states.values()).count("done") == 1)
    finish(one, lambda _: len(calls(tmp_path)) == 6)
    gpus = {call["seed"]: call["gpus"] for call in calls(tmp_path)}
    assert sorted(gpus[seed] for seed in (7, 17, 27, 37)) == sorted(
        {"0", "1", "2", "3", "5"} - {gpus[47]}
    )
    assert gpus[8] == gpus[47] == "1"  # what became free


def test_a_run_that_another_process_trains_is_left_to_it_and_taken_for_done_when_it_is(
    run, launcher, tmp_path
):
    one = launcher()
    theirs, ours = run(0), run(8)
    directory = RunDirectory.of(str(tmp_path), theirs.run_id)
    directory.create()
    one.accept([theirs, ours])
    with directory.locked():
        finish(one, lambda states: states[ours.run_id] == "done")
        assert one.poll()[theirs.run_id] == "waiting"
        fakes.write_record(theirs)
    finish(one)
    assert [call["seed"] for call in calls(tmp_path)] == [8]


def test_stopping_ends_every_run_even_one_that_does_not_listen(run, launcher, tmp_path):
    one = launcher()
    one.accept([run(6), run(7), run(8)])
    finish(one, lambda _: (tmp_path / "calls.jsonl").exists() and len(calls(tmp_path)) == 2)
    one.stop()
    assert not any(alive(call["pid"]) for call in calls(tmp_path))
    assert one.poll()[run(8).run_id] in ("waiting", "running")


def test_stopping_a_second_time_kills_at_once(run, launcher, tmp_path, monkeypatch):
    one = launcher()
    one.accept([run(6)])
    finish(one, lambda _: (tmp_path / "calls.jsonl").exists())
    monkeypatch.setattr(local, "CHECKPOINT_SECONDS", 600)
    sleep, interruptions = time.sleep, iter([KeyboardInterrupt])

    def interrupted(seconds):
        for interruption in interruptions:
            raise interruption
        sleep(seconds)

    monkeypatch.setattr(local.time, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        one.stop()
    assert not any(alive(call["pid"]) for call in calls(tmp_path))


FRESH = """
import _thread, pathlib, sys, threading
from xceptlab.launch.child import execute
if sys.argv[2] == "train":
    threading.Timer(2, _thread.interrupt_main).start()
sys.exit(execute(None, sys.argv[2:], pathlib.Path(sys.argv[1]), fresh=True))
"""


def test_a_fresh_process_prints_to_the_log_too_and_its_exit_code_counts(tmp_path):
    assert subprocess.run([sys.executable, "-c", FRESH, tmp_path / "log", "stady"]).returncode == 2
    assert (
        (tmp_path / "log")
        .read_text()
        .startswith("xceptlab: argument COMMAND: invalid choice: 'stady'")
    )


def test_a_fresh_process_is_asked_to_stop_by_an_interrupt_that_is_no_signal_too(tmp_path):
    """As Ray's is."""
    argv = ["train", *TINY, "--train.epochs=100000", f"--runtime.outputs={tmp_path}"]
    code = subprocess.run(
        [sys.executable, "-c", FRESH, tmp_path / "log", *argv], timeout=300
    ).returncode
    assert code in (75, 128 + signal.SIGTERM)


COORDINATOR = """
import sys, time
from conftest import ROOT
from launch import fakes
from launch.fakes import calls, finish
from xceptlab.launch import local
from xceptlab.config.loading import load_run
if __name__ == "__main__":
    one = local.Local(fakes.record, 1)
    one._context.set_forkserver_preload([])
    one.accept([load_run(["--seed=7", f"--runtime.outputs={sys.argv[1]}"])])
    one.poll()
    time.sleep(600)
"""


def test_runs_die_with_a_coordinator_that_is_killed(tmp_path):
    (tmp_path / "coordinator.py").write_text(COORDINATOR)
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT / 'tests'}"}
    coordinator = subprocess.Popen(
        [sys.executable, tmp_path / "coordinator.py", tmp_path], env=environment
    )
    deadline = time.monotonic() + 300
    while not (tmp_path / "calls.jsonl").exists() or not calls(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    coordinator.kill()
    coordinator.wait()
    (call,) = calls(tmp_path)
    while alive(call["pid"]):
        assert time.monotonic() < deadline
        time.sleep(0.02)


NOTEBOOK = """
import os, sys
from launch import fakes
from xceptlab.launch import local
from xceptlab.config.loading import load_run
def study(seed):
    one = local.Local(fakes.record, 1)
    one._context.set_forkserver_preload([])
    one.accept([load_run([f"--seed={seed}", f"--runtime.outputs={sys.argv[1]}"])])
    fakes.finish(one)
os.environ |= {"WANDB_PROJECT": "first", "WANDB_MODE": "offline", "WANDB_NOTES": "both"}
study(0)
os.environ |= {"WANDB_PROJECT": "second", "WANDB_TAGS": "a,b"}
del os.environ["WANDB_MODE"]
study(8)
"""


def test_each_study_of_a_notebook_has_the_environment_of_when_it_starts_its_runs(tmp_path):
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("WANDB_")
    }
    environment["PYTHONPATH"] = f"{ROOT / 'src'}{os.pathsep}{ROOT / 'tests'}"
    subprocess.run(
        [sys.executable, "-c", NOTEBOOK, tmp_path], env=environment, check=True, timeout=300
    )
    assert [call["wandb"] for call in calls(tmp_path)] == [
        {"WANDB_PROJECT": "first", "WANDB_MODE": "offline", "WANDB_NOTES": "both"},
        {"WANDB_PROJECT": "second", "WANDB_TAGS": "a,b", "WANDB_NOTES": "both"},
    ]


@pytest.fixture
def room(run, monkeypatch):
    """How many units of the machine each of these runs gets, started in turn; None where it waits."""

    def room(overrides, jobs=None, gpus="0,1,2,3,5", cores=4):
        monkeypatch.setattr(local.Local, "gpus", gpus.split(",") if gpus else [])
        one = local.Local(fakes.record, jobs)
        one.cores = [f"core {i}" for i in range(cores)]
        got = []
        one.accept([run(seed, *own) for seed, own in enumerate(overrides)])
        for job in one.jobs.values():
            units = one.choose_devices(job.config)
            got.append(units)
            job.handle = local._Started(None, units) if units else None
        return got

    return room


@pytest.mark.parametrize(
    ("mask", "there", "gpus"),
    [
        (None, 2, ["0", "1"]),
        ("3,5", 2, ["3", "5"]),
        ("3,7", 1, ["3"]),  # torch looks no further than to the first that is not there
        ("GPU-8932f937", 1, ["GPU-8932f937"]),
        ("", 0, []),
        ("-1", 0, []),
        ("0", None, []),  # a mask on a machine without a driver
        (None, None, []),
    ],
)
def test_only_gpus_that_are_there_and_that_the_mask_lets_through_count(
    monkeypatch, tmp_path, mask, there, gpus
):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(local, "DRIVERS", [tmp_path / "none" if there is None else tmp_path])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there or 0)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if mask is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", mask)
    assert local.Local(fakes.record, None).gpus == gpus


def test_gpus_and_cores_are_shared_out_by_what_each_run_needs(room):
    cpu = "--runtime.accelerator=cpu"
    two, four = "--runtime.devices=2", "--train.threads=4"
    assert room([()] * 6) == [["0"], ["1"], ["2"], ["3"], ["5"], None]
    assert room([[two], (), [two], ()]) == [["0", "1"], ["2"], ["3", "5"], None]
    assert room([()] * 6, jobs=6) == [["0"], ["1"], ["2"], ["3"], ["5"], ["0"]]
    assert room([[cpu]] * 5, cores=4) == [["core 0"], ["core 1"], ["core 2"], ["core 3"], None]
    assert room([[cpu], [cpu, two], [cpu, two]], gpus="") == [
        ["core 0"],
        ["core 1", "core 2"],
        None,
    ]
    assert room([[cpu, four], [cpu]], cores=2) == [["core 0", "core 1"], None]
    assert room([[cpu, four]] * 2, cores=2, jobs=3) == [["core 0", "core 1"]] * 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--runtime.devices=8"], "runtime.devices: 8 GPUs a run are asked for, 5 are there"),
        (
            ["--runtime.num_nodes=2"],
            "runtime.num_nodes: 2 is not allowed; it must be 1 unless launcher.name is slurm",
        ),
    ],
)
def test_a_run_that_can_never_start_here_is_refused_whatever_its_place(
    run, monkeypatch, overrides, message
):
    monkeypatch.setattr(local.Local, "gpus", ["0", "1", "2", "3", "5"])
    with pytest.raises(ValueError, match=message):
        local.Local(fakes.record, None).accept([run(0), run(1, *overrides)])
