"""What every launcher promises: on this machine, on SLURM and on Ray."""

import time
from contextlib import ExitStack

import pytest

from launch import fakes
from launch.clusters import RAY, SLURM, needs_slurm, ray_cluster, slurm_alone
from launch.fakes import alive, calls, finish
from xceptlab.config.loading import load_run
from xceptlab.launch.local import Local
from xceptlab.launch.study import make_launcher
from xceptlab.runs.directory import RunDirectory


@pytest.fixture(scope="module", params=["local", pytest.param("slurm", marks=needs_slurm), "ray"])
def options(request):
    """The options that choose a launcher whose cluster is there."""
    if request.param == "slurm":
        with slurm_alone():
            yield SLURM
    elif request.param == "ray":
        with ray_cluster(head_cpus=2, nodes=0) as cluster:
            yield *RAY, f"--launcher.address={cluster.address}"
    else:
        yield ("--runtime.accelerator=cpu",)


@pytest.fixture
def launcher(options):
    with ExitStack() as stack:

        def make():
            one = make_launcher(load_run(options), None, fakes.record)
            if isinstance(one, Local):
                one._context.set_forkserver_preload([])  # the fakes need no torch
            stack.callback(one.stop)
            return one

        yield make


@pytest.fixture
def run(options, tmp_path):
    return lambda seed: load_run([*options, f"--seed={seed}", f"--runtime.outputs={tmp_path}"])


def directory_of(run):
    directory = RunDirectory.of(run.runtime.outputs, run.run_id)
    directory.create()
    return directory


def attempts(outputs):
    """How often each run was started, by its seed."""
    seeds = [call["seed"] for call in calls(outputs)]
    return {seed: seeds.count(seed) for seed in seeds}


def test_one_runs_failure_stops_no_other_and_a_crash_is_tried_once_more(run, launcher, tmp_path):
    """Seed 3 leaves exit code 0 and no record; the record of seed 8 is there before."""
    runs = {seed: run(seed) for seed in (0, 1, 2, 3, 4, 8)}
    directories = {seed: directory_of(config) for seed, config in runs.items()}
    fakes.write_record(runs[8])
    one = launcher()
    one.accept(list(runs.values()))
    states = finish(one)
    assert {seed: states[config.run_id] for seed, config in runs.items()} == {
        0: "done", 1: "failed", 2: "done", 3: "failed", 4: "failed", 8: "done",
    }  # fmt: skip
    assert attempts(tmp_path) == {0: 1, 1: 2, 2: 2, 3: 2, 4: 1}
    reasons = {seed: directory.failure() for seed, directory in directories.items()}
    assert {seed for seed, reason in reasons.items() if reason} == {1, 3, 4}
    assert reasons[1] == "RuntimeError: it crashed"
    assert "Traceback" in (directories[1].path / "log.txt").read_text()


def test_a_stopped_run_ends_and_the_next_launcher_continues_it_but_no_finished_one(
    run, launcher, tmp_path, monkeypatch
):
    # On a busy machine a run may take longer to hear of it; it is not to be ended by force here.
    for module in ("local", "ray"):
        monkeypatch.setattr(f"xceptlab.launch.{module}.CHECKPOINT_SECONDS", 300.0)
    finished, stopped = run(0), run(9)
    directory = directory_of(stopped)
    one = launcher()
    one.accept([finished, stopped])
    finish(
        one,
        lambda states: states[finished.run_id] == "done" and (directory.path / "waits").exists(),
    )
    one.stop()
    assert (directory.path / "asked to stop").exists()
    pid = int((directory.path / "waits").read_text())
    deadline = time.monotonic() + 300
    while alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert directory.record() is None
    assert directory.failure() == ""
    another = launcher()
    another.accept([finished, stopped])
    assert set(finish(another).values()) == {"done"}
    assert attempts(tmp_path) == {0: 1, 9: 2}
