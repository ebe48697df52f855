"""The Ray launcher on a real cluster of two nodes, which Ray starts on this machine."""

import time
from pathlib import Path

import pytest

from launch import fakes
from launch.clusters import RAY, ray_cluster
from launch.fakes import finish
from xceptlab import cli
from xceptlab.config.loading import load_run
from xceptlab.launch.study import make_launcher
from xceptlab.runs.directory import RunDirectory
from xceptlab.runs.leases import read_leases
from xceptlab.training.train import train


@pytest.fixture
def cluster():
    """A head that runs nothing, and two nodes with room for one run each."""
    with ray_cluster(head_cpus=0, nodes=2) as one:
        yield one


def launcher(cluster, main):
    return make_launcher(load_run([*RAY, f"--launcher.address={cluster.address}"]), None, main)


def test_a_lost_nodes_run_is_retried_elsewhere_to_the_same_bits(cluster, tiny, tmp_path, capfd):
    science = ("--train.epochs=30", "--model.dropout=0.2")
    config, undisturbed = (
        tiny(*RAY, *science),
        tiny(*science, f"--runtime.outputs={tmp_path / 'undisturbed'}"),
    )
    directory = RunDirectory.of(config.runtime.outputs, config.run_id)
    one = launcher(cluster, fakes.slowly)
    one.accept([config])
    finish(one, lambda _: any(line["step"] >= 7 for line in directory.log()))
    (tmp_path / "outputs" / "go").touch()
    (lease,) = read_leases(directory.path).values()
    raylet = int(Path(f"/proc/{lease.holder.pid}/stat").read_text().rpartition(")")[2].split()[1])
    (node,) = [
        node
        for node in cluster.worker_nodes
        if node.all_processes["raylet"][0].process.pid == raylet
    ]
    cluster.remove_node(node, allow_graceful=False)
    assert finish(one)[config.run_id] == "done"
    assert one.jobs[config.run_id].crashes == 1  # of the 5 that lost nodes may cause
    assert (directory.path / "log.txt").read_text().count("continues from") == 1
    train(undisturbed, progress=False)
    weights = [
        (RunDirectory.of(c.runtime.outputs, c.run_id).path / "model.safetensors").read_bytes()
        for c in (config, undisturbed)
    ]
    assert weights[0] == weights[1]

    one = launcher(cluster, fakes.record)
    one.check(load_run([*RAY, "--runtime.workers=99"]))
    assert (
        "a run needs {'CPU': 100, 'GPU': 0, 'memory': 0}, and no node of the Ray cluster has that"
        in capfd.readouterr().err
    )
    # A run that does not listen to a signal is ended by force.
    one.accept([load_run([*RAY, "--seed=7", f"--runtime.outputs={tmp_path}"])])
    finish(one, lambda _: [call["seed"] for call in fakes.calls(tmp_path)].count(7) == 1)
    one.stop()
    pid = fakes.calls(tmp_path)[-1]["pid"]
    deadline = time.monotonic() + 300
    while fakes.alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_no_cluster_is_one_line(monkeypatch):
    pytest.importorskip("ray", reason="Ray is not installed")
    monkeypatch.setenv("RAY_TMPDIR", "/nonexistent")
    with pytest.raises(ValueError, match=r"launcher\.address: there is no Ray cluster at 'auto'"):
        make_launcher(load_run(RAY), None, cli.main)
