"""What is refused before the first run: comparisons that are not controlled, and claims that cannot
be judged.
"""

from collections.abc import Sequence
from pathlib import Path

import pytest

from xceptlab import register
from xceptlab.config.schema import ModelConfig, RunConfig, TrainConfig
from xceptlab.study.checks import _not_measured, check
from xceptlab.study.claims import Claim
from xceptlab.study.definition import Study
from xceptlab.study.expansion import Expansion

FILE = Path("study.yaml")


def hand_made(
    declared: dict, configs: dict, seeds: int = 1, claims: Sequence[Claim] = ()
) -> Expansion:
    study = Study(
        question="?", base=[], seeds=list(range(seeds)), arms=declared, claims=list(claims)
    )
    return Expansion(name="hand-made", study=study, arms=configs)


def test_an_arm_that_differs_in_a_key_it_does_not_declare_is_refused():
    baseline = RunConfig()
    other = RunConfig(model=ModelConfig(residual="none"), train=TrainConfig(lr=0.1))
    expansion = hand_made({"a": {}, "b": {"model.residual": "none"}}, {"a": baseline, "b": other})
    with pytest.raises(
        ValueError,
        match=r"study\.yaml: arm 'b' differs from 'a' in train\.lr, which it does not declare",
    ):
        check(expansion, FILE)


def test_a_key_that_the_baseline_declares_may_differ():
    configs = {
        "a": RunConfig(model=ModelConfig(residual="none")),
        "b": RunConfig(model=ModelConfig(width=0.5)),
    }
    arm = {"model.width": 0.5}
    check(hand_made({"a": {"model.residual": "none"}, "b": arm}, configs), FILE)
    with pytest.raises(ValueError, match=r"arm 'b' differs from 'a' in model\.residual"):
        check(hand_made({"a": {}, "b": arm}, configs), FILE)


def test_a_claim_on_a_registered_metric_that_is_not_measured_says_where_to_name_it(monkeypatch):
    monkeypatch.setattr(register, "_entries", {})
    register.metric("brier", version=1)(lambda logits, labels: labels)
    configs = {"a": RunConfig(), "b": RunConfig(model=ModelConfig(residual="none"))}
    measuring = RunConfig(train=TrainConfig(metrics=("brier",)))
    assert _not_measured("val/brier", ["test"], measuring).endswith(
        "one of test/top1, test/top5, test/loss, test/brier"
    )
    for metric, hint in (("test/brier", "; train.metrics has to name brier, too"), ("test/f1", "")):
        claim = Claim(
            id="c", contrast=("a", "b"), metric=metric, kind="superior", margin=1.0, diverged=1.0
        )
        declared = {"a": {}, "b": {"model.residual": "none"}}
        with pytest.raises(ValueError, match=f"one of test/top1, .*, val/loss{hint}$"):
            check(hand_made(declared, configs, 3, [claim]), FILE)


def check_claims(seeds: int, statistic: str, claims: int) -> None:
    """Check a study of so many seeds with so many claims on a statistic."""
    of_arms = {
        "contrast": ("a", "b"),
        "metric": "test/top1",
        "kind": "superior",
        "statistic": statistic,
    }
    several = [Claim(id=str(i), margin=float(i), **of_arms) for i in range(claims)]
    declared = {"a": {"model.residual": "all"}, "b": {"model.residual": "none"}}
    configs = {
        "a": RunConfig(model=ModelConfig(residual="all")),
        "b": RunConfig(model=ModelConfig(residual="none")),
    }
    check(hand_made(declared, configs, seeds, several), FILE)


@pytest.mark.parametrize(("claims", "least"), [(1, 5), (2, 6), (4, 7), (7, 8)])
def test_too_few_seeds_for_any_verdict_on_a_median_are_refused_with_good_numbers(claims, least):
    check_claims(least, "median", claims)
    beside = {1: "", 2: " beside 1 other claim"}.get(claims, f" beside {claims - 1} other claims")
    needs = f"a median needs {least} seeds or more{beside}, not {least - 1}; with {least}, .* none is wasted$"
    message = f"study.yaml: claim '0': statistic: {needs}"
    with pytest.raises(ValueError, match=message):
        check_claims(least - 1, "median", claims)


def test_means_need_no_such_number():
    check_claims(3, "mean", 1)
    with pytest.raises(ValueError, match="a median needs 5 seeds or more"):
        check_claims(3, "median", 1)
