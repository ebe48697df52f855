"""What the tests share. Everything that a test needs it makes, but for the data sets that it looks
for beside the checkout.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis.configuration import set_hypothesis_home_dir

import processes
from processes import ROOT
from xceptlab.config.loading import load_run
from xceptlab.config.schema import RunConfig
from xceptlab.data import resolved

if TYPE_CHECKING:
    from torch import nn

# Read when torch is loaded, which is later. By default an OpenMP thread that waits for another one
# spins, which costs four times the processor time where several workers of pytest share the cores.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# The same examples in every run, so that a failure is there for whoever looks for it.
settings.register_profile(
    "xceptlab", derandomize=True, database=None, deadline=None, max_examples=50
)
settings.load_profile("xceptlab")

CIFAR10 = ROOT.parent / "shared" / "data" / "cifar10"
PHOTOGRAPHS = ROOT.parent / "shared" / "data" / "imagenet-sample"

TINY = [
    *("-c", str(ROOT / "configs/model/xception_tiny.yaml")),
    *("-c", str(ROOT / "configs/data/digits.yaml")),
    *("-c", str(ROOT / "configs/train/digits.yaml")),
    *(
        "--model.middle_blocks=1",
        "--data.train_images=300",
        "--data.test_images=101",
        "--data.size=8",
    ),
    *(
        "--train.epochs=2",
        "--runtime.log_every=1",
        "--runtime.wandb=disabled",
        "--runtime.accelerator=cpu",
    ),
]
"""A run of 10 steps: well under a second once torch is loaded."""


@pytest.fixture(scope="session", autouse=True)
def _own_cache() -> Iterator[None]:
    """Keep this process and those that it starts out of the user's cache folder; what they cache
    goes when they are done.
    """
    with (
        TemporaryDirectory(ignore_cleanup_errors=True) as cache,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("XDG_CACHE_HOME", cache)
        set_hypothesis_home_dir(cache)
        yield


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., RunConfig]:
    """``tiny("--train.lr=0.5", ...)``: a run of 10 steps that leaves its outputs in ``tmp_path /
    "outputs"``.
    """
    return lambda *overrides: resolved(
        load_run([*TINY, f"--runtime.outputs={tmp_path / 'outputs'}", *overrides])
    )


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Overrides of ``tiny`` for as many made photographs: sets in memory, as the digits, are read
    without loader workers.
    """
    from made import photographs

    root = photographs(tmp_path_factory.mktemp("made"), "abcdefghij", train=30, val=11)
    return "--data.name=folder", "--data.crop=resized", f"--data.root={root}"


def enliven(network: "nn.Module", size: int = 96) -> "nn.Module":
    """Random BatchNorm parameters with statistics near those of random images; returns the network
    in eval mode.

    With arbitrary statistics the signal dies on its way and the biases make the logits, which then
    agree in any two networks.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    momentum = {norm: norm.momentum for norm in norms}
    with torch.no_grad():
        for norm in norms:
            norm.weight.uniform_(0.8, 1.2, generator=generator)
            norm.bias.normal_(0, 0.1, generator=generator)
            norm.momentum = 1.0
        network.train()(torch.randn(4, 3, size, size, generator=generator))
        for norm in norms:
            norm.momentum = momentum[norm]
            norm.running_mean += (
                0.1
                * norm.running_var.sqrt()
                * torch.randn(norm.running_mean.shape, generator=generator)
            )
            norm.running_var *= 0.5 + torch.rand(norm.running_var.shape, generator=generator)
    return network.eval()


def listen_to_ctrl_c() -> None:
    """For ``preexec_fn``: tests that run in the background (a CI, nohup) and their children may be
    set to ignore it.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def xceptlab() -> Callable[..., subprocess.CompletedProcess[str]]:
    """``xceptlab("plan", "experiments/residual", env=...)``: in a process of its own, at the
    repository's root.
    """
    return lambda *arguments, env=None: processes.run(arguments, env)


@pytest.fixture
def fresh_xceptlab() -> Callable[..., subprocess.CompletedProcess[str]]:
    """As ``xceptlab``, in a fresh interpreter, which loads the libraries itself."""

    def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "xceptlab", *map(str, arguments)]
        return subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=300, **options
        )  # type: ignore[call-overload]

    return run
