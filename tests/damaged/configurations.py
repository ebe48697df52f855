"""Damaged configuration files and overrides."""

from pathlib import Path

import yaml

from conftest import ROOT
from damaged.case import Case
from damaged.yamls import FIELDS, TEXTS, VALUES, damaged_yaml
from xceptlab.config.schema import RunConfig

SHIPPED = [
    sorted((ROOT / "configs" / folder).glob("*.yaml")) for folder in ("model", "data", "train")
]
TINY = [
    ROOT / "configs" / name
    for name in ("model/xception_tiny.yaml", "data/digits.yaml", "train/digits.yaml")
]


def configuration(case: Case) -> None:
    """The three layers of a run, of which one is damaged, or a damaged file with every field;
    sometimes overrides, too.
    """
    rng = case.rng
    files = list(TINY) if rng.random() < 0.5 else [rng.choice(files) for files in SHIPPED]
    place = rng.randrange(4)
    tree = yaml.safe_load(files[place].read_text()) if place < 3 else RunConfig().to_dict()
    damaged = Path("damaged.yaml")
    damaged.write_bytes(damaged_yaml(case, tree))
    files[place : place + 1] = [damaged]
    arguments = [argument for file in files for argument in ("-c", str(file))]
    if rng.random() < 0.3:
        arguments += overrides(case)
    case.commands.append(["train", "--print_config", *arguments])
    if rng.random() < 0.1:
        case.commands.append(["describe", *arguments])


def overrides(case: Case) -> list[str]:
    """One or two overrides, and sometimes something else that does not belong there."""
    rng = case.rng
    case.damages.append("overrides")
    arguments = []
    for _ in range(rng.choice([1, 2])):
        key = rng.choice([*FIELDS, *FIELDS, "seed", "model", "x.y", ".", "a.b.c", "é.é"])
        value = rng.choice([*TEXTS, *map(str, VALUES), "[1,", "{a: 1}", "@file", "caf\udce9"])
        arguments += rng.choice(
            [[f"--{key}={value}"], [f"--{key}", value], [f"--{key}.{value}", "1"]]
        )
    if rng.random() < 0.2:
        arguments += rng.choice(
            [
                ["-c"],
                ["-c", "nofile.yaml"],
                ["-c", "."],
                ["-c", "/dev/null"],
                ["-c="],
                ["--x"],
                ["--"],
                ["x"],
                [""],
                ["--config", ""],
            ]
        )
    return arguments
