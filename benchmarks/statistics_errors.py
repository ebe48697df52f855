"""How often verdicts are wrong, by simulation with the functions that judge; writes docs/simulation.md (minutes on a core).

Run: xceptlab bench statistics_errors
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import stats as sp

from xceptlab.study import images, signs, statistics
from xceptlab.study.calibration import CONTRADICTED, SUPPORTED, Observed, calibrate, decided, p_values_at
from xceptlab.study.definition import Claim, Seeds
from xceptlab.study.estimands import Mean

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]

DIFFERENCES: dict[str, Draw] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "heavy tails (t, 3 df)": lambda rng, shape: rng.standard_t(3, shape),
    "skewed up (exponential)": lambda rng, shape: rng.exponential(1.0, shape) - 1,
    "skewed down (exponential)": lambda rng, shape: 1 - rng.exponential(1.0, shape),
}
"""Distributions of a paired difference with mean 0."""
ALPHA, MARGIN = 0.05, 1.0
SHARES = (0.02, 0.05, 0.1, 0.2, 0.3)
"""Of the seeds in which an arm collapses."""
FALL = 78.0
"""Points by which it does: from 88% to 10%, say."""
PLAN = Seeds(start=4, step=2, max=20, stop="decided")
PLACES = np.arange(-2, 3)
"""Of the five values that are tuned, such as learning rates on a logarithmic scale; a step from the optimum costs 0.15 points."""
TARGET = Path(__file__).parents[1] / "docs" / "simulation.md"


def outcomes(d: np.ndarray, kind: statistics.Kind, alpha: float = ALPHA) -> tuple[np.ndarray, np.ndarray]:
    """Of differences (trials, claims, n): which claims are supported and which contradicted, (trials, claims) each."""
    n = d.shape[-1]
    outcome, _ = decided(p_values_at(Mean(claim(kind, MARGIN), range(n)), d, [n]), alpha)
    return outcome == SUPPORTED, outcome == CONTRADICTED


def claim(kind: statistics.Kind, margin: float) -> Claim:
    return Claim(id="a claim", contrast=("a", "b"), metric="test/top1", kind=kind, margin=margin)


def edge(draw: Draw, rng: np.random.Generator, trials: int, claims: int, n: int, shared: bool = False) -> np.ndarray:
    """Differences whose true mean is the margin. ``shared``: all claims compare with one baseline, hence correlate by 1/2."""
    x = draw(rng, (trials, claims, n))
    if shared:
        x = (x + draw(rng, (trials, 1, n))) / np.sqrt(2)
    return MARGIN + x


def false_supported(
    draw: Draw, kind: statistics.Kind, claims: int, n: int, trials: int, seed: int, shared: bool = False
) -> float:
    """Chance of any false ``supported`` at a true effect equal to the margin (for ``equivalent`` small against it: its worst)."""
    d = edge(draw, np.random.default_rng(seed), trials, claims, n, shared)
    if (
        kind == "equivalent"
    ):  # the lower margin, with a spread so small that only one of the two tests is in doubt: the worst case
        d = -MARGIN + (d - MARGIN) / 100
    return float(outcomes(d, kind)[0].any(axis=-1).mean())


def false_contradicted(draw: Draw, kind: statistics.Kind, claims: int, n: int, trials: int, seed: int) -> float:
    """Chance of any false ``contradicted`` at the same effect (for ``equivalent`` also with a margin of next to nothing)."""
    d = edge(draw, np.random.default_rng(seed), trials, claims, n)
    if kind == "superior":
        return float(outcomes(d, kind)[1].any(axis=-1).mean())
    return max(float(outcomes(x, kind)[1].any(axis=-1).mean()) for x in (d, 1e4 * (d - MARGIN)))


def coverage(draw: Draw, n: int, trials: int, seed: int) -> float:
    """How often the 90% interval holds the true mean."""
    low, high = np.moveaxis(statistics.interval(draw(np.random.default_rng(seed), (trials, n)), 1 - 2 * ALPHA), -1, 0)
    return float(((low <= 0) & (high >= 0)).mean())


def power(effect: float, n: int, trials: int, seed: int) -> float:
    """How often an effect of so many standard deviations beyond the margin is found, one claim, normal differences."""
    d = MARGIN + effect + np.random.default_rng(seed).standard_normal((trials, 1, n))
    return float(outcomes(d, "superior")[0].mean())


def sequential(
    x: np.ndarray, kinds: list[statistics.Kind], margins: list[float], plan: Seeds = PLAN, alpha: float = ALPHA
) -> np.ndarray:
    """Study x (trials, claims, max) until all claims are decided, as ``verdict.judge`` does with ``seeds``.

    Returns:
        Per trial and claim (trials, claims, 2): outcome (1 supported, -1 contradicted, 0 neither) and the seeds it was frozen at.
    """
    estimands = [Mean(claim(kind, margin), plan) for kind, margin in zip(kinds, margins, strict=True)]
    p = [p_values_at(asked, x[:, i], plan.analyses) for i, asked in enumerate(estimands)]
    outcome, analysis = decided(np.stack(p, axis=2), alpha)
    return np.stack([outcome, np.array(plan.analyses)[analysis]], axis=-1)


def sequential_errors(
    rng: np.random.Generator, claims: int, trials: int, kind: statistics.Kind, shared: bool
) -> tuple[float, float]:
    """Familywise chances of a false ``supported`` and of a false ``contradicted`` with all the peeking, at the margin."""
    x = edge(DIFFERENCES["normal"], rng, trials, claims, PLAN.max, shared) - MARGIN
    if kind == "superior":
        done = sequential(MARGIN + x, [kind] * claims, [MARGIN] * claims)[..., 0]
        return float((done == 1).any(1).mean()), float((done == -1).any(1).mean())
    supported = sequential(MARGIN + x / 100, [kind] * claims, [MARGIN] * claims)[..., 0]
    contradicted = [sequential(x + shift, [kind] * claims, [m] * claims)[..., 0] for shift, m in ((1.0, 1.0), (0.0, 1e-4))]
    return float((supported == 1).any(1).mean()), max(float((done == -1).any(1).mean()) for done in contradicted)


def collapsing(rng: np.random.Generator, trials: int, n: int, share: float) -> np.ndarray:
    """Differences (trials, n) of two arms, with a spread of 0.3 points; the first arm falls by ``FALL`` in a share of seeds."""
    return 0.3 * rng.standard_normal((trials, n)) - FALL * (rng.random((trials, n)) < share)


def collapse_errors(share: float, n: int, trials: int, seed: int) -> tuple[float, float]:
    """Chances of a false ``supported`` where the first arm collapses: of a claim on the mean, and of one on the median.

    Each is made with the true value of its statistic on the margin. The median's lies there where a difference is as likely to be
    above as below it, collapses counted.
    """
    d = collapsing(np.random.default_rng(seed), trials, n, share)
    median = 0.3 * sp.norm.ppf((0.5 - share) / (1 - share))
    of_mean = statistics.p_values(d, "superior", -FALL * share)[:, 0] <= ALPHA
    of_median = signs.p_values(d, "superior", median)[:, 0] <= ALPHA
    return float(of_mean.mean()), float(of_median.mean())


def collapse_power(share: float, n: int, trials: int, seed: int) -> tuple[float, float]:
    """Chances to support an effect of 2 standard deviations where the other arm collapses, by the mean and by the median."""
    d = 2 * 0.3 - collapsing(np.random.default_rng(seed), trials, n, share)
    of_mean, of_median = (module.p_values(d, "superior", 0.0)[:, 0] <= ALPHA for module in (statistics, signs))
    return float(of_mean.mean()), float(of_median.mean())


def futility_cost(effect: float, trials: int, seed: int, futility: float = 0.1) -> tuple[float, float]:
    """Of one claim, ``superior``, at an effect beyond the margin in standard deviations, where it is given up for ``futility``.

    Returns:
        How often it is supported, and the seeds used on average. The chance to be decided is simulated with 200 paths, not 4,000.
    """
    boundary = statistics.Boundary(PLAN.start, PLAN.step, PLAN.max)
    supported, seeds = [], []
    for x in MARGIN + effect + np.random.default_rng(seed).standard_normal((trials, PLAN.max)):
        for n in PLAN.analyses:
            d = x[:n]
            p = statistics.p_values(d, "superior", MARGIN, boundary.chance)
            plan = "superior", MARGIN, PLAN.analyses, boundary, ALPHA, d
            if p.min() <= ALPHA or statistics.sequential_power(d.mean(), d.std(ddof=1), *plan, paths=200)[0] < futility:
                break
        supported.append(p[0] <= ALPHA)
        seeds.append(n)
    return float(np.mean(supported)), float(np.mean(seeds))


def tuned_accuracies(rng: np.random.Generator, trials: int, n: int, optimum: int) -> np.ndarray:
    """The true accuracies of an arm's runs at every value, (trials, n, values): 93% at the optimum, sd 0.3 points."""
    return 93 - 0.15 * (PLACES - optimum) ** 2 + 0.3 * rng.standard_normal((trials, n, len(PLACES)))


def on_images(rng: np.random.Generator, accuracies: np.ndarray, count: int) -> np.ndarray:
    """The accuracies as so many images show them."""
    return accuracies + np.sqrt(accuracies * (100 - accuracies) / count) * rng.standard_normal(accuracies.shape)


def tuned_scores(rng: np.random.Generator, trials: int, n: int, optimum: int, validation: int, how: str) -> np.ndarray:
    """The test scores (trials, n) that stand for an arm, on 10,000 test images.

    ``how`` a value is chosen: ``anew`` for every seed by so many validation images, as ``tune`` does; ``once``, by those of the
    first seed; or by the ``test`` images.
    """
    runs = tuned_accuracies(rng, trials, n, optimum)
    test, judged_by = on_images(rng, runs, 10_000), on_images(rng, runs, validation)
    if how == "test":
        return test.max(axis=-1)
    if how == "once":
        judged_by = np.broadcast_to(judged_by[:, :1], judged_by.shape)
    return np.take_along_axis(test, judged_by.argmax(axis=-1)[..., None], axis=-1)[..., 0]


def tuning_errors(shift: int, validation: int, how: str, n: int, trials: int, seed: int) -> float:
    """Chance of a false ``supported``: two arms that are as good at their optima, which lie ``shift`` steps apart.

    The margin is the true mean difference of arms that are tuned anew for every seed: 0 unless the optima are shifted, else that
    of 400,000 simulated seeds, as the values end sooner on one side. With ``test`` only the first arm is chosen so, and the
    second one by validation. Of shifted optima it is the worse of the claim and of that of the other arm.
    """
    rng = np.random.default_rng(seed)
    honest = "anew" if how == "test" else how
    margin = 0.0
    if shift:
        many = [tuned_scores(rng, 400_000, 1, optimum, validation, "anew") for optimum in (0, shift)]
        margin = float((many[0] - many[1]).mean())
    d = tuned_scores(rng, trials, n, 0, validation, how) - tuned_scores(rng, trials, n, shift, validation, honest)
    wrong = (statistics.p_values(d, "superior", margin) <= ALPHA).mean(axis=0)
    return float(wrong.max() if shift else wrong[0])


def correctness(rng: np.random.Generator, trials: int, n: int, count: int, seed_spread: float) -> np.ndarray:
    """Differences by image (trials, n, images), in points, of two equal arms of about 90%, on images drawn anew for every study.

    Each image is hard to a degree that both arms share in part, whatever the seed, and each run has its own luck with it; a seed
    shifts a run's accuracy with a standard deviation of ``seed_spread`` points.
    """
    shared = rng.standard_normal((trials, 1, count), dtype=np.float32)
    right = []
    for _ in range(2):
        hard = np.sqrt(0.6) * shared + np.sqrt(0.2) * rng.standard_normal((trials, 1, count), dtype=np.float32)
        luck = np.sqrt(0.2) * rng.standard_normal((trials, n, count), dtype=np.float32)
        shift = seed_spread / 17.5 * rng.standard_normal((trials, n, 1))  # at 90% a threshold of 0.01 is 0.175 points
        right.append(hard + luck < sp.norm.ppf(0.9) + shift)
    return 100.0 * (right[0].astype(np.float64) - right[1])


def scope_errors(n: int, count: int, seed_spread: float, trials: int, seed: int) -> tuple[float, float]:
    """Chances of a false ``supported`` for all images, at a margin of 0: by seeds alone, and by seeds and images."""
    rng = np.random.default_rng(seed)
    wrong = np.zeros(2)
    for part in np.array_split(np.arange(trials), max(1, trials // 50)):
        d = correctness(rng, len(part), n, count, seed_spread)
        by_seed, added = d.mean(axis=-1), images.image_variance(d)
        p = statistics.p_values(by_seed, "superior", 0.0)[:, 0], images.p_values(by_seed, added, "superior", 0.0)[:, 0]
        wrong += [(each <= ALPHA).sum() for each in p]
    return float(wrong[0] / trials), float(wrong[1] / trials)


def calibrated_rates(draw: Draw, n: int, claims: int, samples: int, seed: int) -> np.ndarray:
    """What ``--calibrate`` says of studies of n seeds whose differences are drawn so, (samples,): any false ``supported``."""
    rng = np.random.default_rng(seed)
    found = []
    for differences in draw(rng, (samples, claims, n)):
        observed = []
        for i, d in enumerate(differences):
            made = Claim(id=str(i), contrast=("a", "b"), metric="test/top1", kind="superior", margin=0)
            no_failures = np.zeros((2, n), dtype=bool)
            observed.append(Observed(claim=made, scores=np.stack([d, 0 * d]), failed=no_failures))
        calibration = calibrate(observed, range(n), ALPHA)
        rates = calibration.any_claim or calibration.claims[0].rates[0]
        found.append(rates.supported.share)
    return np.array(found)


def calibration_section(trials: int, samples: int) -> str:
    """What docs/simulation.md says of ``--calibrate``."""
    draws = {name: DIFFERENCES[name] for name in ("normal", "skewed down (exponential)")}
    draws["falls in 10%"] = lambda rng, shape: 0.3 * rng.standard_normal(shape) - FALL * ((rng.random(shape) < 0.1) - 0.1)
    sizes = (5, 10, 20)
    rows = []
    for name, draw in draws.items():
        for claims in (1, 5):
            cells = []
            for n in sizes:
                supported, _ = outcomes(MARGIN + draw(np.random.default_rng(n), (trials, claims, n)), "superior")
                found = calibrated_rates(draw, n, claims, samples, seed=n)
                low, high = np.quantile(found, [0.1, 0.9])
                cells.append(
                    f"{percent(supported.any(axis=-1).mean())} / {percent(found.mean())} ({percent(low)} to {percent(high)})"
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
    named = {"anew": "anew for every seed (`tune`)", "once": "once, on the first seed", "test": "first arm by the test split"}
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
            rows.append([f"{count:,}", f"{spread:g}", *(percent(cell) for i in (0, 1) for cell in (found[0][i], found[1][i]))])
    header = ["test images", "seed sd", "`test_set`, n = 5", "`test_set`, n = 10", "`images`, n = 5", "`images`, n = 10"]
    error = 100 * np.sqrt(ALPHA * (1 - ALPHA) / trials)
    return f"""## Other images

Two equal arms of 90%, on test images that are drawn anew for every study: how often the first one is called better, `superior`
at a margin of 0, for the population of images; {trials:,} studies a cell (one standard error {error:.2f} points). A verdict with
`scope: test_set` does not claim that, and whoever reads it so is wrong more often than alpha, the more so the more seeds there
are; one with `scope: images` does.

{table(header, rows)}"""


def fixed_n(power: float, effect: float) -> int:
    """The fewest seeds with which a single look has this power."""
    return next(n for n in range(3, 100) if sp.nct.sf(sp.t.ppf(1 - ALPHA, n - 1), n - 1, effect * np.sqrt(n)) >= power)


def table(header: list[str], rows: list[list[object]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *([str(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def percent(chance: float) -> str:
    return f"{100 * chance:.2f}"


def main(trials: int = 200_000) -> None:
    from statsmodels.stats.power import TTestPower

    sizes = (3, 5, 10, 20)
    errors = [
        [name, kind, claims, *(percent(false_supported(draw, kind, claims, n, trials, seed=n)) for n in sizes)]
        for name, draw in DIFFERENCES.items()
        for kind in ("superior", "equivalent")
        for claims in (1, 5)
    ]
    errors += [
        [
            "normal, one baseline",
            "superior",
            5,
            *(percent(false_supported(DIFFERENCES["normal"], "superior", 5, n, trials, n, True)) for n in sizes),
        ]
    ]
    opposite = [
        [
            "normal",
            kind,
            claims,
            *(percent(false_contradicted(DIFFERENCES["normal"], kind, claims, n, trials, seed=n)) for n in sizes),
        ]
        for kind in ("superior", "equivalent")
        for claims in (1, 5)
    ]
    covered = [[name, *(percent(coverage(draw, n, trials, seed=n)) for n in sizes)] for name, draw in DIFFERENCES.items()]
    effects = (0.5, 1.0, 1.5, 2.0, 3.0)
    powers = []
    for effect in effects:
        cells = []
        for n in sizes:
            formula = TTestPower().power(effect, n, ALPHA, alternative="larger")
            cells.append(f"{percent(power(effect, n, trials, seed=n))} / {percent(formula)}")
        powers.append([f"{effect:g} sd", *cells])
    rng = np.random.default_rng(7)
    peeking = []
    for kind in ("superior", "equivalent"):
        for claims, shared in ((1, False), (5, False), (5, True)):
            wrong = sequential_errors(rng, claims, trials // (1 if claims == 1 else 4), kind, shared)
            peeking.append([f"{kind}, {claims}{' with one baseline' if shared else ''}", *map(percent, wrong)])
    naive = MARGIN + rng.standard_normal((trials, PLAN.max))
    naive_hits = [statistics.p_values(naive[:, :n], "superior", MARGIN)[:, 0] <= ALPHA for n in PLAN.analyses]
    cost = []
    for effect in (0.0, 0.5, 1.0, 1.5, 2.0):
        done = sequential(MARGIN + effect + rng.standard_normal((trials // 4, 1, PLAN.max)), ["superior"], [MARGIN])
        found, seeds = float((done[..., 0] == 1).mean()), float(done[..., 1].mean())
        equal = fixed_n(min(found, 0.999), effect) if effect else "-"
        cost.append([f"{effect:g} sd", percent(found), f"{seeds:.1f}", f"{100 * (1 - seeds / PLAN.max):.0f}", equal])
    given_up = []
    for row, effect in zip(cost, (0.0, 0.5, 1.0, 1.5, 2.0), strict=True):
        found, seeds = futility_cost(effect, trials // 500, seed=11)
        given_up.append([*row[:3], percent(found), f"{seeds:.1f}"])
    numbers = (5, 8, 11, 13)
    fallen = [
        [f"{100 * share:g}%", statistic, *(percent(collapse_errors(share, n, trials, seed=n)[i]) for n in numbers)]
        for share in SHARES
        for i, statistic in enumerate(("mean", "median"))
    ]
    found_beside = [
        [f"{100 * share:g}%", statistic, *(percent(collapse_power(share, n, trials, seed=n)[i]) for n in numbers)]
        for share in (0.0, *SHARES[:4])
        for i, statistic in enumerate(("mean", "median"))
    ]
    error = 100 * np.sqrt(ALPHA * (1 - ALPHA) / trials)
    TARGET.write_text(
        f"""# How often a verdict is wrong

Written by `benchmarks/statistics_errors.py`: {trials:,} simulated studies a cell (a quarter of it
where several claims are judged sequentially), by the functions that judge; alpha is 5%, and one standard error of the
simulation about {error:.2f} points. All numbers are percent.

## False `supported`, at a true effect equal to the margin

Any of the claims; all of them lie on their margin. For `equivalent` the spread is small against the margin,
which is its worst case.

{table(["differences", "kind", "claims", *(f"n = {n}" for n in sizes)], errors)}
Symmetric heavy tails make the tests careful. **Skewed differences do not**: a t-test of few pairs errs far more
often than alpha when the long tail points away from the claim ("skewed down" for `superior`; either way for `equivalent`,
which has a margin on either side). The report warns where differences look skewed, but so few values seldom show it: with
fewer than 10 seeds, look at the differences.

### Where an arm collapses

One claim, `superior`; the first arm of the contrast falls by {FALL:g} points in a share of its seeds, and the claim's
statistic lies on the margin. **No test of a mean can be valid there**: most studies see no collapse or one, and none of them
knows how far the mean is from what it saw. A claim on the median (`statistic: median`) is.

{table(["collapses in", "statistic", *(f"n = {n}" for n in numbers)], fallen)}
And the other way round, how often an effect of 2 standard deviations is supported where the second arm collapses:

{table(["collapses in", "statistic", *(f"n = {n}" for n in numbers)], found_beside)}
## False `contradicted`

At the margin; for `equivalent` the worse of this and of a margin of next to nothing.

{table(["differences", "kind", "claims", *(f"n = {n}" for n in sizes)], opposite)}
## Coverage of the 90% interval

{table(["differences", *(f"n = {n}" for n in sizes)], covered)}
## Power of `superior`, one claim, simulated / by statsmodels' formula

By the distance of the true effect from the margin, in standard deviations of the differences.

{table(["distance", *(f"n = {n}" for n in sizes)], powers)}
## Seeds until decided

`seeds: {{start: {PLAN.start}, step: {PLAN.step}, max: {PLAN.max}, stop: decided}}`, normal differences, all
claims on their margin, any of them judged wrongly at any look. Looking as often with a plain t-test at 5% would support
falsely in {percent(float(np.any(naive_hits, axis=0).mean()))}.

{table(["kind, claims", "false supported", "false contradicted"], peeking)}
One claim, `superior`, by the distance of the true effect from the margin: how often it is supported, the seeds
used on average, how many percent fewer these are than {PLAN.max}, and the fixed number of seeds that has the same power (99.9%
at most).

{table(["distance", "supported", "seeds", "fewer than max", "fixed n of equal power"], cost)}
With `futility: 0.1` claims that have little chance left are given up ({trials // 500:,} studies a cell). It saves seeds
where there is nothing to find, and costs power where there is: the chance takes few differences for the truth.

{table(["distance", "supported", "seeds", "supported with futility", "seeds with futility"], given_up)}
{calibration_section(trials // 10, trials // 2000)}
{tuning_section(trials // 10)}
{scope_section(trials // 50)}""".rstrip()
        + "\n"
    )


if __name__ == "__main__":
    main()
