"""The pages say what the code does, and lead where they say."""

import dataclasses
import re

import pytest
import yaml
from statsmodels.stats.power import TTestPower

from conftest import ROOT
from xceptlab.config.field_types import in_words
from xceptlab.config.help import docstrings
from xceptlab.study.claims import Claim
from xceptlab.study.definition import Paper, Seeds, Study
from xceptlab.study.plan import expand
from xceptlab.study.tuning import Tune

TEXT = (ROOT / "docs" / "study.md").read_text()


def table(schema: type) -> str:
    """The fields of a dataclass as Markdown, from their docstrings."""
    meaning = docstrings(schema)
    rows = ["| key | value | default | |", "|---|---|---|---|"]
    for f in dataclasses.fields(schema):
        value = re.sub(r"a mapping with keys of [^)]+", "a mapping, see below", in_words(f.type))
        required = f.default is f.default_factory is dataclasses.MISSING
        default = (
            "required"
            if required
            else {None: "null", "": "empty", dataclasses.MISSING: "empty"}.get(f.default, f.default)
        )
        words = meaning[f.name].replace("``", "`")
        rows.append(f"| `{f.name}` | {value} | {default} | {words} |")
    return "\n".join(rows)


@pytest.mark.parametrize("schema", [Study, Claim, Seeds, Tune, Paper])
def test_the_reference_has_every_key_as_the_code_explains_it(schema):
    assert table(schema) in TEXT


def test_the_example_of_the_reference_is_a_study(tmp_path, monkeypatch):
    (example,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.S)
    (tmp_path / "study.yaml").write_text(example)
    monkeypatch.chdir(ROOT)
    assert list(expand(str(tmp_path)).arms) == ["all", "identities", "none"]
    given = yaml.safe_load(example)
    assert given.keys() == {f.name for f in dataclasses.fields(Study)} - {"grid", "extensions"}
    assert {key for claim in given["claims"] for key in claim} == {
        f.name for f in dataclasses.fields(Claim)
    } - {"effect"}


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))], ids=lambda page: page.stem
)
def test_the_links_of_a_page_lead_to_files_of_the_repository(page):
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_table_of_effects_is_the_paired_t_tests():
    text = (ROOT / "docs" / "seeds.md").read_text()
    seeds, effects = (
        re.findall(r"[\d.]+", re.search(rf"\| {name} \|(.*)", text)[1])
        for name in ("seeds", "effect")
    )
    power = TTestPower()
    found = [
        power.solve_power(nobs=int(n), alpha=0.05, power=0.8, alternative="larger") for n in seeds
    ]
    assert [f"{effect:.2f}" for effect in found] == effects


def test_the_table_of_claims_says_what_the_published_reports_say():
    rows = re.findall(
        r"^\| (.+?) \| \*\*(\w+)\*\* \| (\S+) \((.+?)\), .*\[(\w+)\]",
        (ROOT / "experiments/README.md").read_text(),
        re.M,
    )
    assert len(rows) > 5
    for statement, outcome, difference, interval, name in rows:
        report = (ROOT / "experiments" / name / "report.md").read_text()
        (verdict,) = re.findall(
            rf"^- \*\*{outcome}\*\* · `.*`: {re.escape(statement)}\n(.*)", report, re.M
        )
        assert f"{difference[1:]} points" in verdict
        assert interval in verdict
