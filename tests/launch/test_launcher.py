"""What is the same for all launchers: which one a configuration asks for, and what it refuses
before anything starts.
"""

import shutil

import pytest

from launch import fakes
from xceptlab.config.loading import load_run
from xceptlab.launch import ray, slurm
from xceptlab.launch.launcher import check_gpus
from xceptlab.launch.local import Local
from xceptlab.launch.study import make_launcher


def make(*overrides):
    return make_launcher(load_run(overrides), None, fakes.record)


def test_a_configuration_names_its_launcher():
    assert isinstance(make(), Local)


def test_what_a_launcher_needs_is_said_in_one_line(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "which", lambda command: None)
        with pytest.raises(ValueError, match=r"there is no command sbatch here|needs submitit"):
            make("--launcher.name=slurm")
    for module, name in ((slurm, "slurm"), (ray, "ray")):
        monkeypatch.setattr(module, "RequirementCache", lambda requirement: False)
        with pytest.raises(
            ValueError, match=rf"not installed \(pip install 'xceptlab\[{name}\]'\)"
        ):
            make(f"--launcher.name={name}")


@pytest.mark.parametrize(
    ("accelerator", "devices", "gpus", "allowed"),
    [
        ("cpu", 1, 0, ""),
        ("cpu", 2, 2, "0"),
        ("gpu", 2, 2, ""),
        ("gpu", 2, 0, "2"),
        ("auto", 2, 1, "0 or 2"),
        ("auto", 1, 0, ""),
    ],
)
def test_a_cluster_is_asked_for_the_gpus_that_a_run_uses(accelerator, devices, gpus, allowed):
    config = load_run(
        [
            f"--runtime.accelerator={accelerator}",
            f"--runtime.devices={devices}",
            f"--launcher.gpus={gpus}",
        ]
    )
    if not allowed:
        check_gpus(config)
        return
    with pytest.raises(
        ValueError, match=rf"launcher.gpus: {gpus} is not allowed; it must be {allowed} with"
    ):
        check_gpus(config)
