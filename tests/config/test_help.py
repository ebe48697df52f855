"""The help of ``xceptlab train``: every field with what is allowed, its default and its meaning."""

import re
from dataclasses import is_dataclass

import pytest

from xceptlab.config.field_types import in_words
from xceptlab.config.fields import keys
from xceptlab.config.help import docstrings, print_help
from xceptlab.config.schema import DataConfig, RunConfig
from xceptlab.study.claims import Claim
from xceptlab.study.score_tables import ScoreClaim


@pytest.fixture
def text(capsys, monkeypatch) -> str:
    monkeypatch.setenv("COLUMNS", "80")
    print_help()
    return capsys.readouterr().out


def test_every_field_is_explained_and_no_line_is_too_long(text):
    flat = " ".join(text.split())
    for key, kind in keys(RunConfig).items():
        assert (
            f"{key}: " in flat
            if is_dataclass(kind)
            else f"--{key}: {in_words(kind)} (default: " in flat
        )
    assert max(map(len, text.splitlines())) <= 80
    for meaning in docstrings(DataConfig).values():
        assert meaning in flat


def test_sections_are_in_their_order_and_say_what_they_are(text):
    assert re.findall(r"^(\w+): [A-Z]", text, re.M) == [
        "model",
        "data",
        "train",
        "runtime",
        "launcher",
    ]
    assert "\nlauncher: What starts a study's runs" in text


@pytest.mark.parametrize(
    "line",
    [
        "--model.residual: one of all, none, identity_only, projection_only (default: all)",
        "--model.timm: text (default: \"\")",
        "--data.flip: true or false (default: true)",
        "--train.lr: a finite number, above 0 (default: 0.045)",
        "--seed: a whole number (default: 0)",
    ],
)  # fmt: skip
def test_a_field_has_its_type_and_default(text, line):
    assert line in " ".join(text.split())


def test_a_field_that_a_dataclass_inherits_keeps_its_meaning():
    meanings = docstrings(ScoreClaim)
    assert meanings["id"] == docstrings(Claim)["id"]
    assert meanings["id"] == "Name of the claim; no other claim of the study may have it."
    assert meanings["metric"] == "Name of the metric that is compared, any that the scores have."
