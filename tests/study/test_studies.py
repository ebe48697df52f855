"""The main path, end to end: a study file, one command, a verdict."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

from conftest import CIFAR10, ROOT, listen_to_ctrl_c
from xceptlab.cli import main
from xceptlab.study.plan import expand

RUNTIME = ["--runtime.wandb=disabled", "--runtime.accelerator=cpu", "--runtime.log_every=1"]
SMALL = ["--model.middle_blocks=1", "--data.train_images=300", "--data.test_images=100", *RUNTIME]
TINY = [
    "--model.middle_blocks=1",
    "--data.train_images=64",
    "--data.test_images=20",
    "--train.epochs=1",
    *RUNTIME,
]


@pytest.fixture
def study(monkeypatch, capsys):
    """``study("experiments/order", ...)``: the command in this process, whose server the runs of
    all these studies share.
    """
    monkeypatch.chdir(ROOT)

    def run(*arguments):
        code = main(["study", *map(str, arguments)])
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    return run


def records(outputs):
    return {path: path.stat().st_mtime_ns for path in (outputs / "runs").glob("*/record.json")}


def test_a_study_is_interrupted_continued_and_then_only_judged(study, tmp_path):
    options = ["--seeds=3", "--data.size=8", "--train.epochs=15", f"--runtime.outputs={tmp_path}"]
    arguments = ["experiments/residual", *SMALL, *options]
    command = [sys.executable, "-m", "xceptlab", "study", *arguments]
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=ROOT, preexec_fn=listen_to_ctrl_c, **pipes)
    deadline = time.monotonic() + 300
    while len(records(tmp_path)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert errors.strip() == "xceptlab: interrupted; the same command continues"
    before = records(tmp_path)
    assert 2 <= len(before) < 6

    finished = study(*arguments)
    assert finished.returncode == 0, finished.stderr
    after = records(tmp_path)
    assert len(after) == 6
    assert before.items() <= after.items()  # nothing was trained twice
    assert "SUPPORTED  residual-helps" in finished.stdout
    (folder,) = (tmp_path / "studies").iterdir()
    assert {p.name for p in folder.iterdir()} == {
        "files.txt", "registered.yaml", "report.html", "report.md", "results.csv", "curves.svg", "differences.svg",
    }  # fmt: skip

    again = study(*arguments)
    assert again.returncode == 0
    assert records(tmp_path) == after
    assert again.stdout.startswith("Do residual connections help Xception?")
    assert again.stdout in finished.stdout


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_study_stopped_while_it_starts_signals_nobody_else(tmp_path, number, code):
    """In a process group with another process, as under make or a script."""
    script = f"""
import os, signal, subprocess, sys, time
heard = []
for n in (signal.SIGTERM, signal.SIGINT): signal.signal(n, lambda n, frame: heard.append(n))
run = subprocess.Popen([sys.executable, "-m", "xceptlab", "study", "experiments/residual", "--runtime.outputs={tmp_path}"],
                       stdout=subprocess.PIPE, text=True)
run.stdout.readline()
time.sleep(1.5)
run.send_signal({int(number)})
print(run.wait(200), heard)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        start_new_session=True,
    )
    assert done.stdout.strip() == f"{code} []", done.stderr
    assert "Traceback" not in done.stderr


def test_a_study_whose_data_is_missing_registers_nothing(study, tmp_path):
    missing = ("-c", "configs/data/cifar10.yaml", "--data.root=/nonexistent")
    done = study("experiments/residual", *missing, f"--runtime.outputs={tmp_path}")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["intermediate", "order", "continuum", "continuum_matched", "factorial"]
)
def test_shipped_studies_run_in_a_small_form(study, tmp_path, name):
    done = study(f"experiments/{name}", "--seeds=2", *TINY, f"--runtime.outputs={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "INCOMPLETE" not in done.stdout


def test_the_inception_study_runs_on_the_digits(study, tmp_path):
    digits = ("-c", "configs/data/digits.yaml", "-c", "configs/train/digits.yaml")
    done = study(
        *(
            "experiments/inception",
            "--seeds=2",
            *digits,
            *TINY,
            "--train.precision=32-true",
            "--train.batch_size=5",
        ),
        *(
            "--data.size=75",
            "--model.width=0.125",
            "--data.train_images=10",
            "--data.test_images=5",
            "--data.validation=0",
        ),
        *("--runtime.devices=1", "--runtime.workers=0", f"--runtime.outputs={tmp_path}"),
    )
    assert done.returncode == 0, done.stderr
    assert "INCOMPLETE" not in done.stdout
    found = [json.loads(path.read_text()) for path in records(tmp_path)]
    assert (
        sorted(record["science"]["model.timm"] for record in found)
        == [""] * 2 + ["inception_v3"] * 2
    )


@pytest.fixture
def photographs(tmp_path):
    """An ImageFolder tree of 24 + 8 images in 2 classes."""
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(0)
    for split, n in (("train", 12), ("val", 4)):
        for name in ("n01", "n02"):
            folder = tmp_path / "photographs" / split / name
            folder.mkdir(parents=True)
            for i in range(n):
                Image.fromarray(generator.integers(0, 256, (90, 80, 3), dtype=np.uint8)).save(
                    folder / f"{i}.JPEG"
                )
    return tmp_path / "photographs"


def test_the_imagenet_study_runs_in_a_tiny_form_on_two_processes(study, tmp_path, photographs):
    """Its recipe, narrow and short, on photographs that the test makes, with the launcher's path
    for several devices.
    """
    content = yaml.safe_load((ROOT / "experiments/imagenet_residual/study.yaml").read_text())
    content["base"] = [str(ROOT / base) for base in content["base"][:-1]]
    content["seeds"] = [0]
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(content))
    done = study(
        *(
            tmp_path / "tiny.yaml",
            "--jobs",
            "1",
            f"--data.root={photographs}",
            "--data.name=folder",
        ),
        *("--data.size=71", "--data.validation=0", "--model.width=0.05", "--model.middle_blocks=1"),
        *(
            "--train.epochs=1",
            "--train.batch_size=12",
            "--runtime.accelerator=cpu",
            "--runtime.devices=2",
            "--runtime.workers=0",
        ),
        *("--runtime.wandb=disabled", f"--runtime.outputs={tmp_path}"),
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(path.read_text()) for path in records(tmp_path)]
    assert [
        (record["world_size"], record["precision"], record["test_images"]) for record in found
    ] == [(2, "bf16-mixed", 8)] * 2
    assert "inconclusive" in done.stdout.lower()


@pytest.mark.skipif(not CIFAR10.is_dir(), reason=f"CIFAR-10's parquet files are not in {CIFAR10}")
def test_the_same_study_on_real_cifar10(study, tmp_path):
    done = study(
        *(
            "experiments/residual",
            "--seeds=2",
            *TINY,
            "-c",
            "configs/data/cifar10.yaml",
            f"--data.root={CIFAR10}",
        ),
        f"--runtime.outputs={tmp_path}",
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(path.read_text()) for path in records(tmp_path)]
    assert [record["science"]["data.name"] for record in found] == ["cifar10"] * 4
    (report,) = tmp_path.glob("studies/residual+*/report.html")
    assert "residual-helps" in report.read_text()


def test_a_failing_run_leaves_the_rest_and_exit_code_1(study, tmp_path):
    """A folder stands where one run's weights should go."""
    overrides = [*TINY, f"--runtime.outputs={tmp_path}"]
    name = list(expand("experiments/residual", overrides, 2).runs().values())[3].run_id
    blocked = tmp_path / "runs" / name / "model.safetensors" / "folder"
    blocked.mkdir(parents=True)
    done = study("experiments/residual", "--seeds=2", *overrides)
    assert done.returncode == 1
    assert f"failed: {name}" in done.stderr
    assert len(records(tmp_path)) == 3
    assert "INCOMPLETE" in done.stdout
    assert os.path.isdir(blocked)
