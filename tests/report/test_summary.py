"""What the summary of a study says of an arm."""

import math

import pytest

from xceptlab import register
from xceptlab.report.summary import _sampling_error


@pytest.fixture
def agreement(monkeypatch):
    """A registered metric in percent that is no share of the images: it may be below 0."""
    monkeypatch.setattr(register, "_entries", {})
    register.metric("agreement", version=1, unit="%")(lambda logits, labels: labels)


def test_only_an_accuracy_has_the_sampling_error_of_a_share(agreement):
    assert _sampling_error("test/top1", [80.0], 100) == pytest.approx(4.0)
    for scores in ([-3.0], [120.0], [80.0]):
        assert math.isnan(_sampling_error("test/agreement", scores, 100))
