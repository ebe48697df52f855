"""Every YAML file that is shipped is a test case, and the two lists of dependencies agree."""

import itertools
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from xceptlab.config.loading import load_run
from xceptlab.study.plan import expand, find_study_file

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*/*.yaml"))
LAYERS = sorted(
    file
    for file in (ROOT / "experiments").glob("*/*.yaml")
    if file.name not in ("study.yaml", "registered.yaml")
)
STUDIES = sorted((ROOT / "experiments").glob("*/study.yaml"))
ON_CIFAR10 = ["model/xception_cifar", "data/cifar10", "train/cifar"]
RECIPES = [
    (["model/xception", "data/imagenet", "train/imagenet_paper"], "imagenet", 299, 1000),
    (["model/xception", "data/imagenet", "train/imagenet_modern"], "imagenet", 299, 1000),
    (["model/xception", "data/imagenet", "train/jft_paper"], "imagenet", 299, 1000),
    (["model/xception_cifar", "data/cifar10", "train/cifar"], "cifar10", 32, 10),
    (["model/xception_cifar", "data/cifar100", "train/cifar"], "cifar100", 32, 100),
    (["model/xception_tiny", "data/digits", "train/digits"], "digits", 16, 10),
    (["model/xception_tiny", "data/cifar10", "train/digits"], "cifar10", 32, 10),
]


def layers(names: list[str]) -> list[str]:
    return [arg for name in names for arg in ("-c", str(ROOT / "configs" / f"{name}.yaml"))]


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_the_files_that_scripts_rely_on_are_shipped():
    names = {str(file.relative_to(ROOT / "configs").with_suffix("")) for file in CONFIGS}
    assert names >= {name for recipe, *_ in RECIPES for name in recipe}
    assert {file.parent.name for file in STUDIES} >= {
        "residual",
        "intermediate",
        "order",
        "imagenet_residual",
    }


@pytest.mark.parametrize(
    "file", [*CONFIGS, *LAYERS], ids=lambda file: f"{file.parent.name}/{file.name}"
)
def test_a_shipped_layer_is_allowed_and_says_what_it_is(file):
    text = file.read_text()
    assert text.startswith("# ")
    run = load_run(["-c", str(file)])
    for section, values in yaml.safe_load(text).items():
        for name, value in values.items():
            assert getattr(getattr(run, section), name) == value


@pytest.mark.parametrize(
    ("names", "data", "size", "classes"), RECIPES, ids=["+".join(names) for names, *_ in RECIPES]
)
def test_layers_that_belong_together_resolve(names, data, size, classes):
    run = load_run(layers(names))
    assert (run.data.name, run.data.size, run.data.classes) == (data, size, classes)
    assert run.run_id.startswith(f"{data}-seed0-")


def test_the_shipped_xception_is_the_papers():
    run = load_run(layers(["model/xception"]))
    assert run.changed() == {}


def test_the_papers_recipes_are_the_papers():
    """Sections 4.2 and 4.3; 3,000,000 samples are 2.342 epochs of ImageNet."""
    imagenet, jft = (
        load_run(layers(["data/imagenet", f"train/{name}_paper"])) for name in ("imagenet", "jft")
    )
    t = imagenet.train
    assert (t.optimizer, t.momentum, t.lr, t.decay_rate, t.decay_epochs, t.weight_decay) == (
        "sgd",
        0.9,
        0.045,
        0.94,
        2,
        1e-5,
    )
    t = jft.train
    assert (t.optimizer, t.momentum, t.lr, t.decay_rate, t.weight_decay) == (
        "rmsprop",
        0.9,
        0.001,
        0.9,
        1e-5,
    )
    assert t.decay_epochs == pytest.approx(3_000_000 / 1_281_167, abs=1e-3)
    assert (imagenet.model.dropout, jft.model.dropout) == (0.5, 0)
    assert [run.train.schedule for run in (imagenet, jft)] == ["exponential", "exponential"]
    assert min(imagenet.train.ema, jft.train.ema) > 0


def test_the_recipes_state_a_command_and_a_score():
    for file in (ROOT / "configs/train").glob("*.yaml"):
        header = [line for line in file.read_text().splitlines() if line.startswith("#")]
        assert any("Run:" in line for line in header), file
        scores = [line.split("Score:")[1].strip() for line in header if "Score:" in line]
        assert scores, file
        assert "SCORE" not in scores, f"{file}: the score is still to be filled in"


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.parent.name)
def test_a_shipped_study_expands_and_each_arm_differs_only_in_declared_keys(file):
    expansion = expand(str(file.parent))
    assert expansion.name == file.parent.name
    assert expansion.study.claims
    assert all(claim.statement for claim in expansion.study.claims)
    baseline, *others = expansion.arms
    assert expansion.differences(baseline) == {}
    cells = expansion.study.cells()
    for arm in others:
        solved = {"model.width"} if expansion.arms[arm].model.match != "none" else set()
        assert expansion.differences(arm)
        assert set(expansion.differences(arm)) <= {*cells[baseline], *cells[arm]} | solved, arm
    runs = expansion.runs()
    assert (
        len({run.run_id for run in runs.values()})
        == len(runs)
        == len(expansion.trials) * len(expansion.study.seeds)
    )
    assert len(expansion.study.seeds) >= 3


@pytest.mark.parametrize("name", ["residual", "intermediate", "order"])
def test_a_shipped_study_runs_on_cifar10_with_layers(name):
    expansion = expand(f"experiments/{name}", layers(ON_CIFAR10))
    assert expansion.name == f"{name}+xception_cifar+cifar10+cifar"
    assert {arm.data.name for arm in expansion.arms.values()} == {"cifar10"}
    assert {arm.train.epochs for arm in expansion.arms.values()} == {30}


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.parent.name)
def test_every_command_in_a_studys_header_names_files_that_exist(file):
    commands = re.findall(r"^#\s+xceptlab (?:study|plan)\s+(.*)$", file.read_text(), re.M)
    assert commands
    for command in commands:
        study, *rest = command.split()
        assert find_study_file(study) == file.relative_to(ROOT)
        assert all(Path(path).is_file() for flag, path in itertools.pairwise(rest) if flag == "-c")


def test_the_order_study_claims_equivalence():
    assert [claim.kind for claim in expand("experiments/order").study.claims] == ["equivalent"]


def test_the_imagenet_study_is_the_papers_recipe_on_eight_gpus():
    for arm in expand("experiments/imagenet_residual").arms.values():
        assert (arm.runtime.devices, arm.runtime.accelerator, arm.train.precision) == (
            8,
            "gpu",
            "bf16-mixed",
        )
        assert (arm.train.lr, arm.train.decay_rate, arm.train.decay_epochs, arm.model.dropout) == (
            0.045,
            0.94,
            2.0,
            0.5,
        )


# ---- dependencies --------------------------------------------------------------------------------

CONDA = {"pytorch": "torch", "importlinter": "import-linter"}
"""Packages that conda-forge calls otherwise."""


def bounds(requirements: list[str]) -> dict[str, str]:
    """``{name: lower bound}``, of requirements such as ``submitit[dev]>=1.5``."""
    found = {}
    for requirement in requirements:
        match = re.fullmatch(
            r"([\w.-]+)(?:\[[\w,]+\])?\s*(?:>=\s*([\d.]+(?:,<[\d.]+)?))?", requirement.strip()
        )
        assert match, requirement
        name = match[1].lower().replace("_", "-")
        found[CONDA.get(name, name)] = match[2] or ""
    return found


def test_conda_and_pip_install_the_same():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    file = ROOT / "environment.yml"
    assert file.is_file(), "environment.yml is missing"
    environment = yaml.safe_load(file.read_text())["dependencies"]
    names = [entry for entry in environment if isinstance(entry, str)]
    pip = [
        line
        for entry in environment
        if isinstance(entry, dict)
        for line in entry["pip"]
        if not line.startswith("-")
    ]
    conda = bounds(names + pip)
    assert conda.pop("python") == project["requires-python"].removeprefix(">=")
    conda.pop("pip", None)
    needed = bounds(project["dependencies"])
    optional = {
        name for extra in project["optional-dependencies"].values() for name in bounds(extra)
    }
    assert {name: bound for name, bound in conda.items() if name not in optional} == needed


def test_every_dependency_has_a_lower_bound_and_is_locked():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = bounds(project["dependencies"])
    assert [name for name, bound in needed.items() if not bound] == []
    needed |= {
        name: bound
        for extra in project["optional-dependencies"].values()
        for name, bound in bounds(extra).items()
    }
    locked = dict(
        re.findall(
            r"^([\w.-]+)==([\w.+]+)$",
            (ROOT / "requirements.lock").read_text().lower().replace("_", "-"),
            re.M,
        )
    )

    def version(text: str) -> list[int]:
        return [int(part) for part in re.findall(r"\d+", text)[:3]]

    def allowed(name: str) -> bool:
        low, _, high = needed[name].partition(",<")
        return (
            name in locked
            and version(low) <= version(locked[name])
            and (not high or version(locked[name]) < version(high))
        )

    assert [name for name in needed if not allowed(name)] == []
