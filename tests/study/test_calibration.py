"""How often verdicts are wrong for data like the reader's: ``--calibrate``."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from made import normal, observed
from xceptlab.report.calibrated import calibrated
from xceptlab.study.calibration import calibrate
from xceptlab.study.definition import Seeds
from xceptlab.study.resampling import DifferenceDistribution, Observed, RandomNumbers

ALPHA = 0.05
ERROR = 3 * np.sqrt(ALPHA * (1 - ALPHA) / 4000)
"""Three standard errors of the simulation."""
MARGIN = 0.5
"""Of the claims, unless one says otherwise."""
PLAN = Seeds(start=4, step=2, max=20, stop="decided")


def as_seen(one: Observed, seeds=range(20), others: tuple[Observed, ...] = ()):
    """The rates of one claim, as its differences were seen."""
    return calibrate([one, *others], seeds, ALPHA).claims[0].rates[0]


# ---- what is found -------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [range(20), PLAN])
@pytest.mark.parametrize("kind", ["superior", "equivalent"])
def test_of_normal_differences_verdicts_are_wrong_about_as_often_as_alpha(kind, seeds):
    rates = as_seen(observed(normal(40), kind=kind, margin=0.5), seeds)
    assert rates.supported.share == pytest.approx(ALPHA, abs=ERROR + 0.01)
    assert rates.contradicted.share <= ALPHA + ERROR


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_a_collapse_that_was_seen_misleads_the_mean_and_not_the_median(statistic):
    differences = [*normal(9), -78.0]
    rates = as_seen(observed(differences, statistic=statistic), range(10))
    if statistic == "mean":
        assert rates.supported.share > 0.3  # none of 10 resampled seeds has it in 35% of studies
    else:
        assert rates.supported.share <= ALPHA + ERROR


def test_a_failure_that_was_not_seen_but_may_happen_misleads_the_mean_and_not_the_median():
    for statistic, sound in (("mean", False), ("median", True)):
        _, with_failures = (
            calibrate(
                [observed(normal(5), statistic=statistic, failed_score=10.0)], range(5), ALPHA
            )
            .claims[0]
            .rates
        )
        assert with_failures.assumed
        assert "a 45%, b 45%" in with_failures.differences
        assert (with_failures.supported.share <= ALPHA + ERROR) == sound
        if not sound:
            # as docs/simulation.md has it for 2%
            assert with_failures.supported.share == pytest.approx(0.9, abs=0.03)
            assert with_failures.supported.failing == ("a", 0.02)
            assert with_failures.contradicted.failing == ("b", 0.02)


def test_failures_that_were_seen_are_drawn_as_often_and_score_what_a_failed_run_does():
    differences = [78.0, 77.0, *normal(8)]
    one = observed(differences, failed_b=2, failed_score=10.0)
    _, as_often, more_often = calibrate([one], range(10), ALPHA).claims[0].rates
    assert "b 2 of 10" in as_often.differences
    assert not as_often.assumed
    assert "b 51%" in more_often.differences
    distribution = DifferenceDistribution.with_failures(one, (0.0, 0.2))
    drawn = distribution.draw(RandomNumbers.of(np.random.default_rng(0), 4000, 10, range(10)))
    assert (drawn > 70).mean() == pytest.approx(0.2, abs=0.01)
    assert drawn.max() == pytest.approx(88 + max(normal(8)) - 10)


def test_power_is_of_the_verdict_that_is_right_for_what_was_seen():
    for mean, verdict in ((1.0, "supported"), (0.0, "contradicted")):
        rates = as_seen(observed(normal(20, mean)))
        assert rates.right_verdict == verdict
        assert rates.power.share > 0.99
    formula = stats.nct.sf(stats.t.ppf(1 - ALPHA, 9), 9, 0.5 * np.sqrt(10))
    rates = as_seen(observed(normal(40, MARGIN + 0.2, 0.4)), range(10))
    assert rates.power.share == pytest.approx(formula, abs=0.03)


def test_a_difference_on_the_margin_has_no_power():
    rates = as_seen(observed([0.0, 0.5, 1.0, 0.25, 0.75]))
    assert rates.power is None
    assert rates.right_verdict == "inconclusive"


def test_of_two_margins_the_worse_one_counts():
    tail_below = 1 - stats.expon.ppf((np.arange(12) + 0.5) / 12)
    one_side, other_side = (
        as_seen(observed(d), range(12)).supported.share for d in (tail_below, -tail_below)
    )
    assert one_side > other_side + 0.05
    for differences in (tail_below, -tail_below):
        equivalent = as_seen(
            observed(differences, kind="equivalent", margin=50.0), range(12)
        ).supported.share
        assert equivalent == pytest.approx(one_side, abs=0.02)


# ---- the study's own design is what is simulated -------------------------------------------------


def test_beside_claims_that_are_not_shown_a_claim_is_wrong_more_seldom():
    alone = as_seen(observed(normal(20))).supported.share
    unclear = tuple(observed(normal(20, MARGIN), id=str(i)) for i in range(4))
    clear = tuple(observed(normal(20, 5.0), id=str(i)) for i in range(4))
    unknown = tuple(observed([], id=str(i)) for i in range(4))
    assert as_seen(observed(normal(20)), others=clear).supported.share == alone
    for others in (unclear, unknown):
        assert as_seen(observed(normal(20)), others=others).supported.share < alone / 2


def test_any_of_several_claims_is_wrong_as_often_as_alpha_at_most():
    rng = np.random.default_rng(0)
    claims = [observed(rng.permutation(normal(40)), id=str(i)) for i in range(3)]
    calibration = calibrate(claims, range(40), ALPHA)
    assert calibration.any_claim.supported.share == pytest.approx(ALPHA, abs=ERROR + 0.01)
    assert calibrate(claims[:1], range(40), ALPHA).any_claim is None


def test_more_seeds_have_more_power():
    powers = [as_seen(observed(normal(20, 0.8)), range(n)).power.share for n in (5, 10, 20)]
    assert powers == sorted(powers)
    assert powers[-1] - powers[0] > 0.3


def test_unpaired_arms_are_judged_by_their_own_scores():
    """Arms that fail in turns, of which Welch's test knows nothing, and arms that rise and fall
    together, where it is careful.
    """
    levels = np.linspace(-1, 1, 20)
    rates = {}
    for name, other in (("in turns", -levels), ("together", levels[[1, 0, *range(2, 20)]])):
        claim = observed([], margin=0.0, pairing="none").claim
        scores = np.stack([88 + levels, 88 + other])
        one = Observed(
            claim=claim, scores=scores, seeds=tuple(range(20)), failed=np.zeros((2, 20), dtype=bool)
        )
        rates[name] = as_seen(one).supported.share
    assert rates["in turns"] > ALPHA + ERROR
    assert rates["together"] < 0.01


def test_the_same_seed_gives_the_same_rates():
    claims = [observed(normal(5)), observed(normal(5, 0.6), id="y", kind="equivalent")]
    once, again, other = (calibrate(claims, range(5), ALPHA, seed=seed) for seed in (0, 0, 1))
    assert calibrated(once) == calibrated(again)
    assert calibrated(once) != calibrated(other)


def test_a_large_design_is_simulated_with_fewer_studies():
    long = Seeds(start=3, step=1, max=40, stop="decided")
    # a single difference, so that nothing is computed
    claims = [observed([1.0], id=str(i)) for i in range(5)]
    assert calibrate(claims[:1], PLAN, ALPHA).studies == 4000
    assert calibrate(claims, long, ALPHA).studies == 700


# ---- what is not simulated, and what is said -----------------------------------------------------


@pytest.mark.parametrize(
    ("one", "why"),
    [
        (
            observed([1.0, 1.0, 1.0]),
            "x is not simulated: all 3 differences are the same, from which nothing can be learned",
        ),
        (observed([1.0, 1.0 + 1e-9]), "all 2 differences are the same"),
        (observed([1.0]), "x is not simulated: 1 pair of runs cannot tell how differences vary."),
        (
            replace(observed(normal(5)), why_not="of other images"),
            "x is not simulated: of other images.",
        ),
    ],
)
def test_it_is_said_why_a_claim_is_not_simulated(one, why):
    calibration = calibrate([one], range(5), ALPHA)
    assert calibration.claims[0].rates == ()
    assert calibration.any_claim is None
    (sentence,) = calibrated(calibration).sentences
    assert why in sentence
    assert calibrated(calibration).described == "Nothing was simulated."
    assert calibrated(calibration).table[1] == ["x", "not simulated", "–", "–", "–"]


def test_fewer_seeds_than_are_judged_are_not_simulated():
    (sentence,) = calibrated(calibrate([observed([1.0, 2.0])], range(2), ALPHA)).sentences
    assert sentence == "x is not simulated: fewer than 3 seeds are not judged."


@pytest.mark.parametrize(
    ("one", "why"),
    [
        (observed(normal(5)), "nothing says what a failed run scores"),
        (
            observed(normal(5), contrast=None, effect={"f": [1, 2]}),
            "an effect is one of several arms",
        ),
        (
            observed(normal(3), failed_b=2, failed_score=10.0),
            "fewer than 2 pairs are without a failed run",
        ),
    ],
)
def test_it_is_said_why_no_failures_are_simulated(one, why):
    calibration = calibrate([one], range(5), ALPHA)
    assert [rates.assumed for rates in calibration.claims[0].rates] == [False]
    assert f"No failures are simulated: {why}" in calibrated(calibration).sentences[0]


def test_the_text_says_rates_with_their_errors_and_warns_of_those_above_twice_alpha():
    one = observed([78.0, *normal(6)], failed_b=1, points_per_image=0.2, failed_score=10.0)
    text = calibrated(calibrate([one], range(7), ALPHA))
    header, seen, rounded, as_often, more_often = text.table
    assert header == ["claim", "differences", "false supported", "false contradicted", "power"]
    assert seen[:2] == ["x", "as seen"]
    assert seen[3].endswith(" ± 0.7%")
    assert seen[4].endswith("% supported")
    assert rounded[:2] == ["", "in whole images (0.2 points)"]
    assert as_often[1] == "failures as seen (a 0, b 1 of 7)"
    assert "(b fails in 52%)" in more_often[2]
    assert "b fails in 2%" not in str(text.table)  # which is less than was seen
    as_it_was, unseen = text.warnings
    assert "Claim x: with differences such as these " in as_it_was
    assert (
        "% of studies would falsely say contradicted, more than twice alpha (7 differences may look so by chance)."
        in as_it_was
    )
    assert "% of studies would falsely say " in unseen
    assert "more than twice alpha; `statistic: median` is sound there." in unseen
    assert "A resample of 7 differences knows only 7 values" in text.described


def test_of_many_normal_differences_nothing_is_warned_where_failures_are_unknown():
    text = calibrated(calibrate([observed(normal(20))], PLAN, ALPHA))
    assert text.warnings == []
    assert "knows only" not in text.described
    assert "of 4 to 20 seeds" in text.described


def test_giving_up_is_said_to_be_left_out():
    plan = replace(PLAN, futility=0.1)
    assert (
        "Giving up (futility) is left out"
        in calibrated(calibrate([observed(normal(5))], plan, ALPHA)).described
    )
