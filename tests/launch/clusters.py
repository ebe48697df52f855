"""Where the tests of launchers start runs: a test cluster of SLURM, and one of Ray."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from conftest import ROOT

SLURM = ("--launcher.name=slurm", "--launcher.partition=low", "--runtime.accelerator=cpu")
RAY = ("--launcher.name=ray", "--runtime.accelerator=cpu")

needs_slurm = pytest.mark.skipif(
    "SLURM_CONF" not in os.environ or not shutil.which("sbatch"),
    reason="no test cluster of SLURM; see .ci/slurm",
)


@contextmanager
def slurm_alone() -> Iterator[None]:
    """Use the test cluster for one test at a time, in whatever process."""
    cluster = os.open(os.environ["SLURM_CONF"], os.O_RDONLY)
    fcntl.flock(cluster, fcntl.LOCK_EX)
    with _code_of_this_checkout():
        yield
    os.close(cluster)


@contextmanager
def ray_cluster(*, head_cpus: int, nodes: int) -> Iterator[Any]:
    """Start a cluster of Ray on this machine, whose head has room for so many runs and each of its
    other nodes for one.
    """
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    from ray.cluster_utils import Cluster

    with _code_of_this_checkout() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        head = {"num_cpus": head_cpus, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        for _ in range(nodes):
            cluster.add_node(num_cpus=1)
        yield cluster
        ray.shutdown()
        cluster.shutdown()


@contextmanager
def _code_of_this_checkout() -> Iterator[pytest.MonkeyPatch]:
    """Let processes that others start import the package, and what the tests launch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{ROOT / 'src'}{os.pathsep}{ROOT / 'tests'}")
        yield patch
