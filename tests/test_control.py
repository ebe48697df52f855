"""Arms of equal budget."""

import pytest

from xceptlab.matching import matched, spent
from xceptlab.study import expand


def study(tmp_path, match, levels="[all, 4, 1]"):
    (tmp_path / "study.yaml").write_text(f"""
question: which
base: [configs/model/xception_tiny.yaml, configs/data/digits.yaml]
seeds: [0]
grid: {{model.segments: {levels}}}
claims: []
""")
    layers = ["--model.order=pointwise_first", "--model.divisor=4", "--model.width=0.5", f"--model.match={match}"]
    return expand(str(tmp_path), layers)


@pytest.mark.parametrize("match", ["parameters", "macs"])
def test_widths_are_solved_for_the_first_arms_budget(tmp_path, match):
    before = study(tmp_path, match)
    after = matched(before)
    first, *others = after.arms.values()
    assert first == before.arms["all"]
    for config in others:
        assert config.model.width < first.model.width
        assert spent(config) == pytest.approx(spent(first), rel=0.03)
        nearest = [spent(type(config)(**{**vars(config), "model": _wider(config.model, step)})) for step in (-1, 1)]
        assert all(abs(spent(config) - spent(first)) <= abs(n - spent(first)) for n in nearest)


def _wider(model, steps):
    import dataclasses

    from xceptlab.matching import STEP

    return dataclasses.replace(model, width=model.width + steps * STEP)


def test_without_match_widths_stay(tmp_path):
    before = study(tmp_path, "none")
    assert matched(before) is before
