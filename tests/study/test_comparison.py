"""Arms of equal budget, and the proof that they differ only in what they declare."""

from dataclasses import replace

import pytest
import yaml

from conftest import ROOT
from xceptlab.cli import main
from xceptlab.errors import Refused
from xceptlab.study import comparison
from xceptlab.study.comparison import budget_of, identical_arms, matched, module_trees
from xceptlab.study.plan import expand


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def study(tmp_path, match, levels="[all, 1]"):
    (tmp_path / "study.yaml").write_text(f"""
question: which
base: [configs/model/xception_tiny.yaml, configs/data/digits.yaml]
seeds: [0]
grid: {{model.segments: {levels}}}
claims: []
""")
    layers = [
        "--model.order=pointwise_first",
        "--model.divisor=4",
        "--model.width=0.5",
        f"--model.match={match}",
    ]
    return expand(str(tmp_path), layers)


@pytest.mark.parametrize("match", ["parameters", "macs"])
def test_widths_are_solved_for_the_first_arms_budget(tmp_path, match):
    before = study(tmp_path, match)
    after = matched(before)
    first, *others = after.arms.values()
    assert first == before.arms["all"]
    for config in others:
        assert config.model.width < first.model.width
        assert budget_of(config) == pytest.approx(budget_of(first), rel=0.03)
        nearest = [
            budget_of(type(config)(**{**vars(config), "model": _wider(config.model, step)}))
            for step in (-1, 1)
        ]
        assert all(
            abs(budget_of(config) - budget_of(first)) <= abs(n - budget_of(first)) for n in nearest
        )


@pytest.mark.parametrize("width", [0.03125, 0.125])
@pytest.mark.parametrize("segments", [1, "all"])
def test_a_width_is_found_with_few_networks(tmp_path, monkeypatch, segments, width):
    """Bisecting all 16,368 widths takes 16 networks, which take seconds."""
    config = study(tmp_path, "parameters").arms["all"]
    first, other = (
        replace(config, model=replace(config.model, width=width, segments=each))
        for each in ("all", segments)
    )
    tried = []
    monkeypatch.setattr(
        comparison, "budget_of", lambda config: tried.append(config) or budget_of(config)
    )
    found = comparison._with_matched_width(
        replace(other, model=replace(other.model, width=0.5)), budget_of(first)
    )
    assert len(tried) <= 12
    if segments == "all":
        assert budget_of(found) == budget_of(first)


def _wider(model, steps):
    import dataclasses

    from xceptlab.study.comparison import STEP

    return dataclasses.replace(model, width=model.width + steps * STEP)


@pytest.mark.parametrize(("segments", "match"), [(1, "parameters"), (4, "macs")])
def test_where_the_steps_are_too_coarse_no_finer_width_comes_nearer(
    tmp_path, monkeypatch, segments, match
):
    monkeypatch.setattr(comparison, "UNMATCHED", 0.0)
    arms = {"all": {}, "other": {"model.segments": segments, "model.divisor": segments}}
    order = "--model.order=pointwise_first"
    path, layers = write(tmp_path, arms, order, "--model.width=0.125", f"--model.match={match}")
    first, other = matched(expand(path, layers)).arms.values()
    found = 16 * 1024 * other.model.width
    assert found.is_integer()
    nearest = min(
        abs(budget_of(comparison._at_width(other, (found + more) / 16)) - budget_of(first))
        for more in range(-20, 21, 2)
    )
    assert abs(budget_of(other) - budget_of(first)) <= nearest


def test_without_match_widths_stay(tmp_path):
    assert [config.model.width for config in study(tmp_path, "none").arms.values()] == [0.5, 0.5]


def test_what_has_no_width_is_left_alone_and_flagged(tmp_path, capsys):
    arms = {"ours": {"model.timm": ""}, "timms": {"model.timm": "resnet10t"}}
    path = write(tmp_path, arms, "--model.match=parameters")
    after = matched(expand(*path))
    assert [config.model.width for config in after.arms.values()] == [0.125, 0.125]
    assert main(["plan", path[0], *path[1], f"--runtime.outputs={tmp_path}"]) == 0
    assert capsys.readouterr().out.count("(unmatched)") == 1


def test_plan_shows_the_solved_width(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    path, layers = write(
        tmp_path,
        {"separable": {}, "regular": {"model.convolution": "regular"}},
        "--model.match=parameters",
    )
    assert main(["plan", path, *layers, f"--runtime.outputs={tmp_path}"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("model.width: 0.125 -> 0.0") == 1
    assert "unmatched" not in shown


def test_matching_is_no_factor(tmp_path):
    with pytest.raises(ValueError, match=r"model\.match cannot be a factor"):
        expand(*write(tmp_path, {"a": {"model.width": 0.1}, "b": {"model.match": "macs"}}))


# ---- one difference ------------------------------------------------------------------------------


def write(tmp_path, arms, *layers):
    """A study of these arms on a network that is quickly built: the arguments of ``expand``."""
    base = ["configs/model/xception_tiny.yaml", "configs/data/digits.yaml"]
    study = {"question": "which", "base": base, "seeds": [0], "claims": [], "arms": arms}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    return str(tmp_path), ["--model.middle_blocks=1", *layers]


def test_modules_that_differ_without_a_declared_key_of_model_are_refused(tmp_path):
    """Other classes make another classifier: the data sets are not the only difference."""
    arms = {
        "ten": {"data.name": "cifar10", "data.size": 32},
        "hundred": {"data.name": "cifar100", "data.size": 32},
    }
    with pytest.raises(
        ValueError,
        match=r"arm 'hundred' differs from 'ten' in its modules, .* no key of model: ~ classifier",
    ):
        module_trees(expand(*write(tmp_path, arms)))


def test_data_and_training_may_differ_with_equal_modules(tmp_path):
    arms = {
        "a": {"data.size": 16},
        "b": {"data.size": 32},
        "c": {"train.lr": 0.5},
        "d": {"model.init": "timm"},
    }
    expansion = expand(*write(tmp_path, arms))
    assert identical_arms(expansion, module_trees(expansion)) == []


def test_arms_whose_modules_are_equal_are_told(tmp_path):
    arms = {
        "a": {"model.convolution": "separable"},
        "b": {"model.convolution": "regular"},
        "c": {"model.convolution": "regular", "model.order": "pointwise_first"},
        "d": {"model.convolution": "regular", "model.order": "pointwise_first", "train.lr": 0.5},
    }
    expansion = expand(*write(tmp_path, arms))
    (line,) = identical_arms(expansion, module_trees(expansion))
    assert line.startswith("the arms 'b' and 'c' have the same modules")


def test_an_arm_that_declares_the_width_that_is_matched_is_refused(tmp_path):
    arms = {"a": {}, "b": {"model.width": 0.0625}}
    expand(*write(tmp_path, arms))
    with pytest.raises(
        Refused, match=r"arm 'b' declares model.width, which model.match: parameters chooses"
    ):
        expand(*write(tmp_path, arms, "--model.match=parameters"))
    arms = {"a": {"model.width": 0.25}, "b": {"model.residual": "none"}}
    matched_to_a = expand(*write(tmp_path, arms, "--model.match=parameters"))
    assert matched_to_a.arms["b"].model.width > matched_to_a.arms["a"].model.width == 0.25


@pytest.mark.parametrize(
    ("arm", "said"),
    [
        ({"data.pad": 8}, "differ in data.pad alone, which changes nothing in them"),
        (
            {"data.on_corrupt": "skip", "data.eval_crop": 0.5},
            "differ in data.on_corrupt, data.eval_crop alone",
        ),
        ({"train.decay_rate": 0.5}, "differ in train.decay_rate alone"),
        ({"data.quality": 50}, "differ in data.quality alone"),
        ({"data.validation_seed": 3}, None),
        ({"data.num_classes": 10}, "differ in data.num_classes alone"),
        ({"train.optimizer": "adamw", "train.momentum": 0.5}, None),
        ({"data.pad": 8, "data.crop": "pad"}, None),
    ],
)
def test_arms_that_differ_in_what_nothing_reads_are_told(tmp_path, arm, said):
    expansion = expand(*write(tmp_path, {"a": {}, "b": arm}, "--train.schedule=cosine"))
    lines = [line for line in identical_arms(expansion, module_trees(expansion)) if "alone" in line]
    assert len(lines) == (said is not None)
    if said:
        assert lines[0].startswith("the arms 'a' and 'b' " + said)


def test_the_seed_of_validation_images_changes_nothing_where_none_are_held_out(tmp_path):
    arms = {"a": {}, "b": {"data.validation_seed": 3}}
    expansion = expand(*write(tmp_path, arms, "--data.validation=0"))
    (line,) = identical_arms(expansion, module_trees(expansion))
    assert "differ in data.validation_seed alone" in line


def test_the_quality_of_prepared_photographs_is_read_where_they_are_prepared(tmp_path):
    photographs = {"data.name": "imagenet", "data.crop": "resized"}
    for short_side, is_read in ((256, True), (0, False)):
        base = photographs | {"data.short_side": short_side}
        expansion = expand(*write(tmp_path, {"a": base, "b": base | {"data.quality": 50}}))
        lines = identical_arms(expansion, module_trees(expansion))
        assert ("differ in data.quality alone" in "".join(lines)) == (not is_read)


UNKNOWN = {"model.timm": "inception_v33"}
INDIVISIBLE = {"model.order": "pointwise_first", "model.segments": 3}


@pytest.mark.parametrize(
    ("command", "arm", "words"),
    [
        (
            "plan",
            UNKNOWN,
            "arm 'b': model.timm: timm has no model 'inception_v33'; did you mean inception_v3?",
        ),
        ("plan", {"model.timm": "inception_v3"}, "the smallest that does is 75"),
        ("plan", INDIVISIBLE, "arm 'b': model.segments: 3 does not divide the 16 channels"),
        ("study", INDIVISIBLE, "arm 'b': model.segments: 3 does not divide the 16 channels"),
    ],
    ids=str,
)
def test_an_arm_that_cannot_be_built_is_refused_before_the_first_run(
    tmp_path, capsys, command, arm, words
):
    path, layers = write(tmp_path, {"a": {"model.width": 0.25}, "b": {"model.width": 0.125} | arm})
    assert main([command, path, *layers, f"--runtime.outputs={tmp_path / 'outputs'}"]) == 2
    printed = capsys.readouterr()
    assert (printed.out, len(printed.err.splitlines())) == ("", 1)
    assert words in printed.err
    assert not (tmp_path / "outputs").exists()
