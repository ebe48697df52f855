"""A study's report, from runs that are written by hand."""

import csv
import io
import json
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from xceptlab.records import Record, RunDirectory
from xceptlab.report import figures
from xceptlab.report.summary import results_csv, summarise
from xceptlab.report.write import FILES, amount, publish, write_report
from xceptlab.study import Expansion, Registration, expand

EVIL = "<script>alert(1)</script>"
CLAIM = {
    "id": "helps",
    "statement": "It helps by more than half a point.",
    "contrast": ["with", "without"],
    "metric": "test/top1",
    "kind": "superior",
    "margin": 0.5,
}
TOP1 = {"with": [97.2, 96.8, 98.4], "without": [90.0, 91.6, 91.0]}


@pytest.fixture(autouse=True)
def _no_garbage_collection(monkeypatch):
    monkeypatch.setattr("gc.collect", lambda: 0)  # statsmodels calls it for every adjustment: 100 ms


@pytest.fixture
def study(tmp_path):
    """Write the study with some keys changed, and expand it."""

    def write(*layers: str, **changes) -> Expansion:
        folder = tmp_path / "helps"
        folder.mkdir(exist_ok=True)
        (folder / "base.yaml").write_text("data: {name: digits, size: 16, crop: none, validation: 0.1}\ntrain: {epochs: 2}\n")
        content = {
            "question": "Does it help?",
            "paper": {"ref": "arXiv:1610.02357", "figure": 9},
            "base": ["base.yaml"],
            "seeds": [0, 1, 2],
            "arms": {"with": {"model.residual": "all"}, "without": {"model.residual": "none"}},
            "claims": [CLAIM],
        }
        (folder / "study.yaml").write_text(yaml.safe_dump(content | changes, sort_keys=False))
        return expand(str(folder), ["--runtime.outputs", str(tmp_path / "outputs"), *layers])

    return write


def run(expansion: Expansion, arm: str, seed: int, **changes) -> None:
    """Leave behind what a run leaves."""
    config = expansion.run(arm, seed)
    directory = RunDirectory.of(config.runtime.outputs, config.run_id)
    directory.create()
    top1 = TOP1[arm][seed]
    lines = [
        {"step": 5, "time": 1.0, "epoch": 0.5, "train/loss": 2.0, "train/top1": 20.0},
        {"step": 10, "time": 2.0, "epoch": 1.0, "train/loss": 1.0, "train/top1": 60.0},
        {"step": 10, "time": 2.1, "epoch": 1.0, "val/top1": top1 - 30, "val/loss": 1.0},
        {"step": 20, "time": 3.0, "epoch": 2.0, "train/loss": 0.5, "train/top1": 90.0},
        {"step": 20, "time": 3.1, "epoch": 2.0, "val/top1": top1 - 1, "val/loss": 0.5},
    ]
    (directory.path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    record = {
        "run_id": config.run_id,
        "status": "finished",
        "science": config.science(),
        "metrics": {"test/top1": top1, "test/top5": 99.0, "test/loss": 0.25},
        "parameters": 245041 if arm == "with" else 242000,
        "macs": 1219644,
        "test_images": 500,
        "steps": 20,
        "seconds": 8.0,
        "images_per_second": 1500.0,
        "device": "a CPU",
        "world_size": 1,
        "precision": "32-true",
        "data_fingerprint": "abc",
        "versions": {},
        "git": {"revision": "51fe86c", "dirty": False},
        "started": 1e9,
        "finished": 4e9,
    }
    directory.write_record(Record(**(record | changes)))


def finish(expansion: Expansion, **changes) -> Expansion:
    for arm, seed in expansion.runs():
        run(expansion, arm, seed, **changes)
    return expansion


def texts(expansion: Expansion) -> dict[str, str]:
    """Every written file but the figures, by name."""
    folder = write_report(summarise(expansion)).parent
    return {name: (folder / name).read_text() for name in ("report.html", "report.md", "results.csv")}


class Page(HTMLParser):
    """The tags and the visible text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self._within: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._within.append(tag)

    def handle_endtag(self, tag):
        if self._within and self._within[-1] == tag:
            self._within.pop()

    def handle_data(self, data):
        if not self._within:
            self.text += data
        elif self._within[-1] == "script":
            self.scripts.append(data)


# ---- what is written --------------------------------------------------------------------------------------------------------


def test_the_report_says_question_verdict_arms_and_paper(study):
    files = texts(finish(study()))
    page = Page(files["report.html"]).text
    for text in (page, files["report.md"]):
        assert "Does it help?" in text
        assert "arXiv:1610.02357, figure 9" in text
        assert "It helps by more than half a point." in text
        assert "Supported: with is 6.60 points better than without" in text
        assert "model.residual" in text
        assert "245 k" in text
        assert "242 k (-1.2%)" in text
        assert "6 of 6 runs done" in text
        assert "Warning" not in text


def test_the_page_needs_nothing_but_itself(study):
    page = Page(texts(finish(study()))["report.html"])
    assert "link" not in {tag for tag, _ in page.tags}
    loaded = [attributes[name] for _, attributes in page.tags for name in ("src", "href", "srcset", "data") if name in attributes]
    assert loaded == []
    assert any(len(script) > 1_000_000 and "plotly" in script.lower() for script in page.scripts)


def test_the_page_holds_the_curves_of_all_arms_and_the_paired_differences(study):
    summary = summarise(finish(study()))
    assert summary.curve_metric == "val/top1"
    assert summary.curves["with"].epochs.tolist() == [1.0, 2.0]
    assert summary.curves["with"].values.tolist() == [[67.2, 96.2], [66.8, 95.8], [68.4, 97.4]]
    scripts = "".join(Page(texts(summary.expansion)["report.html"]).scripts[1:])
    assert scripts.count("Plotly.newPlot") == 2
    assert '"name":"without"' in scripts
    assert '"seed 2"' in scripts


def test_results_csv_has_one_line_per_run_with_its_raw_scores(study):
    expansion = finish(study())
    rows = list(csv.DictReader(io.StringIO(texts(expansion)["results.csv"])))
    assert [(row["arm"], int(row["seed"]), float(row["test/top1"])) for row in rows] == [
        (arm, seed, TOP1[arm][seed]) for seed in range(3) for arm in ("with", "without")
    ]
    assert [row["run_id"] for row in rows] == [config.run_id for config in expansion.runs().values()]
    assert {(row["status"], row["revision"], row["data_fingerprint"]) for row in rows} == {("finished", "51fe86c", "abc")}


def test_every_table_of_report_md_is_whole(study):
    lines = texts(finish(study()))["report.md"].splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 4
    assert len({line.count("|") for line in table}) == 1


def test_publish_copies_what_is_committed(study, tmp_path):
    expansion = finish(study())
    summary = summarise(expansion)
    write_report(summary)
    publish(summary, tmp_path)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (expansion.directory() / name).read_bytes()
    assert not (tmp_path / "report.html").exists()


def test_the_same_records_give_the_same_bytes(study):
    expansion = finish(study())
    first = {name: content for name, content in texts(expansion).items() if name != "report.html"}
    svg = [(figures.curves_svg(s), figures.differences_svg(s)) for s in (summarise(expansion), summarise(expansion))]
    assert svg[0] == svg[1]
    assert first == {name: content for name, content in texts(expansion).items() if name != "report.html"}
    for image in svg[0]:
        assert ElementTree.fromstring(image).tag == "{http://www.w3.org/2000/svg}svg"


@pytest.mark.parametrize(
    ("value", "baseline", "text"),
    [
        (22_855_952, 22_855_952, "22.86 M"),
        (8_357_403_496, None, "8.357 G"),
        (900, 1000, "900 (-10.0%)"),
        (1100, 1000, "1.1 k (+10.0%)"),
        (None, None, "–"),
    ],
)
def test_amounts_are_short_and_told_against_the_baseline(value, baseline, text):
    assert amount(value, baseline) == text


# ---- text from users --------------------------------------------------------------------------------------------------------


def test_text_from_users_is_text(study):
    claims = [CLAIM | {"id": f"c{EVIL}", "statement": f'"{EVIL}" | two & {{{{ 7 * 7 }}}}'}]
    paper = {"ref": EVIL, "section": EVIL}
    expansion = finish(study(question=f"Why? {EVIL}", claims=claims, paper=paper), device=EVIL)
    files = texts(expansion)
    page = Page(files["report.html"])
    assert not [script for script in page.scripts if "alert(1)" in script]
    assert page.text.count(EVIL) >= 5  # shown as it was written
    assert "{{ 7 * 7 }}" in page.text
    assert EVIL not in files["report.md"]
    assert "<script" not in files["report.md"]
    assert "\\| two" in files["report.md"]
    for name in ("curves.svg", "differences.svg"):
        svg = ElementTree.parse(expansion.directory() / name)
        assert not [element for element in svg.iter() if element.tag.endswith("script")]


@pytest.mark.parametrize("text", [r"costs $\nosuch$ 5", "a_b^c", "$5 or $6", "ä ≥ 0.5 %", "[/bold]", "```\n# no heading", "<!--"])
def test_no_text_breaks_the_report(study, text):
    expansion = finish(study(question=text, claims=[CLAIM | {"id": text, "statement": text}]))
    files = texts(expansion)
    assert text in Page(files["report.html"]).text
    assert "\n# no heading" not in files["report.md"]
    ElementTree.parse(expansion.directory() / "differences.svg")


# ---- studies that are not as one would like ---------------------------------------------------------------------------------


def test_before_the_first_run_there_is_a_report_that_says_so(study):
    files = texts(study())
    page = Page(files["report.html"]).text
    for text in (page, files["report.md"]):
        assert "0 of 6 runs done" in text
        assert "incomplete" in text
        assert "Not judged yet: seeds 0, 1, 2" in text
    assert files["results.csv"].count(",missing,") == 6


def test_an_incomplete_study_names_what_is_missing(study):
    expansion = study()
    for arm, seed in list(expansion.runs())[:-1]:
        run(expansion, arm, seed)
    files = texts(expansion)
    page = Page(files["report.html"]).text
    for text in (page, files["report.md"]):
        assert "5 of 6 runs done" in text
        assert "Not judged yet: seeds 2 " in text
    assert re.findall(r"^without,2,.*$", files["results.csv"], re.M)[0].startswith("without,2,digits-residual_none-seed2-")


def test_a_diverged_run_is_shown_and_scored_as_guessing(study):
    expansion = finish(study())
    run(expansion, "without", 1, status="diverged", metrics={})
    summary = summarise(expansion)
    files = texts(expansion)
    page = Page(files["report.html"]).text
    for text in (page, files["report.md"]):
        assert "3 (1 diverged)" in text
        assert "Diverged, scored as guessing unless the claim says otherwise: without seed 1." in text
    assert summary.verdicts[0].differences[1] == pytest.approx(96.8 - 10)
    assert summary.arms[1].mean == pytest.approx(90.5)  # over the runs that finished
    assert "without,1," in files["results.csv"]
    assert ",diverged," in files["results.csv"]


def test_an_arm_that_always_diverged_has_no_mean(study):
    expansion = finish(study())
    for seed in range(3):
        run(expansion, "without", seed, status="diverged", metrics={})
    files = texts(expansion)
    assert "3 (3 diverged)" in files["report.md"]
    assert "nan" not in files["report.md"]
    assert "nan" not in Page(files["report.html"]).text.lower()


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({"data_fingerprint": "xyz"}, "The runs saw different data: abc, xyz."),
        ({"git": {"revision": "0000000", "dirty": False}}, "different revisions of the code: 0000000, 51fe86c."),
        ({"git": {}}, "different revisions of the code: 51fe86c, unknown."),
        ({"git": {"revision": "51fe86c", "dirty": True}}, "uncommitted changes"),
        ({"world_size": 2}, "different numbers of processes: 1, 2."),
    ],
)
def test_what_a_reviewer_should_know_is_a_warning(study, changes, warning):
    expansion = finish(study())
    run(expansion, "without", 2, **changes)
    files = texts(expansion)
    assert warning in Page(files["report.html"]).text
    assert warning in files["report.md"]


def test_an_edit_after_the_registration_is_flagged(study):
    Registration.make(study())
    finish(study())
    assert summarise(study()).warnings == []
    edited = study(claims=[CLAIM | {"margin": 0.1}])
    files = texts(edited)
    assert "Edited after its registration: claim helps: margin 0.5 -> 0.1." in Page(files["report.html"]).text
    assert "Edited after its registration: claim helps: margin 0.5" in files["report.md"]


def test_runs_that_are_older_than_the_registration_are_flagged(study):
    expansion = finish(study(), finished=1e9)
    Registration.make(expansion)
    (warning,) = summarise(expansion).warnings
    assert warning.startswith("6 of 6 runs are older than the study's registration")


def test_without_validation_the_curves_are_those_of_training(study):
    summary = summarise(finish(study("--data.validation", "0")))
    assert summary.curve_metric == "train/top1"
    assert summary.curves["with"].values.tolist() == [[60.0, 90.0]] * 3


def test_a_study_on_the_loss_and_of_equivalence_has_a_report(study):
    claims = [
        CLAIM | {"id": "loss", "metric": "test/loss", "margin": 0.1},
        CLAIM | {"id": "equal", "metric": "test/top5", "kind": "equivalent", "margin": 1.0},
    ]
    text = texts(finish(study(claims=claims)))["report.md"]
    assert text.count("without spread there is nothing to test") == 2
    assert "test/loss" in text


def test_a_study_without_claims_has_a_report(study):
    expansion = finish(study(claims=[]))
    assert "97.47" in texts(expansion)["report.md"]


def test_results_csv_of_a_study_without_records_is_a_table(study):
    rows = list(csv.reader(io.StringIO(results_csv(summarise(study())))))
    assert len(rows) == 7
    assert len({len(row) for row in rows}) == 1


# ---- in a browser -----------------------------------------------------------------------------------------------------------

CHROMIUM = Path("/usr/bin/chromium")


@pytest.mark.skipif(not CHROMIUM.exists(), reason="needs /usr/bin/chromium")
def test_a_browser_draws_the_figures(study, tmp_path):
    page = write_report(summarise(finish(study())))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    options += [f"--user-data-dir={tmp_path / 'browser'}", "--virtual-time-budget=5000", "--dump-dom"]
    done = subprocess.run([CHROMIUM, *options, page.as_uri()], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('class="main-svg"') >= 2
    assert len(re.findall(r'class="(?:xtick|ytick|trace scatter)', done.stdout)) > 10
