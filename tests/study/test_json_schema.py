"""The JSON Schemas for editors: up to date, and no stricter than what is shipped."""

import json

import jsonschema
import pytest

from conftest import ROOT
from xceptlab.config import strict_yaml
from xceptlab.config.fields import keys
from xceptlab.config.schema import RunConfig
from xceptlab.study.definition import FACTORS
from xceptlab.study.json_schema import CONFIGURATION, STUDY, contents

STUDIES = sorted((ROOT / "experiments").glob("*/study.yaml"))
LAYERS = [
    *sorted((ROOT / "configs").glob("*/*.yaml")),
    *sorted((ROOT / "experiments").glob("*/*.yaml")),
]
FILES = [(STUDY, file) for file in STUDIES]
FILES += [
    (CONFIGURATION, file) for file in LAYERS if file.name not in ("study.yaml", "registered.yaml")
]


def refused_by(name: str, values: object) -> list[str]:
    """The places of what a shipped schema refuses, the deepest ones."""
    schema = json.loads((ROOT / name).read_text())
    errors = jsonschema.Draft7Validator(schema).iter_errors(values)
    return [".".join(map(str, error.absolute_path)) for error in errors]


@pytest.mark.parametrize("name", [CONFIGURATION, STUDY])
def test_a_shipped_schema_is_up_to_date(name):
    assert (ROOT / name).read_text() == contents()[name], "make schemas writes it"
    jsonschema.Draft7Validator.check_schema(json.loads((ROOT / name).read_text()))


@pytest.mark.parametrize(
    ("name", "file"), FILES, ids=[f"{file.parent.name}/{file.name}" for _, file in FILES]
)
def test_every_shipped_file_is_valid(name, file):
    assert refused_by(name, strict_yaml.parse(file.read_text())) == []


def test_the_example_of_the_reference_and_the_default_run_are_valid():
    example = (ROOT / "docs/study.md").read_text().split("```yaml\n")[1].split("```")[0]
    assert refused_by(STUDY, strict_yaml.parse(example)) == []
    assert refused_by(CONFIGURATION, RunConfig().to_dict()) == []


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"train": {"epochs": 0}}, "train.epochs"),
        ({"train": {"lr": "fast"}}, "train.lr"),
        ({"train": {"epoch": 3}}, "train"),
        ({"model": {"order": "sideways"}}, "model.order"),
        ({"model": {"bn_momentum": 1.1}}, "model.bn_momentum"),
        ({"model": {"fc": [1.5]}}, "model.fc.0"),
        ({"trian": {}}, ""),
    ],
)
def test_an_editor_shows_what_a_configuration_file_may_not_hold(values, place):
    assert refused_by(CONFIGURATION, values) == [place]


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"arms": {"a": {"model.residual": "some"}}}, "arms.a.model.residual"),
        ({"arms": {"a": {"model": {"residual": "some"}}}}, "arms.a.model.residual"),
        ({"arms": {"a": {"runtime.workers": 3}}}, "arms.a"),
        ({"grid": {"model.width": [0.5, "wide"]}}, "grid.model.width.1"),
        ({"seeds": "all"}, "seeds"),
        ({"alpha": "small"}, "alpha"),
        ({"tune": {"keys": {"train.lr": [0.1, 0.2]}, "select": "test/top1"}}, "tune"),
    ],
)
def test_an_editor_shows_what_a_study_file_may_not_hold(changes, place):
    assert refused_by(STUDY, {"question": "?", "base": [], "seeds": [0, 1, 2]} | changes) == [place]


def test_an_editor_takes_a_registered_metric_to_tune_arms_by():
    tune = {"keys": {"train.lr": [0.1, 0.2]}, "select": "val/brier"}
    claims = {"question": "?", "base": [], "seeds": [0, 1, 2]}
    assert refused_by(STUDY, claims | {"tune": tune}) == []


def test_every_key_has_its_meaning_and_arms_have_all_factors():
    configuration, study = (
        json.loads((ROOT / name).read_text()) for name in (CONFIGURATION, STUDY)
    )
    for key in keys(RunConfig):
        found = configuration
        for name in key.split("."):
            found = found["properties"][name]
        assert found["description"]
    arm = study["properties"]["arms"]["additionalProperties"]["properties"]
    assert set(FACTORS) == {key for key in arm if "." in key} == study["definitions"].keys()
