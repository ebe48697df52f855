"""Arms that are compared at their own best values: which runs there are, which are chosen, and what
is said of it.
"""

import csv
import io
import itertools

import numpy as np
import pytest
import yaml

from made import leave
from xceptlab import register
from xceptlab.cli import main
from xceptlab.report.summary import summarise
from xceptlab.report.write import results_csv, write_report
from xceptlab.study import images
from xceptlab.study.choice import arm_records, chosen, directories_at, records_at
from xceptlab.study.expansion import Expansion
from xceptlab.study.judging import judge, judge_study
from xceptlab.study.plan import expand
from xceptlab.study.registration import Registration
from xceptlab.study.run_scores import scores_of_runs
from xceptlab.study.tuning import Tune
from xceptlab.study.tuning_warnings import tuning_warnings

VALUES = [0.03, 0.1, 0.3]
STUDY = {
    "question": "Does it help?",
    "base": ["base.yaml"],
    "seeds": [0, 1, 2],
    "arms": {"a": {"model.residual": "all"}, "b": {"model.residual": "none"}},
    "claims": [
        {
            "id": "c",
            "contrast": ["a", "b"],
            "metric": "test/top1",
            "kind": "superior",
            "margin": 0.5,
        }
    ],
    "tune": {"keys": {"train.lr": VALUES}, "select": "val/top1"},
}
BASE = "data: {name: digits, size: 16, crop: none, validation: 0.1}\ntrain: {epochs: 3, lr: 0.1}\n"


@pytest.fixture
def study(tmp_path):
    """Write the study with some keys changed or, with None, left out, and expand it."""

    def write(*args: str, base: str = BASE, seeds_first: int | None = None, **changes) -> Expansion:
        folder = tmp_path / "tuned"
        folder.mkdir(exist_ok=True)
        (folder / "base.yaml").write_text(base)
        content = {key: value for key, value in (STUDY | changes).items() if value is not None}
        (folder / "study.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        return expand(
            str(folder), [f"--runtime.outputs={tmp_path / 'outputs'}", *args], seeds_first
        )

    return write


def brier(logits, labels):
    """No run is trained here that would call it."""
    raise AssertionError


@pytest.fixture
def tuned_by(study, monkeypatch):
    """Expand the study with every arm measuring a registered metric and tuned by it, or by
    ``select``.
    """
    monkeypatch.setattr(register, "_entries", {})

    def expanded(name: str, select: str = "") -> Expansion:
        base = BASE.replace("lr: 0.1", f"lr: 0.1, metrics: [{name}]")
        tune = {"keys": {"train.lr": VALUES}, "select": select or f"val/{name}"}
        return study(base=base, tune=tune)

    return expanded


def leave_scores(expansion: Expansion, metric: str, scores: dict[str, float]) -> None:
    """Leave all runs behind with these scores in a metric, by trial; 1 where none is given."""
    for trial, seed in expansion.runs():
        metrics = {"test/top1": 90.0, "val/top1": 50.0, metric: scores.get(trial, 1.0)}
        leave(expansion, trial, seed, 90.0, metrics=metrics)


def finish(
    expansion: Expansion,
    validation: dict[str, list[float]],
    test: dict[str, list[float]],
    **changes,
) -> Expansion:
    """Leave the runs behind: by trial, such as ``a@0.1``, the accuracies of each seed."""
    for trial, seed in expansion.runs():
        top1 = test[trial][seed]
        metrics = {
            "test/top1": top1,
            "test/loss": 0.25,
            "val/top1": validation[trial][seed],
            "val/loss": 1.0,
        }
        leave(expansion, trial, seed, top1, metrics=metrics, **changes)
    return expansion


VALIDATION = {
    "a@0.03": [90, 90, 90], "a@0.1": [95, 80, 95], "a@0.3": [90, 99, 95],
    "b@0.03": [70, 60, 50], "b@0.1": [10, 10, 10], "b@0.3": [10, 10, 10],
}  # fmt: skip
TEST = {
    "a@0.03": [99, 99, 99], "a@0.1": [91, 92, 93], "a@0.3": [94, 95, 96],
    "b@0.03": [71, 73, 75], "b@0.1": [80, 80, 80], "b@0.3": [80, 80, 80],
}  # fmt: skip


# ---- what is run ---------------------------------------------------------------------------------


def test_every_arm_is_trained_at_every_value_with_every_seed_and_nothing_else_differs(study):
    runs = study().runs()
    assert list(runs)[:6] == [(f"{arm}@{value}", 0) for arm in "ab" for value in VALUES]
    assert len({run.run_id for run in runs.values()}) == 2 * 3 * 3
    assert [run.train.lr for run in runs.values()] == VALUES * 2 * 3
    a, b = (runs[f"{arm}@0.3", 2].science() for arm in "ab")
    assert {key for key in a if a[key] != b[key]} == {"model.residual"}


def test_a_value_that_is_the_base_files_shares_its_run_with_the_study_that_tunes_nothing(study):
    tuned = study().runs()
    plain = study(tune=None).runs()
    assert plain["a", 1].run_id == tuned["a@0.1", 1].run_id
    assert list(plain) == [(arm, seed) for seed in range(3) for arm in "ab"]


def test_a_first_look_and_seeds_until_decided_train_every_value(study):
    assert len(study(seeds_first=2).runs()) == 2 * 2 * 3
    assert (
        len(study(seeds={"start": 4, "step": 2, "max": 8, "stop": "decided"}).runs()) == 2 * 4 * 3
    )


def test_drawn_values_fill_their_range_and_more_trials_keep_the_runs_of_fewer():
    few, many = (
        Tune(keys={"train.lr": {"log": [0.01, 1.0]}}, trials=n).trial_values for n in (4, 16)
    )
    assert many[:4] == few
    values = sorted(each["train.lr"] for each in many)
    assert 0.01 <= values[0] < 0.02
    assert 0.6 < values[-1] <= 1.0
    assert max(b / a for a, b in itertools.pairwise(values)) < 2


def test_values_of_several_keys_are_crossed(study):
    trials = study(
        tune={"keys": {"train.lr": [0.1, 0.2], "train.weight_decay": [0, 0.0005]}}
    ).trials
    assert [name for name in trials if name.startswith("a")] == [
        "a@0.1,0",
        "a@0.1,0.0005",
        "a@0.2,0",
        "a@0.2,0.0005",
    ]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tune": {"keys": {}}}, "tune.keys: {} is not allowed; it must be a mapping of at least one key"),
        ({"tune": {"keys": {"train.lr": [0.1]}}}, "tune.keys: train.lr: [0.1] is not allowed; it must be a list of at least two"),
        ({"tune": {"keys": {"train.lr": [0.1, 0.1]}}}, "must be a list of at least two different values"),
        ({"tune": {"keys": {"train.lr": {"log": [1.0, 0.1]}}, "trials": 4}}, "{log: [low, high]} with 0 < low < high"),
        ({"tune": {"keys": {"train.lr": {"log": [0.1, 1.0]}}}}, "tune.trials: 0 is not allowed; it must be from 2 to 100"),
        (
            {"tune": {"keys": {"train.lr": {"log": [0.1, 0.1002]}}, "trials": 5}},
            "it must be ranges wide enough for 5 values of 3 digits",
        ),
        ({"tune": {"keys": {"train.lr": [0.1, 1.0]}, "trials": 4}}, "tune.trials: 4 is not allowed; it must be left out"),
        ({"tune": {"keys": {"train.epochs": [1, 2]}}}, "train.epochs: cannot be tuned; train.lr, "),
        ({"tune": {"keys": {"train.learning_rate": [1, 2]}}}, "did you mean train.lr?"),
        ({"tune": {"keys": {"train.lr": [0.1, -1]}}}, "tune.keys: train.lr: -1"),
        ({"tune": {"keys": {"train.lr": [0.1, "much"]}}}, "tune.keys: train.lr: 'much' is not allowed"),
        (
            {"tune": {"keys": {"train.lr": [0.1, 1]}, "select": "test/top1"}},
            "study.yaml: tune.select: 'test/top1' is not allowed; it must be one of val/top1, val/top5, val/loss",
        ),
        ({"tune": {"keys": {"train.lr": [0.1, 1]}, "select": "val/brier"}}, "tune.select: 'val/brier' is not allowed; it"),
        ({"tune": {"keys": {"train.lr": [0.1, 1]}, "select": 1}}, "tune.select: 1 is not allowed; it must be one of val/top1, "),
        ({"arms": {"a": {}, "b": {"train.lr": 0.2}}}, "arm 'b': train.lr is tuned, so that no arm may declare it"),
        ({"base": BASE.replace("validation: 0.1", "validation: 0")}, "tune.select: val/top1 needs data.validation"),
    ],
)  # fmt: skip
def test_what_cannot_be_tuned_is_one_line(study, changes, says):
    if "base" in changes:
        changes = {"base": changes["base"]}
    with pytest.raises(ValueError) as error:
        study(**changes)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_tuned_key_cannot_be_overridden(study):
    with pytest.raises(ValueError, match=r"--train.lr: the study .* decides it"):
        study("--train.lr=0.5")


def test_the_registration_holds_what_is_tuned_and_an_edit_is_told(study):
    Registration.register(study())
    assert Registration.load_for(study()).edits(study()) == []
    edited = study(tune={"keys": {"train.lr": [0.03, 0.1, 0.3, 1.0]}})
    assert [edit.split(" ")[0] for edit in Registration.load_for(edited).edits(edited)] == ["tune"]


# ---- what is chosen ------------------------------------------------------------------------------


def test_validation_chooses_anew_for_every_seed_ties_go_to_the_first_and_the_test_split_has_no_part(
    study,
):
    expansion = finish(study(), VALIDATION, TEST)
    choice = chosen(expansion, expansion.records())
    assert [choice["a", seed] for seed in range(3)] == ["a@0.1", "a@0.3", "a@0.1"]
    assert [choice["b", seed] for seed in range(3)] == ["b@0.03"] * 3
    (v,) = judge_study(expansion, expansion.records())
    assert v.scores == ({0: 91, 1: 95, 2: 93}, {0: 71, 1: 73, 2: 75})
    assert (
        "Each arm at the best of 3 values of train.lr by val/top1, chosen anew for every seed."
        in v.summary
    )


def test_the_lower_loss_is_the_better_one(study):
    expansion = study(tune={"keys": {"train.lr": VALUES}, "select": "val/loss"})
    for trial, seed in expansion.runs():
        loss = {"a@0.03": 3.0, "a@0.1": 2.0, "a@0.3": 1.0}.get(trial, 1.0)
        leave(
            expansion,
            trial,
            seed,
            90.0,
            metrics={"test/top1": 90.0, "val/loss": loss, "val/top1": 50.0},
        )
    assert chosen(expansion, expansion.records())["a", 0] == "a@0.3"


def test_a_registered_metric_chooses_by_its_own_direction(tuned_by):
    register.metric("brier", version=1, lower_is_better=True)(brier)
    expansion = tuned_by("brier")
    leave_scores(expansion, "val/brier", {"a@0.03": 0.5, "a@0.1": 0.25, "a@0.3": 0.75})
    assert chosen(expansion, expansion.records())["a", 0] == "a@0.1"
    register.metric("brier", version=1)(brier)
    assert chosen(expansion, expansion.records())["a", 0] == "a@0.3"


def test_a_registered_metric_that_an_arm_does_not_measure_is_refused_with_those_that_it_does(
    tuned_by,
):
    register.metric("brier", version=1, lower_is_better=True)(brier)
    with pytest.raises(ValueError) as error:
        tuned_by("brier", select="val/kappa")
    allowed = "one of val/top1, val/top5, val/loss, val/brier"
    assert str(error.value).endswith(
        f"study.yaml: tune.select: 'val/kappa' is not allowed; it must be {allowed}"
    )


def test_a_diverged_value_stands_for_an_arm_only_where_all_diverged(study):
    expansion = finish(study(), VALIDATION, TEST)
    for trial in ("a@0.1", "b@0.03", "b@0.1", "b@0.3"):
        leave(expansion, trial, 0, 0.0, status="diverged", metrics={})
    records = expansion.records()
    choice = chosen(expansion, records)
    assert (choice["a", 0], choice["b", 0]) == ("a@0.03", "b@0.03")
    (v,) = judge_study(expansion, records)
    assert v.scores[1][0] == 10.0  # guessing


def test_an_arm_waits_for_all_its_values(study):
    expansion = finish(study(), VALIDATION, TEST)
    records = expansion.records() | {("b@0.3", 2): None}
    assert arm_records(expansion, records)["b", 2] is None
    (v,) = judge_study(expansion, records)
    assert (v.outcome, v.n) == ("incomplete", 2)


# ---- what is said --------------------------------------------------------------------------------


def test_a_choice_at_the_edge_and_one_of_too_few_images_are_warned_of(study):
    expansion = finish(study(), VALIDATION, TEST, validation_images=130)
    warnings = tuning_warnings(expansion, expansion.records())
    assert any(
        "the best train.lr of b is at the edge of the values that were tried (0.03 in 3 of 3 seeds)"
        in w
        for w in warnings
    )
    assert not any("of a is at the edge" in w for w in warnings)
    assert any(
        "130 validation images cannot tell the two best values of a apart in 2 of 3 seeds" in w
        for w in warnings
    )
    assert not any("two best values of b apart" in w for w in warnings)


def test_of_two_values_either_is_at_the_edge(study):
    expansion = study(tune={"keys": {"train.lr": [0.03, 0.3]}, "select": "val/top1"})
    two = {name: scores for name, scores in VALIDATION.items() if not name.endswith("@0.1")}
    finish(expansion, two, {name: TEST[name] for name in two})
    warnings = tuning_warnings(expansion, expansion.records())
    assert sum("is at the edge of the values that were tried" in w for w in warnings) == 2


def test_many_images_tell_them_apart(study):
    clear = {
        trial: [own - 10 * (trial == "a@0.3") for own in values]
        for trial, values in VALIDATION.items()
    }
    expansion = finish(study(), clear, TEST, validation_images=50_000)
    assert not any(
        "apart" in warning for warning in tuning_warnings(expansion, expansion.records())
    )


def test_nothing_is_said_of_the_error_of_a_registered_metric_in_percent(tuned_by):
    register.metric("wrong", version=1, unit="%", lower_is_better=True)(brier)
    expansion = tuned_by("wrong")
    leave_scores(expansion, "val/wrong", {"a@0.03": 120.0, "a@0.1": 119.9})
    assert not any("apart" in one for one in tuning_warnings(expansion, expansion.records()))


def test_the_report_shows_what_was_chosen_and_every_value(study):
    expansion = finish(study(), VALIDATION, TEST)
    summary = summarise(expansion)
    assert summary.tuned
    assert summary.tuned.chosen[1] == ["a", "0.1", "0.3", "0.1"]
    assert summary.tuned.by_value[1][1:] == [
        "99.00 ± 0.00 (0×)",
        "92.00 ± 1.00 (2×)",
        "95.00 ± 1.00 (1×)",
    ]
    assert [row[1:3] for row in summary.tuned.contrasts[1:]] == [
        ["0.03", "+26.00"],
        ["0.1", "+12.00"],
        ["0.3", "+15.00"],
    ]
    folder = write_report(summary, latex=True).parent
    for name in ("report.html", "report.md"):
        text = (folder / name).read_text()
        assert "Each arm at the best of 3 values of train.lr by val/top1" in text
        assert "p unadjusted" in text
        assert "99.00 ± 0.00 (0×)" in text
    assert summary.arms[0].n == 3
    assert summary.done == 18


def test_claims_at_one_value_are_judged_for_other_images_where_the_study_is(study):
    expansion = study(scope="images")
    rng = np.random.default_rng(0)
    hard = rng.random(500)
    for trial, seed in expansion.runs():
        chance = TEST[trial][seed] / 100
        correct = (hard + 0.01 * rng.standard_normal(500) < chance).astype(np.uint8)
        top1 = 100 * float(correct.mean())
        metrics = {"test/top1": top1, "test/loss": 0.25, "val/top1": VALIDATION[trial][seed]}
        leave(expansion, trial, seed, top1, metrics=metrics, correct=correct)
    summary = summarise(expansion)
    assert summary.tuned
    rows = summary.tuned.contrasts[1:]
    (claim,) = expansion.study.claims
    for number, row in enumerate(rows):
        records = records_at(expansion, expansion.records(), number)
        scores = scores_of_runs(claim, expansion, records)
        directories = directories_at(expansion, number)
        assert directories["a", 0].path.name == expansion.run(f"a@{VALUES[number]}", 0).run_id
        variance = images.variance_of(claim, expansion.study, directories, [0, 1, 2])
        (verdict,) = judge([claim], [scores], [0, 1, 2], image_variances={"c": variance})
        assert row[3:5] == [f"{verdict.low:+.2f}", f"{verdict.high:+.2f}"]
        (on_these,) = judge([claim], [scores], [0, 1, 2])
        assert row[3:5] != [f"{on_these.low:+.2f}", f"{on_these.high:+.2f}"]


def test_an_interval_that_is_not_known_at_one_value_is_a_dash(study):
    summary = summarise(finish(study(scope="images"), VALIDATION, TEST))
    assert summary.tuned
    assert [row[2:6] for row in summary.tuned.contrasts[1:]] == [
        [difference, "–", "–", "–"] for difference in ("+26.00", "+12.00", "+15.00")
    ]


def test_a_run_without_the_score_of_the_choice_is_no_best_value(study):
    expansion = finish(study(), VALIDATION, TEST)
    leave(expansion, "a@0.1", 0, 91.0, metrics={"test/top1": 91.0})
    records = expansion.records() | {("a@0.03", 0): None}
    assert isinstance(tuning_warnings(expansion, records), list)


def test_a_trial_without_the_metric_has_no_score_in_it(study):
    expansion = finish(study(claims=[]), VALIDATION, TEST)
    leave(expansion, "a@0.1", 0, 91.0, metrics={"val/top1": 95.0})
    summary = summarise(expansion)
    assert summary.tuned
    assert summary.tuned.by_value[1][2] == "92.50 ± 0.71 (2×)"


def test_results_have_the_value_of_every_run(study):
    expansion = finish(study(), VALIDATION, TEST)
    rows = list(csv.DictReader(io.StringIO(results_csv(summarise(expansion)))))
    assert [(row["arm"], row["train.lr"]) for row in rows[:6]] == [
        (arm, str(value)) for arm in "ab" for value in VALUES
    ]


def test_plan_and_status_count_arms_times_seeds_times_values(study, capsys):
    expansion = study()
    folder = str(expansion.files[0].parent)
    options = [f"--runtime.outputs={expansion.arms['a'].runtime.outputs}"]
    assert main(["plan", folder, *options]) == 0
    assert (
        "18 of 18 runs to train: 2 arms x 3 seeds x 3 values of train.lr."
        in capsys.readouterr().out
    )
    leave(expansion, "a@0.3", 0, 90.0)
    assert main(["status", folder, *options]) == 0
    said = capsys.readouterr().out
    assert "1 of 18 done" in said
    assert "a@0.3 seed 0" in said
