"""What a record says of where a run was made: the device and its arithmetic, the versions of
packages, and the revision of this code.
"""

import functools
import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

import xceptlab


def device_name(device: torch.device) -> str:
    """Return the name of a device's model, such as ``NVIDIA H100 80GB HBM3`` or a CPU's. Where it
    is not known, this is the kind of the device and of the machine, such as ``mps (arm64)``.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    if device.type == "cpu" and cpuinfo.exists():
        for line in cpuinfo.read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return f"{device.type} ({platform.machine()})"


def arithmetic(device: torch.device) -> str:
    """Return what, besides a device's model, determines how sums are ordered and rounded on it.

    On an NVIDIA GPU these are the compute capability and the versions of CUDA and cuDNN, on a CPU
    the instruction set that torch uses; empty for other devices.
    """
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        cudnn = torch.backends.cudnn.version()
        return f"compute capability {major}.{minor}, CUDA {torch.version.cuda}, cuDNN {cudnn}"
    if device.type == "cpu":
        return torch.backends.cpu.get_cpu_capability()
    return ""


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that take part in computing, by name."""
    found = {
        "xceptlab": xceptlab.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }
    for name in (
        "torchvision",
        "timm",
        "pytorch-lightning",
        "torchmetrics",
        "numpy",
        "pillow",
        "scikit-learn",
    ):
        found[name] = importlib.metadata.version(name)
    return found


@functools.cache
def git_state() -> dict[str, Any]:
    """Return as ``revision`` the commit of this code's git checkout, and as ``dirty`` whether
    tracked files differ from it; empty where no checkout tracks the code, or there is no git.

    Later calls in a process return what the first one did.
    """
    here = Path(__file__)

    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(here.parent), *arguments]
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", check=True
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)
        return {
            "revision": git("rev-parse", "HEAD"),
            "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.CalledProcessError):
        return {}
