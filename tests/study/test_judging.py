"""From scores to verdicts."""

import math
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats as sp
from statsmodels.stats.weightstats import ttost_paired

import made
from xceptlab.config.schema import DataConfig, ModelConfig, RunConfig
from xceptlab.errors import Refused
from xceptlab.runs.record import Record
from xceptlab.study import statistics, verdict_warnings
from xceptlab.study.claims import Claim
from xceptlab.study.definition import Seeds, Study
from xceptlab.study.expansion import Expansion
from xceptlab.study.judging import judge, judge_study
from xceptlab.study.run_scores import has_failed, scores_of_runs
from xceptlab.study.sequential import with_needed_seeds
from xceptlab.study.wording import evidence, forecast


def claim(**changes) -> Claim:
    return Claim(
        **(
            {
                "id": "x",
                "contrast": ("a", "b"),
                "metric": "test/top1",
                "kind": "superior",
                "margin": 0.5,
            }
            | changes
        )
    )


def arm(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


A = arm(97.2, 96.8, 98.4, 97.0, 97.6)
B = arm(96.0, 96.4, 96.6, 96.2, 95.8)
DIFFERENCE = [a - b for a, b in zip(A.values(), B.values(), strict=True)]  # mean 1.2


def judged(claims: list[Claim], scores: dict, seeds: Seeds | None = None, alpha: float = 0.05):
    """Of claims on the same scores; the seeds are those of arm a."""
    return judge(claims, [scores] * len(claims), seeds or list(scores["a"]), alpha)


def one(a: dict[int, float], b: dict[int, float], alpha: float = 0.05, **changes):
    (verdict,) = judged([claim(**changes)], {"a": a, "b": b}, alpha=alpha)
    return verdict


# ---- outcomes ------------------------------------------------------------------------------------


def test_supported_when_the_paired_t_test_says_more_than_the_margin():
    v = one(A, B)
    assert v.outcome == "supported"
    assert v.p_adjusted == pytest.approx(
        sp.ttest_rel(list(A.values()), [b + 0.5 for b in B.values()], alternative="greater").pvalue
    )
    assert v.estimate == pytest.approx(1.2)
    assert v.differences == pytest.approx(dict(enumerate(DIFFERENCE)))
    assert v.n == 5
    assert v.summary.startswith("Supported: a is 1.20 points better than b in test/top1")


def test_contradicted_when_less_than_the_margin_is_shown():
    v = one(B, A)
    assert v.outcome == "contradicted"
    assert v.estimate == pytest.approx(-1.2)
    assert v.p_adjusted == pytest.approx(
        sp.ttest_1samp(DIFFERENCE, -0.5, alternative="greater").pvalue
    )
    assert v.summary.startswith("Contradicted: a is 1.20 points worse than b")


def test_a_real_difference_that_does_not_reach_the_margin_contradicts_superiority():
    assert one(A, B, margin=3.0).outcome == "contradicted"


def test_inconclusive_between_the_two_with_the_seeds_that_would_decide():
    v = one(A, B, margin=1.0)
    assert v.outcome == "inconclusive"
    assert "seeds would decide it" in v.summary


@pytest.mark.parametrize(
    ("margin", "outcome"),
    [(2.5, "supported"), (0.1, "contradicted"), (1.2, "inconclusive"), (1.5, "inconclusive")],
)
@pytest.mark.parametrize("swapped", [False, True])
def test_equivalence_is_tost_whichever_arm_is_named_first(margin, outcome, swapped):
    a, b = (B, A) if swapped else (A, B)
    v = one(a, b, kind="equivalent", margin=margin)
    assert v.outcome == outcome
    if outcome != "contradicted":
        assert v.p_adjusted == pytest.approx(
            ttost_paired(np.array(list(a.values())), np.array(list(b.values())), -margin, margin)[0]
        )


def test_the_sign_is_turned_for_a_loss():
    low, high = arm(0.10, 0.12, 0.11, 0.13), arm(0.40, 0.45, 0.39, 0.43)
    assert one(low, high, metric="test/loss", margin=0.1).outcome == "supported"
    assert one(high, low, metric="test/loss", margin=0.1).outcome == "contradicted"
    v = one(low, high, metric="test/loss", margin=0.1)
    assert v.estimate > 0
    assert "better" in v.summary
    assert "points" not in v.summary


@pytest.mark.parametrize(("alpha", "level"), [(0.05, 0.9), (0.01, 0.98)])
def test_the_interval_has_the_level_one_minus_two_alpha_and_says_so(alpha, level):
    v = one(A, B, alpha=alpha)
    expected = sp.ttest_1samp(DIFFERENCE, 0).confidence_interval(level)
    assert v.level == pytest.approx(level)
    assert (v.low, v.high) == pytest.approx((expected.low, expected.high))
    assert f"{100 * level:g}% interval {v.low:+.2f} to {v.high:+.2f}" in v.summary


def test_what_pairing_gains_and_the_detectable_effect_are_told():
    v = one(A, B)
    left, low, high = v.variance_left
    assert left == pytest.approx(
        np.var(DIFFERENCE) / (np.var(list(A.values())) + np.var(list(B.values())))
    )
    detectable = statistics.detectable(float(sp.sem(DIFFERENCE)), 4, "superior", 0.05)
    found = (
        f"5 pairs would have found an effect of {detectable:.2f} beyond the margin with 80% power."
    )
    gained = f"{left:.2f} of the variance of unpaired arms (95% interval {low:.2f} to {high:.2f})"
    assert v.pairing_and_power == f"Pairing by seed leaves {gained}. {found}"


# ---- arms that are not paired --------------------------------------------------------------------


@pytest.mark.parametrize(("scores_a", "scores_b"), [(A, B), (B, A)])
def test_without_pairing_welchs_test_judges(scores_a, scores_b):
    v = one(scores_a, scores_b, pairing="none", margin=0.2)
    beyond = [b + 0.2 for b in scores_b.values()]
    side = "greater" if scores_a is A else "less"
    expected = sp.ttest_ind(list(scores_a.values()), beyond, equal_var=False, alternative=side)
    assert v.p_adjusted == pytest.approx(expected.pvalue)
    interval = sp.ttest_ind(
        list(scores_a.values()), list(scores_b.values()), equal_var=False
    ).confidence_interval(0.9)
    assert (v.low, v.high) == pytest.approx(tuple(interval))
    assert v.outcome == ("supported" if scores_a is A else "contradicted")
    assert v.pairing_and_power.startswith("Unpaired, as declared; pairing by seed would have left ")
    assert "5 seeds of either arm would have found" in v.pairing_and_power


def test_without_pairing_an_equal_difference_in_every_seed_is_tested_all_the_same():
    scores = arm(96.0, 96.5, 97.0)
    shifted = arm(98.0, 98.5, 99.0)
    assert "without spread" in one(shifted, scores).summary
    v = one(shifted, scores, pairing="none")
    assert v.p_adjusted == pytest.approx(
        sp.ttest_ind(
            list(shifted.values()),
            [b + 0.5 for b in scores.values()],
            equal_var=False,
            alternative="greater",
        ).pvalue
    )
    assert (
        "without spread"
        in one(arm(98.0, 98.0, 98.0), arm(96.0, 96.0, 96.0), pairing="none").summary
    )


def test_of_lower_losses_without_pairing_the_better_arm_is_found():
    v = one(
        arm(0.1, 0.2, 0.15), arm(1.1, 1.3, 1.15), metric="test/loss", margin=0.1, pairing="none"
    )
    assert v.outcome == "supported"
    assert v.low > 0.5


def test_without_pairing_more_seeds_count_for_both_arms():
    v = one(A, B, pairing="none", margin=1.0)
    spread = math.sqrt(np.var(list(A.values()), ddof=1) + np.var(list(B.values()), ddof=1))
    freedom = statistics.unpaired_error(v.arms[0], v.arms[1])[1] / 4
    need = next(
        n for n in range(6, 999)
        if sp.nct.sf(sp.t.ppf(0.95, freedom * (n - 1)), freedom * (n - 1), 0.2 / spread * math.sqrt(n)) >= 0.8
    )  # fmt: skip
    assert f"about {need} seeds would decide it" in v.summary


# ---- too little to judge -------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "more"), [(0, 3), (1, 2), (2, 1)])
def test_fewer_than_three_pairs_are_inconclusive_and_the_seeds_needed_are_told(n, more):
    v = one(arm(*list(A.values())[:n]), arm(*list(B.values())[:n]))
    assert (v.outcome, v.n) == ("inconclusive", n)
    assert math.isnan(v.p_adjusted)
    assert f"at least {more} more" in v.summary


@pytest.mark.parametrize("kind", ["superior", "equivalent"])
@pytest.mark.parametrize("shift", [0.0, 2.0])
def test_differences_without_spread_are_inconclusive(kind, shift):
    v = one(A, {seed: value - shift for seed, value in A.items()}, kind=kind)
    assert v.outcome == "inconclusive"
    assert "spread" in v.summary


TIES = [
    ([96.4, 97.2, 96.8, 97.6, 96.0], [96.2, 97.0, 96.6, 97.4, 95.8], 0.2),
    ([93.6, 92.7, 95.3, 90.7, 88.3, 91.1], [93.3, 92.4, 95.0, 90.4, 88.0, 90.8], 0.3),
    ([0.935, 0.93, 0.95, 0.91, 0.889], [0.925, 0.92, 0.94, 0.9, 0.879], 0.01),
]
"""Scores of two arms, all of whose differences are the margin, which floating point hides."""


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("kind", ["superior", "equivalent"])
@pytest.mark.parametrize(("scores_a", "scores_b", "margin"), TIES)
def test_a_difference_on_the_margin_counts_for_neither_side(
    scores_a, scores_b, margin, kind, turned
):
    lower = {"metric": "test/loss"} if turned else {}
    a, b = (scores_b, scores_a) if turned else (scores_a, scores_b)
    v = one(arm(*a), arm(*b), kind=kind, margin=margin, statistic="median", **lower)
    assert (v.outcome, v.p_adjusted) == ("inconclusive", 1.0)
    # Beside five true wins it is none.
    six = one(arm(*a, 99.0), arm(*b, 90.0), kind="superior", margin=margin, statistic="median")
    assert six.outcome == "inconclusive"


def test_the_count_of_seeds_beside_a_mean_counts_no_difference_on_the_margin():
    v = one(arm(82.1, 81.4, 84.9, 90.0), arm(81.8, 81.3, 84.6, 89.0), margin=0.3)
    assert "The difference is beyond the margin in 1 of 4 seeds." in evidence(v)


@pytest.mark.parametrize("noise", [0.0, 1e-7])
@pytest.mark.parametrize("n", [3, 5, 7])
def test_without_pairing_rounding_is_no_spread_either(n, noise):
    of_32_bits = [92.1 + 92.1 * noise * (seed % 2) for seed in range(n)]
    v = one(arm(*of_32_bits), arm(*[92.05] * n), pairing="none", margin=0.0)
    assert v.outcome == "inconclusive"
    assert "without spread a t-test has nothing to go by" in v.summary
    spread = one(
        arm(*of_32_bits),
        arm(*(92.05 - 0.01 * (seed % 2) for seed in range(n))),
        pairing="none",
        margin=0.0,
    )
    assert "without spread" not in spread.summary


@pytest.mark.parametrize("kind", ["superior", "equivalent"])
@pytest.mark.parametrize("alpha", [1e-3, 1e-6])
def test_few_seeds_are_judged_at_any_level(alpha, kind):
    assert one(arm(1.0, 2.0, 4.0), arm(0.5, 1.0, 2.0), alpha=alpha, kind=kind).tested


@pytest.mark.parametrize("diverged", [100.0, 1e6])
@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_a_large_score_of_a_diverged_run_hides_no_difference_of_others(diverged, statistic):
    a = arm(0.51, 0.52, 0.50, 0.53, 0.49, 0.50, diverged)
    b = arm(0.91, 0.95, 0.99, 0.90, 0.93, 0.94, diverged)
    v = one(a, b, metric="test/loss", margin=0.1, statistic=statistic, diverged=diverged)
    assert np.median(v.values) == pytest.approx(0.43, abs=0.02)
    assert "without spread" not in v.summary


def test_a_score_whose_square_is_no_number_is_refused():
    with pytest.raises(Refused, match=r"the score of arm 'a', seed 1 is 1e\+200, too large"):
        one(arm(1.0, 1e200, 3.0), B, metric="test/loss")


def test_a_mean_on_the_margin_is_seen_as_such_whatever_floating_point_makes_of_it():
    v = one(arm(90.1, 90.2, 90.3), arm(90.0, 90.0, 90.0), margin=0.2)
    assert "the estimate lies on the margin" in v.summary


def test_the_seeds_that_would_show_that_arms_differ_have_half_the_level_each():
    a = arm(92.0, 93.0, 94.0, 92.5, 93.5)
    v = one(a, arm(*[90.0] * 5), kind="equivalent", statistic="median", margin=1.0)
    assert "in 92% of all seeds, about 9 would decide it" in v.summary


def test_equivalence_is_forecast_by_the_share_of_seeds_within_both_margins():
    values = [90.2, 89.8, 90.1, 89.9, 90.3, 89.7, 92.0, 92.1, 88.1, 88.0]
    v = one(arm(*values), arm(*[90.0] * 10), kind="equivalent", statistic="median", margin=1.0)
    assert f"in {6.5 / 11:.0%} of all seeds" in v.summary


def test_a_claim_that_waits_for_another_ones_runs_is_still_open():
    claims = [claim(), claim(id="y", contrast=("a", "c"))]
    a = arm(97.0, 96.9, 97.4)
    scores = {"a": a, "b": arm(96.0, 96.6, 96.9), "c": arm(96.0, 96.1)}
    waiting, missing = judged(claims, scores, PLAN)
    assert (waiting.outcome, missing.outcome) == ("incomplete", "incomplete")
    assert "seeds 3, 4 come next" in waiting.summary
    study = SimpleNamespace(seeds=PLAN, alpha=0.05, claims=claims)
    assert "planned seeds are used" not in forecast(waiting, study)


def test_images_that_are_not_the_limit_are_not_blamed():
    rng = np.random.default_rng(3)
    a, b = arm(*rng.normal(90.02, 1.1, 5)), arm(*[90.0] * 5)
    a = {seed: score - np.mean(list(a.values())) + 90.02 for seed, score in a.items()}
    (v,) = judge([claim(margin=0.0)], [{"a": a, "b": b}], list(a), 0.05, {"x": 0.0})
    assert "on so many test images" not in v.summary
    assert "more than 999 seeds would be needed" in v.summary


def test_rounding_is_no_spread():
    """Accuracies are counted in images and kept as 32-bit numbers: equal differences differ in the
    last bits.
    """
    counts = np.array([488, 484, 492])
    a = [float(np.float32(100) * np.float32(c / 500)) for c in counts]
    b = [float(np.float32(100) * np.float32((c - 11) / 500)) for c in counts]
    assert np.ptp(np.array(a) - np.array(b)) > 0
    assert one(arm(*a), arm(*b)).outcome == "inconclusive"
    # seeds that vary make no spread of it in hindsight
    later = {"a": arm(*a, 97.0, 96.0), "b": arm(*b, 90.0, 95.0)}
    (v,) = judged([claim()], later, Seeds(start=3, step=2, max=5, stop="decided"))
    assert (v.outcome, v.n) == ("inconclusive", 5)


def test_an_estimate_on_the_margin_asks_for_no_number_of_seeds():
    v = one(arm(1.0, 2.0, 3.0), arm(0.5, 1.5, 2.75), margin=float(np.mean([0.5, 0.5, 0.25])))
    assert "no number of seeds" in v.summary


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_is_an_error_that_names_arm_and_seed(bad):
    with pytest.raises(ValueError, match=r"claim 'x': .*arm 'b', seed 2"):
        one(A, B | {2: bad})


def test_no_claims_no_verdicts():
    assert judge([], [], [0, 1, 2]) == []


# ---- several claims ------------------------------------------------------------------------------


def test_holm_goes_over_all_claims_of_the_study_and_separately_over_their_opposites():
    claims = [claim(id=f"m{margin}", margin=margin) for margin in (0.0, 0.5, 1.0, 3.0)]
    p_s = [sp.ttest_1samp(DIFFERENCE, c.margin, alternative="greater").pvalue for c in claims]
    p_c = [sp.ttest_1samp(DIFFERENCE, c.margin, alternative="less").pvalue for c in claims]

    def holm(p: list[float]) -> list[float]:
        adjusted, running = [0.0] * len(p), 0.0
        for rank, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
            running = max(running, min(1.0, (len(p) - rank) * p[i]))
            adjusted[i] = running
        return adjusted

    verdicts = judged(claims, {"a": A, "b": B})
    for v, supports, contradicts in zip(verdicts, holm(p_s), holm(p_c), strict=True):
        expected = contradicts if v.outcome == "contradicted" else supports
        assert v.p_adjusted == pytest.approx(expected)
        assert (v.outcome == "supported") == (supports <= 0.05)
        assert (v.outcome == "contradicted") == (contradicts <= 0.05)
    assert [v.outcome for v in verdicts] == [
        "supported",
        "inconclusive",
        "inconclusive",
        "contradicted",
    ]


@pytest.mark.parametrize(
    ("alone", "contrast", "kind", "margin"),
    [
        ("supported", ("a", "b"), "superior", 0.5),
        ("contradicted", ("b", "a"), "superior", 0.0),
        ("contradicted", ("a", "b"), "superior", 1.9),
        ("supported", ("a", "b"), "equivalent", 1.9),
        ("contradicted", ("a", "b"), "equivalent", 0.4),
    ],
)
def test_where_only_holm_withholds_a_verdict_the_summary_says_which_and_shows_its_p(
    alone, contrast, kind, margin
):
    scores = {"a": A, "b": B}
    own = claim(contrast=contrast, kind=kind, margin=margin)
    (by_itself,) = judged([own], scores)
    assert by_itself.outcome == alone
    beside = [own, *(claim(id=f"hopeless{i}", margin=1.2) for i in range(9))]
    verdict, *others = judged(beside, scores)
    assert verdict.outcome == "inconclusive"
    said = f"by itself it would be {alone} (p = {by_itself.p_adjusted:.2g}), but not beside the other claims (Holm)"
    assert said in verdict.summary
    assert verdict.p_adjusted == pytest.approx(min(1, 10 * by_itself.p_adjusted))
    assert f"adjusted p = {verdict.p_adjusted:.2g})" in verdict.summary
    assert all("Holm" not in v.summary for v in others)


def test_holms_family_is_every_claim_of_the_study_so_that_no_verdict_flips_as_runs_arrive():
    c = {seed: value - 1 for seed, value in B.items()}
    claims = [claim(), claim(id="later", contrast=("a", "c"))]
    early, untested = judged(claims, {"a": A, "b": B, "c": dict(list(c.items())[:2])})
    assert early.p_adjusted == pytest.approx(min(1.0, 2 * one(A, B).p_adjusted))
    assert math.isnan(untested.p_adjusted)
    late, _ = judged(claims, {"a": A, "b": B, "c": c})
    assert late.p_adjusted <= early.p_adjusted


# ---- studies -------------------------------------------------------------------------------------


def study(
    claims: list[Claim], seeds: tuple[int, ...] = (0, 1, 2), name: str = "digits"
) -> Expansion:
    data = DataConfig(name=name, size=32, crop="none")
    arms = {
        "a": RunConfig(data=data),
        "b": RunConfig(data=data, model=ModelConfig(residual="none")),
    }
    own = Study(
        question="?",
        base=[],
        seeds=list(seeds),
        claims=claims,
        arms={"a": {}, "b": {"model.residual": "none"}},
    )
    return Expansion(name="study", study=own, arms=arms)


def record(status: str = "finished", **metrics: float) -> Record:
    """The record of a run with these scores on the test split."""
    return made.record(
        status=status, metrics={f"test/{name}": value for name, value in metrics.items()}
    )


def records(a: list, b: list) -> dict:
    return {
        (name, seed): value
        for name, values in (("a", a), ("b", b))
        for seed, value in enumerate(values)
    }


GOOD = [
    record(top1=97.0, top5=99.0, loss=0.1),
    record(top1=98.0, top5=99.1, loss=0.2),
    record(top1=97.4, top5=99.2, loss=0.15),
]
WORSE = [
    record(top1=90.0, top5=98.0, loss=0.9),
    record(top1=91.2, top5=98.2, loss=0.8),
    record(top1=90.2, top5=98.1, loss=0.7),
]
DIVERGED = record("diverged")


def test_a_complete_study_is_judged_at_its_own_alpha():
    (v,) = judge_study(study([claim()]), records(GOOD, WORSE))
    assert (v.outcome, v.n) == ("supported", 3)


@pytest.mark.parametrize(("a", "b"), [([*GOOD[:2], None], WORSE), (GOOD, [*WORSE[:2], None])])
def test_incomplete_while_a_declared_seed_lacks_a_record_and_the_seed_is_named(a, b):
    (v,) = judge_study(study([claim()]), records(a, b))
    assert v.outcome == "incomplete"
    assert v.summary == "Not judged yet: seed 2 is not trained in both arms."
    assert v.n == 2


def test_incomplete_before_the_first_run():
    (v,) = judge_study(study([claim()]), records([None] * 3, [None] * 3))
    assert (v.outcome, v.n) == ("incomplete", 0)
    assert "seeds 0, 1, 2 " in v.summary


@pytest.mark.parametrize(
    ("name", "metric", "chance"),
    [
        ("digits", "test/top1", 10.0),
        ("digits", "test/top5", 50.0),
        ("digits", "test/loss", math.log(10)),
        ("cifar100", "test/top1", 1.0),
        ("cifar100", "test/top5", 5.0),
    ],
)
def test_a_diverged_run_scores_as_guessing(name, metric, chance):
    (v,) = judge_study(
        study([claim(metric=metric)], name=name), records(GOOD, [DIVERGED, *WORSE[1:]])
    )
    sign = -1 if metric == "test/loss" else 1
    assert v.differences[0] == pytest.approx(sign * (GOOD[0].metrics[metric] - chance))
    assert v.n == 3


def test_a_declared_score_of_divergence_is_used_also_when_it_is_zero():
    (v,) = judge_study(study([claim(diverged=0.0)]), records(GOOD, [DIVERGED, *WORSE[1:]]))
    assert v.differences[0] == pytest.approx(97.0)


def test_each_claim_scores_divergence_as_it_declares():
    claims = [claim(diverged=0.0), claim(id="y", diverged=50.0), claim(id="z")]
    verdicts = judge_study(study(claims), records(GOOD, [DIVERGED, *WORSE[1:]]))
    assert [v.differences[0] for v in verdicts] == pytest.approx([97.0, 47.0, 87.0])


@pytest.mark.parametrize(
    ("metric", "failed", "failures"),
    [
        ("top1", 91.0, 2),
        ("top1", 90.0, 0),
        ("loss", 0.75, 2),
        ("loss", 0.9, 0),
        ("top1", None, 0),
        ("top1", 99.0, 3),
    ],
)
def test_runs_below_the_declared_score_or_above_it_for_a_loss_have_failed(metric, failed, failures):
    own = claim(metric=f"test/{metric}", failed=failed)
    assert sum(has_failed(run, [claim(metric="test/top5"), own]) for run in WORSE) == failures


@pytest.mark.parametrize(("statistic", "diverged", "said"), [
    ("mean", 0, None),
    ("mean", 1, "runs failed (b seed 0), and no test of a mean is sound there"),
    ("median", 1, None),
    ("mean", 2, "failures decide it: in 2 of 3 seeds"),
    ("median", 2, "failures decide it: in 2 of 3 seeds"),
])  # fmt: skip
def test_what_failures_do_to_a_verdict_is_warned_of(statistic, diverged, said):
    (v,) = judge_study(
        study([claim(statistic=statistic)]), records(GOOD, [DIVERGED] * diverged + WORSE[diverged:])
    )
    assert (said is None) == (v.warnings == ())
    assert said is None or v.warnings[0].startswith(said)


def test_a_metric_that_a_record_lacks_is_an_error_that_names_the_run():
    with pytest.raises(ValueError, match="claim 'x': the run r has no val/top1"):
        judge_study(study([claim(metric="val/top1")]), records(GOOD, WORSE))


def fewest(effect: float, alpha: float = 0.05) -> int:
    """Pairs with which the t-test finds so many standard deviations with 80% power."""
    return next(
        k
        for k in range(2, 999)
        if sp.nct.sf(sp.t.ppf(1 - alpha, k - 1), k - 1, effect * math.sqrt(k)) >= 0.8
    )


@pytest.mark.parametrize("n", [2, 3])
def test_two_pairs_already_tell_how_many_seeds_the_observed_spread_asks_for(n):
    v = one(arm(*[97.0, 96.8, 97.6][:n]), arm(*[96.4, 96.3, 96.2][:n]), margin=0.4)
    need = fewest((v.estimate - 0.4) / np.std(list(v.differences.values()), ddof=1))
    assert v.outcome == "inconclusive"
    assert f"about {max(need, n + 1, 3)} seeds would decide it" in v.summary


def test_the_seeds_that_would_decide_count_the_other_claims():
    scores = {"a": A, "b": B}

    def needed(claims: int) -> int:
        verdict, *_ = judged([claim(id=str(i), margin=1.0) for i in range(claims)], scores)
        return int(verdict.summary.split(" seeds would decide it")[0].split()[-1])

    effect = (1.2 - 1.0) / np.std(DIFFERENCE, ddof=1)
    for m in (1, 4):
        assert needed(m) == fewest(effect, 0.05 / m)
    beside_a_decided_one = judged([claim(margin=1.0), claim(id="easy", margin=-0.0)], scores)
    # Holm leaves it the whole level
    assert f"about {needed(1)} seeds" in beside_a_decided_one[0].summary


def test_the_seeds_that_would_decide_have_a_range_of_plausible_means():
    v = one(A, B, margin=1.0)
    low, high = sp.ttest_1samp(DIFFERENCE, 0).confidence_interval(0.8)
    assert low < 1.0 < high
    fewest_seeds = max(6, fewest((high - 1.0) / np.std(DIFFERENCE, ddof=1)))
    assert f"(80% power; {fewest_seeds} or more for means within their 80% interval)" in v.summary
    beside = one(A, B, margin=0.65)  # outside of that interval
    nearest, farthest = (
        max(6, fewest((mean - 0.65) / np.std(DIFFERENCE, ddof=1))) for mean in (high, low)
    )
    assert (
        f"(80% power; {nearest} to {farthest} for means within their 80% interval)"
        in beside.summary
    )


def test_equivalence_asks_for_no_more_seeds_than_its_nearer_limit_needs():
    """Where the mean is off the middle, the farther of the two tests fails next to never, and costs
    no power.
    """
    spread = np.std(DIFFERENCE, ddof=1)
    v = one(A, B, kind="equivalent", margin=1.5)
    assert f"about {fewest((1.5 - v.estimate) / spread)} seeds would decide it" in v.summary


# ---- seeds until decided -------------------------------------------------------------------------

PLAN = Seeds(start=3, step=2, max=9, stop="decided")
RNG = np.random.default_rng(0)
CLEAR = {"a": RNG.normal(98, 0.4, 9), "b": RNG.normal(95, 0.4, 9), "c": RNG.normal(97.4, 0.8, 9)}
MEAN = float((CLEAR["a"] - CLEAR["b"]).mean())


def sequential(claims: list[Claim], n: int, changes: dict | None = None):
    scores = {arm: dict(enumerate(values[:n].tolist())) for arm, values in CLEAR.items()}
    for arm_name, seed in changes or {}:
        scores[arm_name][seed] = changes[arm_name, seed]
    return judged(claims, scores, PLAN)


def test_a_verdict_is_frozen_at_its_first_crossing_whatever_comes_later():
    (early,) = sequential([claim()], 5)
    assert (early.outcome, early.n) == ("supported", 3)
    (late,) = sequential([claim()], 9, {("a", 7): 20.0, ("a", 8): 10.0})
    assert late == early
    assert "of at most 9" in early.summary


def test_an_undecided_claim_waits_for_the_next_block_and_says_which():
    decided, waiting = sequential([claim(), claim(id="close", contrast=("a", "c"))], 5)
    assert waiting.outcome == "incomplete"
    assert waiting.summary == "Not decided yet: seeds 5, 6 come next, 9 seeds in all at most."
    assert decided.n == 3


def test_a_claim_that_was_decided_early_says_how_far_off_its_estimate_is_and_what_later_seeds_say():
    decided, _ = sequential([claim(), claim(id="close", contrast=("a", "c"))], 5)
    differences = (CLEAR["a"] - CLEAR["b"])[:5]
    low, high = statistics.interval(differences, 1 - 2 * statistics.Boundary(3, 2, 9).nominal(0.05))
    latest = f"it is {differences.mean():+.2f} (repeated 90% interval {low:+.2f} to {high:+.2f})."
    assert evidence(decided).endswith(f"With all 5 seeds that there are by now {latest}")
    (alone,) = sequential([claim()], 3)
    assert "The difference is beyond the margin in 3 of 3 seeds. " in evidence(
        alone
    )  # of which no test ignores the other analyses
    # so clear an effect is decided at the first analysis, whatever the seeds
    assert alone.stopping == ""
    (near,) = judged(
        [claim(margin=0.0)],
        {"a": arm(96.9, 97.6, 96.3, 97.2, 96.5), "b": arm(96, 96, 96, 96, 96)},
        PLAN,
    )
    assert near.decided
    off = re.fullmatch(
        r"To stop when decided moves an estimate away from the margin, by \+(0\.\d\d) points .*",
        near.stopping,
    )
    assert 0.01 <= float(off[1]) < 0.1
    (fixed,) = judged([claim()], {arm: dict(enumerate(values)) for arm, values in CLEAR.items()})
    assert fixed.decided
    assert fixed.stopping == ""


def test_before_the_first_analysis_nothing_is_judged():
    (v,) = sequential([claim()], 2)
    assert v.outcome == "incomplete"
    assert "Not judged yet: seed 2 " in v.summary


def test_when_the_budget_is_spent_the_claim_is_inconclusive():
    (v,) = sequential([claim(contrast=("a", "c"), margin=0.2)], 9)
    assert (v.outcome, v.n) == ("inconclusive", 9)
    assert "seeds would decide it" in v.summary


def test_the_interval_is_the_repeated_one_and_agrees_with_the_verdict():
    (v,) = sequential([claim()], 9)
    nominal = statistics.Boundary(3, 2, 9).nominal(0.05)
    expected = sp.ttest_1samp(list(v.differences.values()), 0).confidence_interval(1 - 2 * nominal)
    assert (v.low, v.high) == pytest.approx((expected.low, expected.high))
    assert v.level == pytest.approx(0.9)
    edge = statistics.p_values(
        np.array(list(v.differences.values())),
        "superior",
        v.low,
        statistics.Boundary(3, 2, 9).chance,
    )
    assert edge[0] == pytest.approx(0.05)
    assert "repeated 90% interval" in v.summary


def test_a_study_gains_seeds_block_by_block_until_its_claims_are_decided_and_no_further(
    monkeypatch,
):
    expansion = study([claim(), claim(id="close", contrast=("a", "b"), margin=round(MEAN, 2))])
    expansion = replace(expansion, study=replace(expansion.study, seeds=PLAN))
    score = {
        key: record(top1=float(CLEAR[key[0]][key[1]]))
        for key in [(arm, s) for arm in "ab" for s in range(9)]
    }
    trained: set[int] = set()

    def read(of: Expansion) -> dict:
        return {key: score[key] if key[1] in trained else None for key in of.runs()}

    monkeypatch.setattr(Expansion, "records", read)
    steps = [with_needed_seeds(expansion).seeds]
    while not trained >= set(steps[-1]):
        trained |= set(steps[-1])
        steps.append(with_needed_seeds(expansion).seeds)
    assert [len(seeds) for seeds in steps] == [3, 5, 7, 9, 9]
    easy = replace(expansion, study=replace(expansion.study, claims=[claim()]))
    assert len(with_needed_seeds(easy).seeds) == 3
    trained -= {4}
    assert len(with_needed_seeds(expansion).seeds) == 5  # what is missing comes first
    fixed = study([claim()])
    assert with_needed_seeds(fixed) is fixed


def test_further_seeds_are_trained_by_the_arms_of_undecided_claims_only(monkeypatch):
    claims = [
        claim(),
        claim(
            id="close",
            contrast=("c", "b"),
            margin=round(float((CLEAR["c"] - CLEAR["b"]).mean()), 2),
        ),
    ]
    of_three = Study(
        question="?", base=[], seeds=PLAN, claims=claims, arms={name: {} for name in "abc"}
    )
    expansion = replace(study([claim()]), study=of_three)
    arms = dict(
        zip("abc", [*expansion.arms.values(), next(iter(expansion.arms.values()))], strict=True)
    )
    expansion = replace(expansion, arms=arms)
    monkeypatch.setattr(
        Expansion,
        "records",
        lambda of: {key: record(top1=float(CLEAR[key[0]][key[1]])) for key in of.runs()},
    )
    whole = with_needed_seeds(expansion)
    seeds = {name: [seed for arm, seed in whole.runs() if arm == name] for name in "abc"}
    assert seeds == {"a": list(range(3)), "b": list(range(9)), "c": list(range(9))}
    clear, close = judge_study(whole, whole.records())
    assert (clear.outcome, clear.n) == ("supported", 3)
    assert (close.outcome, close.n) == ("inconclusive", 9)


def test_a_pilots_pairs_forecast_the_seeds():
    fixed = study([claim(margin=2.8)], seeds=tuple(range(9)))
    pilot = {
        (name, seed): record(top1=float(CLEAR[name][seed])) if seed < 4 else None
        for name, seed in fixed.runs()
    }
    (v,) = judge_study(fixed, pilot)
    assert v.outcome == "incomplete"
    assert "4 pairs have mean" in forecast(v, fixed.study)
    assert "seeds would decide it" in forecast(v, fixed.study)
    growing = replace(fixed.study, seeds=PLAN)
    said = forecast(v, growing)
    assert "chance to be decided by 9 seeds" in said
    chance = int(said.split("% chance")[0].split()[-1])
    low, high = (
        int(word)
        for word in said.split("(")[-1].split("% for means")[0].replace("%", "").split(" to ")
    )
    assert low <= chance <= high
    assert low < high
    (nothing,) = judge_study(fixed, dict.fromkeys(pilot))
    assert forecast(nothing, fixed.study) == ""


@pytest.mark.parametrize("seeds", [PLAN, list(range(9))])
def test_when_all_planned_seeds_are_used_the_forecast_says_so_and_gives_no_chance(seeds):
    expansion = study([claim(margin=round(MEAN, 2))], seeds=tuple(range(9)))
    expansion = replace(expansion, study=replace(expansion.study, seeds=seeds), interim_analysis=3)
    runs = {(name, seed): record(top1=float(CLEAR[name][seed])) for name, seed in expansion.runs()}
    (v,) = judge_study(expansion, runs)
    assert (v.outcome, v.n) == ("inconclusive", 9)
    said = forecast(v, expansion.study)
    assert "; all 9 planned seeds are used: at this mean and spread" in said
    assert "chance" not in said
    assert said.split("used: ")[1].rstrip(".") in v.summary  # as the verdict has it


def test_a_forecast_counts_what_was_seen_already():
    """With 7 of 9 seeds the claim is decided at the last analysis or not at all, and its first 7
    differences stay as they are.
    """
    expansion = study([claim(margin=round(MEAN, 2))])
    expansion = replace(expansion, study=replace(expansion.study, seeds=PLAN), interim_analysis=3)
    runs = {
        (name, seed): record(top1=float(CLEAR[name][seed])) if seed < 7 else None
        for name, seed in expansion.runs()
    }
    (v,) = judge_study(expansion, runs)
    assert (v.outcome, v.n) == ("incomplete", 7)
    assert "9.0 seeds on average" in forecast(v, expansion.study)


# ---- verdicts that mean less than they say -------------------------------------------------------


def with_top1(a: list[float], b: list[float], **changes) -> dict:
    """Runs of such accuracies, whose loss is theirs, too."""
    made = {}
    for name, values in (("a", a), ("b", b)):
        for seed, value in enumerate(values):
            made[name, seed] = record(top1=value, top5=min(100.0, 5 * value), loss=value / 10)
            vars(made[name, seed]).update(changes)
    return made


@pytest.mark.parametrize("metric", ["test/top1", "test/top5", "test/loss"])
@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([10.0, 10.0, 10.0], [10.0, 10.0, 10.0]),
        ([10.0, 10.4, 9.6], [10.2, 8.8, 11.0]),
        ([12.6, 12.8, 12.4], [7.0, 9.0, 11.0]),
    ],
)
def test_two_arms_at_chance_are_warned_of_in_the_verdict(a, b, metric):
    (v,) = judge_study(study([claim(metric=metric)]), with_top1(a, b))
    assert "Both arms are at chance" in v.summary
    assert ("so this says nothing" in v.summary) == (metric != "test/loss")
    assert ("at chance in test/top1: the loss tells how sure they are" in v.summary) == (
        metric == "test/loss"
    )
    (warning,) = v.warnings
    found = f"{np.mean(a):.2f}% and {np.mean(b):.2f}%"
    assert (
        warning
        == f"both arms are at chance: {found} in test/top1, which is not more than guessing (10.00%) explains"
    )


@pytest.mark.parametrize(
    ("a", "b", "changes"),
    [
        ([97.0, 98.0, 97.4], [10.0, 10.0, 10.0], {}),  # one arm that learns nothing is a result
        ([13.6, 13.8, 13.5], [10.0, 10.0, 10.0], {}),
        ([11.0, 11.2, 11.1], [10.0, 10.0, 10.0], {"test_images": 50_000}),
    ],
)
def test_an_arm_above_chance_is_enough(a, b, changes):
    (v,) = judge_study(study([claim()]), with_top1(a, b, **changes))
    assert v.warnings == ()
    assert "chance" not in v.summary


def test_chance_is_what_the_most_frequent_class_scores():
    frequent = {"test/top1": 70.0}
    (v,) = judge_study(
        study([claim()]), with_top1([70.0, 70.0, 70.2], [70.0, 69.8, 70.0], majority_class=frequent)
    )
    assert "not more than guessing (70.00%) explains" in v.warnings[0]


def test_arms_whose_runs_all_diverged_have_no_scores_and_say_nothing():
    (v,) = judge_study(study([claim()]), records([DIVERGED] * 3, [DIVERGED] * 3))
    none = "none, as 3 runs diverged,"
    assert f"both arms are at chance or diverged: {none} and {none} in test/top1" in v.warnings[0]


@pytest.mark.parametrize("metric", ["test/top1", "test/loss"])
def test_an_arm_whose_runs_all_diverged_has_no_score_beside_one_at_chance(metric):
    runs = with_top1([10.0, 10.4, 9.6], [0.0] * 3)
    runs |= {("b", seed): DIVERGED for seed in range(3)}
    (v,) = judge_study(study([claim(metric=metric)]), runs)
    assert v.warnings[0].startswith(
        "both arms are at chance or diverged: 10.00% and none, as 3 runs diverged, in test/top1"
    )
    assert "Both arms are at chance or diverged, so this says nothing" in v.summary


def test_a_verdict_says_which_of_its_scores_are_those_of_diverged_runs():
    (v,) = judge_study(study([claim()]), records(GOOD, [DIVERGED, *WORSE[1:]]))
    assert v.summary.endswith(" 1 of 3 runs of b diverged; each counts as 10.")
    (v,) = judge_study(study([claim(diverged=12.5)]), records(GOOD, [DIVERGED] * 3))
    assert v.summary.endswith(" 3 of 3 runs of b diverged; each counts as 12.5.")
    runs = with_top1([0.0, 10.0, 9.0], [10.0, 10.4, 9.6]) | {("a", 0): DIVERGED}
    (v,) = judge_study(study([claim()]), runs)
    assert "9.50% (2 of 3 runs, the others diverged) and 10.00%" in v.warnings[0]


@pytest.mark.parametrize(
    ("metric", "kind", "margin", "warned"),
    [
        ("test/top1", "superior", 0.005, True),
        ("test/top5", "equivalent", 0.19, True),
        ("test/top1", "superior", 0.2, False),
        ("test/top1", "superior", 0.0, False),  # any difference at all
        ("test/loss", "superior", 0.005, False),
    ],
)
@pytest.mark.parametrize("trained", [True, False])
def test_a_margin_below_one_image_is_warned_of_with_records_and_before(
    metric, kind, margin, warned, trained
):
    runs = records(GOOD, WORSE) if trained else records([None] * 3, [None] * 3)
    (v,) = judge_study(study([claim(metric=metric, kind=kind, margin=margin)]), runs)
    expected = f"the margin of {margin:g} is less than a single image: one image more or less of 500 is 0.2 points"
    assert v.warnings == ((expected,) if warned else ())


@pytest.mark.parametrize(
    ("metric", "scale", "warned"),
    [
        ("test/top1", 0.01, True),
        ("val/top5", 0.01, True),
        ("test/top1", 1, False),
        ("test/loss", 0.01, False),
    ],
)
def test_fractions_in_place_of_percent_are_warned_of(metric, scale, warned):
    v = one(
        *({seed: scale * value for seed, value in scores.items()} for scores in (A, B)),
        metric=metric,
        margin=0.005,
    )
    assert v.warnings == ()  # those of runs are in percent
    warnings = verdict_warnings.of_fractions(v)
    assert len(warnings) == warned
    assert all(
        "all scores lie between 0 and 1; accuracies are in percent" in warning
        for warning in warnings
    )


# ---- futility ------------------------------------------------------------------------------------

HOPELESS = {"a": arm(*np.random.default_rng(0).normal(90.5, 0.5, 9)), "b": arm(*[90.0] * 9)}
"""Differences around the margin of half a point."""


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_a_claim_with_little_chance_left_is_given_up_and_says_so(statistic):
    scores = {name: dict(list(values.items())[:7]) for name, values in HOPELESS.items()}
    (waiting,) = judged([claim(statistic=statistic)], scores, PLAN)
    (v,) = judged([claim(statistic=statistic)], scores, replace(PLAN, futility=0.5))
    assert waiting.outcome == "incomplete"
    assert (v.outcome, v.settled, v.decided) == ("inconclusive", True, False)
    assert (
        f"given up, with a chance of {v.chance_when_given_up:.1%} to be decided by 9 seeds (futility)"
        in v.summary
    )
    assert forecast(v, study([claim()]).study) == ""


def test_what_is_given_up_stays_so_whatever_other_claims_need():
    """Claim x is hopeless at the first analysis, and would be decided by the later ones that claim
    y asks for.
    """
    x, y = (
        [0.5, 0.6, 0.4, 3.0, 3.1, 2.9, 3.0, 3.1, 3.0],
        [1.0, 0.6, 1.3, 0.9, 1.4, 0.6, 1.2, 1.0, 1.3],
    )
    scores = {"a": arm(*[90 + d for d in x]), "c": arm(*[90 + d for d in y]), "b": arm(*[90.0] * 9)}
    plan = replace(PLAN, futility=0.3)
    (alone,) = judged([claim()], scores, plan)
    beside, other = judged([claim(), claim(id="y", contrast=("c", "b"))], scores, plan)
    assert (alone.n, alone.chance_when_given_up is not None) == (3, True)
    assert (beside.n, beside.chance_when_given_up is not None) == (3, True)
    assert other.n > 3


def test_futility_makes_no_false_verdict_likelier_and_saves_seeds(monkeypatch):
    # slow, and only for the summary
    monkeypatch.setattr("xceptlab.study.signs.pairs_needed", lambda *args: 0)
    rng = np.random.default_rng(0)
    plan = Seeds(start=6, step=2, max=20, stop="decided")
    used = {None: [], 0.1: []}
    for x in rng.normal(0.5, 1, (12, 20)):
        scores = {"a": arm(*x), "b": arm(*[0.0] * 20)}
        without, with_futility = (
            judged([claim(statistic="median")], scores, replace(plan, futility=f))[0] for f in used
        )
        assert with_futility.outcome in (without.outcome, "inconclusive")
        for futility, v in ((None, without), (0.1, with_futility)):
            used[futility].append(v.n)
    assert np.mean(used[None]) > np.mean(used[0.1]) + 4


def test_a_factor_without_any_effect_leaves_no_spread_of_floating_point():
    rates = [0.1, 0.2, 0.3]
    grid = {"model.residual": ["all", "none"], "model.width": [0.5, 1.0], "train.lr": rates}
    effect = {factor: grid[factor] for factor in ("model.residual", "model.width")}
    asked = Claim(id="c", effect=effect, metric="test/top1", kind="superior", margin=0.5)
    study = Study(question="?", base=[], seeds=list(range(5)), grid=grid, claims=[asked])
    # of every seed at every rate, whatever the other factors
    values = np.random.default_rng(0).uniform(90, 97, (5, 3))
    records = {
        (arm, seed): record(top1=values[seed, rates.index(levels["train.lr"])])
        for arm, levels in study.cells().items()
        for seed in range(5)
    }
    expansion = Expansion(name="c", study=study, arms=dict.fromkeys(study.cells(), RunConfig()))
    table = scores_of_runs(asked, expansion, records)
    assert {value for side in table.values() for value in side.values()} == {0.0}


# ---- what a review found -------------------------------------------------------------------------


def test_losses_are_told_with_the_digits_that_they_need():
    v = one(
        arm(0.5012, 0.5034, 0.5023), arm(0.6013, 0.6031, 0.6027), metric="test/loss", margin=0.01
    )
    assert v.outcome == "supported"
    assert "is 0.1001 better" in v.summary
    assert "an effect of 0.00" in v.pairing_and_power
    assert "an effect of 0.00 " not in v.pairing_and_power


def test_an_undecided_claim_says_when_its_seeds_are_used_up():
    values = np.random.default_rng(0).normal(0.5, 1, 7)
    plan = Seeds(start=3, step=2, max=7, stop="decided")
    (v,) = judged([claim()], {"a": arm(*values), "b": arm(*[0.0] * 7)}, plan)
    assert v.outcome == "inconclusive"
    assert "the seeds that were planned are used up" in v.summary


def test_a_repeated_interval_for_an_alpha_below_the_table_is_no_narrower_than_bonferronis():
    boundary = statistics.Boundary(3, 1, 40)
    for chance in (0.05, 0.0005, 1e-6):
        assert boundary.chance(boundary.nominal(chance)) <= chance * 1.001
