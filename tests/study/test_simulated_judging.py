"""Simulated studies are judged as real ones are."""

import numpy as np
import pytest

from xceptlab.study.claims import Claim
from xceptlab.study.definition import Seeds
from xceptlab.study.estimands import estimand_of
from xceptlab.study.judging import judge
from xceptlab.study.simulated_judging import decided, p_values_at

ALPHA = 0.05


@pytest.mark.parametrize("seeds", [[0, 1, 2, 3, 4], Seeds(start=5, step=1, max=8, stop="decided")])
def test_simulated_studies_are_judged_as_judge_judges(seeds, monkeypatch):
    """With differences so coarse that some studies have no spread, and some lie on the margin."""
    # slow, and only for the summary
    monkeypatch.setattr("xceptlab.study.statistics.detectable", lambda *args: 0.0)
    monkeypatch.setattr("xceptlab.study.statistics.pairs_needed", lambda *args: 0)
    analyses = list(seeds.analyses) if isinstance(seeds, Seeds) else [len(seeds)]
    kinds = [
        ("superior", "mean", "seed"),
        ("equivalent", "mean", "seed"),
        ("superior", "median", "seed"),
    ]
    kinds += [("equivalent", "median", "seed")]
    if not isinstance(seeds, Seeds):
        kinds += [("superior", "mean", "none")]
    claims = []
    for kind, statistic, pairing in kinds:
        changes = {
            "id": f"{kind} {statistic} {pairing}",
            "kind": kind,
            "statistic": statistic,
            "pairing": pairing,
        }
        claims.append(Claim(contrast=("a", "b"), metric="test/top1", margin=0.5, **changes))
    rng = np.random.default_rng(0)
    shape = (50, len(claims), analyses[-1])
    differences = rng.choice([0.0, 0.25, 0.5, 1.0, 1.25], shape, p=[0.02, 0.02, 0.01, 0.65, 0.3])
    differences[:, [1, 3]] -= 1.0
    baseline = np.full(shape, 88.0)
    baseline[:, 4:] += rng.choice([0.0, 0.25], baseline[:, 4:].shape, p=[0.7, 0.3])
    arms = np.stack([baseline + differences, baseline])
    p = []
    for i, claim in enumerate(claims):
        p.append(p_values_at(estimand_of(claim, seeds, arms[:, :, i]), differences[:, i], analyses))
    outcomes, at = decided(np.stack(p, axis=2), ALPHA)
    names = {"supported": 1, "contradicted": -1, "inconclusive": 0}
    without_spread = 0
    for study in range(len(outcomes)):
        scores = [
            {"a": dict(enumerate(a)), "b": dict(enumerate(b))}
            for a, b in zip(*arms[:, study], strict=True)
        ]
        verdicts = judge(claims, scores, seeds)
        assert [names[v.outcome] for v in verdicts] == outcomes[study].tolist()
        assert [v.n for v in verdicts] == [analyses[i] for i in at[study]]
        without_spread += sum(np.ptp(v.values) == 0 for v in verdicts[:2])
    assert without_spread > 0
    assert {0, 1} <= set(outcomes.ravel())
