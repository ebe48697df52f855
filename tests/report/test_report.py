"""A study's report, from runs that are written by hand."""

import csv
import html
import io
import json
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import altair
import numpy as np
import pytest
import yaml

import xceptlab
from made import data_fingerprint, leave, log_lines
from xceptlab.cli import main
from xceptlab.errors import Refused
from xceptlab.report import figures
from xceptlab.report.sampling import Sampling
from xceptlab.report.summary import Curve, summarise
from xceptlab.report.tables import amount
from xceptlab.report.write import FILES, publish, results_csv, write_report
from xceptlab.runs.directory import RunDirectory
from xceptlab.study.expansion import Expansion
from xceptlab.study.plan import expand
from xceptlab.study.registration import Registration
from xceptlab.study.sequential import with_needed_seeds

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


@pytest.fixture
def study(tmp_path):
    """Write the study with some keys changed, and expand it."""

    def write(*layers: str, **changes) -> Expansion:
        folder = tmp_path / "helps"
        folder.mkdir(exist_ok=True)
        (folder / "base.yaml").write_text(
            "data: {name: digits, size: 16, crop: none, validation: 0.1}\ntrain: {epochs: 2}\n"
        )
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


def run(expansion: Expansion, arm: str, seed: int, **changes) -> RunDirectory:
    """Leave behind what a run leaves."""
    Registration.register(expansion)
    return leave(expansion, arm, seed, TOP1[arm][seed], **changes)


def finish(expansion: Expansion, **changes) -> Expansion:
    for arm, seed in expansion.runs():
        run(expansion, arm, seed, **changes)
    return expansion


def texts(expansion: Expansion) -> dict[str, str]:
    """Every written file but the figures, by name."""
    folder = write_report(summarise(expansion)).parent
    return {
        name: (folder / name).read_text() for name in ("report.html", "report.md", "results.csv")
    }


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


# ---- what is written -----------------------------------------------------------------------------


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
    loaded = [
        attributes[name]
        for _, attributes in page.tags
        for name in ("src", "href", "srcset", "data")
        if name in attributes
    ]
    assert [address for address in loaded if not address.startswith("#")] == []
    assert any(len(script) > 500_000 and "vega" in script for script in page.scripts)


def test_the_page_holds_the_curves_of_all_arms_and_the_paired_differences(study):
    summary = summarise(finish(study()))
    assert summary.curve_metric == "val/top1"
    assert summary.curves["with"].epochs.tolist() == [1.0, 2.0]
    assert summary.curves["with"].values.tolist() == [[67.2, 96.2], [66.8, 95.8], [68.4, 97.4]]
    verdict, curves, pairs, differences, *costs = specifications(
        texts(summary.expansion)["report.html"]
    )
    assert len(costs) == 2
    # their mean and its three runs
    assert values(curves, "epoch", arm="without") == [[1.0, 2.0]] * 4
    assert values(curves, "value", arm="with", seed=1) == [[66.8, 95.8]]
    assert values(curves, "mean", arm="with") == [
        [pytest.approx(67.4667, abs=1e-4), pytest.approx(96.4667, abs=1e-4)]
    ]
    assert values(pairs, "score", arm="with") == TOP1["with"]
    for chart in (verdict, differences):
        assert values(chart, "value", seed=2) == [pytest.approx(7.4)]


def specifications(page: str) -> list[dict]:
    """The Vega-Lite specifications of a page's figures."""
    return [
        json.loads(found) for _, tag in Page(page).tags if (found := tag.get("data-specification"))
    ]


def values(specification: dict, key: str, **where) -> list:
    """What the rows of a figure's data have at a key, without repetition by its layers, where their
    other keys are so.
    """
    found = []
    for layer in specification["layer"]:
        data = layer.get("data", specification.get("data"))
        rows = data["values"] if "values" in data else specification["datasets"][data["name"]]
        found.append(
            [
                row[key]
                for row in rows
                if key in row and all(row.get(name) == value for name, value in where.items())
            ]
        )
    return [value for i, rows in enumerate(found) if rows not in found[:i] for value in rows]


def test_an_arm_has_the_same_colour_in_every_figure(study):
    page = texts(grid(study))["report.html"]
    domains = [
        layer["encoding"]["color"]
        for chart in specifications(page)
        for layer in chart["layer"]
        if "color" in layer["encoding"]
    ]
    colours = {}
    for scale in (encoding["scale"] for encoding in domains if encoding.get("scale")):
        for name, colour in zip(scale["domain"], scale["range"], strict=True):
            colours.setdefault(name.removesuffix(" (n = 3)"), set()).add(colour)
    assert {name: len(found) for name, found in colours.items()} == dict.fromkeys(colours, 1)
    assert len(set().union(*colours.values())) == len(colours) == 4


def test_every_figure_is_valid_vega_lite(study):
    """The report does not validate them, as this takes longer than drawing them."""
    skewed = CLAIM | {
        "id": "equal",
        "contrast": ["all-none", "all-relu"],
        "kind": "equivalent",
        "metric": "test/loss",
    }
    for specification in specifications(texts(grid(study, skewed))["report.html"]):
        altair.Chart.from_dict(specification)


def test_results_csv_has_one_line_per_run_with_its_raw_scores(study):
    expansion = finish(study())
    rows = list(csv.DictReader(io.StringIO(texts(expansion)["results.csv"])))
    assert [(row["arm"], int(row["seed"]), float(row["test/top1"])) for row in rows] == [
        (arm, seed, TOP1[arm][seed]) for seed in range(3) for arm in ("with", "without")
    ]
    assert [row["run_id"] for row in rows] == [
        config.run_id for config in expansion.runs().values()
    ]
    data = data_fingerprint(expansion.arms["with"].data)
    assert {(row["status"], row["revision"], row["data_fingerprint"]) for row in rows} == {
        ("finished", "51fe86c", data)
    }


def test_every_table_of_report_md_is_whole(study):
    lines = texts(finish(study()))["report.md"].splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 4 + 17
    assert {line.count("|") for line in table[:4]} == {10}
    assert {line.count("|") for line in table[4:]} == {3}


def test_publish_copies_what_is_committed(study, tmp_path):
    expansion = finish(study())
    summary = summarise(expansion)
    write_report(summary)
    publish(summary, tmp_path)
    for name in (*FILES, "registered.yaml"):
        assert (tmp_path / name).read_bytes() == (expansion.directory() / name).read_bytes()
    assert not (tmp_path / "report.html").exists()


def test_a_publication_leaves_nothing_of_the_one_before(study, tmp_path):
    expansion = finish(study())
    write_report(summarise(expansion), latex=True)
    publish(summarise(expansion), tmp_path, latex=True)
    assert (tmp_path / "report.tex").exists()
    publish(summarise(expansion), tmp_path)
    assert not (tmp_path / "report.tex").exists()
    write_report(summarise(expansion))
    assert not (expansion.directory() / "report.tex").exists()


def test_a_first_look_is_not_published(study, tmp_path):
    expansion = replace(finish(study()), seeds_of_whole_study=10)
    with pytest.raises(
        Refused,
        match="--publish: not allowed with --seeds; this is a first look with 3 of the study's 10 seeds",
    ):
        publish(summarise(expansion), tmp_path)


def test_a_finished_report_whose_runs_are_gone_is_kept_and_the_folder_is_named(study, capsys):
    expansion = finish(study())
    page = write_report(summarise(expansion)).read_text()
    gone = expansion.directories()["with", 1].path
    shutil.rmtree(gone)
    write_report(summarise(expansion))
    (kept,) = expansion.directory().glob("finished-*")
    assert (kept / "report.html").read_text() == page
    said = capsys.readouterr().err
    assert (
        f"was moved to {kept}: there is no record.json any more in {gone} (put it back, or `xceptlab study` trains"
        in said
    )
    assert "not of the study as it is now" not in said


@pytest.mark.parametrize("other", [{"study": "other.yaml"}, {"layers": ["--model.width", "0.5"]}])
def test_a_published_report_is_not_overwritten_by_that_of_another_study(
    study, tmp_path, capsys, other
):
    folder = Path(finish(study()).files[0]).parent
    outputs = ["--runtime.outputs", str(tmp_path / "outputs")]
    assert main(["report", str(folder), "--publish", *outputs]) == 0
    published = {name: (folder / name).read_bytes() for name in FILES}
    shutil.copyfile(folder / "study.yaml", folder / "other.yaml")
    path, layers = folder / other.get("study", ""), other.get("layers", [])
    finish(expand(str(path), [*outputs, *layers]))
    assert main(["report", str(path), "--publish", *outputs, *layers]) == 2
    assert f"{folder / 'report.md'}: belongs to another study, helps; " in capsys.readouterr().err
    assert {name: (folder / name).read_bytes() for name in FILES} == published
    assert main(["report", str(folder), "--publish", *outputs]) == 0


def test_a_study_is_not_compared_with_itself(study, tmp_path, capsys):
    folder = Path(finish(study()).files[0]).parent
    assert (
        main(["report", str(folder), f"{folder}/", "--runtime.outputs", str(tmp_path / "outputs")])
        == 2
    )
    assert f"{folder}: is given twice; a study is compared with others" in capsys.readouterr().err


def test_files_that_no_study_has_published_are_not_overwritten(study, tmp_path):
    summary = summarise(finish(study()))
    write_report(summary)
    (tmp_path / "results.csv").write_text("mine")
    with pytest.raises(
        Refused, match=r"results.csv: is not of a published study; helps needs a folder of its own"
    ):
        publish(summary, tmp_path)
    assert (tmp_path / "results.csv").read_text() == "mine"
    assert not (tmp_path / "report.md").exists()


def test_with_latex_its_tables_are_published_too(study, tmp_path, capsys):
    folder = Path(finish(study()).files[0]).parent
    outputs = ["--runtime.outputs", str(tmp_path / "outputs")]
    assert main(["report", str(folder), "--publish", "--format", "latex", *outputs]) == 0
    assert "toprule" in (folder / "report.tex").read_text()


def test_the_same_records_give_the_same_bytes(study):
    expansion = finish(study())
    first = {name: content for name, content in texts(expansion).items() if name != "report.html"}
    svg = [
        (figures.curves_svg(s), figures.differences_svg(s.verdicts))
        for s in (summarise(expansion), summarise(expansion))
    ]
    assert svg[0] == svg[1]
    assert first == {
        name: content for name, content in texts(expansion).items() if name != "report.html"
    }
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


# ---- how often such verdicts are wrong -----------------------------------------------------------


def calibrate(expansion: Expansion, tmp_path: Path, *options: str) -> dict[str, str]:
    """The written files after ``xceptlab report --calibrate``."""
    outputs = ["--runtime.outputs", str(tmp_path / "outputs")]
    study_file = str(expansion.files[0])
    assert main(["report", study_file, "--calibrate", "--format", "latex", *outputs, *options]) == 0
    return {
        name: (expansion.directory() / name).read_text()
        for name in ("report.html", "report.md", "report.tex")
    }


@pytest.mark.parametrize("claim", [{}, {"statistic": "mean", "kind": "equivalent", "margin": 9.0}])
def test_with_calibrate_every_report_has_the_rates_and_without_it_none(
    study, tmp_path, capsys, claim
):
    expansion = finish(study(claims=[CLAIM | claim]))
    without = texts(expansion)
    files = calibrate(expansion, tmp_path)
    said = " ".join(capsys.readouterr().out.split())
    page = Page(files["report.html"]).text
    for text in (page, files["report.md"], said):
        assert "How often such verdicts are wrong" in text
        assert "helps: of 4,000 simulated studies like this one in which" in text
        assert "A resample of 3 differences knows only 3 values" in text
    for text in (page, files["report.md"], files["report.tex"].replace("\\", "")):
        assert "in whole images (0.2 points)" in text
        assert "failures up to their 95% bound (with 63%, without 63%)" in text
    assert "Claim helps: if runs failed more often than was seen" in page
    for text in without.values():
        assert "How often such verdicts" not in text
    assert texts(expansion)["report.md"] == without["report.md"]


def test_the_same_records_are_calibrated_to_the_same_bytes(study, tmp_path):
    expansion = finish(study())
    first = calibrate(expansion, tmp_path)
    again = calibrate(expansion, tmp_path)
    assert first["report.md"] == again["report.md"]
    assert first["report.tex"] == again["report.tex"]


def test_a_diverged_run_is_a_failure_that_is_drawn_again(study, tmp_path):
    expansion = study()
    for arm, seed in expansion.runs():
        diverged = {"status": "diverged", "metrics": {}} if (arm, seed) == ("without", 1) else {}
        run(expansion, arm, seed, **diverged)
    assert (
        "failures as seen (with 0, without 1 of 3)" in calibrate(expansion, tmp_path)["report.md"]
    )


def test_a_study_that_adds_seeds_is_simulated_with_its_own_looks(study, tmp_path):
    expansion = finish(
        study(seeds={"start": 3, "step": 1, "max": 5, "stop": "decided", "futility": 0.1})
    )
    report = calibrate(expansion, tmp_path)["report.md"]
    assert "4,000 simulated studies of 3 to 5 seeds for every rate" in report
    assert "Giving up (futility) is left out" in report


def test_studies_on_other_images_are_not_simulated(study, tmp_path):
    expansion = study(scope="images")
    for arm, seed in expansion.runs():
        run(expansion, arm, seed, correct=np.random.default_rng(seed).integers(0, 2, 500))
    report = calibrate(expansion, tmp_path)["report.md"]
    assert "helps is not simulated: its verdict is for other images, too (scope: images)" in report
    assert "| helps | not simulated | – | – | – |" in report


def test_an_effect_is_calibrated_as_it_was_seen(study, tmp_path):
    claim = CLAIM | {
        "id": "effect",
        "contrast": None,
        "effect": {"model.residual": ["all", "none"]},
    }
    report = calibrate(grid(study, claim), tmp_path)["report.md"]
    assert "| effect | as seen | " in report
    assert "No failures are simulated: an effect is one of several arms." in report


def test_without_claims_there_is_nothing_to_calibrate(study, tmp_path, capsys):
    expansion = finish(study(claims=[]))
    assert (
        main(
            [
                "report",
                str(expansion.files[0]),
                "--calibrate",
                "--runtime.outputs",
                str(tmp_path / "outputs"),
            ]
        )
        == 2
    )
    assert "--calibrate: helps has no claims to calibrate" in capsys.readouterr().err


# ---- text from users -----------------------------------------------------------------------------


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


def test_no_text_breaks_the_report(study):
    odd = [
        r"costs $\nosuch$ 5",
        "a_b^c",
        "$5 or $6",
        "ä ≥ 0.5 %",
        "[/bold]",
        "```\n# no heading",
        "<!--",
    ]
    claims = [
        CLAIM | {"id": text, "statement": text, "margin": 0.5 + i} for i, text in enumerate(odd)
    ]
    expansion = finish(study(question=" ".join(odd), claims=claims))
    files = texts(expansion)
    page = Page(files["report.html"]).text
    assert " ".join(odd) in page
    assert [text for text in odd if page.count(text) < 3] == []
    assert "\n# no heading" not in files["report.md"]
    ElementTree.parse(expansion.directory() / "differences.svg")


# ---- studies that are not as one would like ------------------------------------------------------


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
        assert "Not judged yet: seed 2 " in text
    assert re.findall(r"^without,2,.*$", files["results.csv"], re.M)[0].startswith(
        "without,2,digits-residual_none-"
    )


def test_a_run_that_crashed_before_its_first_line_is_listed_with_its_folder(study):
    expansion = finish(study())
    crashed = expansion.run("without", 1)
    path = run(expansion, "without", 1).path
    for name in ("record.json", "metrics.jsonl"):
        (path / name).unlink()
    (path / "config.yaml").write_text("")
    page = Page(texts(expansion)["report.html"]).text
    assert (
        "Begun and not finished, stopped or crashed (log.txt in the run's folder tells): without seed 1 (at epoch 0 of 2)."
        in page
    )
    assert crashed.run_id in page


def test_a_diverged_run_is_shown_and_scored_as_guessing(study):
    expansion = finish(study())
    run(expansion, "without", 1, status="diverged", metrics={})
    summary = summarise(expansion)
    files = texts(expansion)
    page = Page(files["report.html"]).text
    for text in (page, files["report.md"]):
        assert "3 (1 diverged)" in text
        assert (
            "Diverged, scored as guessing unless the claim says otherwise: without seed 1." in text
        )
    assert summary.verdicts[0].differences[1] == pytest.approx(96.8 - 10)
    assert summary.arms[1].mean == pytest.approx((90 + 10 + 91) / 3)  # as the verdict has it
    assert "without,1," in files["results.csv"]
    assert ",diverged," in files["results.csv"]


def test_diverged_runs_without_a_speed_have_no_part_in_an_arms_speed(study):
    expansion = finish(study(), images_per_second=1000.0)
    none = {"status": "diverged", "metrics": {}, "images_per_second": 0.0}
    run(expansion, "without", 1, **none)
    assert [row.images_per_second for row in summarise(expansion).arms] == [1000.0, 1000.0]
    for seed in (0, 2):
        run(expansion, "without", seed, **none)
    assert np.isnan(summarise(expansion).arms[1].images_per_second)
    assert "Speed" not in texts(expansion)["report.md"]
    run(expansion, "with", 1, **none)
    assert "-100" not in texts(expansion)["report.md"]


def test_more_arms_than_colours_have_points_of_other_shapes():
    signs = [(figures.colour(i), figures.shape(i)) for i in range(32)]
    assert len(set(signs)) == 32


def test_the_callbacks_of_arms_are_part_of_what_was_trained(study):
    @xceptlab.register.callback("frozen_report", version=1)
    def frozen_report(config):
        raise AssertionError

    arms = {"with": {}, "without": {"train.callbacks": ["frozen_report"]}}
    assert (
        "| callbacks | none; without: frozen_report |"
        in texts(finish(study(arms=arms)))["report.md"]
    )
    assert "| callbacks |" not in texts(finish(study()))["report.md"]


def test_an_arm_that_always_diverged_scores_what_the_claim_declares(study):
    expansion = finish(study(claims=[CLAIM | {"diverged": 12.5}]))
    for seed in range(3):
        run(expansion, "without", seed, status="diverged", metrics={})
    files = texts(expansion)
    assert "| 3 (3 diverged) | 3 (≤ 100%) | 12.50 | 0.00 |" in files["report.md"]
    assert (
        "Claim helps: failures decide it: in 3 of 3 seeds a run of these arms failed."
        in files["report.md"]
    )
    assert "nan" not in files["report.md"]
    assert "nan" not in Page(files["report.html"]).text.lower()


def test_runs_that_score_worse_than_declared_have_failed_and_how_often_they_may_is_told(study):
    expansion = finish(study(claims=[CLAIM | {"failed": 90.5}]))
    summary = summarise(expansion)
    assert [(row.diverged, row.failed) for row in summary.arms] == [(0, 0), (0, 1)]
    assert (
        "Claim helps: runs failed (without seed 0), and no test of a mean is sound there"
        in summary.warnings[0]
    )
    markdown = texts(expansion)["report.md"]
    assert "| with | 3 | 0 (≤ 63%) |" in markdown
    assert "| without | 3 | 1 (≤ 86%) |" in markdown
    (expansion.directory() / "registered.yaml").unlink()
    plain = summarise(finish(study()))
    # the verdict is of the scores as they are
    assert plain.verdicts[0].summary == summary.verdicts[0].summary
    assert not any("failed" in warning for warning in plain.warnings)


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({"data_fingerprint": "xyz"}, ", xyz."),
        (
            {"git": {"revision": "0000000", "dirty": False}},
            "different revisions of the code: 0000000, 51fe86c.",
        ),
        ({"git": {}}, "different revisions of the code: 51fe86c, unknown."),
        ({"git": {"revision": "51fe86c", "dirty": True}}, "uncommitted changes"),
        ({"data_fingerprint": "xyz"}, "The runs saw different data: "),
        (
            {"data_fingerprint": "xyz"},
            "The data here are not those that the runs were trained on: digits has fingerprint ",
        ),
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
    Registration.register(study())
    finish(study())
    assert summarise(study()).warnings == []
    edited = study(claims=[CLAIM | {"margin": 0.1}])
    files = texts(edited)
    assert (
        "Edited after its registration: claim helps: margin 0.5 -> 0.1."
        in Page(files["report.html"]).text
    )
    assert "Edited after its registration: claim helps: margin 0.5" in files["report.md"]


@pytest.mark.parametrize("finished", [1e9, 4e9])  # clocks go wrong
def test_runs_that_are_older_than_the_registration_are_flagged(study, finished):
    expansion = study()
    for arm, seed in expansion.runs():
        leave(expansion, arm, seed, TOP1[arm][seed], finished=finished)
    Registration.register(expansion)
    (warning,) = summarise(expansion).warnings
    assert warning.startswith("6 of 6 runs are older than the study's registration")


@pytest.mark.parametrize("finished", [1e9, 4e9])
def test_runs_that_began_after_the_registration_are_not_flagged_whatever_the_clocks_say(
    study, finished
):
    expansion = study()
    Registration.register(expansion)
    finish(expansion, finished=finished)
    assert summarise(expansion).warnings == []


def test_one_run_that_is_older_is_told_in_the_singular(study):
    expansion = study()
    leave(expansion, "with", 0, TOP1["with"][0])
    for arm, seed in list(expansion.runs())[1:]:
        run(expansion, arm, seed)
    (warning,) = summarise(expansion).warnings
    assert warning.startswith("1 of 6 runs is older than the study's registration")


@pytest.mark.parametrize(("finished", "older"), [(1e9, True), (4e9, False)])
def test_of_records_that_name_no_registration_the_clock_is_asked(study, finished, older):
    expansion = study()
    Registration.register(expansion)
    finish(expansion, finished=finished, registrations=None)
    assert bool(summarise(expansion).warnings) == older


def test_a_registration_that_was_removed_and_made_anew_shows(study):
    expansion = study()
    Registration.register(expansion)
    run(expansion, "with", 0)
    (expansion.directory() / "registered.yaml").unlink()
    edited = study(claims=[CLAIM | {"margin": 1.0}])
    leave(edited, "without", 0, 90.0, record=None)  # it has begun
    Registration.register(edited)
    for arm, seed in list(edited.runs())[1:]:
        run(edited, arm, seed)
    (warning,) = summarise(edited).warnings
    assert warning.startswith("2 of 6 runs are older than the study's registration")


def test_a_report_without_a_registration_says_so_first(study):
    expansion = finish(study())
    assert summarise(expansion).warnings == []
    (expansion.directory() / "registered.yaml").unlink()
    (warning,) = summarise(expansion).warnings
    assert warning.startswith(
        "There is no registration of this study: nothing tells that its claims were made before its runs."
    )


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"device": "another CPU"}, "on different devices"),
        ({"arithmetic": "AVX512"}, "on different devices"),
        ({"versions": {"torch": "2.14.1"}}, "with different versions of torch"),
    ],
)
def test_runs_that_round_differently_are_a_warning_and_stand_in_the_results(study, changes, what):
    expansion = finish(study())
    run(expansion, "with", 0, **changes)
    (warning,) = summarise(expansion).warnings
    assert warning.startswith(f"The runs were made {what}")
    first, *_ = csv.DictReader(texts(expansion)["results.csv"].splitlines())
    expected = {"device": "a CPU", "arithmetic": "AVX2", "versions": {"torch": "2.11.0"}} | changes
    assert (first["device"], first["arithmetic"]) == (expected["device"], expected["arithmetic"])
    assert first["versions"] == f"torch {expected['versions']['torch']}"


def test_a_run_may_have_begun_under_the_registrations_of_two_studies(study, tmp_path):
    expansion = study()
    other = replace(expansion, name="other")
    for one in (expansion, other, expansion):
        Registration.register(one)
    finish(expansion)
    assert summarise(expansion).warnings == summarise(other).warnings == []
    (record,) = {tuple(record.registrations) for record in summarise(other).records.values()}
    assert len(record) == 2


@dataclass(frozen=True, kw_only=True)
class LaterRegistration(Registration):
    """That of a version which knows one more field."""

    added_later: str = "as before"


def test_a_later_version_with_more_fields_finds_runs_to_be_of_the_registration_still(
    study, monkeypatch
):
    expansion = study()
    Registration.register(expansion)
    finish(expansion)
    assert LaterRegistration.load_for(expansion).digest == Registration.load_for(expansion).digest
    monkeypatch.setattr("xceptlab.report.registration.Registration", LaterRegistration)
    assert summarise(expansion).warnings == []


def test_a_registration_does_not_hold_its_own_digest(study):
    expansion = study()
    Registration.register(expansion)
    file = expansion.directory() / "registered.yaml"
    assert "digest" not in yaml.safe_load(file.read_text())
    file.write_text(file.read_text() + "digest: abc\n")
    with pytest.raises(ValueError, match="not a registration of this version"):
        Registration.load_for(expansion)


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
    assert text.count("without spread a t-test has nothing to go by") == 2
    assert "test/loss" in text


def test_a_study_without_claims_has_a_report(study):
    expansion = finish(study(claims=[]))
    assert "97.47" in texts(expansion)["report.md"]


def test_results_csv_of_a_study_without_records_is_a_table(study):
    rows = list(csv.reader(io.StringIO(results_csv(summarise(study())))))
    assert len(rows) == 7
    assert len({len(row) for row in rows}) == 1


def test_the_two_sources_of_error_are_told_and_which_one_limits_the_answer(study):
    rng = np.random.default_rng(0)
    expansion = study()
    hard = rng.random(500)
    for (arm, seed), _ in expansion.runs().items():
        top1 = TOP1[arm][seed]
        run(expansion, arm, seed, correct=hard < np.quantile(hard, top1 / 100))
    sampling = summarise(expansion).sampling["helps"]
    assert (sampling.n, sampling.test_images) == (3, 500)
    differences = np.array(TOP1["with"]) - np.array(TOP1["without"])
    assert sampling.seeds == pytest.approx(differences.std(ddof=1) / np.sqrt(3))
    assert sampling.images == pytest.approx(100 * np.sqrt(0.066 * 0.934 / 500), rel=0.1)
    assert sampling.both == pytest.approx(np.hypot(sampling.seeds, sampling.images))
    limit = "the test images limit" if sampling.images > sampling.seeds else "the seeds limit"
    files = texts(expansion)
    for text in (Page(files["report.html"]).text, files["report.md"]):
        assert (
            f"{sampling.seeds:.2f} from 3 seeds, {sampling.images:.2f} from 500 test images" in text
        )
        assert limit in text


def test_a_verdict_that_other_test_images_might_turn_is_flagged(study):
    rng = np.random.default_rng(0)
    expansion = study(claims=[CLAIM | {"margin": 6.0}])
    scores = {"with": [97.0, 97.2, 97.1], "without": [90.0, 90.3, 90.1]}
    # in which images become hard for an arm, the same at every seed
    order = {arm: rng.permutation(500) for arm in scores}
    for arm, seed in expansion.runs():
        right = np.zeros(500)
        right[order[arm][: round(5 * scores[arm][seed])]] = 1
        leave(expansion, arm, seed, scores[arm][seed], correct=right)
    summary = summarise(expansion)
    assert summary.verdicts[0].outcome == "supported"
    assert "counting their sampling error too" in " ".join(summary.warnings)


@pytest.mark.parametrize(
    ("level", "metric", "said"),
    [
        ({"data.test_images": 100}, "test/top1", "data.test_images is 500 in with, 100 in without"),
        ({"data.test_images": 100}, "val/top1", ""),
        ({"data.test_images": 500}, "test/top1", ""),
        ({"data.validation": 0.2}, "val/top1", "data.validation is 0.1 in with, 0.2 in without"),
        ({"data.validation": 0.2}, "test/top1", ""),
        (
            {"data.validation_seed": 1},
            "val/loss",
            "data.validation_seed is 0 in with, 1 in without",
        ),
        (
            {"data.train_images": 500},
            "val/loss",
            "data.train_images is 1297 in with, 500 in without",
        ),
        ({"data.train_images": 500}, "test/loss", ""),
        ({"model.residual": "none"}, "test/loss", ""),
    ],
)
def test_arms_that_are_scored_on_other_images_are_pointed_out(study, capsys, level, metric, said):
    claim = CLAIM | {"metric": metric}
    expansion = study(arms={"with": {}, "without": level}, claims=[claim])
    metrics = {"test/top1": 90.0, "test/loss": 0.2, "val/top1": 90.0, "val/loss": 0.2}
    for arm, seed in expansion.runs():
        leave(expansion, arm, seed, 90.0, metrics=metrics)
    text = "laim helps: its arms are scored on different images"
    said = f"{text}: {said}" if said else ""
    of_report = [line for line in summarise(expansion).warnings if text in line]
    assert [line.rstrip(".") for line in of_report] == ([f"C{said}"] if said else [])
    capsys.readouterr()
    outputs = f"--runtime.outputs={expansion.baseline.runtime.outputs}"
    assert main(["plan", str(expansion.files[0].parent), outputs]) == 0
    assert (f"c{said}" in capsys.readouterr().err) if said else text not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("factors", "differ"),
    [
        (["model.residual"], False),
        (["data.test_images"], True),
        (["model.residual", "data.test_images"], True),
        (["data.test_images", "model.residual"], False),
    ],
)
def test_the_sides_of_an_effect_are_scored_on_the_same_images_if_all_arms_of_each_are(
    study, factors, differ
):
    cells = {"model.residual": ["all", "none"], "data.test_images": [100, 200]}
    effect = {name: cells[name] for name in factors}
    claim = {key: value for key, value in CLAIM.items() if key != "contrast"} | {"effect": effect}
    expansion = study(arms=None, grid=cells, claims=[claim])
    for arm, seed in expansion.runs():
        leave(expansion, arm, seed, 90.0)
    found = [one for one in summarise(expansion).warnings if "scored on different images" in one]
    assert bool(found) == differ


def test_the_sampling_error_of_a_loss_has_the_decimals_of_a_loss(study):
    rng = np.random.default_rng(0)
    expansion = study(claims=[CLAIM | {"metric": "test/loss", "margin": 0.001}])
    noise = 0.05 * rng.standard_normal(500)
    noise -= noise.mean()
    for arm, seed in expansion.runs():
        gain = noise + 0.003 + 1e-4 * seed
        losses = 0.25 + seed / 100 - (gain if arm == "with" else 0 * gain)
        metrics = {"test/top1": 90.0, "test/loss": float(losses.mean())}
        directory = leave(expansion, arm, seed, 90.0, metrics=metrics)
        np.save(directory.path / "test_loss.npy", losses + 1e-4 * rng.standard_normal(500))
    summary = summarise(expansion)
    assert summary.verdicts[0].outcome == "supported"
    (said,) = [line for line in summary.warnings if "counting their sampling error too" in line]
    assert re.search(r"the interval of \+0\.00\d\d ± 0\.00\d\d includes the margin", said)


def saved(values, **options):
    file = io.BytesIO()
    np.save(file, values, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        *(
            b"",
            b"nonsense",
            saved(np.ones(5))[:-9],
            saved(np.ones(5)).replace(b"'descr'", b"'descr\n"),
            saved(np.array("text")),
        ),
        *(
            saved(np.array([None]), allow_pickle=True),
            saved(np.ones((2, 3))),
            saved(np.array([])),
            saved(np.array([0, 7])),
        ),
        saved(np.ones(5)).replace(b"(5,)", b"(9,)"),
    ],
)
def test_a_file_of_correctness_that_is_none_is_an_error_in_one_line(study, data):
    expansion = finish(study())
    directory = run(expansion, "with", 0)
    (directory.path / "test_correct.npy").write_bytes(data)
    with pytest.raises(
        ValueError,
        match=r"test_correct.npy: not a run's values by image; remove its folder .*$",
    ):
        summarise(expansion)


def test_unequal_budgets_stand_beside_the_verdict(study):
    expansion = finish(study())
    for seed in range(3):
        run(expansion, "without", seed, macs=1_000_000, images_per_second=900.0, world_size=2)
    files = texts(expansion)
    said = "Unmatched budgets, with against without: parameters +1.3%, MACs +22.0%, processes 1 against 2."
    for text in (Page(files["report.html"]).text, files["report.md"]):
        assert said in text
    finish(expansion, parameters=1000)
    assert summarise(expansion).budgets["helps"].sentences == []


BUDGETS = [
    ({"train.epochs": 4}, {"steps": 72}, "epochs -50.0%"),
    ({"train.epochs": 4}, {"steps": 50}, "epochs -50.0%, optimizer steps -28.0%"),
    ({"train.batch_size": 32}, {"steps": 72}, "batch size +100.0%"),
    ({"data.train_images": 600}, {"steps": 16, "train_images": 540}, "training images +116.1%"),
    ({"train.epochs": 4, "data.train_images": 600}, {"steps": 32, "train_images": 540},
     "epochs -50.0%, training images +116.1%"),
    ({"model.width": 0.5}, {"parameters": 61_000, "macs": 400_000}, "parameters +301.7%, MACs +204.9%"),
]  # fmt: skip


def test_steps_and_images_that_no_other_budget_explains_are_told(study):
    expansion = finish(study(), parameters=1000)
    for seed in range(3):
        run(expansion, "without", seed, parameters=1000, steps=40)
    assert (
        summarise(expansion).budgets["helps"].unmatched
        == "Unmatched budgets, with against without: optimizer steps -50.0%."
    )
    # each within the tolerance, and both together not
    shorter = {"train.epochs": 124, "model.residual": "none"}
    expansion = finish(
        study(arms={"with": {"train.epochs": 125}, "without": shorter}), parameters=1000, steps=125
    )
    for seed in range(3):
        run(expansion, "without", seed, parameters=1000, steps=124, train_images=1158)
    assert (
        summarise(expansion).budgets["helps"].unmatched
        == "Unmatched budgets, with against without: images seen +1.6%."
    )


@pytest.mark.parametrize(("factor", "recorded", "said"), BUDGETS)
@pytest.mark.parametrize("beside", [{}, {"model.residual": "none"}, {"train.lr": 0.1}])
def test_budgets_that_change_what_is_learned_are_compared(study, factor, recorded, said, beside):
    """What the arms differ in may be the budget itself; else the budget might explain what the
    other factor is said to do.
    """
    batch = {"train.batch_size": 64}
    expansion = study(arms={"with": batch, "without": batch | factor | beside})
    for seed in range(3):
        run(expansion, "with", seed, parameters=245_041, steps=36)
        run(expansion, "without", seed, **({"parameters": 245_041, "steps": 36} | recorded))
    budgets = summarise(expansion).budgets["helps"]
    if beside:
        assert budgets.sentences == [f"Unmatched budgets, with against without: {said}."]
    else:
        assert budgets.sentences == [
            f"The budget is what is compared, with against without: {said}."
        ]
        assert budgets.unmatched == ""


@pytest.mark.parametrize("beside", [{}, {"model.residual": "none"}])
def test_a_budget_that_is_compared_stands_in_the_report_and_only_an_unmatched_one_is_tagged(
    study, beside
):
    expansion = study(arms={"with": {"train.epochs": 2}, "without": {"train.epochs": 4} | beside})
    run(expansion, "with", 0, parameters=245_041, steps=36)
    run(expansion, "without", 0, parameters=245_041, steps=72)
    (sentence,) = summarise(expansion).budgets["helps"].sentences
    files = texts(expansion)
    for text in (Page(files["report.html"]).text, files["report.md"]):
        assert sentence in text
    assert ('class="tag">unmatched' in files["report.html"]) == bool(beside)


def test_budgets_of_a_grid_are_compared_claim_by_claim(study):
    grid = {"model.residual": ["all", "none"], "train.epochs": [2, 4]}
    claims = [
        CLAIM | {"id": name, "contrast": ["all-2", name]} for name in ("none-2", "all-4", "none-4")
    ]
    expansion = study(arms=None, grid=grid, claims=claims)
    for arm, seed in expansion.runs():
        leave(expansion, arm, seed, 90.0 + seed, parameters=1000)
    budgets = summarise(expansion).budgets
    assert budgets["none-2"].sentences == []
    assert (bool(budgets["all-4"].unmatched), bool(budgets["all-4"].declared)) == (False, True)
    assert (bool(budgets["none-4"].unmatched), bool(budgets["none-4"].declared)) == (True, False)


def test_a_run_that_diverged_early_makes_no_unmatched_steps(study):
    expansion = finish(study(), parameters=1000)
    run(expansion, "without", 1, parameters=1000, status="diverged", metrics={}, steps=3)
    assert summarise(expansion).budgets["helps"].sentences == []


def timed(
    expansion: Expansion, order: list[tuple[str, int, float]], seconds: float = 10.0, **changes
) -> Expansion:
    """Runs of equal budgets, and when they started; those without are 67% slower."""
    for arm, seed, start in order:
        speed = 1500.0 if arm == "with" else 900.0
        when = {"started": start, "finished": start + seconds, "seconds": 0.8 * seconds}
        run(expansion, arm, seed, parameters=1000, images_per_second=speed, **(when | changes))
    return expansion


TOGETHER = [(arm, seed, 10.0 * seed) for seed in range(3) for arm in TOP1]
ONE_BY_ONE = [(arm, seed, 20.0 * seed + 10 * (arm == "with")) for seed in range(3) for arm in TOP1]


@pytest.mark.parametrize("order", [TOGETHER, ONE_BY_ONE])
def test_speeds_of_runs_that_were_made_together_are_compared_and_are_no_budget(study, order):
    summary = summarise(timed(study(), order))
    budgets = summary.budgets["helps"]
    assert (
        budgets.speed
        == "Speed, with against without: images/s +66.7% (the median of 3 pairs of runs made together, 1.67 to 1.67 times)."
    )
    assert budgets.unmatched == ""
    assert budgets.speed in texts(summary.expansion)["report.md"]


@pytest.mark.parametrize(
    ("order", "changes"),
    [
        # another day's baseline
        (
            [(arm, seed, 10.0 * seed + 500 * (arm == "with")) for seed in range(3) for arm in TOP1],
            {},
        ),
        (TOGETHER, {"host": ""}),  # old records
        (TOGETHER, {"finished": 5000.0}),  # interrupted and continued, nobody knows when it ran
        (TOGETHER, {"finished": -1.0}),  # the clock was set back
        (TOGETHER[:2], {}),  # one pair
    ],
)
def test_speeds_of_runs_that_were_not_made_together_are_not_compared(study, order, changes):
    assert summarise(timed(study(), order, **changes)).budgets["helps"].sentences == []


@pytest.mark.parametrize("changes", [{"host": "another"}, {"device": "a GPU"}])
def test_speeds_on_two_machines_are_not_compared(study, changes):
    expansion = timed(study(), TOGETHER)
    timed(expansion, [one for one in TOGETHER if one[0] == "with"], **changes)
    assert summarise(expansion).budgets["helps"].sentences == []


def test_speeds_of_runs_of_a_moment_are_not_compared(study):
    assert summarise(timed(study(), TOGETHER, seconds=4.0)).budgets["helps"].speed == ""


def test_speeds_of_runs_in_unequal_company_are_not_compared(study):
    """The arm without ran beside two runs of a third arm, the other one alone, right after it."""
    third = {"with": {}, "without": {"model.residual": "none"}, "third": {"model.middle_blocks": 2}}
    expansion = timed(study(arms=third), ONE_BY_ONE)
    for seed in range(3):
        start = 20.0 * seed
        leave(expansion, "third", seed, 90.0, started=start, finished=start + 9, seconds=8.0)
    assert summarise(expansion).budgets["helps"].speed == ""


def test_stand_ins_for_images_that_could_not_be_decoded_are_told(study):
    expansion = finish(study())
    assert "could not be decoded" not in texts(expansion)["report.md"]
    lines = log_lines(90.0)
    lines[0]["replaced"], lines[1]["replaced"] = 2, 3
    leave(expansion, "without", 1, 90.0, log=lines)
    assert (
        "replaced by others (data.on_corrupt: skip): without seed 1 (5 times)."
        in texts(expansion)["report.md"]
    )


# ---- arms of settled claims ----------------------------------------------------------------------

THREE = {"with": {}, "without": {"model.residual": "none"}, "third": {"model.middle_blocks": 2}}
SETTLED_AND_OPEN = [CLAIM, CLAIM | {"id": "close", "contrast": ["third", "without"], "margin": 1.0}]
LEVELS = {"with": 97.0, "without": 90.0, "third": 91.0}


def sequential(study, seeds_of_with: int) -> Expansion:
    """A claim that 3 seeds settle beside one that 5 leave open; the settled claim's first arm has
    runs of so many seeds.
    """
    expansion = study(
        arms=THREE,
        claims=SETTLED_AND_OPEN,
        seeds={"start": 3, "step": 1, "max": 5, "stop": "decided"},
    )
    Registration.register(expansion)
    for i, (arm, level) in enumerate(LEVELS.items()):
        noise = np.random.default_rng(i).normal(0, 0.2, 5)
        for seed in range(seeds_of_with if arm == "with" else 5):
            leave(expansion, arm, seed, level + noise[seed])
    return with_needed_seeds(expansion)


def test_a_report_names_the_arms_whose_claims_were_settled_and_judges_the_others(study):
    expansion = sequential(study, 3)
    assert (dict(expansion.seeds_by_stopped_arm), expansion.seeds) == ({"with": 3}, [0, 1, 2, 3, 4])
    pages = texts(expansion)
    for name in ("report.md", "report.html"):
        assert "No further seeds, as their claims were settled: with after 3 (of 5)" in " ".join(
            pages[name].split()
        )
    assert "effects of factors over the 3 that all arms have" in pages["report.md"]
    assert sum(line.startswith("with,") for line in pages["results.csv"].splitlines()) == 3


def test_only_arms_that_lack_seeds_are_named_as_ended(study):
    """An earlier version has trained the third arm, too, whose claims are settled, at 6 seeds."""
    expansion = replace(sequential(study, 3), seeds_by_stopped_arm={"with": 3, "third": 6})
    report = " ".join(texts(expansion)["report.md"].split())
    assert "No further seeds, as their claims were settled: with after 3 (of 5)" in report
    assert "third after" not in report


def test_runs_of_an_earlier_version_that_a_settled_claim_would_not_need_any_more_are_kept(study):
    expansion = sequential(study, 5)
    assert dict(expansion.seeds_by_stopped_arm) == {"with": 5}
    pages = texts(expansion)
    assert "No further seeds" not in pages["report.md"]
    assert "With all 5 seeds that there are by now it is +" in pages["report.md"]
    assert sum(line.startswith("with,") for line in pages["results.csv"].splitlines()) == 5


@pytest.mark.parametrize(
    ("scope", "where"),
    [("test_set", "the same images"), ("images", "other images of the same kind")],
)
def test_the_page_says_below_the_verdicts_for_what_they_hold(study, scope, where):
    expansion = study(scope=scope)
    for arm, seed in expansion.runs():
        run(expansion, arm, seed, correct=np.random.default_rng(seed).integers(0, 2, 500))
    assert f"Scope: runs with other seeds, tested on {where}." in texts(expansion)["report.html"]


def test_skewed_differences_are_warned_of(study):
    expansion = study(seeds=list(range(8)))
    for seed in range(8):
        leave(expansion, "with", seed, 97.0 + 0.01 * seed)
        leave(expansion, "without", seed, 96.0 if seed else 20.0)
    assert "Claim helps: the differences are skewed" in texts(expansion)["report.md"]


def test_a_run_that_began_and_has_no_record_is_listed(study):
    expansion = study()
    for arm, seed in list(expansion.runs())[:-1]:
        run(expansion, arm, seed)
    leave(expansion, "without", 2, 90.0, log=log_lines(90.0, epochs=1), record=None)
    text = texts(expansion)["report.md"]
    assert "Begun and not finished" in text
    assert "without seed 2 (at epoch 1 of 2)" in text


def test_a_run_that_is_being_trained_is_listed_as_such(study):
    expansion = study()
    for arm, seed in list(expansion.runs())[:-1]:
        run(expansion, arm, seed)
    directory = leave(expansion, "without", 2, 90.0, log=log_lines(90.0, epochs=1), record=None)
    with directory.locked():
        text = texts(expansion)["report.md"]
    assert "Being trained: without seed 2 (at epoch 1 of 2)" in text
    assert "not finished" not in text


def test_runs_that_failed_are_listed_with_the_reason_apart_from_those_that_may_still_run(study):
    expansion = finish(study())
    for seed in range(3):
        directory = leave(
            expansion, "without", seed, 90.0, log=log_lines(90.0, epochs=1), record=None
        )
        (directory.path / "record.json").unlink()
        if seed < 2:
            directory.fail("ended by SIGABRT in File train.py,\nline 3; a library crashed.")
    shutil.rmtree(leave(expansion, "with", 2, 90.0).path)
    RunDirectory.of(expansion.run("with", 2).runtime.outputs, expansion.run("with", 2).run_id).fail(
        "no space left on device"
    )
    failed, full, begun = summarise(expansion).warnings
    assert (
        failed
        == "Failed: without seed 0, without seed 1: ended by SIGABRT in File train.py, line 3; a library crashed."
    )
    assert full == "Failed: with seed 2: no space left on device."
    assert begun.endswith(": without seed 2 (at epoch 1 of 2).")


@pytest.mark.parametrize(("started", "flagged"), [(5e9, True), (1e9, False)])
def test_seeds_that_were_added_after_the_verdict_are_flagged(study, started, flagged):
    registered = study()
    Registration.register(registered)
    finish(registered)
    more = study(seeds=[0, 1, 2, 3])
    for arm in TOP1:
        leave(more, arm, 3, 95.0, started=started, finished=started + 1)
    warnings = " ".join(summarise(more).warnings)
    assert "seeds [0, 1, 2] -> [0, 1, 2, 3]" in warnings
    assert ("Seed 3 was added by hand after the verdict" in warnings) == flagged


def test_seeds_that_the_plan_adds_are_not_flagged(study):
    plan = study(
        seeds={"start": 3, "step": 1, "max": 5, "stop": "decided"}, claims=[CLAIM | {"margin": 6.6}]
    )
    Registration.register(plan)
    finish(plan)
    Registration.register(replace(plan, interim_analysis=1))
    for arm in TOP1:
        leave(plan, arm, 3, TOP1[arm][0] - (1 if arm == "with" else 0), started=5e9, finished=5e9)
    summary = summarise(replace(plan, interim_analysis=1))
    assert summary.warnings == []
    assert "5 seeds in all at most" in summary.verdicts[0].summary


def test_logs_with_values_that_are_no_numbers_are_drawn_without_them(study):
    expansion = finish(study())
    lines = [
        *log_lines(97.0, epochs=1),
        {"step": 20, "time": 9.0, "epoch": 2.0, "val/top1": float("nan")},
    ]
    for seed in range(3):
        run(expansion, "with", seed, log=lines)
    mean, _ = figures.band(summarise(expansion).curves["with"])
    assert mean[0] == pytest.approx(67.0)
    assert np.isnan(mean[1])
    write_report(summarise(expansion))


def test_bands_are_over_the_values_there_are():
    curve = Curve(
        epochs=np.array([1.0, 2.0]), values=np.array([[1.0, np.nan], [3.0, 5.0]]), seeds=[0, 1]
    )
    mean, deviation = figures.band(curve)
    assert mean.tolist() == [2.0, 5.0]
    assert deviation.tolist() == [pytest.approx(2**0.5), 0.0]


def grid(study, *claims: dict) -> Expansion:
    cells = {"model.residual": ["all", "none"], "model.intermediate": ["none", "relu"]}
    expansion = study(
        arms=None, grid=cells, claims=[CLAIM | {"contrast": ["all-none", "none-none"]}, *claims]
    )
    for (arm, seed), config in expansion.runs().items():
        effect = 5.0 * (config.model.residual == "none") + 2.0 * (
            config.model.intermediate == "relu"
        )
        leave(
            expansion,
            arm,
            seed,
            95.0 - effect + 0.1 * seed + (0.05 if arm == "all-relu" and seed == 1 else 0),
        )
    return expansion


def test_a_factorial_study_shows_main_effects_and_interactions(study):
    expansion = grid(study)
    effects = {row.name: row for row in summarise(expansion).effects}
    assert list(effects) == [
        "model.residual: all → none",
        "model.intermediate: none → relu",
        "model.residual: all → none × model.intermediate: none → relu",
    ]
    first, second, both = effects.values()
    assert (first.estimate, second.estimate, both.estimate) == pytest.approx((-5, -2, 0), abs=0.02)
    assert first.low < -5 < first.high
    files = texts(expansion)
    for text in (Page(files["report.html"]).text, files["report.md"]):
        assert "model.residual: all → none × model.intermediate" in text
        assert "-5.01" in text
    assert "| effect | estimate | low | high | p (Holm) |" in files["report.md"]


def test_effects_and_interactions_are_claimed_and_judged(study):
    residual, intermediate = (
        {"model.residual": ["all", "none"]},
        {"model.intermediate": ["none", "relu"]},
    )
    claims = [
        {
            "id": "main",
            "effect": residual,
            "metric": "test/top1",
            "kind": "superior",
            "margin": 4.0,
        },
        {
            "id": "both",
            "effect": residual | intermediate,
            "metric": "test/top1",
            "kind": "equivalent",
            "margin": 1.0,
        },
    ]
    expansion = grid(study, *claims)
    summary = summarise(expansion)
    _, main, both = summary.verdicts
    effects = [row.estimate for row in summary.effects]
    assert (main.outcome, both.outcome) == ("supported", "supported")
    assert (main.estimate, both.estimate) == pytest.approx((-effects[0], effects[2]))
    assert main.scores[0][0] == pytest.approx((95 + 93) / 2)
    assert main.summary.startswith(
        "Supported: model.residual all is 5.01 points better than model.residual none in test/top1, averaged over the other f"
    )
    said = "the gain of model.residual all over none is 0.02 points smaller with model.intermediate none than with model.inter"
    assert said in both.summary
    assert main.pairing_and_power.startswith(
        "Pairing by seed leaves 0.01 of the variance of two sides with seeds of their own (95%"
    )
    for text in texts(expansion).values():
        assert "nan" not in text.split("<script")[0]


def test_a_metric_that_an_arm_lacks_has_no_effects(study):
    cells = {"data.validation": [0.1, 0.0], "model.residual": ["all", "none"]}
    claim = CLAIM | {"contrast": ["0.1-all", "0.1-none"], "metric": "val/top1"}
    expansion = study(arms=None, grid=cells, claims=[claim])
    for arm, seed in expansion.runs():
        metrics = {"test/top1": 90.0, "test/loss": 0.2}
        if arm.startswith("0.1"):
            metrics["val/top1"] = 95.0 + 0.1 * seed - arm.endswith("none")
        leave(expansion, arm, seed, 90.0, metrics=metrics)
    summary = summarise(expansion)
    assert summary.verdicts[0].estimate == pytest.approx(1)
    assert summary.effects == []


LONG = {
    "model.order": ["depthwise_first"],
    "model.residual": ["all", "none"],
    "train.optimizer": ["sgd"],
    "train.lr": [0.1],
    "train.schedule": ["cosine"],
}


def test_two_arms_whose_names_differ_in_the_middle_have_two_places(study):
    sides = [f"depthwise_first-{level}-sgd-0.1-cosine" for level in ("all", "none")]
    expansion = study(arms=None, grid=LONG, claims=[CLAIM | {"contrast": sides}])
    for arm, seed in expansion.runs():
        leave(expansion, arm, seed, TOP1["with"][seed] - arm.count("none") * (1 + seed))
    _, _, pairs, *_ = specifications(texts(expansion)["report.html"])
    for side in sides:
        labels = values(pairs, "side", arm=side)
        assert {label.replace("\n", "") for label in labels} == {side}
    verdict, *_ = summarise(expansion).verdicts
    for draw in (figures.claims.verdict_chart, figures.claims.differences_chart):
        text = json.dumps(draw(verdict).to_dict())
        assert ("is better" in text) == (f"above 0, {sides[0]} is better" in text)


def test_a_gain_in_a_loss_is_drawn_as_it_is_said(study):
    interaction = {
        "id": "both",
        "effect": {"model.intermediate": ["none", "relu"], "model.residual": ["all", "none"]},
        "metric": "test/loss",
        "kind": "superior",
        "margin": 0.0,
    }
    expansion = grid(study, interaction)
    for arm, seed in expansion.runs():
        gain = {"all-none": 0.3, "none-none": 0.1}.get(arm, 0.0)
        metrics = {"test/top1": 90.0, "test/loss": 1.0 - gain + 0.01 * seed * (arm == "all-none")}
        leave(expansion, arm, seed, 90.0, metrics=metrics)
    summary = summarise(expansion)
    verdict = summary.verdicts[1]
    assert "the gain of model.intermediate none over relu is 0.19" in verdict.summary
    assert "larger with model.residual all" in verdict.summary
    pairs = figures.claims.pairs_chart(verdict, list(expansion.arms)).to_dict()
    of_all, of_none = (
        values(pairs, "score", arm=f"model.residual {level}") for level in ("all", "none")
    )
    assert of_all == pytest.approx([0.3, 0.29, 0.28])
    assert of_none == pytest.approx([0.1, 0.1, 0.1])
    for draw in (figures.claims.verdict_chart, figures.claims.differences_chart):
        chart = json.dumps(draw(verdict).to_dict())
        assert "none \u2212" not in chart
    title = figures.claims.verdict_chart(verdict).to_dict()["layer"][0]["encoding"]["x"]["title"]
    assert title[:2] == ["model.residual all", "− model.residual none"]
    assert verdict.estimate == pytest.approx(0.19)


def test_a_run_that_another_study_trains_after_the_registration_is_not_older(study):
    seeds = {"start": 3, "step": 1, "max": 5, "stop": "decided"}
    plan = study(seeds=seeds, claims=[CLAIM | {"margin": 6.6}])
    Registration.register(plan)
    assert len(plan.runs()) == 6
    for arm, seed in plan.at_most().runs():
        leave(plan.at_most(), arm, seed, TOP1[arm][seed % 3] + 0.1 * seed)
    summary = summarise(with_needed_seeds(plan))
    assert summary.done == 10
    assert not any("older than the study's registration" in one for one in summary.warnings)


def test_pairs_that_do_not_agree_on_the_faster_arm_say_nothing_of_speed(study):
    expansion = timed(study(), TOGETHER)
    run(
        expansion,
        "with",
        1,
        parameters=1000,
        images_per_second=500.0,
        started=10.0,
        finished=20.0,
        seconds=8.0,
    )
    assert summarise(expansion).budgets["helps"].speed == ""


def test_the_table_for_a_paper_says_what_its_numbers_are(study):
    claims = [
        CLAIM,
        CLAIM | {"id": "middle", "statistic": "median", "margin": 0.4},
        CLAIM | {"id": "apart", "pairing": "none"},
    ]
    expansion = study(claims=claims, seeds=list(range(8)), alpha=0.1)
    for arm, seed in expansion.runs():
        leave(expansion, arm, seed, TOP1[arm][seed % 3] + 0.01 * seed)
    write_report(summarise(expansion), latex=True)
    text = (expansion.directory() / "report.tex").read_text()
    for words in ("superior (0.5) &", "superior (0.4), median &", "superior (0.5), unpaired &"):
        assert words in text
    assert (
        "means over paired seeds, unless it says median or unpaired, and hold for this test set"
        in text
    )
    assert "80\\% intervals" in text


def test_links_to_wandb_are_web_addresses_only(study):
    expansion = finish(study())
    good, bad = (run(expansion, "with", seed).path / "wandb_url" for seed in (0, 1))
    good.write_text("https://wandb.ai/me/xceptlab/runs/1\n")
    bad.write_text("javascript:alert(1)")
    page = Page(texts(expansion)["report.html"])
    assert [a["href"] for tag, a in page.tags if tag == "a" and "#" not in a["href"]] == [
        "https://wandb.ai/me/xceptlab/runs/1"
    ]


def test_environment_and_commands_to_reproduce(study):
    text = Page(texts(finish(study()))["report.html"]).text
    assert "git checkout 51fe86c\nmake setup\nxceptlab study" in text
    assert "2.11.0" in text
    assert "a CPU" in text


def test_latex_is_booktabs_and_sets_text_as_it_is_written(study):
    expansion = finish(study(claims=[CLAIM | {"id": "50%_&_more$"}]))
    write_report(summarise(expansion), latex=True)
    text = (expansion.directory() / "report.tex").read_text()
    for word in (
        "\\toprule",
        "\\midrule",
        "\\bottomrule",
        r"50\%\_\&\_more\$",
        "supported",
        "97.47",
        "[+4.55, +8.65]",
    ):
        assert word in text
    assert text.count("{") == text.count("}")
    rows = [
        line.replace(r"\&", "").count("&") for line in text.splitlines() if line.endswith(r"\\")
    ]
    assert rows == [8] * 3 + [1] * 15 + [8] * 2
    assert "with - without & test/top1 (points) & superior (0.5)" in text
    assert (
        "\\begin{itemize}\n\\item Unmatched budgets, with against without: parameters +1.3\\%."
        in text
    )


def test_latex_has_every_warning_and_what_was_trained(study):
    expansion = finish(study())
    run(expansion, "without", 2, data_fingerprint="x_y", git={"revision": "51fe86c", "dirty": True})
    summary = summarise(expansion)
    write_report(summary, latex=True)
    text = (expansion.directory() / "report.tex").read_text()
    assert text.count(r"\item ") == len(summary.warnings) + 1 == 4
    assert r", x\_y." in re.search(r"\\item The runs saw different data: .*", text)[0]
    assert (
        "10 classes of digits, training on train, validation on 0.1 of train, test on test" in text
    )


RECIPE = {
    "data set": "10 classes of digits, training on train, validation on 0.1 of train, test on test",
    "images": "1,167 to train on, 130 for validation, 500 to test on",
    "image size": "16 x 16 pixels",
    "augmentation": "flip, cutout 4",
    "network": "Xception, width 0.5; the arms differ in it",
    "epochs": "2",
    "batch size": "64 in 2 parts",
    "optimizer": "adamw, weight decay 0.05",
    "learning rate": "0.001, cosine to 0, linear warm-up over 10% of the training",
    "regularisation": "label smoothing 0.1",
    "precision": "bf16-mixed",
    "seeds": "0, 1, 2",
    "base files": "base.yaml",
    "registered": "2001-09-09 01:46 UTC",
}


def test_the_report_says_what_was_trained(study, monkeypatch):
    layers = [
        "data.cutout=4",
        "model.width=0.5",
        "train.batch_size=64",
        "train.accumulate=2",
        "train.optimizer=adamw",
    ]
    layers += [
        "train.weight_decay=0.05",
        "train.lr=0.001",
        "train.schedule=cosine",
        "train.warmup=0.1",
    ]
    layers += ["train.label_smoothing=0.1", "train.precision=bf16-mixed"]
    expansion = study(*[f"--{layer}" for layer in layers])
    monkeypatch.setattr("time.time", lambda: 1e9)
    Registration.register(expansion)
    files = texts(finish(expansion))
    page = re.sub(r"\s*\n\s*", "\n", Page(files["report.html"]).text)
    for name, value in RECIPE.items():
        assert f"| {name} | {value}" in files["report.md"]
        assert f"{name}{value}" in page
    for text in (page, files["report.md"]):
        assert "Everything that the arms share" in text
        assert "train.ema: 0.0" in text
        assert "model.residual: " not in text


@pytest.mark.parametrize(
    ("key", "level", "row"),
    [
        ("train.epochs", 4, "| epochs | 2; without: 4 |"),
        (
            "train.optimizer",
            "rmsprop",
            "| optimizer | sgd, momentum 0.9, weight decay 1e-05; without: rmsprop, momentum 0.9",
        ),
        ("data.flip", False, "| augmentation | flip; without: none |"),
        ("model.timm", "inception_v3", "| network | Xception; without: timm's inception_v3 |"),
        ("data.size", 24, "| image size | 16 x 16 pixels; without: 24 x 24 pixels |"),
    ],
)
def test_what_an_arm_was_trained_with_in_its_place_is_said(study, key, level, row):
    text = texts(finish(study(arms={"with": {}, "without": {key: level}})))["report.md"]
    assert row in text
    assert f"\n- {key}: " not in text


@pytest.mark.parametrize(
    ("layers", "levels", "row"),
    [
        ([], ["resnet18", "resnet34"], "timm's resnet18; without: timm's resnet34"),
        ([], ["resnet18", "resnet18"], "timm's resnet18"),
        (
            ["--model.init=timm"],
            ["resnet18", "resnet34"],
            "timm's resnet18; without: timm's resnet34; in all of them init timm",
        ),
        ([], ["", "resnet18"], "Xception; without: timm's resnet18"),
    ],
)
def test_networks_of_other_names_are_named(study, layers, levels, row):
    arms = {
        name: {"model.timm": level, "train.lr": rate}
        for (name, level), rate in zip(
            zip(("with", "without"), levels, strict=True), (0.1, 0.2), strict=True
        )
    }
    assert f"| network | {row} |" in texts(study(*layers, arms=arms))["report.md"]


def test_arms_that_differ_beside_their_names_are_said_to(study):
    arms = {"with": {}, "other": {"model.timm": "resnet18"}, "without": {"model.residual": "none"}}
    row = "| network | Xception; other: timm's resnet18; the arms differ in it |"
    assert row in texts(study(arms=arms))["report.md"]


def test_without_records_the_images_are_those_of_the_configuration(study):
    assert (
        "| images | 1,167 to train on, 130 for validation, 500 to test on |"
        in texts(study())["report.md"]
    )
    own = study(
        "--data.name=folder", "--data.content=train+val-7-0123456789abcdef", "--data.validation=0"
    )
    assert (
        "| images | an unknown number to train on, an unknown number to test on |"
        in texts(own)["report.md"]
    )


@pytest.mark.parametrize("title", ["", "pets"])
@pytest.mark.parametrize(
    ("parts", "validation", "splits", "images"),
    [
        (
            "train+val+test",
            0,
            "validation on val, test on test",
            "1,167 to train on, 130 for validation, 500 to test on",
        ),
        ("train+val", 0, "validation on none, test on val", "1,167 to train on, 500 to test on"),
        (
            "train+test",
            0.1,
            "validation on 0.1 of train, test on test",
            "1,167 to train on, 130 for validation, 500 to test on",
        ),
    ],
)
def test_of_an_own_data_set_title_splits_and_images_are_said(
    study, title, parts, validation, splits, images
):
    own = [
        f"data.title={title}",
        f"data.content={parts}-3-0123456789abcdef",
        f"data.validation={validation}",
    ]
    expansion = study("--data.name=folder", *(f"--{layer}" for layer in own))
    folder = write_report(summarise(finish(expansion)), latex=True).parent
    for text in (
        (folder / name).read_text() for name in ("report.html", "report.md", "report.tex")
    ):
        assert f"3 classes of {title or 'folder'}, training on train, {splits}" in text
        assert images in text


def test_configuration_files_of_the_command_line_are_named(study, tmp_path):
    layer = tmp_path / "more.yaml"
    layer.write_text("train: {lr: 0.2}")
    assert f"| base files | base.yaml, {layer} |" in texts(study("-c", str(layer)))["report.md"]


def test_arms_at_chance_are_said_everywhere(study, capsys):
    expansion = study()
    for arm, seed in expansion.runs():
        leave(expansion, arm, seed, 10.0, correct=[1] * 50 + [0] * 450)
    files = texts(expansion)
    assert (
        main(
            [
                "report",
                str(Path(expansion.command.split()[2])),
                "--runtime.outputs",
                str(expansion.directory().parents[1]),
            ]
        )
        == 0
    )
    for text in (
        Page(files["report.html"]).text,
        files["report.md"],
        " ".join(capsys.readouterr().out.split()),
    ):
        assert "Both arms are at chance, so this says nothing about what they differ in." in text
        assert (
            "both arms are at chance: 10.00% and 10.00% in test/top1, which is not more than guessing (10.40%) explains"
            in text
        )


def test_in_80_characters_the_table_of_arms_has_their_names_and_numbers_whole(
    study, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "80")
    expansion = study()
    for arm, seed in expansion.runs():
        leave(expansion, arm, seed, 97.4 + seed, correct=[1] * 50 + [0] * 450)
    arguments = [
        "report",
        str(Path(expansion.command.split()[2])),
        "--runtime.outputs",
        str(expansion.directory().parents[1]),
    ]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    for arm in expansion.arms:
        (row,) = [line for line in lines if line.split()[:1] == [arm]]
        assert "0 (≤ " in row
        assert (
            len(row.split()) >= 10
        )  # name, runs, failed with its bound, mean, sd, parameters and MACs with their letters, speed


def test_plan_warns_of_a_margin_below_one_image_before_the_first_run(study, tmp_path, capsys):
    study(claims=[CLAIM | {"margin": 0.005}, CLAIM | {"id": "sound"}])
    assert (
        main(["plan", str(tmp_path / "helps"), "--runtime.outputs", str(tmp_path / "outputs")]) == 0
    )
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count("Warning: ") == 1
    warning = "Warning: the margin of 0.005 is less than a single image: one image more or less of 500 is 0.2 points."
    assert f"margin 0.005 {warning} Claim sound" in shown


@pytest.mark.parametrize("seeds", [[0, 1, 2], {"start": 3, "step": 1, "max": 4, "stop": "decided"}])
def test_plan_says_when_all_planned_seeds_are_used(study, tmp_path, capsys, seeds):
    expansion = study(claims=[CLAIM | {"margin": 6.5}], seeds=seeds)
    expansion = replace(expansion, interim_analysis=0 if isinstance(seeds, list) else 1)
    for arm, seed in expansion.runs():
        leave(
            expansion,
            arm,
            seed,
            [*TOP1[arm], 95.0][seed] if arm == "with" else [*TOP1[arm], 88.0][seed],
        )
    assert (
        main(["plan", str(tmp_path / "helps"), "--runtime.outputs", str(tmp_path / "outputs")]) == 0
    )
    shown = " ".join(capsys.readouterr().out.split())
    assert f"all {len(expansion.seeds)} planned seeds are used: at this mean and spread" in shown
    assert "chance to be decided" not in shown


@pytest.mark.parametrize(
    ("seeds", "images", "says"),
    [
        (1.0, 0.7, "No number of seeds takes it below 0.70; the seeds limit the answer."),
        (0.2, 0.68, "No number of seeds takes it below 0.68; the test images limit the answer."),
        (0.2, 0.0, "The images add nothing."),
    ],
)
def test_the_error_that_limits_the_answer_is_told_and_what_no_number_of_seeds_goes_below(
    seeds, images, says
):
    both = Sampling(
        seeds=seeds, images=images, both=1.2, freedom=9.0, n=5, test_images=500, metric="test/top1"
    )
    assert str(both).endswith(says)


def test_where_no_score_varies_no_advice_is_given_on_what_would_help(study):
    expansion = study()
    for arm, seed in expansion.runs():
        leave(expansion, arm, seed, 50.0, correct=[1, 0] * 20)
    (errors,) = summarise(expansion).sampling.values()
    assert "0.00 from both" in str(errors)
    assert "limit the answer" not in str(errors)
    assert "more of them" not in str(errors)


def test_studies_are_compared_on_one_page(study, tmp_path, capsys):
    finish(study())
    folder = tmp_path / "helps"
    other = tmp_path / "other"
    other.mkdir()
    for name in ("base.yaml", "study.yaml"):
        (other / name).write_text(
            (folder / name).read_text().replace("Does it help?", f"And now? {EVIL}")
        )
    outputs = ["--runtime.outputs", str(tmp_path / "outputs")]
    assert main(["report", str(folder), str(other), "--format", "latex", *outputs]) == 0
    said = capsys.readouterr().out
    assert said.count("SUPPORTED") == 2
    (page,) = (tmp_path / "outputs" / "comparisons").iterdir()
    assert f"Comparison: {page}" in said
    content = Page(page.read_text())
    assert f"And now? {EVIL}" in content.text
    assert not [script for script in content.scripts if "alert(1)" in script]
    assert "6 of 6 runs are shared" in content.text
    links = [a["href"] for tag, a in content.tags if tag == "a"]
    assert all((page.parent / link).resolve().is_file() for link in links)
    assert len(links) == 2
    assert (tmp_path / "outputs/studies/other/report.tex").is_file()


# ---- in a browser --------------------------------------------------------------------------------

CHROMIUM = Path("/usr/bin/chromium")
PROBE = """
<script>
const faults = [];
addEventListener('error', event => faults.push(event.message));
for (const kind of ['error', 'warn']) console[kind] = (...words) => faults.push(words.join(' '));
const labels = plot => [...plot.querySelectorAll('text')].filter(text => text.textContent.trim() && text.getClientRects().length);
const inside = (a, b) => a.left >= b.left - 1 && a.right <= b.right + 1 && a.top >= b.top - 1 && a.bottom <= b.bottom + 1;
const meet = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2 &&
                       Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 4;
const plots_ = () => [...document.querySelectorAll('.chart svg')];
const cut = () => [
  ...plots_().flatMap(plot => labels(plot).filter(text => !inside(text.getBoundingClientRect(), plot.getBoundingClientRect()))),
  ...[...document.querySelectorAll('.scroll')].filter(box => box.scrollHeight > box.clientHeight + 20),
].map(element => element.textContent.trim().slice(0, 40)).join('; ');
const overlaps = () => plots_().flatMap(plot => {
  const texts = labels(plot);
  return texts.flatMap((a, i) => texts.slice(i + 1)
    .filter(b => meet(a.getBoundingClientRect(), b.getBoundingClientRect())).map(b => a.textContent + ' and ' + b.textContent));
}).join('; ');
addEventListener('load', () => setTimeout(() => {
  const plot = document.querySelector('#curves .chart');
  const look = () => ['area', 'line'].map(kind => plot.querySelectorAll(`g.mark-${kind} path`).length).join(' and ');
  const before = look();
  const cell = plot.querySelector('[class*=voronoi] path'), box = cell.getBoundingClientRect();
  const middle = {bubbles: true, view: window, clientX: box.x + box.width / 2, clientY: box.y + box.height / 2};
  for (const kind of ['pointerover', 'pointermove']) cell.dispatchEvent(new PointerEvent(kind, middle));
  document.querySelector('input[value="single runs"]').click();
  document.querySelector('input[type=checkbox]').click();
  document.querySelector('[data-arm]').click();
  setTimeout(() => {
    const wide = document.documentElement.scrollWidth > innerWidth;
    const told = document.getElementById('vg-tooltip-element').innerText.replace(/\\s+/g, ' ').trim();
    const found = [before, look(), told, wide, 'faults: ' + faults.join('; '), 'cut: ' + cut(), 'overlap: ' + overlaps()];
    parent.postMessage('PROBE ' + found.join(' | '), '*');
  }, 1500);
}, 500));
</script>
"""


@pytest.mark.skipif(not CHROMIUM.exists(), reason="needs /usr/bin/chromium")
@pytest.mark.parametrize("width", [1280, 700, 400])
def test_a_browser_draws_the_figures_whole_and_the_curves_react(study, tmp_path, width):
    """In a frame, as a browser's window cannot be as narrow as a phone; the last claim holds at the
    right edge of its figure.
    """
    long = CLAIM | {"id": "long", "contrast": ["none-relu", "all-relu"], "margin": 0.1}
    equal = CLAIM | {
        "id": "equal",
        "contrast": ["all-none", "all-relu"],
        "kind": "equivalent",
        "margin": 0.1,
    }
    report = write_report(summarise(grid(study, long, equal)))
    report.write_text(report.read_text().replace("<head>", f"<head>{PROBE}", 1))
    page = tmp_path / "frame.html"
    listen = (
        "<script>addEventListener('message', event => { document.title = event.data; });</script>"
    )
    page.write_text(
        f'{listen}<iframe src="{report.as_uri()}" width="{width}" height="900"></iframe>'
    )
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
    ]
    options += ["--host-resolver-rules=MAP * ~NOTFOUND"]
    options += [
        f"--user-data-dir={tmp_path / 'browser'}",
        "--virtual-time-budget=9000",
        "--dump-dom",
        "--window-size=1400,900",
    ]
    done = subprocess.run(
        [CHROMIUM, *options, page.as_uri()], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    probe = re.search("<title>PROBE (.*)</title>", done.stdout)
    assert probe, done.stdout[-2000:]
    before, after, told, too_wide, faults, cut, overlap = html.unescape(probe[1]).split(" | ")
    assert before == "4 and 4"  # bands and means of four arms
    assert after == "0 and 12"  # the means of three arms, and their nine runs
    assert re.match(r"epoch 1 all-none \(n = 3\) 65\.10 ± 0\.10 all-relu", told), told
    assert too_wide == "false"
    assert faults == "faults: "
    assert cut == "cut: "
    assert overlap == "overlap: "
