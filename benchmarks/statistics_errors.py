"""How often verdicts are wrong, by simulation with the functions that judge; writes
docs/simulation.md (minutes on a core).

Run: xceptlab bench statistics_errors
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from scipy import stats as sp

from xceptlab.study import signs, statistics
from xceptlab.study.calibration import calibrate
from xceptlab.study.claims import Claim
from xceptlab.study.definition import Seeds
from xceptlab.study.estimands import estimand_of
from xceptlab.study.resampling import Observed
from xceptlab.study.simulated_judging import CONTRADICTED, SUPPORTED, decided, p_values_at

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
Statistic = Literal["mean", "median"]

ALPHA, MARGIN = 0.05, 1.0
SHARES = (0.02, 0.05, 0.1, 0.2, 0.3)
"""Of the seeds in which an arm collapses."""
FALL = 78.0
"""Points by which it does: from 88% to 10%, say."""
PLAN = Seeds(start=4, step=2, max=20, stop="decided")
PLAN_OF_MEDIANS = Seeds(start=6, step=2, max=20, stop="decided")
"""A claim on a median cannot be decided by 4 seeds."""
CLAIMS = (1, 3, 5)
SIZES = (5, 8, 11, 13)
"""Numbers of seeds that waste none of a median's."""
PLACES = np.arange(-2, 3)
"""Of the five values that are tuned, such as learning rates on a logarithmic scale; a step from the
optimum costs 0.15 points.
"""
TARGET = Path(__file__).parents[1] / "docs" / "simulation.md"


# ---- distributions of a paired difference --------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Differences:
    """A distribution of the paired differences of several claims."""

    draw: Draw
    """Differences (trials, claims, n) of mean 0."""
    median: float = 0.0


def share_a_baseline(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Normal differences of arms that are all compared with one, hence correlate by 1/2."""
    trials, _, n = shape
    return (rng.standard_normal(shape) + rng.standard_normal((trials, 1, n))) / np.sqrt(2)


def on_500_images(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Differences of a spread of 0.3 points, of which one image is 0.2."""
    return 0.2 * np.round(0.3 / 0.2 * rng.standard_normal(shape))


def failing(share_a: float, share_b: float = 0.0) -> Differences:
    """Two arms with a spread of 0.3 points, which fall by ``FALL`` in these shares of their seeds,
    independently.
    """

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        falls = (rng.random(shape) < share_b) * 1.0 - (rng.random(shape) < share_a)
        return 0.3 * rng.standard_normal(shape) + FALL * (falls - share_b + share_a)

    median = FALL * (share_a - share_b)
    if share_b == 0:  # as likely to be below it, collapses counted, as above
        median += 0.3 * sp.norm.ppf((0.5 - share_a) / (1 - share_a))
    return Differences(draw=draw, median=median)


DIFFERENCES = {
    "normal": Differences(draw=lambda rng, shape: rng.standard_normal(shape)),
    "normal, one baseline": Differences(draw=share_a_baseline),
    "heavy tails (t, 3 df)": Differences(draw=lambda rng, shape: rng.standard_t(3, shape)),
    "skewed up (exponential)": Differences(
        draw=lambda rng, shape: rng.exponential(1.0, shape) - 1, median=np.log(2) - 1
    ),
    "skewed down (exponential)": Differences(
        draw=lambda rng, shape: 1 - rng.exponential(1.0, shape), median=1 - np.log(2)
    ),
    "whole images of 500": Differences(draw=on_500_images),
    **{f"a fails in {share:.0%}": failing(share) for share in SHARES},
    "b fails in 10%": Differences(
        draw=lambda rng, shape: -failing(0.1).draw(rng, shape), median=-failing(0.1).median
    ),
    "both fail in 10%": failing(0.1, 0.1),
}


# ---- simulated studies ---------------------------------------------------------------------------


def claim(kind: statistics.Kind, margin: float, statistic: Statistic = "mean") -> Claim:
    return Claim(
        id="a claim",
        contrast=("a", "b"),
        metric="test/top1",
        kind=kind,
        margin=margin,
        statistic=statistic,
    )


def false_verdicts(
    differences: Differences,
    statistic: Statistic,
    kind: statistics.Kind,
    seeds: Sequence[int] | Seeds,
    trials: int,
    seed: int,
) -> np.ndarray:
    """Chances of any false ``supported`` and of any false ``contradicted`` of so many claims,
    (len(CLAIMS), 2).

    The claims' statistic, mean or median, truly lies on their margin. For ``equivalent`` it is the
    worst of what is possible: on a margin that is large against the spread, so that only one of the
    two tests is in doubt; and between margins of next to nothing, so that either of them may
    contradict.
    """
    analyses = list(seeds.analyses) if isinstance(seeds, Seeds) else [len(seeds)]
    shape = (trials, max(CLAIMS), analyses[-1])
    x = differences.draw(np.random.default_rng(seed), shape)
    if statistic == "median":
        x = x - differences.median
    cases = [MARGIN + x] if kind == "superior" else [-MARGIN + x / 1e4, 1e4 * x]
    found = np.zeros((len(cases), len(CLAIMS), 2))
    for case, d in enumerate(cases):
        p = p_values_at(estimand_of(claim(kind, MARGIN, statistic), seeds), d, analyses)
        for i, claims in enumerate(CLAIMS):
            outcome, _ = decided(p[:, :, :claims], ALPHA)
            found[case, i] = [
                (outcome == which).any(axis=-1).mean() for which in (SUPPORTED, CONTRADICTED)
            ]
    return found.max(axis=0)


def coverage(
    differences: Differences, statistic: Statistic, n: int, trials: int, seed: int
) -> float:
    """How often the 90% interval holds the true mean or median."""
    d = differences.draw(np.random.default_rng(seed), (trials, 1, n))[:, 0]
    if statistic == "mean":
        low, high = np.moveaxis(statistics.interval(d, 1 - 2 * ALPHA), -1, 0)
        return float(((low <= 0) & (high >= 0)).mean())
    low, high = np.moveaxis(signs.interval(d, ALPHA), -1, 0)
    return float(((low <= differences.median) & (high >= differences.median)).mean())


def power(effect: float, statistic: Statistic, n: int, trials: int, seed: int) -> float:
    """How often an effect of so many standard deviations beyond the margin is found, one claim,
    normal differences.
    """
    d = MARGIN + effect + np.random.default_rng(seed).standard_normal((trials, n))
    p = estimand_of(claim("superior", MARGIN, statistic), range(n)).p_values(d)
    return float((p[:, 0] <= ALPHA).mean())


def sequential(
    x: np.ndarray,
    kinds: list[statistics.Kind],
    margins: list[float],
    plan: Seeds = PLAN,
    alpha: float = ALPHA,
) -> np.ndarray:
    """Study x (trials, claims, max) until all claims are decided, as ``judging.judge`` does with
    ``seeds``.

    Returns:
        Per trial and claim (trials, claims, 2): outcome (1 supported, -1 contradicted, 0 neither)
        and the seeds it was frozen at.
    """
    estimands = [
        estimand_of(claim(kind, margin), plan) for kind, margin in zip(kinds, margins, strict=True)
    ]
    p = [p_values_at(estimand, x[:, i], plan.analyses) for i, estimand in enumerate(estimands)]
    outcome, analysis = decided(np.stack(p, axis=2), alpha)
    return np.stack([outcome, np.array(plan.analyses)[analysis]], axis=-1)


def collapse_power(share: float, n: int, trials: int, seed: int) -> tuple[float, float]:
    """Chances to support an effect of 2 standard deviations where the other arm collapses, by the
    mean and by the median.
    """
    d = 2 * 0.3 - failing(share).draw(np.random.default_rng(seed), (trials, n)) + FALL * share
    of_mean, of_median = (
        module.p_values(d, "superior", 0.0)[:, 0] <= ALPHA for module in (statistics, signs)
    )
    return float(of_mean.mean()), float(of_median.mean())


def runs_saved(effects: Sequence[float], trials: int, seed: int) -> float:
    """The share of runs that are not trained since arms whose claim is decided get no further
    seeds.

    Each effect, in standard deviations beyond the margin, is that of an arm that is compared with
    one and the same baseline.
    """
    x = share_a_baseline(np.random.default_rng(seed), (trials, len(effects), PLAN.max))
    done = sequential(
        x + MARGIN + np.array(effects)[:, None],
        ["superior"] * len(effects),
        [MARGIN] * len(effects),
    )
    seeds = done[..., 1]
    last = seeds.max(axis=-1)  # of the baseline, too
    return float(1 - (seeds.sum(axis=-1) + last).sum() / ((len(effects) + 1) * last).sum())


def pairing_rates(correlation: float, ratio: float, n: int, trials: int, seed: int) -> np.ndarray:
    """How often arms with such scores are called different, with pairing and without, (2, 2): at
    the margin, and 1 beyond it.

    Args:
        correlation: Of the two arms' scores over the seeds.
        ratio: The standard deviation of b's scores by that of a's, which is 1.
        n: Seeds.
        trials: Simulated studies.
        seed: Of the simulation.
    """
    a, noise = np.random.default_rng(seed).standard_normal((2, trials, n))
    b = ratio * (correlation * a + np.sqrt(1 - correlation**2) * noise)
    found = np.empty((2, 2))
    for i, effect in enumerate((0.0, 1.0)):
        paired = statistics.p_values(a + effect - b, "superior", 0.0)
        error, degrees_of_freedom = statistics.unpaired_error(a, b)
        unpaired = statistics.t_tests(
            (a + effect - b).mean(axis=-1), error, degrees_of_freedom, "superior", 0.0
        )
        found[:, i] = [(p[:, 0] <= ALPHA).mean() for p in (paired, unpaired)]
    return found


def effect_errors(spreads: Sequence[float], n: int, trials: int, seed: int) -> tuple[float, float]:
    """Of a grid of 2 x 2 cells without any effect: how often an effect's 95% interval holds 0, and
    any is found (Holm).

    ``spreads`` are the standard deviations of the cells' scores.
    """
    scores = np.random.default_rng(seed).standard_normal((trials, n, 2, 2)) * np.reshape(
        spreads, (2, 2)
    )
    covered, found = 0, 0
    for study in 90 + scores:
        effects = statistics.effects(study, 1 - ALPHA)
        covered += sum(effect.low <= 0 <= effect.high for effect in effects)
        found += any(effect.p_adjusted <= ALPHA for effect in effects)
    return covered / (3 * trials), found / trials


def futility_cost(
    effect: float, trials: int, seed: int, futility: float = 0.1
) -> tuple[float, float]:
    """Of one claim, ``superior``, at an effect beyond the margin in standard deviations, where it
    is given up for ``futility``.

    Returns:
        How often it is supported, and the seeds used on average. The chance to be decided is
        simulated with 200 paths, not 4,000.
    """
    boundary = statistics.Boundary(PLAN.start, PLAN.step, PLAN.max)
    supported, seeds = [], []
    for x in MARGIN + effect + np.random.default_rng(seed).standard_normal((trials, PLAN.max)):
        for n in PLAN.analyses:
            d = x[:n]
            p = statistics.p_values(d, "superior", MARGIN, boundary.chance)
            plan = "superior", MARGIN, PLAN.analyses, boundary, ALPHA, tuple(d.tolist())
            if p.min() <= ALPHA or n == PLAN.max:
                break
            if statistics.sequential_power(d.mean(), d.std(ddof=1), *plan, paths=200)[0] < futility:
                break
        supported.append(p[0] <= ALPHA)
        seeds.append(n)
    return float(np.mean(supported)), float(np.mean(seeds))


def tuned_accuracies(rng: np.random.Generator, trials: int, n: int, optimum: int) -> np.ndarray:
    """The true accuracies of an arm's runs at every value, (trials, n, values): 93% at the optimum,
    sd 0.3 points.
    """
    return 93 - 0.15 * (PLACES - optimum) ** 2 + 0.3 * rng.standard_normal((trials, n, len(PLACES)))


def on_images(rng: np.random.Generator, accuracies: np.ndarray, count: int) -> np.ndarray:
    """The accuracies as so many images show them."""
    return accuracies + np.sqrt(accuracies * (100 - accuracies) / count) * rng.standard_normal(
        accuracies.shape
    )


def tuned_scores(
    rng: np.random.Generator, trials: int, n: int, optimum: int, validation: int, how: str
) -> np.ndarray:
    """The test scores (trials, n) that stand for an arm, on 10,000 test images.

    ``how`` a value is chosen: ``anew`` for every seed by so many validation images, as ``tune``
    does; ``once``, by those of the first seed; or by the ``test`` images.
    """
    runs = tuned_accuracies(rng, trials, n, optimum)
    test, judged_by = on_images(rng, runs, 10_000), on_images(rng, runs, validation)
    if how == "test":
        return test.max(axis=-1)
    if how == "once":
        judged_by = np.broadcast_to(judged_by[:, :1], judged_by.shape)
    return np.take_along_axis(test, judged_by.argmax(axis=-1)[..., None], axis=-1)[..., 0]


def tuning_errors(shift: int, validation: int, how: str, n: int, trials: int, seed: int) -> float:
    """Chance of a false ``supported``: two arms that are as good at their optima, which lie
    ``shift`` steps apart.

    The margin is the true mean difference of arms that are tuned anew for every seed: 0 unless the
    optima are shifted, else that of 400,000 simulated seeds, as the values end sooner on one side.
    With ``test`` only the first arm is chosen so, and the second one by validation. Of shifted
    optima it is the worse of the claim and of that of the other arm.
    """
    rng = np.random.default_rng(seed)
    honest = "anew" if how == "test" else how
    margin = 0.0
    if shift:
        many = [
            tuned_scores(rng, 400_000, 1, optimum, validation, "anew") for optimum in (0, shift)
        ]
        margin = float((many[0] - many[1]).mean())
    d = tuned_scores(rng, trials, n, 0, validation, how) - tuned_scores(
        rng, trials, n, shift, validation, honest
    )
    wrong = (statistics.p_values(d, "superior", margin) <= ALPHA).mean(axis=0)
    return float(wrong.max() if shift else wrong[0])


def correctness(
    rng: np.random.Generator, trials: int, n: int, count: int, seed_spread: float
) -> np.ndarray:
    """Differences by image (trials, n, images), in points, of two equal arms of about 90%, on
    images drawn anew for every study.

    Each image is hard to a degree that both arms share in part, whatever the seed, and each run has
    its own luck with it; a seed shifts a run's accuracy with a standard deviation of
    ``seed_spread`` points.
    """
    shared = rng.standard_normal((trials, 1, count), dtype=np.float32)
    right = []
    for _ in range(2):
        hard = np.sqrt(0.6) * shared + np.sqrt(0.2) * rng.standard_normal(
            (trials, 1, count), dtype=np.float32
        )
        luck = np.sqrt(0.2) * rng.standard_normal((trials, n, count), dtype=np.float32)
        # at 90% a threshold of 0.01 is 0.175 points
        shift = seed_spread / 17.5 * rng.standard_normal((trials, n, 1))
        right.append(hard + luck < sp.norm.ppf(0.9) + shift)
    return 100.0 * (right[0].astype(np.float64) - right[1])


def scope_errors(
    n: int, count: int, seed_spread: float, trials: int, seed: int
) -> tuple[float, float]:
    """Chances of a false ``supported`` for all images, at a margin of 0: by seeds alone, and by
    seeds and images.
    """
    rng = np.random.default_rng(seed)
    wrong = np.zeros(2)
    for part in np.array_split(np.arange(trials), max(1, trials // 50)):
        d = correctness(rng, len(part), n, count, seed_spread)
        by_seed, added = d.mean(axis=-1), statistics.image_variance(d)
        of_both = statistics.error_over_images(by_seed.std(axis=-1, ddof=1), n, added)
        p_by_seed = statistics.p_values(by_seed, "superior", 0.0)
        p_by_both = statistics.t_tests(by_seed.mean(axis=-1), *of_both, "superior", 0.0)
        wrong += [(p[:, 0] <= ALPHA).sum() for p in (p_by_seed, p_by_both)]
    return float(wrong[0] / trials), float(wrong[1] / trials)


def calibrated_rates(
    differences: Differences, n: int, claims: int, samples: int, seed: int
) -> np.ndarray:
    """What ``--calibrate`` says of studies of n seeds whose differences are drawn so, (samples,):
    any false ``supported``.
    """
    rng = np.random.default_rng(seed)
    found = []
    for drawn in differences.draw(rng, (samples, claims, n)):
        observed = []
        for i, d in enumerate(drawn):
            made = Claim(
                id=str(i), contrast=("a", "b"), metric="test/top1", kind="superior", margin=0
            )
            no_failures = np.zeros((2, n), dtype=bool)
            scores = np.stack([d, 0 * d])
            observed.append(
                Observed(claim=made, scores=scores, seeds=tuple(range(n)), failed=no_failures)
            )
        calibration = calibrate(observed, range(n), ALPHA)
        rates = calibration.any_claim or calibration.claims[0].rates[0]
        found.append(rates.supported.share)
    return np.array(found)


def calibration_section(trials: int, samples: int) -> str:
    """What docs/simulation.md says of ``--calibrate``."""
    sizes = (5, 10, 20)
    rows = []
    for name in ("normal", "skewed down (exponential)", "a fails in 10%"):
        for claims in (1, 5):
            cells = []
            for n in sizes:
                wrong = false_verdicts(
                    DIFFERENCES[name], "mean", "superior", range(n), trials, seed=n
                )
                supported = wrong[CLAIMS.index(claims), 0]
                found = calibrated_rates(DIFFERENCES[name], n, claims, samples, seed=n)
                low, high = np.quantile(found, [0.1, 0.9])
                cells.append(
                    f"{percent(supported)} / {percent(found.mean())} ({percent(low)} to {percent(high)})"
                )
            rows.append([name, claims, *cells])
    return f"""## What `--calibrate` finds

Any false `supported` of claims on means, all on their margins: in truth ({trials:,} studies a cell) / as `--calibrate` puts it,
on average over {samples} studies whose own differences it resamples (and in the middle 80% of these studies). It sees skewness.
With few seeds it scatters, and errs upwards for several claims, as a resample repeats its few values. **It cannot see failures
that did not happen**: for those its table has rows of their own.

{table(["differences", "claims", *(f"n = {n}" for n in sizes)], rows)}"""


def tuning_section(trials: int) -> str:
    """What docs/simulation.md says of tuned arms."""
    numbers, validations = (5, 10), (130, 5_000, 50_000)
    named = {
        "anew": "anew for every seed (`tune`)",
        "once": "once, on the first seed",
        "test": "first arm by the test split",
    }
    rows = [
        ["shifted" if shift else "equal", named[how], f"{validation:,}"]
        + [percent(tuning_errors(shift, validation, how, n, trials, seed=n)) for n in numbers]
        for shift, how in ((0, "anew"), (1, "anew"), (0, "once"), (0, "test"))
        for validation in validations
    ]
    error = 100 * np.sqrt(ALPHA * (1 - ALPHA) / trials)
    return f"""## Tuned arms

Two arms that are as good at their best value, of five; a value one step from it costs 0.15 points, two cost 0.6. A run's
standard deviation is 0.3 points, and the test split has 10,000 images. One claim, `superior`, at the true difference;
{trials:,} studies a cell (one standard error {error:.2f} points). Shifted: the second arm's best value is the next one, and the
error is that of a claim on either arm, the worse of the two.

Chosen anew for every seed, as `tune` does, the error is about alpha; somewhat more where 130 images choose and an arm has more
bad values to one side, which skews the differences. **Chosen once, chance in the choice is taken for an effect, the more
surely the more seeds there are. By the test split, for one arm only, the luckiest of five scores is.**

{table(["optima", "a value is chosen", "validation images", *(f"n = {n}" for n in numbers)], rows)}"""


def scope_section(trials: int) -> str:
    """What docs/simulation.md says of verdicts on other images."""
    rows = []
    for count in (500, 2_000):
        for spread in (0.1, 0.5):
            found = [scope_errors(n, count, spread, trials, seed=n) for n in (5, 10)]
            rows.append(
                [
                    f"{count:,}",
                    f"{spread:g}",
                    *(percent(cell) for i in (0, 1) for cell in (found[0][i], found[1][i])),
                ]
            )
    header = [
        "test images",
        "seed sd",
        "`test_set`, n = 5",
        "`test_set`, n = 10",
        "`images`, n = 5",
        "`images`, n = 10",
    ]
    error = 100 * np.sqrt(ALPHA * (1 - ALPHA) / trials)
    return f"""## Other images

Two equal arms of 90%, on test images that are drawn anew for every study: how often the first one is called better, `superior`
at a margin of 0, for the population of images; {trials:,} studies a cell (one standard error {error:.2f} points). A verdict with
`scope: test_set` does not claim that, and whoever reads it so is wrong more often than alpha, the more so the more seeds there
are; one with `scope: images` does.

{table(header, rows)}"""


def fixed_n(power: float, effect: float) -> int:
    """The fewest seeds with which a single look has this power."""
    return next(
        n
        for n in range(3, 100)
        if sp.nct.sf(sp.t.ppf(1 - ALPHA, n - 1), n - 1, effect * np.sqrt(n)) >= power
    )


def table(header: list[str], rows: list[list[object]]) -> str:
    lines = [
        header,
        ["---"] + ["---:"] * (len(header) - 1),
        *([str(cell) for cell in row] for row in rows),
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def percent(chance: float) -> str:
    return f"{100 * chance:.2f}"


def short(chance: float) -> str:
    """A chance in percent, of several in one cell."""
    return f"{100 * chance:.1f}"


def nulls_section(kind: statistics.Kind, trials: int) -> str:
    """What docs/simulation.md says of false verdicts of a kind."""
    supported, contradicted = [], []
    for name, differences in DIFFERENCES.items():
        for statistic, plan in (("mean", PLAN), ("median", PLAN_OF_MEDIANS)):
            designs = [*map(range, SIZES), plan]
            found = [
                false_verdicts(differences, statistic, kind, seeds, trials, seed=i)
                for i, seeds in enumerate(designs)
            ]
            for side, rows in enumerate((supported, contradicted)):
                rows.append(
                    [
                        name,
                        statistic,
                        *(" / ".join(short(chance) for chance in each[:, side]) for each in found),
                    ]
                )
    header = ["differences", "statistic", *(f"n = {n}" for n in SIZES), "until decided"]
    return f"""### False `supported`, `{kind}`

{table(header, supported)}
### False `contradicted`, `{kind}`

{table(header, contradicted)}"""


def seeds_section(trials: int) -> str:
    """What docs/simulation.md says of seeds until decided."""
    rng = np.random.default_rng(7)
    naive = MARGIN + rng.standard_normal((trials, PLAN.max))
    naive_hits = [
        statistics.p_values(naive[:, :n], "superior", MARGIN)[:, 0] <= ALPHA for n in PLAN.analyses
    ]
    boundary = statistics.Boundary(PLAN.start, PLAN.step, PLAN.max)
    cost, given_up = [], []
    for effect in (0.0, 0.5, 1.0, 1.5, 2.0):
        done = sequential(
            MARGIN + effect + rng.standard_normal((trials // 4, 1, PLAN.max)),
            ["superior"],
            [MARGIN],
        )
        found, seeds = float((done[..., 0] == 1).mean()), float(done[..., 1].mean())
        equal = fixed_n(min(found, 0.999), effect) if effect else "-"
        bias = statistics.stopping_bias(
            effect, 1.0, "superior", 0.0, PLAN.analyses, boundary, ALPHA, paths=trials // 4
        )
        saved = f"{100 * (1 - seeds / PLAN.max):.0f}"
        cost.append(
            [f"{effect:g} sd", percent(found), f"{seeds:.1f}", saved, equal, f"{bias:+.2f} sd"]
        )
        with_futility, fewer = futility_cost(effect, trials // 500, seed=11)
        given_up.append(
            [
                f"{effect:g} sd",
                percent(found),
                f"{seeds:.1f}",
                percent(with_futility),
                f"{fewer:.1f}",
            ]
        )
    saved = runs_saved((2.0, 1.0, 0.5, 0.0), trials // 10, seed=3)
    return f"""## Seeds until decided

`seeds: {{start: {PLAN.start}, step: {PLAN.step}, max: {PLAN.max}, stop: decided}}`. Looking as often with a plain t-test at 5%
would support falsely in {percent(float(np.any(naive_hits, axis=0).mean()))}; the tables above have the false verdicts of
the boundary.

One claim, `superior`, by the distance of the true effect from the margin: how often it is supported, the seeds
used on average, how many percent fewer these are than {PLAN.max}, the fixed number of seeds that has the same power (99.9%
at most), and by how much the estimate is too large, as a study stops when its scores happen to be clear.

{table(["distance", "supported", "seeds", "fewer than max", "fixed n of equal power", "bias"], cost)}
Of four arms 2, 1, 0.5 and 0 sd beyond the margin of one baseline {percent(saved)} of the runs are saved, as only arms of
undecided claims get further seeds.

With `futility: 0.1` claims that have little chance left are given up ({trials // 500:,} studies a cell). It saves seeds
where there is nothing to find, and costs power where there is: the chance takes few differences for the truth.

{table(["distance", "supported", "seeds", "supported with futility", "seeds with futility"], given_up)}"""


def pairing_section(trials: int) -> str:
    """What docs/simulation.md says of pairing."""
    rows = []
    for ratio in (1.0, 3.0):
        for correlation in (-0.5, 0.0, 0.5, 0.9):
            left = 1 - 2 * correlation * ratio / (1 + ratio**2)
            cells = []
            for n in (5, 10):
                paired, unpaired = pairing_rates(correlation, ratio, n, trials, seed=n)
                cells += [f"{percent(paired[i])} / {percent(unpaired[i])}" for i in (0, 1)]
            rows.append([f"{correlation:g}", f"{ratio:g}", f"{left:.2f}", *cells])
    header = ["correlation", "sd of b / sd of a", "variance left"]
    header += [f"{what}, n = {n}" for n in (5, 10) for what in ("wrong", "power")]
    return f"""## Pairing

Two arms with normal scores, one claim, `superior`, paired / unpaired (`pairing: none`): how often it is supported on the margin,
and one standard deviation of a's scores beyond it. Paired, it is right whatever the correlation; unpaired, only where
there is none or more.

{table(header, rows)}"""


def effects_section(trials: int) -> str:
    """What docs/simulation.md says of a grid's effects."""
    rows = []
    for spreads in ((1.0, 1.0, 1.0, 1.0), (0.1, 0.1, 0.1, 5.0), (0.3, 0.3, 10.0, 10.0)):
        cells = [effect_errors(spreads, n, trials, seed=n) for n in (3, 5, 10)]
        spread_by_cell = ", ".join(f"{spread:g}" for spread in spreads)
        rows.append(
            [
                spread_by_cell,
                *(f"{percent(covered)} / {percent(wrong)}" for covered, wrong in cells),
            ]
        )
    return f"""## Effects of a grid

2 x 2 cells without any effect, by the standard deviations of the cells: how often a 95% interval holds 0 / how often any of the
three effects is found (Holm); {trials:,} studies a cell.

{table(["spread of the cells", *(f"n = {n}" for n in (3, 5, 10))], rows)}"""


def main(trials: int = 100_000) -> None:
    intervals = []
    for name, differences in DIFFERENCES.items():
        for statistic in ("mean", "median"):
            covered = [percent(coverage(differences, statistic, n, trials, seed=n)) for n in SIZES]
            intervals.append([name, statistic, *covered])
    powers = []
    for effect in (0.5, 1.0, 1.5, 2.0, 3.0):
        cells = []
        for n in (3, *SIZES, 20):
            formula = float(statistics.power(effect, 1 / np.sqrt(n), n - 1, ALPHA))
            of_mean, of_median = (
                power(effect, statistic, n, trials, seed=n) for statistic in ("mean", "median")
            )
            cells.append(f"{short(of_mean)} / {short(formula)} / {short(of_median)}")
        powers.append([f"{effect:g} sd", *cells])
    found_beside = [
        [
            f"{100 * share:g}%",
            statistic,
            *(percent(collapse_power(share, n, trials, seed=n)[i]) for n in SIZES),
        ]
        for share in (0.0, *SHARES[:4])
        for i, statistic in enumerate(("mean", "median"))
    ]
    error = 100 * np.sqrt(ALPHA * (1 - ALPHA) / trials)
    TARGET.write_text(
        f"""# How often a verdict is wrong

Written by `benchmarks/statistics_errors.py`: {trials:,} simulated studies a cell unless it says otherwise, by the
functions that judge; alpha is 5%, and one standard error of the simulation about {error:.2f} points. All numbers are percent.

## False verdicts, at a true value on the margin

Chances of any false verdict of 1 / 3 / 5 claims, all of which lie on their margin: their mean where the claim is on the mean,
their median where it is on the median. For `equivalent` it is the worst of what is possible. Until decided: 4 seeds (6 for
medians), then 2 more at a time, 20 at most. An arm that fails falls by {FALL:g} points; the spread of all other differences is
0.3 points there, and in accuracies of whole images.

Symmetric heavy tails make the tests of means careful. **Skewed differences do not**: a t-test of few pairs errs far more often
than alpha when the long tail points away from the claim ("skewed down" for `superior`; either way for `equivalent`, which has a
margin on either side). The report warns where differences look skewed, but so few values seldom show it: with fewer than 10
seeds, look at the differences.

**Where an arm sometimes fails no test of a mean can be valid**: most studies see no failure or one, and none of them knows how
far the mean is from what it saw. A claim on the median (`statistic: median`) is, for any distribution; 5 seeds cannot show it
beside other claims, which is why `plan` refuses so few.

{nulls_section("superior", trials)}
{nulls_section("equivalent", trials)}
## Coverage of the 90% interval

{table(["differences", "statistic", *(f"n = {n}" for n in SIZES)], intervals)}
## Power of `superior`, one claim

By the distance of the true effect from the margin, in standard deviations of normal differences: of the mean, simulated / by
the formula that forecasts use / of the median.

{table(["distance", *(f"n = {n}" for n in (3, *SIZES, 20))], powers)}
And where the second arm fails in a share of its seeds, how often an effect of 2 standard deviations is supported:

{table(["fails in", "statistic", *(f"n = {n}" for n in SIZES)], found_beside)}
{seeds_section(trials)}
{pairing_section(trials)}
{effects_section(trials // 50)}
{calibration_section(trials // 5, trials // 2000)}
{tuning_section(trials // 5)}
{scope_section(trials // 25)}""".rstrip()
        + "\n"
    )


if __name__ == "__main__":
    main()
