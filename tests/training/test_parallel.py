"""N processes compute what one does."""

import json
import subprocess
import sys

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from conftest import ROOT, TINY
from xceptlab.errors import Refused
from xceptlab.runs.directory import RunDirectory
from xceptlab.training.parallel import GlobalBatchNormOnCPU, SyncBatchNormPlugin
from xceptlab.training.train import train


class System(pl.LightningModule):
    def __init__(self, network):
        super().__init__()
        self.network = network


def test_a_network_is_after_training_what_it_was_activations_included():
    timm = pytest.importorskip("timm")
    system = System(nn.Sequential(nn.BatchNorm2d(3), timm.layers.BatchNormAct2d(3))).eval()
    types, state = [type(module) for module in system.modules()], list(system.state_dict())
    images = torch.randn(2, 3, 4, 4)
    before = system.network(images)
    sync = SyncBatchNormPlugin()
    assert sync.apply(system) is system
    assert [isinstance(module, GlobalBatchNormOnCPU) for module in system.network] == [True, True]
    assert list(system.state_dict()) == state
    assert torch.equal(system.network(images), before)
    assert (before >= 0).all()  # timm's ends in a ReLU
    sync.revert(system)
    assert [type(module) for module in system.modules()] == types


class Doubled(nn.BatchNorm2d):
    def forward(self, input):
        return 2 * super().forward(input)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.BatchNorm3d, Doubled])
def test_a_batch_norm_that_would_see_the_images_of_one_process_is_refused(norm):
    with pytest.raises(Refused, match=f"{norm.__name__} would take its statistics over each one's"):
        SyncBatchNormPlugin().apply(System(nn.Sequential(norm(3))))


def test_a_batch_norm_without_running_statistics_is_refused():
    with pytest.raises(
        Refused, match="without running statistics would be evaluated by each one's"
    ):
        SyncBatchNormPlugin().apply(System(nn.BatchNorm2d(3, track_running_stats=False)))


@pytest.fixture
def group_of_one(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"momentum": None}, {"eps": 0.1}])
def test_every_option_of_batch_norm_computes_over_processes_what_it_does_in_one(
    options, group_of_one
):
    alone = nn.BatchNorm2d(3, **options).double()
    system = System(nn.BatchNorm2d(3, **options).double())
    SyncBatchNormPlugin().apply(system)
    for _ in range(3):
        images = torch.randn(4, 3, 5, 5, dtype=torch.float64)
        torch.testing.assert_close(system.network(images), alone(images))
    assert system.network.state_dict().keys() == alone.state_dict().keys()
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(system.network.state_dict()[name], value)


def test_torchrun_with_2_processes_equals_one_in_64_bits(tiny, tmp_path):
    """25 steps with BatchNorm; the processes have different numbers of evaluation batches."""
    science = (
        "--model.middle_blocks=0",
        "--train.precision=64-true",
        "--train.epochs=5",
        "--train.lr=0.01",
        "--train.ema=0.9",
        "--data.test_images=129",
    )
    config = tiny(*science)
    alone = train(config, progress=False)
    outputs = f"--runtime.outputs={tmp_path / 'together'}"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [
        *torchrun,
        "-m",
        "xceptlab",
        "train",
        *TINY,
        *science,
        "--runtime.devices=2",
        outputs,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    together = RunDirectory.of(str(tmp_path / "together"), config.run_id)
    record = json.loads((together.path / "record.json").read_text())
    assert record["world_size"] == 2
    for name, value in alone.metrics.items():
        assert record["metrics"][name] == pytest.approx(value, rel=1e-6 if "loss" in name else 0)
    logs = [
        directory.log()
        for directory in (RunDirectory.of(config.runtime.outputs, config.run_id), together)
    ]
    losses = [[line["train/loss"] for line in log if "train/loss" in line] for log in logs]
    assert len(losses[0]) == 25
    assert losses[1] == pytest.approx(losses[0], rel=1e-12)
