"""The shipped recipes and studies are found from anywhere, in a checkout and in an installed
package.
"""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest
import yaml

from conftest import ROOT
from xceptlab.config import shipped
from xceptlab.config.loading import load_run
from xceptlab.study.plan import expand, find_study_file

RECIPE = [
    "configs/model/xception_tiny.yaml",
    "configs/data/digits.yaml",
    "configs/train/digits.yaml",
]
YAML = sorted(
    str(file.relative_to(ROOT))
    for folder in ("configs", "experiments")
    for file in (ROOT / folder).rglob("*.yaml")
)
SCHEMAS = sorted(str(file.relative_to(ROOT)) for file in (ROOT / "configs").glob("*.schema.json"))


def test_a_checkout_has_them_at_its_root():
    assert shipped.root() == ROOT


@pytest.mark.parametrize(
    "name",
    [
        "residual",
        "experiments/residual",
        "experiments/residual/study.yaml",
        str(ROOT / "experiments/residual"),
    ],
)
def test_a_shipped_study_runs_from_anywhere_by_its_path_or_name(monkeypatch, tmp_path, name):
    monkeypatch.chdir(ROOT)
    here = expand("experiments/residual")
    monkeypatch.chdir(tmp_path)
    assert find_study_file(name) == ROOT / "experiments" / "residual" / "study.yaml"
    there = expand(name)
    assert (there.name, there.arms) == (here.name, here.arms)


def test_what_is_there_comes_before_what_is_shipped(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "residual").mkdir()
    with pytest.raises(ValueError, match="residual: no study there"):
        find_study_file("residual")
    (tmp_path / "configs/train").mkdir(parents=True)
    (tmp_path / "configs/train/digits.yaml").write_text("train: {epochs: 2}")
    run = load_run([arg for file in RECIPE for arg in ("-c", file)])
    assert (run.train.epochs, run.model.width) == (2, 0.125)


UNUSUAL = [
    "",
    "model: {width: 1",
    "model:",
    "model: 1",
    "- model",
    "model",
    "\t",
    "\x00",
    "!!int ''",
    "[" * 10_000,
]


@pytest.mark.parametrize("text", UNUSUAL, ids=range(len(UNUSUAL)))
def test_a_configuration_file_that_is_none_is_left_out_of_the_names_of_runs(
    monkeypatch, tmp_path, text
):
    (tmp_path / "configs/model").mkdir(parents=True)
    (tmp_path / "configs/model/a.yaml").write_text(text)
    (tmp_path / "configs/model/b.yaml").write_text("model: {width: 2}\ndata:\n")
    monkeypatch.setattr(shipped, "root", lambda: tmp_path)
    found = shipped.recipes.__wrapped__()
    assert found["model"][0] == {}
    assert {"model.width": 2} in found["model"]
    assert set(map(str, found["data"])) == {"{}"}


@pytest.mark.parametrize("name", ["", ".", "..", "experiments", "nothing"])
def test_what_is_no_study_names_no_shipped_one(monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no study there"):
        find_study_file(name)


def test_an_installed_wheel_has_all_of_the_code_the_recipes_and_the_studies(tmp_path):
    pytest.importorskip("setuptools")
    source, target = tmp_path / "source", tmp_path / "installed"
    source.mkdir()
    for name in ("src", "configs", "experiments"):
        shutil.copytree(
            ROOT / name, source / name, ignore=shutil.ignore_patterns("*.egg-info", "__pycache__")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--quiet",
        "--wheel-dir",
        tmp_path,
        source,
    ]
    subprocess.run(build, check=True, timeout=200)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(target)
    code = {str(file.relative_to(source / "src")) for file in (source / "src").rglob("*.py")}
    assert code | {f"xceptlab/{name}" for name in (*YAML, *SCHEMAS)} <= names

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "xceptlab", *arguments]
        environment = os.environ | {"PYTHONPATH": str(target)}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200
        )

    status = run("status", "residual")
    assert (status.returncode, status.stderr) == (0, "")
    assert "0 of 10 done" in status.stdout
    shown = run("train", *(arg for file in RECIPE for arg in ("-c", file)), "--print_config")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert yaml.safe_load(shown.stdout)["model"]["width"] == 0.125
