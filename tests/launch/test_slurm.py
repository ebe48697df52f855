"""The SLURM launcher against a real SLURM, such as `.ci/slurm start DIR` starts; its node must see
this machine's files.
"""

import os
import shlex
import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from conftest import ROOT, TINY
from launch import fakes
from launch.clusters import SLURM, needs_slurm, slurm_alone
from launch.fakes import calls, finish
from xceptlab.config.loading import load_run
from xceptlab.launch import slurm
from xceptlab.launch.study import make_launcher
from xceptlab.runs.directory import RunDirectory
from xceptlab.training.train import train


@pytest.fixture
def run(tmp_path):
    return lambda seed, *overrides: load_run(
        [*SLURM, f"--seed={seed}", f"--runtime.outputs={tmp_path}", *overrides]
    )


@pytest.fixture
def launcher():
    launchers = []

    def make(main=fakes.record, jobs=None):
        config = load_run(SLURM)
        launchers.append(make_launcher(config, jobs, main))
        return launchers[-1]

    with slurm_alone():
        yield make
        for one in launchers:
            one.stop()


def scontrol(*arguments):
    return subprocess.run(
        ["scontrol", *arguments], check=True, capture_output=True, text=True
    ).stdout


def reaches(launcher, directory, step):
    """Wait for a step of the only run; returns the number of its job."""
    finish(launcher, lambda _: directory.log() and directory.log()[-1]["step"] >= step)
    return next(iter(launcher.jobs.values())).handle


def requeued(launcher, directory, number):
    """Wait until a job has gone back into the queue, and let it go on; returns the step that its
    run had reached.
    """
    finish(launcher, lambda _: "JobState=PENDING" in scontrol("show", "job", number))
    # Or it waits for two minutes. Not now: a node refuses a job that was requeued in the same
    # second ("credential revoked").
    scontrol("update", f"jobid={number}", "StartTime=now+3", "TimeLimit=1440")
    return directory.log()[-1]["step"]


def preempt():
    subprocess.run(["srun", "--partition=high", "--exclusive", "true"], check=True, timeout=120)


@pytest.mark.parametrize(("body", "code", "reason"), [
    ("print('xceptlab: the data are gone', file=sys.stderr)\n    return 2", 2, "the data are gone"),
    ("raise RuntimeError('it crashed')", 1, "RuntimeError: it crashed"),
    ("return 75", 75, ""),
])  # fmt: skip
def test_a_job_whose_coordinator_is_gone_notes_itself_why_it_failed(tmp_path, body, code, reason):
    script = (
        "import sys\nfrom pathlib import Path\nfrom xceptlab.launch.slurm import _task\n"
        f"def main(argv):\n    {body}\n_task(main, [], Path(sys.argv[1]))"
    )
    job = os.environ | {"SLURM_PROCID": "0", "SLURM_JOB_ID": "7"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "log.txt")], env=job, check=False
    )
    assert done.returncode == code
    assert RunDirectory(tmp_path).failure() == reason
    assert (tmp_path / "slurm_job").read_text() == f"7 {code}"


@pytest.mark.parametrize("ends", ["before its number is written", "later"])
@pytest.mark.parametrize("earlier", ["", "6_0", "6_0 1"])
def test_how_a_job_ends_is_known_however_early_it_ends(earlier, ends, run, tmp_path, monkeypatch):
    """An array of many jobs is submitted at once, and their numbers are written one by one."""
    submitit = pytest.importorskip("submitit")
    config = run(0)
    directory = RunDirectory.of(str(tmp_path), config.run_id)
    directory.create()
    outcome = directory.path / "slurm_job"
    if earlier:
        outcome.write_text(earlier)

    class Executor:
        def __init__(self, folder):
            self.update_parameters = lambda **parameters: None
            self.batch = nullcontext

        def submit(self, task, main, argv, log):
            if ends != "later":
                outcome.write_text("7_0 2")
            return SimpleNamespace(job_id="7_0")

    monkeypatch.setattr(submitit, "SlurmExecutor", Executor)
    monkeypatch.setattr(slurm, "_squeue", dict)
    monkeypatch.setattr(slurm.shutil, "which", lambda command: command)
    one = slurm.Slurm(fakes.record, None)
    one.accept([config])
    one.poll()
    if ends == "later":
        assert outcome.read_text() == "7_0"
        outcome.write_text("7_0 2")
    assert one.poll() == {config.run_id: "failed"}


@needs_slurm
def test_jobs_outlive_their_coordinator_are_found_by_the_next_and_end_when_that_is_stopped(
    run, launcher, tmp_path
):
    first, second = launcher(), launcher()
    configs = [run(7), run(17)]
    first.accept(configs)
    finish(first, lambda _: len(calls(tmp_path)) > 0)
    numbers = {job.handle for job in first.jobs.values()}
    first.jobs = {}  # it is gone
    second.accept(configs)
    second.poll()
    second.poll()
    assert {job.handle for job in second.jobs.values()} == numbers
    assert "running" in second.poll().values()
    second.stop()
    assert subprocess.run(["squeue", "--noheader"], capture_output=True, text=True).stdout == ""


@needs_slurm
def test_what_slurm_refuses_is_one_line(run, launcher, capfd):
    one = launcher()
    one.accept([run(0, "--launcher.partition=nowhere"), run(8, "--launcher.partition=nowhere")])
    with pytest.raises(
        ValueError, match=r"SLURM refuses the jobs: .*Invalid partition name"
    ) as error:
        one.poll()
    assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""


@needs_slurm
def test_of_jobs_that_slurm_refuses_half_are_submitted_and_the_others_later(
    run, launcher, monkeypatch, capfd
):
    monkeypatch.setattr("xceptlab.launch.slurm.RESUBMIT_SECONDS", 1.0)
    one = launcher()
    one.accept([run(seed) for seed in range(20, 27)])  # an array may have 6 jobs
    assert list(one.poll().values()).count("queued") == 3
    assert set(finish(one).values()) == {"done"}
    assert (
        capfd.readouterr().err.count("Invalid job array specification; tried again every 1 s") == 1
    )


@needs_slurm
def test_a_run_that_is_preempted_and_then_out_of_time_is_requeued_and_comes_to_the_same_bits(
    tiny, launcher, tmp_path
):
    science = ("--train.epochs=30", "--model.dropout=0.2", "--train.ema=0.9", "--runtime.workers=1")
    config, undisturbed = (
        tiny(*SLURM, *science),
        tiny(*science, f"--runtime.outputs={tmp_path / 'undisturbed'}"),
    )
    directory = RunDirectory.of(config.runtime.outputs, config.run_id)
    one = launcher(fakes.slowly)
    one.accept([config])
    number = reaches(one, directory, 3)
    preempt()
    step = requeued(one, directory, number)
    assert reaches(one, directory, step + 2) == number
    scontrol("update", f"jobid={number}", "TimeLimit=1")
    assert requeued(one, directory, number) < 150
    (tmp_path / "outputs" / "go").touch()
    finish(one)
    assert (directory.path / "slurm_job").read_text() == f"{number} 0"  # one job all the time
    assert (directory.path / "log.txt").read_text().count("continues from") == 2
    train(undisturbed, progress=False)
    undisturbed = RunDirectory.of(undisturbed.runtime.outputs, undisturbed.run_id)
    assert (directory.path / "model.safetensors").read_bytes() == (
        undisturbed.path / "model.safetensors"
    ).read_bytes()


@needs_slurm
def test_a_run_on_two_nodes_that_is_preempted_comes_to_the_bits_of_two_processes_on_one_machine(
    tiny, launcher, fresh_xceptlab, tmp_path, monkeypatch
):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")  # the test cluster's nodes are in no DNS
    science = ("--train.epochs=6", "--model.dropout=0.2", "--train.ema=0.9")
    config = tiny(*SLURM, *science, "--launcher.partition=both", "--runtime.num_nodes=2")
    directory = RunDirectory.of(config.runtime.outputs, config.run_id)
    one = launcher(fakes.slowly)
    one.accept([config])
    number = reaches(one, directory, 3)
    preempt()
    assert requeued(one, directory, number) < 30
    (tmp_path / "outputs" / "go").touch()
    finish(one)
    assert (directory.path / "slurm_job").read_text() == f"{number} 0"
    assert (directory.path / "log.txt").read_text().count("continues from") == 1
    record = directory.record()
    assert record.world_size == 2
    done = fresh_xceptlab(
        "train",
        *TINY,
        *science,
        "--runtime.devices=2",
        f"--runtime.outputs={tmp_path / 'undisturbed'}",
    )
    assert done.returncode == 0, done.stderr
    undisturbed = RunDirectory.of(str(tmp_path / "undisturbed"), config.run_id)
    assert record.metrics == undisturbed.record().metrics
    assert (directory.path / "model.safetensors").read_bytes() == (
        undisturbed.path / "model.safetensors"
    ).read_bytes()


@needs_slurm
def test_tasks_of_one_srun_train_a_seed_each_or_one_run_together(tmp_path):
    train = shlex.join([sys.executable, "-m", "xceptlab", "train", *TINY])
    for arguments in (
        f"--seed=$SLURM_PROCID --runtime.outputs={tmp_path}/each",
        f"--runtime.devices=2 --runtime.outputs={tmp_path}/one",
    ):
        task = ["sh", "-c", f"exec {train} {arguments}"]
        done = subprocess.run(
            ["srun", "--ntasks=2", *task], cwd=ROOT, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
    for outputs, processes, runs in ((tmp_path / "each", 1, 2), (tmp_path / "one", 2, 1)):
        folders = list(outputs.glob("runs/*"))
        assert len(folders) == runs
        for folder in folders:
            assert RunDirectory(folder).record().world_size == processes
            assert sum("train/loss" in line for line in RunDirectory(folder).log()) == 10
