"""Make src/xceptlab/study/boundaries.csv: what peeking costs, by Monte Carlo (about 5 minutes on a
core).

Per schedule of looks (``start`` pairs, then every ``step``, up to ``most``) the chance that, at a
true mean on the margin, the one-sided paired t-test falls below each nominal p at some look. The t
statistics there depend on no unknown variance, so standard normal differences stand for all; the
two tails of a path are two samples.

Run: xceptlab bench statistics_boundaries
"""

from pathlib import Path

import numpy as np
from scipy import stats

STARTS, STEPS, MOST = range(3, 11), range(1, 6), 40
NOMINAL = np.logspace(-4, np.log10(0.5), 16)
PATHS, CHUNK = 8_000_000, 50_000
TARGET = Path(__file__).parents[1] / "src" / "xceptlab" / "study" / "boundaries.csv"


def bins(rng: np.random.Generator, paths: int) -> np.ndarray:
    """Per path, tail and number of pairs the index of the first nominal p above the test's: (2
    paths, MOST + 1).
    """
    x = rng.standard_normal((paths, MOST))
    n = np.arange(1, MOST + 1)
    mean, square = x.cumsum(1) / n, (x * x).cumsum(1) / n
    index = np.full((2 * paths, MOST + 1), len(NOMINAL), np.int8)
    for pairs in range(3, MOST + 1):
        m = mean[:, pairs - 1]
        t = m * np.sqrt((pairs - 1) / (square[:, pairs - 1] - m * m))
        rising = -stats.t.isf(NOMINAL, pairs - 1)  # p <= c where -t <= -isf(c)
        index[:, pairs] = np.searchsorted(rising, np.concatenate([-t, t]), side="left")
    return index


def main() -> None:
    rng = np.random.default_rng(20161007)
    schedules = [(start, step) for start in STARTS for step in STEPS]
    counts = {
        (*s, most): np.zeros(len(NOMINAL) + 1, int)
        for s in schedules
        for most in range(s[0], MOST + 1, s[1])
    }
    for _ in range(PATHS // CHUNK):
        index = np.ascontiguousarray(bins(rng, CHUNK).T)
        for start, step in schedules:
            smallest = np.full(2 * CHUNK, len(NOMINAL), np.int8)
            for most in range(start, MOST + 1, step):
                np.minimum(smallest, index[most], out=smallest)
                counts[start, step, most] += np.bincount(smallest, minlength=len(NOMINAL) + 1)
    with open(TARGET, "w") as file:
        print("start,step,most", *(f"{p:.6g}" for p in NOMINAL), sep=",", file=file)
        for schedule, count in counts.items():
            chance = count.cumsum()[:-1] / (2 * PATHS)
            print(*schedule, *(f"{p:.4g}" for p in chance), sep=",", file=file)


if __name__ == "__main__":
    main()
