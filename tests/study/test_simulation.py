"""How often verdicts are wrong: the benchmark's simulations, in small; docs/simulation.md has them
in full.
"""

import importlib.util
import math

import numpy as np
import pytest
from scipy import stats as sp
from statsmodels.stats.power import TTestPower

from conftest import ROOT
from xceptlab.study import statistics
from xceptlab.study.claims import Claim
from xceptlab.study.judging import judge


def benchmark(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


errors = benchmark("statistics_errors")
TRIALS = 10_000
MOST = 0.05 + 3 * math.sqrt(0.05 * 0.95 / TRIALS)
"""Alpha and three standard errors of the simulation."""


DESIGNS = [*map(range, errors.SIZES), errors.PLAN_OF_MEDIANS]
"""Fixed numbers of seeds, and seeds until decided."""
NAMES = [f"n = {n}" for n in errors.SIZES] + ["until decided"]


@pytest.mark.parametrize("seeds", DESIGNS, ids=NAMES)
@pytest.mark.parametrize("kind", ["superior", "equivalent"])
@pytest.mark.parametrize("differences", ["normal", "normal, one baseline", "heavy tails (t, 3 df)"])
def test_false_verdicts_on_means_are_as_rare_as_alpha_where_differences_are_symmetric(
    differences, kind, seeds
):
    """Of 1, 3 and 5 claims, on either side."""
    wrong = errors.false_verdicts(
        errors.DIFFERENCES[differences], "mean", kind, seeds, TRIALS, seed=0
    )
    assert (wrong <= MOST).all()
    if differences == "normal":
        assert (wrong >= 0.035).all()  # and the tests are not careful for nothing


@pytest.mark.parametrize("seeds", DESIGNS, ids=NAMES)
def test_accuracies_of_whole_images_make_false_verdicts_on_means_hardly_more_frequent(seeds):
    wrong = errors.false_verdicts(
        errors.DIFFERENCES["whole images of 500"], "mean", "superior", seeds, TRIALS, seed=0
    )
    assert (wrong <= 0.07).all()


@pytest.mark.parametrize("seeds", DESIGNS, ids=NAMES)
@pytest.mark.parametrize("kind", ["superior", "equivalent"])
@pytest.mark.parametrize("differences", errors.DIFFERENCES)
def test_false_verdicts_on_medians_are_as_rare_as_alpha_whatever_the_differences(
    differences, kind, seeds
):
    wrong = errors.false_verdicts(
        errors.DIFFERENCES[differences], "median", kind, seeds, TRIALS, seed=0
    )
    assert (wrong <= MOST).all()


def test_skewed_differences_do_break_the_t_test_as_the_docs_say():
    wrong = errors.false_verdicts(
        errors.DIFFERENCES["skewed down (exponential)"],
        "mean",
        "superior",
        range(5),
        TRIALS,
        seed=0,
    )
    assert 0.13 < wrong[0, 0] < 0.19


@pytest.mark.parametrize("seeds", DESIGNS, ids=NAMES)
@pytest.mark.parametrize("share", errors.SHARES)
def test_where_an_arm_fails_claims_on_the_mean_are_not_sound(share, seeds):
    """They are wrong three times as often as alpha, and up to 90% of the time, unless two failures
    or more are to be expected: then the t-test sees the spread.
    """
    wrong = errors.false_verdicts(
        errors.DIFFERENCES[f"a fails in {share:.0%}"], "mean", "superior", seeds, TRIALS, seed=0
    )
    if isinstance(seeds, range) and share * len(seeds) >= 2:
        assert 0.05 < wrong[0, 0] < 0.15
    else:
        assert 0.15 < wrong[0, 0] < 0.92


def test_the_median_finds_what_a_collapse_hides_from_the_mean():
    of_mean, of_median = errors.collapse_power(0.1, 5, TRIALS, seed=0)
    assert of_mean == pytest.approx(0.58, abs=0.02)
    assert of_median == pytest.approx(0.90, abs=0.02)


@pytest.mark.parametrize("n", [3, 5, 10, 20])
def test_the_intervals_cover_as_often_as_they_say(n):
    assert errors.coverage(
        errors.DIFFERENCES["normal"], "mean", n, TRIALS, seed=n
    ) == pytest.approx(0.90, abs=0.01)


@pytest.mark.parametrize("differences", errors.DIFFERENCES)
@pytest.mark.parametrize("n", errors.SIZES)
def test_the_intervals_of_medians_cover_at_least_as_often_as_they_say(differences, n):
    assert errors.coverage(errors.DIFFERENCES[differences], "median", n, TRIALS, seed=n) >= 0.89


@pytest.mark.parametrize("n", [3, 5, 10, 20])
@pytest.mark.parametrize("effect", [0.5, 1.0, 2.0])
def test_the_power_is_that_of_statsmodels_formula(n, effect):
    formula = TTestPower().power(effect, n, 0.05, alternative="larger")
    error = math.sqrt(formula * (1 - formula) / TRIALS)
    assert errors.power(effect, "mean", n, TRIALS, seed=n) == pytest.approx(
        formula, abs=max(4 * error, 0.002)
    )


def test_calibrate_finds_skewed_differences_and_nothing_in_normal_ones():
    normal = errors.calibrated_rates(errors.DIFFERENCES["normal"], 20, 1, 10, seed=0).mean()
    skewed = errors.calibrated_rates(
        errors.DIFFERENCES["skewed down (exponential)"], 20, 1, 10, seed=0
    ).mean()
    assert normal == pytest.approx(0.05, abs=0.02)
    assert skewed == pytest.approx(0.10, abs=0.03)


@pytest.mark.parametrize("validation", [130, 5_000, 50_000])
@pytest.mark.parametrize("n", [5, 10])
def test_arms_that_are_tuned_anew_for_every_seed_are_judged_as_rightly_as_others(n, validation):
    assert errors.tuning_errors(0, validation, "anew", n, TRIALS, seed=n) == pytest.approx(
        0.05, abs=MOST - 0.05
    )
    assert errors.tuning_errors(1, validation, "anew", n, TRIALS, seed=n) <= (
        0.08 if validation == 130 else MOST
    )


@pytest.mark.parametrize(
    ("how", "validation"), [("once", 130), ("once", 5_000), ("test", 130), ("test", 5_000)]
)
def test_a_value_that_is_chosen_once_or_by_the_test_split_makes_false_verdicts_as_the_docs_say(
    how, validation
):
    five, ten = (errors.tuning_errors(0, validation, how, n, TRIALS, seed=n) for n in (5, 10))
    assert five > 0.08
    assert ten > five + 0.02


@pytest.mark.parametrize("spread", [0.1, 0.5])
def test_verdicts_on_images_are_as_rare_as_alpha_where_seeds_alone_err(spread):
    trials = 2000
    by_seeds, by_images = errors.scope_errors(5, 300, spread, trials, seed=0)
    assert by_seeds > 0.09
    assert by_images == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / trials))


@pytest.mark.parametrize(("correlation", "ratio"), [(-0.5, 1.0), (0.0, 3.0), (0.5, 1.0)])
def test_unpaired_arms_are_judged_rightly_unless_they_fail_in_turns_and_paired_ones_always(
    correlation, ratio
):
    (paired, _), (unpaired, _) = errors.pairing_rates(correlation, ratio, 5, TRIALS, seed=0)
    assert paired == pytest.approx(0.05, abs=MOST - 0.05)
    assert unpaired > 0.07 if correlation < 0 else unpaired <= MOST


@pytest.mark.parametrize("spreads", [(1.0, 1.0, 1.0, 1.0), (0.1, 0.1, 0.1, 5.0)])
def test_effects_of_a_grid_are_found_as_rarely_as_alpha_also_where_cells_vary_differently(spreads):
    covered, found = errors.effect_errors(spreads, 5, 500, seed=0)
    assert covered == pytest.approx(0.95, abs=0.02)
    assert found <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 500)


# ---- seeds until decided -------------------------------------------------------------------------


def test_naive_peeking_errs_three_times_as_often_and_the_boundary_is_what_mends_it():
    x = np.random.default_rng(0).standard_normal((TRIALS, 20))
    p = [sp.ttest_1samp(x[:, :n], 0, axis=1, alternative="greater").pvalue for n in range(4, 21, 2)]
    smallest = np.min(p, axis=0)
    boundary = statistics.Boundary(4, 2, 20)
    assert (smallest <= 0.05).mean() == pytest.approx(0.16, abs=0.015)
    assert boundary.nominal(0.05) == pytest.approx(0.0123, abs=0.0003)
    for chance in (0.5, 0.2, 0.05, 0.01, 0.003):
        error = math.sqrt(chance * (1 - chance) / TRIALS)
        assert (boundary.chance(smallest) <= chance).mean() == pytest.approx(chance, abs=4 * error)


@pytest.mark.parametrize("schedule", [(3, 1, 40), (10, 5, 15), (4, 2, 20)])
def test_chance_and_nominal_are_each_others_inverse_and_chance_is_a_distribution_function(schedule):
    boundary = statistics.Boundary(*schedule)
    p = np.logspace(-8, 0, 400)
    chance = boundary.chance(p)
    assert (np.diff(chance) >= 0).all()
    assert (chance >= p).all()
    assert chance[-1] == pytest.approx(1)
    for level in (0.05, 0.01, 0.0025):
        assert boundary.chance(boundary.nominal(level)) == pytest.approx(level)


def test_the_table_is_what_its_script_makes(monkeypatch, tmp_path):
    script = benchmark("statistics_boundaries")
    for name, value in {
        "PATHS": 40_000,
        "CHUNK": 20_000,
        "STARTS": (4,),
        "STEPS": (2,),
        "TARGET": tmp_path / "t.csv",
    }.items():
        monkeypatch.setattr(script, name, value)
    script.main()
    committed = (ROOT / "src/xceptlab/study/boundaries.csv").read_text().splitlines()
    made = (tmp_path / "t.csv").read_text().splitlines()
    assert made[0] == committed[0]
    by_schedule = {
        tuple(line.split(",")[:3]): np.array(line.split(",")[3:], float) for line in committed[1:]
    }
    for line in made[1:]:
        full = by_schedule[tuple(line.split(",")[:3])]
        assert np.abs(np.array(line.split(",")[3:], float) - full).max() < 0.01
        assert np.all(
            np.abs(np.array(line.split(",")[3:], float) - full)
            <= 5 * np.sqrt(full * (1 - full) / 40_000) + 1e-4
        )


@pytest.mark.parametrize("effect", [1.0, 1.5])
def test_a_clear_effect_takes_at_least_40_percent_fewer_seeds_than_the_most(effect):
    x = errors.MARGIN + effect + np.random.default_rng(0).standard_normal((2000, 1, 20))
    done = errors.sequential(x, ["superior"], [errors.MARGIN])
    assert done[..., 1].mean() <= 0.6 * 20
    assert (done[..., 0] == 1).mean() > 0.95


def test_only_arms_of_undecided_claims_get_further_seeds_which_saves_a_quarter_of_the_runs():
    assert errors.runs_saved((2.0, 1.0, 0.5, 0.0), 1000, seed=0) == pytest.approx(0.25, abs=0.03)


def test_futility_halves_the_seeds_where_there_is_no_effect_and_costs_little_where_it_is_clear():
    _, seeds = errors.futility_cost(0.0, 16, seed=0)
    assert seeds < 12
    found, seeds = errors.futility_cost(2.0, 16, seed=0)
    assert found > 0.9
    assert seeds < 7


def test_the_forecast_is_what_the_simulation_finds():
    plan, boundary = errors.PLAN, statistics.Boundary(4, 2, 20)
    chance, seeds = statistics.sequential_power(
        2.0, 1.0, "superior", 1.0, plan.analyses, boundary, 0.05
    )
    done = errors.sequential(
        2.0 + np.random.default_rng(5).standard_normal((4000, 1, 20)), ["superior"], [1.0]
    )
    assert chance == pytest.approx((done[..., 0] != 0).mean(), abs=0.02)
    assert seeds == pytest.approx(done[..., 1].mean(), abs=0.3)


def test_the_forecast_counts_no_analysis_that_is_over():
    """Differences that an early analysis would have decided, at a level that only now holds, and
    that are far from it since.
    """
    plan, boundary = errors.PLAN, statistics.Boundary(4, 2, 20)
    observed = [2.0, 2.01, 1.99, 2.0, *(3.0 * sign for sign in (-1, 1, -1, -1, 1, -1))]
    p_early = statistics.p_values(np.array(observed[:4]), "superior", 0.0, boundary.chance).min()
    assert p_early <= 0.05
    chance, seeds = statistics.sequential_power(
        float(np.mean(observed)),
        2.0,
        "superior",
        0.0,
        plan.analyses,
        boundary,
        0.05,
        tuple(observed),
    )
    assert chance < 0.9
    assert seeds > 10


@pytest.mark.parametrize("plan", [None, errors.PLAN])
def test_the_simulation_judges_as_judge_does(plan, monkeypatch):
    """Mixed kinds and margins, claims that share a baseline: outcomes, and the seeds at which each
    claim is frozen.
    """
    # slow, and only for the summary
    monkeypatch.setattr("xceptlab.study.statistics.detectable", lambda *args: 0.0)
    monkeypatch.setattr("xceptlab.study.statistics.pairs_needed", lambda *args: 0)
    rng = np.random.default_rng(3)
    kinds, margins = ["superior", "equivalent", "superior", "equivalent"], [1.0, 1.0, 1.0, 1.0]
    claims = [
        Claim(id=str(i), contrast=(f"a{i}", "b"), metric="test/top1", kind=kind, margin=1.0)
        for i, kind in enumerate(kinds)
    ]
    arms = rng.normal(0, 0.7, (25, 5, 20)) + rng.choice([0.0, 0.6, 1.2, 2.0], (25, 5, 1))
    differences = arms[:, :4] - arms[:, 4:]
    if plan:
        expected = errors.sequential(differences, kinds, margins, plan)
    else:
        p = np.stack(
            [statistics.p_values(differences[:, i], kind, 1.0) for i, kind in enumerate(kinds)],
            axis=1,
        )
        outcome = (statistics.holm(p[..., 0]) <= 0.05).astype(int) - (
            statistics.holm(p[..., 1]) <= 0.05
        )
        expected = np.stack([outcome, np.full_like(outcome, 20)], axis=-1)
    names = {"supported": 1, "contradicted": -1, "inconclusive": 0}
    seen = set()
    for trial, frozen in zip(arms, expected, strict=True):
        scores = dict(
            zip(["a0", "a1", "a2", "a3", "b"], (dict(enumerate(row)) for row in trial), strict=True)
        )
        verdicts = judge(claims, [scores] * 4, plan or range(20))
        assert [[names[v.outcome], v.n] for v in verdicts] == frozen.tolist()
        seen |= {v.outcome for v in verdicts}
    assert seen == set(names)
