"""Damaged studies, and what damaged runs have left of sound ones."""

import dataclasses
import json
import shutil
from pathlib import Path

import yaml

from conftest import ROOT
from damaged.case import BYTES, Case
from damaged.configurations import overrides
from damaged.yamls import damaged_yaml, dump, restructure
from made import leave
from xceptlab.study.plan import expand
from xceptlab.study.registration import Registration

SHIPPED = sorted((ROOT / "experiments").glob("*/study.yaml"))
SCORES = [97.0, 96.5], [10.0, 10.0], [100.0, 100.0], [0.0, 0.0], [97.0, 20.0]
"""Top-1 of the arms, in turns."""


def study(case: Case) -> None:
    """A shipped study with its bases beside it: a file is damaged, or the records of its runs are."""
    rng = case.rng
    source = rng.choice(SHIPPED)
    tree = yaml.safe_load(source.read_text())
    bases = [
        next(file for file in (source.parent / base, ROOT / base) if file.is_file())
        for base in tree["base"]
    ]
    tree["base"] = [f"{base.parent.name}-{base.name}" for base in bases]
    for base, copy in zip(bases, tree["base"], strict=True):
        shutil.copyfile(base, copy)
    Path("study.yaml").write_bytes(dump(tree))
    how = rng.random()
    if how < 0.3:
        _damage_outputs(case)
        case.commands.append([rng.choice(["status", "report"]), "."])
        return
    if how < 0.85:
        Path("study.yaml").write_bytes(damaged_yaml(case, tree))
    else:
        base = Path(rng.choice(tree["base"]))
        base.write_bytes(damaged_yaml(case, yaml.safe_load(base.read_text())))
    arguments = overrides(case) if rng.random() < 0.1 else []
    case.commands.append(["status", ".", *arguments])
    if rng.random() < 0.1:
        case.commands.append(["plan", ".", *arguments])


def _damage_outputs(case: Case) -> None:
    """Leave what the study's runs leave, and damage one to three files of it."""
    rng = case.rng
    expansion = expand(".")
    scores = rng.choice(SCORES)
    for place, trial in enumerate(expansion.trials):
        for seed in expansion.seeds:
            score = scores[place % 2] + rng.uniform(-1, 1)
            correct = [rng.randrange(2) for _ in range(500)] if rng.random() < 0.5 else []
            changes = {"record": None} if rng.random() < 0.2 else {}
            leave(expansion, trial, seed, min(100.0, max(0.0, score)), correct=correct, **changes)
    registered = expansion.directory() / "registered.yaml"
    registered.parent.mkdir(parents=True)
    registration = dataclasses.replace(Registration.of_today(expansion), time=1e9)
    registered.write_bytes(dump(registration.contents()))
    for _ in range(rng.choice([1, 2, 3])):
        file = rng.choice([registered, *sorted(Path("outputs").rglob("*.*"))])
        _damage_output(case, file)
        case.damages.append(f"of {file.name}")


def _damage_output(case: Case, file: Path) -> None:
    """Damage the values in a file, or its bytes, or put a folder in its place."""
    how = case.rng.random()
    if file.is_dir():
        return
    if how < 0.1:
        case.damages.append("a folder in the place")
        file.unlink()
        file.mkdir()
    elif how < 0.5 or file.suffix not in (".json", ".jsonl", ".yaml"):
        case.damage_file(file, BYTES)
    else:
        try:
            _damage_values(case, file)
        except (ValueError, yaml.YAMLError):  # it is damaged already
            case.damage_file(file, BYTES)


def _damage_values(case: Case, file: Path) -> None:
    """Change what a file of YAML or JSON says.

    Raises:
        ValueError, yaml.YAMLError: It is none.
    """
    if file.suffix == ".yaml":
        file.write_bytes(damaged_yaml(case, yaml.safe_load(file.read_text())))
        return
    lines = file.read_text().splitlines() if file.suffix == ".jsonl" else [file.read_text()]
    place = case.rng.randrange(len(lines))
    lines[place] = json.dumps(restructure(case, json.loads(lines[place])))
    file.write_text("".join(line + "\n" for line in lines))
