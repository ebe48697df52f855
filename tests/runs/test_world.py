"""Which of a run's processes this one is, whatever launchers and schedulers have left in the
environment.
"""

import json
import os
import re
import subprocess
import sys
from itertools import pairwise

import pytest

from conftest import ROOT, TINY
from xceptlab import signals
from xceptlab.cli import main
from xceptlab.config.loading import load_run
from xceptlab.errors import INTERRUPTED
from xceptlab.runs import world
from xceptlab.runs.directory import RunDirectory
from xceptlab.runs.world import VARIABLES, World
from xceptlab.training.train import train

ONE_OF_SEVERAL_TASKS = {
    "SLURM_JOB_ID": "7", "SLURM_PROCID": "3", "SLURM_LOCALID": "3", "SLURM_NODEID": "0", "SLURM_NTASKS": "4",
    "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "1",
}  # fmt: skip
INTERACTIVE = {
    "SLURM_JOB_NAME": "zsh",
    "SLURM_JOB_ID": "7",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
}
TERMINAL = INTERACTIVE | {
    "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1", "SLURM_PTY_PORT": "40000",
}  # fmt: skip
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none", "RANK": "1", "LOCAL_RANK": "1", "GROUP_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500",
}  # fmt: skip
STRAY = [
    {"RANK": "1"},
    {"LOCAL_RANK": "1"},
    {"RANK": ""},
    {"LOCAL_RANK": "none", "WORLD_SIZE": "many"},
    {"JSM_NAMESPACE_RANK": "2"},
    {"TORCHELASTIC_RUN_ID": "none", "LOCAL_RANK": "1"},
    {
        "RANK": "3",
        "LOCAL_RANK": "3",
        "WORLD_SIZE": "4",
        "MASTER_ADDR": "10.0.0.1",
        "MASTER_PORT": "1",
    },
    ONE_OF_SEVERAL_TASKS,
    ONE_OF_SEVERAL_TASKS | {"RANK": "3"},
    INTERACTIVE | {"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "1"},
    TERMINAL,
]


@pytest.fixture
def joined(monkeypatch):
    """``joined(variables, devices, num_nodes)``: the place of a process with these variables."""

    def joined(variables, devices=1, num_nodes=1):
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return World.join(
            load_run([f"--runtime.devices={devices}", f"--runtime.num_nodes={num_nodes}"]).runtime
        )

    return joined


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("variables", STRAY, ids=str)
def test_a_process_that_nothing_started_for_the_run_is_its_first_and_forgets_what_others_were_told(
    joined, variables, devices
):
    place = joined(variables, devices)
    assert place == World(size=devices, other_tasks=place.other_tasks)
    assert not set(VARIABLES) & set(os.environ)
    assert set(variables) - set(VARIABLES) <= set(os.environ)


def test_a_process_of_torchrun_and_a_task_of_srun_know_their_place(joined):
    assert joined(TORCHRUN, 2) == World(starter="torchrun", size=2, rank=1, local_rank=1)
    far = TORCHRUN | {"RANK": "3", "GROUP_RANK": "1", "WORLD_SIZE": "4"}
    assert joined(far, 2, 2) == World(starter="torchrun", size=4, rank=3, local_rank=1, node_rank=1)
    assert joined(ONE_OF_SEVERAL_TASKS, 4) == World(starter="srun", size=4, rank=3, local_rank=3)
    cyclic = ONE_OF_SEVERAL_TASKS | {
        "SLURM_PROCID": "1",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "1",
        "SLURM_STEP_NUM_NODES": "2",
    }
    assert joined(cyclic, 2, 2) == World(starter="srun", size=4, rank=1, local_rank=0, node_rank=1)


def test_what_the_first_process_has_started_knows_its_place(joined, monkeypatch):
    monkeypatch.setenv(signals.PARENT, str(signals._PARENT_AT_START))
    assert joined(ONE_OF_SEVERAL_TASKS | {"LOCAL_RANK": "1"}, 2) == World(
        starter="first process", size=2, rank=1, local_rank=1
    )
    assert joined({}, 2) == World(size=2)  # of a coordinator, which has started the first process


@pytest.mark.parametrize(
    ("variables", "devices", "num_nodes", "message"),
    [
        ({}, 1, 1, "torchrun started 2 processes and runtime.devices is 1; give --runtime.devices 2"),
        ({"WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}, 2, 1, "torchrun started 1 process and runtime.devices is 2; give --.* 1$"),
        ({}, 4, 1, "torchrun started 2 processes and runtime.devices is 4; give --runtime.devices 2"),
        ({}, 2, 2, "torchrun started 2 processes and runtime.num_nodes is 2; give --runtime.num_nodes 1"),
        ({"WORLD_SIZE": "4"}, 2, 1, "started 4 processes on 2 machines and runtime.num_nodes is 1; give --runtime.num_nodes 2"),
        (
            {"WORLD_SIZE": "4"}, 1, 1,
            "runtime.devices is 1 and runtime.num_nodes is 1; give --runtime.devices 2 --runtime.num_nodes 2",
        ),
    ],
)  # fmt: skip
def test_a_run_that_is_not_configured_for_what_torchrun_started_is_told_what_to_give(
    joined, variables, devices, num_nodes, message
):
    with pytest.raises(ValueError, match=message):
        joined(TORCHRUN | {"RANK": "0", "LOCAL_RANK": "0"} | variables, devices, num_nodes)


@pytest.mark.parametrize("variables", [{}, INTERACTIVE, ONE_OF_SEVERAL_TASKS], ids=str)
def test_a_run_on_several_machines_that_nothing_started_on_each_is_told_what_would(
    joined, variables
):
    with pytest.raises(
        ValueError,
        match=r"runtime.num_nodes: 3 is not allowed here; .* started by torchrun, or by srun",
    ):
        joined(variables, 1, 3)


@pytest.mark.parametrize(
    ("variables", "devices", "said"),
    [
        (ONE_OF_SEVERAL_TASKS, 1, "; srun started 4 tasks and the run needs 1 process "),
        (ONE_OF_SEVERAL_TASKS, 2, "; srun started 4 tasks and the run needs 2 processes "),
        (ONE_OF_SEVERAL_TASKS, 4, ""),
        (ONE_OF_SEVERAL_TASKS | {"SLURM_STEP_NUM_TASKS": "1"}, 1, ""),
        (TERMINAL, 1, ""),
        (INTERACTIVE, 1, ""),
        ({}, 1, ""),
    ],
)
def test_a_run_that_is_busy_says_that_srun_started_another_number_of_tasks(
    joined, tmp_path, monkeypatch, variables, devices, said
):
    why = joined(variables, devices).why_busy
    assert why.startswith(said)
    assert bool(why) == bool(said)


def test_the_line_on_a_busy_run_has_it(tmp_path, monkeypatch, capsys):
    for name, value in ONE_OF_SEVERAL_TASKS.items():
        monkeypatch.setenv(name, value)
    arguments = [*TINY, "--runtime.outputs", str(tmp_path), "--runtime.wandb", "disabled"]
    directory = RunDirectory.of(str(tmp_path), load_run(arguments).run_id)
    directory.create()
    with directory.locked():
        assert main(["train", *arguments]) == INTERRUPTED
    busy = r"another process is training this run \(.*\); srun started 4 tasks and the run needs 1 process"
    assert re.search(busy, capsys.readouterr().err)


def test_tasks_of_srun_on_other_nodes_than_configured_are_told_so(joined):
    with pytest.raises(
        ValueError, match=r"srun started the tasks on 2 nodes and runtime.num_nodes is 1"
    ):
        joined(ONE_OF_SEVERAL_TASKS | {"SLURM_STEP_NUM_NODES": "2"}, 4, 1)


def test_only_the_first_process_of_a_machine_tells_at_once(joined, monkeypatch):
    slept = []
    monkeypatch.setattr(world.time, "sleep", slept.append)
    monkeypatch.setattr(world.signal, "signal", lambda *_: None)
    for rank, waits in (("0", []), ("1", [world.EXPLANATION_SECONDS])):
        with pytest.raises(ValueError, match="torchrun started 2"):
            joined(TORCHRUN | {"LOCAL_RANK": rank})
        assert slept == waits


# ---- in processes of their own: the libraries read the environment when they are imported --------


def trained(outputs):
    """The only run's log and record."""
    (folder,) = (outputs / "runs").iterdir()
    log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return log, json.loads((folder / "record.json").read_text())


# a library that still saw any of them would take itself for another than the first process
@pytest.mark.parametrize(
    "variables",
    [
        {"RANK": "", "LOCAL_RANK": "1", "JSM_NAMESPACE_RANK": "2"},
        ONE_OF_SEVERAL_TASKS | {"RANK": "1", "JSM_NAMESPACE_RANK": "2"},
    ],
    ids=["empty", "several"],
)
def test_a_stray_rank_silences_no_run(fresh_xceptlab, tmp_path, variables):
    environment = os.environ | variables
    done = fresh_xceptlab(
        "train",
        *TINY,
        f"--runtime.outputs={tmp_path}",
        "--runtime.tensorboard=true",
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    log, record = trained(tmp_path)
    assert [line["step"] for line in log if "train/loss" in line] == list(range(1, 11))
    assert record["seconds"] > 0
    assert record["images_per_second"] > 0
    assert f"{record['run_id']}: val/top1" in done.stdout
    assert list(tmp_path.glob("runs/*/tensorboard/*"))


@pytest.mark.parametrize("rank", [0, 1])
def test_of_the_processes_of_an_evaluation_only_the_first_one_prints(
    tiny, monkeypatch, capsys, rank
):
    config = tiny()
    train(config, progress=False)
    run = RunDirectory.of(config.runtime.outputs, config.run_id).path
    monkeypatch.setattr("xceptlab.training.train.evaluate", lambda *arguments: {"test/top1": 90.0})
    for name, value in (TORCHRUN | {"RANK": str(rank), "LOCAL_RANK": str(rank)}).items():
        monkeypatch.setenv(name, value)
    capsys.readouterr()
    assert (
        main(["evaluate", str(run), "--runtime.devices=2", "--data.size=16", "--train.lr=3"]) == 0
    )
    said = capsys.readouterr()
    if rank == 0:
        assert said.out == "test/top1 90\n"
        assert said.err.splitlines() == [
            "Warning: data.size: evaluated with 16, the run was trained with 8",
            "Warning: --train.lr: changes nothing in an evaluation",
        ]
    else:
        assert (said.out, said.err) == ("", "")


def test_a_stray_rank_does_not_silence_evaluate(tiny, fresh_xceptlab):
    config = tiny()
    train(config, progress=False)
    run = RunDirectory.of(config.runtime.outputs, config.run_id).path
    done = fresh_xceptlab(
        "evaluate", str(run), env=os.environ | ONE_OF_SEVERAL_TASKS | {"RANK": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        "test/top1",
        "test/top5",
        "test/loss",
    ]


def test_a_run_on_two_devices_starts_its_own_processes_and_takes_a_free_port(
    fresh_xceptlab, tmp_path
):
    # a taken port
    stray = {
        "RANK": "1",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "10.0.0.1",
        "MASTER_PORT": "1",
    }
    stray |= TERMINAL | {"SLURM_NTASKS_PER_NODE": "1"}
    options = [f"--runtime.outputs={tmp_path}", "--runtime.devices=2"]
    done = fresh_xceptlab("train", *TINY, *options, env=os.environ | stray)
    assert done.returncode == 0, done.stderr
    log, record = trained(tmp_path)
    assert record["world_size"] == 2
    assert len([line for line in log if "train/loss" in line]) == 10


def test_a_study_and_its_runs_know_nothing_of_stray_ranks(fresh_xceptlab, tmp_path):
    layers = [argument for flag, argument in pairwise(TINY) if flag == "-c"]
    study = tmp_path / "small.yaml"
    study.write_text(
        f"question: Is it?\nbase: {json.dumps(layers)}\narms: {{one: {{}}, two: {{model.residual: none}}}}\nseeds: [0]\n"
    )
    options = [argument for argument in TINY if argument.startswith("--")]
    stray = {"RANK": "none", "LOCAL_RANK": "1"} | ONE_OF_SEVERAL_TASKS
    done = fresh_xceptlab(
        "study",
        str(study),
        *options,
        f"--runtime.outputs={tmp_path / 'outputs'}",
        env=os.environ | stray,
    )
    assert done.returncode == 0, done.stderr
    logs = list((tmp_path / "outputs").glob("runs/*/metrics.jsonl"))
    assert [log.read_text().count("train/loss") for log in logs] == [10, 10]


def test_torchrun_with_more_processes_than_devices_ends_in_one_line_before_anything_is_written(
    tmp_path,
):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [
        *torchrun,
        "-m",
        "xceptlab",
        "train",
        *TINY,
        f"--runtime.outputs={tmp_path / 'outputs'}",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    ours = [line for line in done.stderr.splitlines() if line.startswith("xceptlab: ")]
    assert ours == [
        "xceptlab: torchrun started 2 processes and runtime.devices is 1; give --runtime.devices 2"
    ]
    # of the process that said it; the other one may have been ended meanwhile
    assert "exitcode  : 2 (pid: " in done.stderr
    assert not (tmp_path / "outputs").exists()
