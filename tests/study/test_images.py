"""Verdicts that hold for other images of the same kind, too."""

import numpy as np
import pytest
import yaml
from scipy import stats as sp

from made import CLAIM, leave
from xceptlab.report.summary import summarise
from xceptlab.runs.directory import RunDirectory
from xceptlab.study import statistics
from xceptlab.study.claims import Claim
from xceptlab.study.estimands import MeanOverImages
from xceptlab.study.expansion import Expansion
from xceptlab.study.judging import judge_study
from xceptlab.study.plan import expand
from xceptlab.study.registration import Registration

STUDY = {
    "question": "Does it help?",
    "base": ["base.yaml"],
    "scope": "images",
    "seeds": [0, 1, 2, 3],
    "arms": {"a": {"model.residual": "all"}, "b": {"model.residual": "none"}},
    "claims": [CLAIM],
}
UNTIL = {"start": 4, "step": 2, "max": 8, "stop": "decided"}


@pytest.fixture
def study(tmp_path):
    """Write the study with some keys changed, and expand it."""

    def write(**changes) -> Expansion:
        folder = tmp_path / "other_images"
        folder.mkdir(exist_ok=True)
        (folder / "base.yaml").write_text(
            "data: {name: digits, size: 16, crop: none, validation: 0.1}\ntrain: {epochs: 3}\n"
        )
        (folder / "study.yaml").write_text(yaml.safe_dump(STUDY | changes, sort_keys=False))
        return expand(str(folder), [f"--runtime.outputs={tmp_path / 'outputs'}"])

    return write


def finish(
    expansion: Expansion, gain: float, *, without: tuple[tuple[str, int], ...] = ()
) -> Expansion:
    """Runs of 500 images, of which arm a gets right what b does, and ``gain`` percent more, the
    same ones at every seed.
    """
    rng = np.random.default_rng(0)
    hard = rng.random(500)
    for arm, seed in expansion.runs():
        chance = 0.8 + (gain / 100 if arm == "a" else 0.0)
        correct = (hard + 0.01 * rng.standard_normal(500) < chance).astype(np.uint8)
        loss = 1.0 - correct + 0.1 * rng.random(500)
        top1 = 100 * float(correct.mean())
        metrics = {"test/top1": top1, "test/top5": 99.0, "test/loss": float(loss.mean())}
        kept = correct if (arm, seed) not in without else ()
        directory = leave(expansion, arm, seed, top1, correct=kept, metrics=metrics)
        np.save(directory.path / "test_loss.npy", loss.astype(np.float32))
    return expansion


# ---- statistics ----------------------------------------------------------------------------------


def test_the_mean_squares_are_those_of_the_two_way_analysis_of_variance():
    rng = np.random.default_rng(0)
    n, count = 4, 7
    d = rng.normal(size=(n, count)) + 3 * rng.normal(size=count)
    total = ((d - d.mean()) ** 2).sum()
    of_seeds = count * ((d.mean(axis=1) - d.mean()) ** 2).sum()
    of_images = n * ((d.mean(axis=0) - d.mean()) ** 2).sum()
    rest = (total - of_seeds - of_images) / ((n - 1) * (count - 1))
    assert statistics.image_variance(d) == pytest.approx(
        (of_images / (count - 1) - rest) / n / count
    )
    assert statistics.image_variance(np.stack([d, d, d])) == pytest.approx(
        np.full(3, statistics.image_variance(d))
    )


def test_images_that_all_seeds_see_alike_are_the_only_ones_that_add():
    rng = np.random.default_rng(1)
    shared, noise = rng.normal(size=2000), rng.normal(size=(5, 2000))
    assert statistics.image_variance(np.tile(shared, (5, 1))) == pytest.approx(
        shared.var(ddof=1) / 2000
    )
    assert statistics.image_variance(shared + noise) == pytest.approx(1 / 2000, rel=0.15)
    assert statistics.image_variance(noise) < 0.1 / 2000


@pytest.mark.parametrize("kind", ["superior", "equivalent"])
def test_where_images_add_nothing_it_is_the_t_test(kind):
    d = np.random.default_rng(2).normal(1.0, 0.5, (20, 5))
    claim = Claim(**CLAIM | {"contrast": ("a", "b"), "kind": kind, "margin": 0.8})
    assert MeanOverImages(claim, range(5), 0.0).p_values(d) == pytest.approx(
        statistics.p_values(d, kind, 0.8)
    )


def test_the_degrees_of_freedom_are_satterthwaites():
    d = np.array([1.0, 2.0, 3.0, 4.0])
    error, freedom = statistics.error_over_images(d.std(ddof=1), 4, 0.5)
    v = d.var(ddof=1) / 4
    assert error == pytest.approx(np.sqrt(v + 0.5))
    assert freedom == pytest.approx((v + 0.5) ** 2 * 3 / v**2)


def test_the_power_that_is_told_is_the_power_that_there_is():
    rng = np.random.default_rng(3)
    means = 2.0 + rng.normal(0, 0.6, 20_000)  # of the images, which are drawn anew
    d = means[:, None] + rng.normal(0, 1.0, (20_000, 6))
    claim = Claim(**CLAIM | {"contrast": ("a", "b"), "kind": "superior", "margin": 0.0})
    found = MeanOverImages(claim, range(6), 0.36).p_values(d)[:, 0] <= 0.05
    assert statistics.power(
        2.0, *statistics.error_over_images(1.0, 6, 0.36), 0.05
    ) == pytest.approx(found.mean(), abs=0.02)


def test_no_number_of_seeds_decides_what_the_images_leave_open():
    claim = Claim(**CLAIM | {"contrast": ("a", "b"), "margin": 0.0})
    d = np.array([0.3, 0.5, 0.4, 0.4])
    told = MeanOverImages(claim, range(4), 0.25).more_seeds_clause(d, (0.05, 0.05))
    assert (
        told
        == "at this mean no number of seeds would decide it on so many test images, whose error alone is 0.50"
    )
    assert "about" in MeanOverImages(claim, range(4), 0.001).more_seeds_clause(d, (0.05, 0.05))


# ---- what is judged ------------------------------------------------------------------------------


def test_the_verdict_says_for_what_it_holds_and_other_images_widen_its_interval(study):
    of_images, of_test_set = (finish(study(scope=scope), 2.0) for scope in ("images", "test_set"))
    (wide,), (narrow,) = (
        judge_study(expansion, expansion.records()) for expansion in (of_images, of_test_set)
    )
    assert "than b in test/top1 on images of this kind (90% interval" in wide.summary
    assert "than b in test/top1 on this test set (90% interval" in narrow.summary
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)
    assert wide.estimate == narrow.estimate


def test_the_loss_has_images_too(study):
    expansion = finish(study(claims=[CLAIM | {"metric": "test/loss", "margin": 0.0}]), 8.0)
    (v,) = judge_study(expansion, expansion.records())
    assert v.image_variance > 0
    assert v.outcome == "supported"
    kept = [
        np.load(directory.path / "test_loss.npy") for directory in expansion.directories().values()
    ]
    d = np.stack([b - a.astype(float) for a, b in zip(kept[::2], kept[1::2], strict=True)])
    assert v.image_variance == pytest.approx(float(statistics.image_variance(d)))
    error, freedom = statistics.error_over_images(v.values.std(ddof=1), v.n, v.image_variance)
    assert v.p_adjusted == pytest.approx(sp.t.sf(v.estimate / error, freedom))


def test_a_run_without_values_by_image_leaves_the_other_seeds_to_tell(study):
    all_seeds, fewer = (finish(study(), 4.0, without=without) for without in ((), (("a", 1),)))
    (v,) = judge_study(fewer, fewer.records())
    assert v.n == 4
    assert v.image_variance > 0
    assert all_seeds.name == fewer.name


def test_where_nothing_is_kept_by_image_the_verdict_says_so(study):
    expansion = study()
    finish(expansion, 4.0, without=tuple(expansion.runs()))
    for directory in expansion.directories().values():
        (directory.path / "test_correct.npy").unlink(missing_ok=True)
    (v,) = judge_study(expansion, expansion.records())
    assert v.outcome == "inconclusive"
    assert "fewer than 2 pairs of runs have kept their test/top1 image by image" in v.summary


def test_test_sets_of_different_sizes_have_no_images_in_common(study):
    expansion = finish(study(), 4.0)
    for key, directory in expansion.directories().items():
        if key[0] == "a":
            np.save(
                RunDirectory(directory.path).path / "test_correct.npy", np.ones(10, dtype=np.uint8)
            )
    (v,) = judge_study(expansion, expansion.records())
    assert np.isnan(v.image_variance)


def test_the_report_warns_of_other_images_only_where_the_verdict_does_not_count_them(study):
    margin = CLAIM | {"margin": 2.1}
    counted, not_counted = (
        summarise(finish(study(scope=scope, claims=[margin]), 2.0))
        for scope in ("images", "test_set")
    )
    assert (not_counted.verdicts[0].outcome, counted.verdicts[0].outcome) == (
        "supported",
        "inconclusive",
    )
    assert "counting their sampling error too" in " ".join(not_counted.warnings)
    assert "counting their sampling error too" not in " ".join(counted.warnings)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seeds": UNTIL}, "scope: images needs a list of seeds"),
        ({"seeds": list(range(8)), "claims": [CLAIM | {"statistic": "median"}]}, "statistic: with scope: images it must be mean"),
        ({"claims": [CLAIM | {"metric": "val/top1"}]}, "with scope: images it must be a built-in metric of test images"),
        ({"scope": "everything"}, "scope: 'everything' is not allowed; it must be one of test_set, images"),
    ],
)  # fmt: skip
def test_what_has_no_verdict_on_images_is_refused_in_one_line(study, changes, says):
    with pytest.raises(ValueError) as error:
        study(**changes)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_the_scope_is_registered(study):
    Registration.register(study())
    assert Registration.load_for(study()).edits(study()) == []
    edited = study(scope="test_set")
    assert Registration.load_for(edited).edits(edited) == ["scope images -> test_set"]
