"""From a study file to controlled runs, and what a study refuses."""

import dataclasses
import itertools
import shutil

import pytest
import yaml

from made import CLAIM
from xceptlab.config.schema import ModelConfig
from xceptlab.study.claims import Claim
from xceptlab.study.contrasts import pairs_of, weights
from xceptlab.study.definition import Seeds
from xceptlab.study.expansion import Expansion
from xceptlab.study.plan import expand, find_study_file
from xceptlab.study.registration import Registration, refuse_namesake, remember_files
from xceptlab.study.statistics import Boundary

UNTIL = {"start": 4, "step": 2, "max": 20, "stop": "decided"}
STUDY = {
    "question": "Does it help?",
    "base": ["base.yaml"],
    "seeds": [0, 1, 2],
    "arms": {"a": {"model.residual": "all"}, "b": {"model.residual": "none"}},
    "claims": [CLAIM],
}


@pytest.fixture
def folder(tmp_path):
    """A study's folder, with a base but no study yet."""
    folder = tmp_path / "helps"
    folder.mkdir()
    (folder / "base.yaml").write_text(
        "data: {name: digits, size: 16, crop: none}\ntrain: {epochs: 3}\n"
    )
    return folder


@pytest.fixture
def write(folder):
    """Write the study with some keys changed or, with None, left out; returns its folder."""

    def write(**changes) -> str:
        study = {key: value for key, value in (STUDY | changes).items() if value is not None}
        (folder / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
        return str(folder)

    return write


def refusal(path: str, *args: str) -> str:
    with pytest.raises(ValueError) as error:
        expand(path, args)
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- what a study expands to ---------------------------------------------------------------------


def test_the_example_of_the_readme_works_as_written():
    expansion = expand("experiments/residual")
    assert expansion.name == "residual"
    assert list(expansion.arms) == ["residual", "no_residual"]
    assert expansion.study.seeds == [0, 1, 2, 3, 4]
    assert expansion.study.alpha == 0.05
    assert str(expansion.study.paper) == "arXiv:1610.02357, section 4.6, figure 9"
    (claim,) = expansion.study.claims
    assert (claim.id, claim.contrast, claim.metric) == (
        "residual-helps",
        ("residual", "no_residual"),
        "test/top1",
    )
    assert (claim.kind, claim.margin, claim.diverged) == ("superior", 0.5, None)
    assert claim.statement == "Residual connections raise test top-1 by more than half a point."
    assert len(expansion.runs()) == 10
    assert len({run.run_id for run in expansion.runs().values()}) == 10


def test_an_arm_is_the_base_and_its_own_keys(write):
    arms = expand(write()).arms
    assert arms["a"] == dataclasses.replace(arms["b"], model=ModelConfig(residual="all"))
    assert arms["b"].model.residual == "none"
    assert (arms["a"].data.name, arms["a"].train.epochs) == ("digits", 3)


@pytest.mark.parametrize("metric", ["test/top5", "val/top5"])
@pytest.mark.parametrize(("classes", "refused"), [(2, True), (5, True), (6, False)])
def test_a_claim_on_the_top5_of_so_few_classes_is_refused(write, folder, metric, classes, refused):
    content = f"train+val-{classes}-0123456789abcdef"  # stands for files that are not there
    own = f"{{name: folder, num_classes: {classes}, content: {content}, validation: 0.1, root: nowhere}}"
    (folder / "base.yaml").write_text(f"data: {own}\n")
    path = write(claims=[CLAIM | {"metric": metric}])
    if refused:
        assert f"claim 'c': metric: {metric} is always 100% with {classes} classes" in refusal(path)
    else:
        expand(path)


def test_runs_go_seed_by_seed_so_that_an_unfinished_study_is_balanced(write):
    runs = expand(write(seeds=[5, 3])).runs()
    assert list(runs) == [("a", 5), ("b", 5), ("a", 3), ("b", 3)]
    assert all(run.seed == seed for (_, seed), run in runs.items())


def test_differences_are_to_the_first_arm(write):
    expansion = expand(write())
    assert expansion.differences("a") == {}
    assert expansion.differences("b") == {"model.residual": ("all", "none")}


def test_a_grid_is_fully_crossed_and_arms_are_named_after_their_levels(write):
    grid = {"model.residual": ["all", "none"], "model.intermediate": ["none", "relu", "elu"]}
    arms = expand(write(arms=None, grid=grid, claims=[])).arms
    assert list(arms) == ["all-none", "all-relu", "all-elu", "none-none", "none-relu", "none-elu"]
    assert (arms["none-elu"].model.residual, arms["none-elu"].model.intermediate) == ("none", "elu")


@pytest.mark.parametrize(
    ("key", "levels", "names"),
    [
        ("model.width", [0.5, 1], ["0.5", "1"]),
        ("model.middle_blocks", [2, 4, 8], ["2", "4", "8"]),
        ("train.nesterov", [True, False], ["True", "False"]),
    ],
)
def test_grid_levels_may_be_numbers_and_truth_values(write, key, levels, names):
    arms = expand(write(arms=None, grid={key: levels}, claims=[])).arms
    assert list(arms) == names
    section, name = key.split(".")
    assert [getattr(getattr(arm, section), name) for arm in arms.values()] == levels


@pytest.mark.parametrize(
    ("key", "levels", "names"),
    [
        ("model.fc", [[], [64], [64, 32]], ["none", "64", "64_32"]),
        (
            "model.timm",
            ["", "inception_v3", "hf_hub:timm/some"],
            ["none", "inception_v3", "hf_hub_timm_some"],
        ),
    ],
)
def test_grid_levels_may_be_lists_and_empty_text_and_names_with_any_character(
    write, key, levels, names
):
    arms = expand(write(arms=None, grid={key: levels}, claims=[])).arms
    assert list(arms) == names
    assert [arm.science()[key] for arm in arms.values()] == levels


@pytest.mark.parametrize(
    ("nested", "dotted"),
    [
        (
            {
                "arms": {
                    "a": {},
                    "b": {"model": {"residual": "none", "width": 0.5}, "train.lr": 0.3},
                }
            },
            {
                "arms": {
                    "a": {},
                    "b": {"model.residual": "none", "model.width": 0.5, "train.lr": 0.3},
                }
            },
        ),
        (
            {
                "arms": None,
                "claims": [],
                "grid": {"model": {"residual": ["all", "none"]}, "train.lr": [0.1, 0.2]},
            },
            {
                "arms": None,
                "claims": [],
                "grid": {"model.residual": ["all", "none"], "train.lr": [0.1, 0.2]},
            },
        ),
    ],
    ids=["arms", "grid"],
)
def test_arms_and_grids_may_be_nested_as_configuration_files_are(write, nested, dotted):
    one, other = expand(write(**nested)), expand(write(**dotted))
    assert one.arms == other.arms
    assert one.study == other.study


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop"])
def test_nesterovs_momentum_of_the_base_is_no_difference_of_an_arm_whose_optimizer_has_none(
    write, folder, optimizer
):
    (folder / "base.yaml").write_text(
        "data: {name: digits, size: 16, crop: none}\ntrain: {nesterov: true}\n"
    )
    expansion = expand(write(arms={"sgd": {}, "other": {"train.optimizer": optimizer}}, claims=[]))
    assert expansion.differences("other") == {"train.optimizer": ("sgd", optimizer)}
    explicit = {"train.optimizer": optimizer, "train.nesterov": False}
    assert expand(write(arms={"sgd": {}, "other": explicit}, claims=[])).arms == expansion.arms


def test_arms_named_by_what_yaml_takes_for_truth_values_are_refused(write):
    with pytest.raises(
        ValueError,
        match="arms: YAML reads a name as true; on, off, yes, no, true and false need quotes",
    ):
        expand(
            write(
                arms={True: {"model.middle_blocks": 2}, False: {"model.middle_blocks": 4}},
                claims=[],
            )
        )


def test_arms_may_be_named_by_numbers(write):
    arms = {2: {"model.middle_blocks": 2}, 4: {"model.middle_blocks": 4}}
    assert list(expand(write(arms=arms, claims=[])).arms) == ["2", "4"]


def test_the_base_is_looked_up_beside_the_study_first_then_from_the_working_directory(
    write, folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text("train: {epochs: 9}")
    (tmp_path / "more.yaml").write_text("train: {lr: 0.7}")
    run = expand(write(base=["base.yaml", "more.yaml"])).arms["a"]
    assert (run.train.epochs, run.train.lr) == (3, 0.7)


def test_command_line_layers_apply_after_the_base_and_before_the_arms(write, tmp_path):
    layer = tmp_path / "more.yaml"
    layer.write_text("train: {epochs: 5, lr: 0.7}\nmodel: {residual: none}")
    arms = expand(write(), ["-c", str(layer), "--train.lr", "0.9"]).arms
    assert {(arm.train.epochs, arm.train.lr) for arm in arms.values()} == {(5, 0.9)}
    assert [arm.model.residual for arm in arms.values()] == ["all", "none"]


# ---- names ---------------------------------------------------------------------------------------


def test_a_study_is_named_by_its_folder_or_its_file(write, folder):
    assert expand(write()).name == expand(str(folder / "study.yaml")).name == "helps"
    (folder / "study.yaml").rename(folder / "variant.yaml")
    assert expand(str(folder / "variant.yaml")).name == "variant"


def test_a_folder_is_named_also_when_it_is_the_working_directory(write, folder, monkeypatch):
    write()
    monkeypatch.chdir(folder)
    assert expand(".").name == "helps"


@pytest.mark.parametrize(
    ("args", "name"),
    [
        (["-c", "LAYER"], "helps+layer"),
        (["--config", "LAYER"], "helps+layer"),
        (["-c=LAYER"], "helps+layer"),
        (["--config=LAYER"], "helps+layer"),
        (["-c", "LAYER", "--train.epochs", "4"], "helps+layer+train.epochs=4"),
        (["--train.epochs=4"], "helps+train.epochs=4"),
        (["--runtime.workers", "2"], "helps"),
        (["-c", "CLUSTER"], "helps"),
        (["-c", "CLUSTER", "-c", "LAYER"], "helps+layer"),
        (["--model.match", "macs"], "helps+model.match=macs"),
        (["--data.root", "/elsewhere"], "helps"),
    ],
)
def test_layers_that_change_the_science_make_another_study(write, tmp_path, args, name):
    layer = tmp_path / "layer.yaml"
    layer.write_text("train: {epochs: 5}")
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text(
        "runtime: {workers: 2}\nlauncher: {name: slurm, minutes: 30}\ndata: {root: /elsewhere}"
    )
    args = [arg.replace("LAYER", str(layer)).replace("CLUSTER", str(cluster)) for arg in args]
    assert expand(write(), args).name == name


def test_a_study_is_kept_below_the_outputs_folder(write, tmp_path):
    assert (
        expand(write(), ["--runtime.outputs", str(tmp_path)]).directory()
        == tmp_path / "studies" / "helps"
    )


def test_a_study_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere: no study there; give a study's folder"):
        find_study_file(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="no study there"):
        find_study_file(str(tmp_path))


def test_seeds_until_decided_begin_with_the_first_block(write):
    expansion = expand(write(seeds={"start": 4, "step": 2, "max": 20, "stop": "decided"}))
    assert expansion.seeds == [0, 1, 2, 3]
    assert len(expansion.runs()) == 4 * len(expansion.arms)
    assert dataclasses.replace(expansion, interim_analysis=2).seeds == list(range(8))
    assert list(expansion.study.seeds.analyses) == list(range(4, 21, 2))
    assert Registration.of_today(expansion).seeds == UNTIL | {"futility": None}


def test_the_table_of_boundaries_has_every_schedule_that_a_study_may_have():
    for start, step in itertools.product(range(3, 11), range(1, 6)):
        for most in range(start + step, 41, step):
            plan = Seeds(start=start, step=step, max=most, stop="decided")
            assert 0.05 / len(plan.analyses) <= Boundary(start, step, most).nominal(0.05) < 0.05


# ---- what is refused -----------------------------------------------------------------------------


def without(mapping: dict, key: str) -> dict:
    return {k: v for k, v in mapping.items() if k != key}


def test_an_effect_weighs_the_arms_of_the_grid(write):
    study = expand(write(**of_effect(**{"model": {"middle_blocks": [2, 8]}}))).study
    (claim,) = study.claims
    assert weights(claim, study) == ({"all-2": 0.5, "none-2": 0.5}, {"all-8": 0.5, "none-8": 0.5})
    assert pairs_of(claim, study) == [("all-2", "all-8"), ("none-2", "none-8")]
    assert (claim.sides, claim.gain) == (("model.middle_blocks 2", "model.middle_blocks 8"), "")


def test_an_interaction_is_the_effect_of_the_first_factor_at_either_level_of_the_last(write):
    study = expand(
        write(**of_effect(**{"model.residual": ["none", "all"], "model.middle_blocks": [1, 8]}))
    ).study
    (claim,) = study.claims
    assert weights(claim, study) == ({"all-1": -1.0, "none-1": 1.0}, {"all-8": -1.0, "none-8": 1.0})
    assert pairs_of(claim, study) == [("none-1", "all-1"), ("none-8", "all-8")]
    assert claim.gain == "the gain of model.residual none over all"


def test_a_registration_without_the_keys_of_later_versions_is_not_edited(write, tmp_path):
    expansion = expand(write(seeds=UNTIL), ["--runtime.outputs", str(tmp_path / "outputs")])
    Registration.register(expansion)
    file = expansion.directory() / "registered.yaml"
    registered = yaml.safe_load(file.read_text())
    for key in ("failed", "effect", "statistic", "pairing"):
        del registered["claims"][0][key]
    del registered["seeds"]["futility"]
    for arm in registered["arms"].values():
        del arm["train.compile"]
    # so that the arms must tell
    registered["question"] = "The same study, its question worded otherwise?"
    file.write_text(yaml.safe_dump(registered))
    assert Registration.load_for(expansion).edits(expansion) == []


GRID = {"model.residual": ["all", "none"], "model.middle_blocks": [1, 2, 8]}


def of_effect(**effect) -> dict:
    """A grid, and a claim on an effect in it."""
    claim = {key: value for key, value in CLAIM.items() if key != "contrast"}
    return {"arms": None, "grid": GRID, "claims": [claim | {"effect": effect}]}


ILL_FORMED = [
    (
        of_effect(**{"model.order": ["a", "b"]}),
        ["claim 'c': effect: there is no factor 'model.order'; there are model.residual"],
    ),
    (
        of_effect(**{"model.middle_blocks": [1, 4]}),
        ["claim 'c': effect: model.middle_blocks has no level '4'; there are 1, 2, 8"],
    ),
    (of_effect(**{"model.residual": ["all"]}), ["effect", "each with two different levels"]),
    (of_effect(**{"model.residual": ["all", "all"]}), ["effect", "each with two different levels"]),
    (
        of_effect(**{"model.residual": "all"}),
        ["effect.model.residual: 'all' is not allowed", "a list"],
    ),
    (
        of_effect(),
        ["contrast: missing; a claim is on either a contrast of two arms or an effect of a grid"],
    ),
    (
        {"claims": [CLAIM | {"effect": {"model.residual": ["all", "none"]}}]},
        ["contrast: there is an effect, too"],
    ),
    (
        of_effect(**{"model.residual": ["all", "none"]}) | {"arms": STUDY["arms"], "grid": None},
        ["a study of arms has none"],
    ),
    ({"questoin": "?"}, ["questoin", "did you mean question?"]),
    ({"question": None}, ["question"]),
    (
        {"base": ["absent.yaml"]},
        [
            "'absent.yaml'",
            "neither beside the study file nor in the working directory, nor shipped",
        ],
    ),
    ({"base": "base.yaml"}, ["base", "'base.yaml'", "list"]),
    ({"seeds": []}, ["seeds", "[]"]),
    ({"seeds": [0, 0]}, ["seeds", "[0, 0]", "different"]),
    ({"seeds": [0, -1]}, ["seed", "-1"]),
    ({"seeds": 5}, ["seeds", "5", "list"]),
    ({"seeds": [0, 2**63]}, ["seeds", "9223372036854775808", "to 2**63 - 1"]),
    ({"seeds": [0, "one"]}, ["seeds", "'one'", "each a whole number"]),
    ({"seeds": [0, True]}, ["seeds: [0, true] is", "each a whole number"]),
    ({"seeds": "0-4"}, ["seeds", "'0-4'", "each a whole number"]),
    ({"seeds": {"start": 4}}, ["seeds.step: is missing", "a whole number"]),
    ({"seeds": UNTIL | {"begin": 4}}, ["seeds.begin: there is no such key"]),
    ({"seeds": UNTIL | {"stop": "never"}}, ["seeds.stop", "'never'", "decided"]),
    ({"seeds": UNTIL | {"start": 2}}, ["seeds.start", "2", "between 3 and 10"]),
    ({"seeds": UNTIL | {"step": 0}}, ["seeds.step", "0", "between 1 and 5"]),
    ({"seeds": UNTIL | {"max": 5}}, ["seeds.max", "5", "at least 6, start plus a step"]),
    ({"seeds": UNTIL | {"max": 3}}, ["seeds.max", "3", "at least 6, start plus a step"]),
    ({"seeds": UNTIL | {"max": 21}}, ["seeds.max", "21", "such as 20"]),
    ({"seeds": UNTIL | {"max": 42}}, ["seeds.max", "42", "at most 40"]),
    ({"seeds": UNTIL | {"start": "four"}}, ["seeds.start", "'four'"]),
    (
        {"seeds": UNTIL | {"futility": 0}},
        ["seeds.futility: 0", "is not allowed", "above 0 and below 1"],
    ),
    (
        {"seeds": UNTIL | {"futility": 1.0}},
        ["seeds.futility: 1.0 is not allowed", "above 0 and below 1"],
    ),
    (
        {"seeds": UNTIL, "claims": []},
        ["seeds: {start: 4, step: 2, max: 20, stop: 'decided',", "without claims"],
    ),
    ({"paper": {"figure": True}}, ["paper.figure: true is"]),
    ({"paper": None, "alpha": [None, {"a": False}]}, ["alpha: [null, {a: false}] is"]),
    ({"alpha": 0}, ["alpha", "at least 1e-06 and below 0.5"]),
    ({"alpha": 0.5}, ["alpha", "0.5", "at least 1e-06 and below 0.5"]),
    ({"alpha": float("nan")}, ["alpha", "nan"]),
    ({"alpha": "small"}, ["alpha", "'small'", "a finite number"]),
    ({"arms": None}, ["arms: missing", "either arms or a grid"]),
    ({"arms": {}}, ["arms: missing", "either arms or a grid"]),
    ({"arms": ["a", "b"]}, ["arms: ['a', 'b']", "a mapping"]),
    ({"arms": STUDY["arms"] | {"c": "all"}}, ["arms.c: 'all'", "a mapping"]),
    ({"arms": STUDY["arms"] | {"c": {1: "all"}}}, ["arms.c: 1", "text, in quotes"]),
    (
        {"arms": STUDY["arms"] | {"c": {"model": "none"}}},
        ["'c'", "model cannot be a factor", "model.order"],
    ),
    (
        {"arms": STUDY["arms"] | {"c": {"model": {"residul": "none"}}}},
        ["'c'", "model.residul", "did you mean model.residual?"],
    ),
    (
        {"arms": STUDY["arms"] | {"c": {"launcher": {"name": "slurm"}}}},
        ["launcher.name cannot be a factor"],
    ),
    (
        {"arms": STUDY["arms"] | {"c": {"model.residual": "all", "model": {"residual": "none"}}}},
        ["arms.c: the key model.residual stands there twice"],
    ),
    (
        {"arms": STUDY["arms"] | {"c": {"config": "base.yaml"}}},
        ["'c'", "config: there is no such key"],
    ),
    ({"arms": STUDY["arms"] | {"c": {"seed": 3}}}, ["'c'", "seed cannot be a factor"]),
    ({"grid": {"model.width": [0.5, 1]}}, ["there is a grid, too", "either arms or a grid"]),
    ({"arms": None, "grid": {"model.width": [1]}}, ["grid", "at least 2"]),
    ({"arms": None, "grid": {"model.width": []}}, ["grid", "at least 2"]),
    ({"arms": None, "grid": {"model.width": [1, 1]}}, ["grid", "levels must differ"]),
    ({"arms": None, "grid": {"model.width": 1}}, ["grid.model.width: 1", "a list"]),
    ({"arms": None, "grid": ["model.width"]}, ["grid: ['model.width']", "a mapping"]),
    ({"arms": {"a": {"model.residual": "all"}}}, ["arms", "at least 2"]),
    ({"arms": STUDY["arms"] | {"../c": {"model.width": 0.5}}}, ["'../c'", "letters, digits"]),
    (
        {"arms": STUDY["arms"] | {"c": {"model.residul": "all"}}},
        ["'c'", "model.residul", "did you mean model.residual?"],
    ),
    (
        {"arms": STUDY["arms"] | {"c": {"model.residual": "some"}}},
        ["'c'", "model.residual", "'some'", "one of all, none"],
    ),
    (
        {"arms": STUDY["arms"] | {"c": {"model.width": 0}}},
        ["'c'", "model.width", "0.0", "at least"],
    ),
    ({"arms": STUDY["arms"] | {"c": {"model.residual": "none"}}}, ["'b'", "'c'", "same science"]),
    ({"arms": {"a": {}, "b": {"model.residual": "all"}}}, ["'a'", "'b'", "same science"]),
    ({"arms": {"a": {}, "b": {"data.root": "/elsewhere"}}}, ["data.root cannot be a factor"]),
    ({"arms": {"a": {}, "b": {"data.title": "pets"}}}, ["data.title cannot be a factor"]),
    (
        {"arms": {"a": {}, "b": {"data.content": "train+val-3-0123456789abcdef"}}},
        ["data.content cannot be a factor"],
    ),
    ({"arms": {"a": {}, "b": {"launcher.name": "slurm"}}}, ["launcher.name cannot be a factor"]),
    ({"claims": [CLAIM, CLAIM]}, ["claim 'c'", "2 claims of this id"]),
    ({"claims": [CLAIM | {"contrast": ["a", "z"]}]}, ["'c'", "no arm 'z'", "a, b"]),
    ({"claims": [CLAIM | {"contrast": ["a", "a"]}]}, ["'c'", "two different arms"]),
    ({"claims": [CLAIM | {"contrast": ["a"]}]}, ["claim 'c': contrast: ['a']", "a list of 2"]),
    (
        {"claims": [CLAIM | {"contrast": ["a", "b", "a"]}]},
        ["claim 'c': contrast: ['a', 'b', 'a']", "a list of 2"],
    ),
    ({"claims": [CLAIM | {"contrast": "a"}]}, ["claim 'c': contrast: 'a'", "a list of 2"]),
    (
        {"claims": [CLAIM | {"metric": "accuracy"}]},
        ["claim 'c': metric: 'accuracy'", "test/top1", "val/loss"],
    ),
    (
        {"claims": [CLAIM | {"metric": "val/top1"}]},
        ["claim 'c': metric: val/top1 needs data.validation", "'a'"],
    ),
    (
        {"claims": [CLAIM | {"kind": "better"}]},
        ["claim 'c': kind: 'better'", "superior, equivalent"],
    ),
    ({"claims": [CLAIM | {"margin": -0.5}]}, ["claim 'c': margin: -0.5", "0 or more"]),
    ({"claims": [CLAIM | {"margin": float("nan")}]}, ["claim 'c': margin: nan", "finite"]),
    ({"claims": [CLAIM | {"margin": float("inf")}]}, ["claim 'c': margin: inf", "finite"]),
    (
        {"claims": [CLAIM | {"margin": 0, "kind": "equivalent"}]},
        ["claim 'c': margin: 0", "above 0"],
    ),
    ({"claims": [CLAIM | {"margin": "half"}]}, ["claim 'c': margin: 'half'", "a finite number"]),
    (
        {"claims": [CLAIM | {"margin": 200}]},
        ["claim 'c': margin: 200", "below 100, the largest difference"],
    ),
    (
        {"claims": [CLAIM | {"margin": 100.0, "kind": "equivalent"}]},
        ["claim 'c': margin: 100.0", "below 100, the largest"],
    ),
    (
        {"claims": [CLAIM | {"pairing": "seeds"}]},
        ["claim 'c': pairing: 'seeds'", "one of seed, none"],
    ),
    (
        {"claims": [CLAIM | {"pairing": "none", "statistic": "median"}]},
        ["claim 'c': pairing: 'none' is not allowed", "seed, but for the means of two arms"],
    ),
    (
        {"claims": [CLAIM | {"pairing": "none"}], "scope": "images"},
        ["claim 'c': pairing: none needs a list of seeds and scope: test_set"],
    ),
    (
        {
            "claims": [CLAIM | {"pairing": "none"}],
            "seeds": {"start": 3, "step": 1, "max": 4, "stop": "decided"},
        },
        ["claim 'c': pairing: none needs a list of seeds and scope: test_set"],
    ),
    (
        {"claims": [CLAIM | {"diverged": -5}]},
        ["claim 'c': diverged: -5", "0 to 100, as accuracies are in percent, or null"],
    ),
    (
        {"claims": [CLAIM | {"failed": 150}]},
        ["claim 'c': failed: 150", "0 to 100, as accuracies are in percent, or null"],
    ),
    (
        {"claims": [CLAIM | {"metric": "test/loss", "diverged": -1}]},
        ["claim 'c': diverged: -1", "0 or more, or null"],
    ),
    (
        {"claims": [CLAIM, CLAIM | {"id": "d", "statement": "?", "failed": 3}]},
        ["claim 'd': is the same as the claim 'c'"],
    ),
    (
        {"claims": [CLAIM | {"diverged": float("nan")}]},
        ["claim 'c': diverged: nan", "a finite number or null"],
    ),
    (
        {"claims": [CLAIM | {"diverged": "chance"}]},
        ["claim 'c': diverged: 'chance'", "a finite number or null"],
    ),
    (
        {"claims": [CLAIM, CLAIM | {"id": "d", "marge": 1}]},
        ["claim 'd': marge: there is no such key", "did you mean margin?"],
    ),
    (
        {"claims": [CLAIM | {"bound": 1}]},
        ["claim 'c': bound: there is no such key", "there are id, contrast, effect, metric"],
    ),
    (
        {"claims": [CLAIM, without(CLAIM, "margin") | {"id": "d"}]},
        ["claim 'd': margin: is missing", "a finite number"],
    ),
    ({"claims": [CLAIM, without(CLAIM, "id")]}, ["claim 2: id: is missing"]),
    ({"claims": [CLAIM | {"id": 7}]}, ["claim 1: id: 7", "text, in quotes"]),
    ({"claims": [CLAIM | {"id": ""}]}, ["id: ''", "not empty"]),
    ({"claims": [1]}, ["claims: [1]", "a list (each a mapping with keys of id"]),
    (
        {"claims": {"c": CLAIM, "d": CLAIM}},
        ["claims: {c: {id: 'c', contrast: ['a', 'b']", "...", "a list (each a mapping"],
    ),
    ({"paper": "arXiv:1610.02357"}, ["paper: 'arXiv:1610.02357'", "a mapping with keys of ref"]),
    ({"paper": {"section": 4.6}}, ["paper.section: 4.6", "text, in quotes"]),
    ({"notes": "?"}, ["notes: there is no such key", "there are question, base"]),
]


@pytest.mark.parametrize("changes", [
    {"claims": [CLAIM | {"margin": 99.5, "diverged": 0, "failed": 100}]},
    {"claims": [CLAIM | {"metric": "test/loss", "margin": 200, "diverged": 500}]},
    {"claims": [CLAIM, CLAIM | {"id": "d", "contrast": ["b", "a"]}, CLAIM | {"id": "e", "margin": 9}]},
    of_effect(**{"model.residual": ["all", "none"], "model.middle_blocks": [1, 2]}) | {"margin": 150},
])  # fmt: skip
def test_scores_and_margins_that_can_be_are_allowed(write, changes):
    margin = changes.pop("margin", None)
    if margin:
        changes["claims"][0]["margin"] = margin
    assert expand(write(**changes)).study.claims


@pytest.mark.parametrize(
    ("changes", "words"), ILL_FORMED, ids=[" ".join(words) for _, words in ILL_FORMED]
)
def test_an_ill_formed_study_is_refused_with_what_is_wrong_in_which_file(write, changes, words):
    path = write(**changes)
    message = refusal(path)
    assert [word for word in [f"{path}/study.yaml", *words] if word not in message] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("question: a\n\tseeds: [0]", ["line 2", "'\\t'"]),
        ("question: Does it: help?", ["line 1", "mapping values are not allowed here"]),
        ("arms:\n  a: {}\n  b: {}\n  a: {}", ["line 4: the key a stands there twice"]),
        ("arms:\n  0.1: {}\n  1e-1: {}", ["line 3: the key 1e-1 stands there twice"]),
        ("arms:\n  0.1: {}\n  0.10: {}", ["line 3: the key 0.10 stands there twice"]),
        ("arms:\n  1: {}\n  true: {}", ["line 3: the key true stands there twice"]),
        (
            'question: q\nbase: []\nseeds: [0]\nclaims: []\narms:\n  "0.1": {}\n  0.10: {}',
            ["arms: the name '0.1' stands there twice"],
        ),
        ("- question", ["holds ['question']", "a mapping"]),
        ("", ["holds nothing", "a mapping"]),
        ("question: a\n---\nquestion: b", ["line 2", "another document"]),
    ],
)
def test_what_is_no_mapping_is_refused_with_its_line(folder, text, words):
    (folder / "study.yaml").write_text(text)
    message = refusal(str(folder))
    assert [word for word in [f"{folder}/study.yaml: ", *words] if word not in message] == []


@pytest.mark.parametrize("key", ["question", "base", "seeds", "claims", "arms", "alpha", "paper"])
def test_null_is_refused(write, folder, key):
    write(**{key: None})
    with (folder / "study.yaml").open("a") as file:
        file.write(f"{key}: null\n")
    assert key in refusal(str(folder))


@pytest.mark.parametrize(
    "args", [["--seed", "3"], ["--seed=3"], ["--model.residual", "none"], ["--model.residual=none"]]
)
def test_the_command_line_may_not_override_what_the_study_decides(write, args):
    assert "decides it" in refusal(write(), *args)


def test_an_abbreviated_factor_is_no_way_around_that(write):
    assert refusal(write(), "--model.residua", "none") == (
        "model.residua: there is no such key; did you mean model.residual?"
    )


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["-c", "absent.yaml"], "absent.yaml: No such file or directory"),
        (["-c", "LAYER"], "LAYER: train.epoch: there is no such key; did you mean train.epochs?"),
        (["--trian.lr", "3"], "trian.lr: there is no such key; did you mean train.lr?"),
        (["--train.lr", "fast"], "train.lr: 'fast' is not allowed; it must be a finite number"),
        (["--data.size", "7"], "data.size: 7 is not allowed; it must be between 8 and 2048"),
    ],
)
def test_what_the_command_line_gives_is_not_blamed_on_the_study_file(write, tmp_path, args, said):
    (tmp_path / "layer.yaml").write_text("train: {epoch: 3}")
    layer = str(tmp_path / "layer.yaml")
    assert refusal(write(), *(arg.replace("LAYER", layer) for arg in args)) == said.replace(
        "LAYER", layer
    )


def test_what_only_fails_together_names_both_of_what_gave_it(write, folder):
    (folder / "base.yaml").write_text("data: {name: digits, size: 16, crop: none, validation: 0.1}")
    assert refusal(write(), "--data.train_images", "4") == (
        f"{folder}/base.yaml: data.validation: 0.1 is not allowed; it must be 0, or enough to hold out one of 4 images "
        "(with --data.train_images 4)"
    )


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (
            {"model.residual": "some"},
            "model.residual: 'some' is not allowed; it must be one of all, none",
        ),
        (
            {"model.middle_blocks": 33},
            "model.middle_blocks: 33 is not allowed; it must be between 0 and 32",
        ),
        ({"model.timm": 5}, "model.timm: 5 is not allowed; it must be text, in quotes"),
        ({"model.timm": None}, "model.timm: null is not allowed; it must be text"),
        ({"train.epochs": "010"}, "train.epochs: 010 would be read in base 8"),
        (
            {"data.crop": "resized"},
            "data.crop: 'resized' is not allowed; it must be one of none, pad for digits (with data.name: 'digits' of ",
        ),
    ],
)
def test_what_an_arm_declares_is_blamed_on_the_study_file_and_the_arm(write, folder, keys, said):
    message = refusal(write(arms=STUDY["arms"] | {"c": keys}), "--train.lr", "0.1")
    assert message.startswith(f"{folder}/study.yaml: arm 'c': {said}")


def test_an_arms_values_arrive_as_they_are(write):
    values = {
        "model.fc": [64, 32],
        "model.bn_eps": 1e-3,
        "train.nesterov": True,
        "model.timm": "null",
        "data.pad": 0,
    }
    arm = expand(write(arms={"a": {}, "b": values}, claims=[])).arms["b"]
    assert (arm.model.fc, arm.model.bn_eps, arm.train.nesterov, arm.model.timm) == (
        (64, 32),
        1e-3,
        True,
        "null",
    )


def test_a_mistake_of_a_base_is_blamed_on_its_file_alone(write, folder):
    (folder / "base.yaml").write_text("train: {epoch: 3}")
    assert refusal(write(), "--train.lr", "0.1").startswith(
        f"{folder}/base.yaml: train.epoch: there is no such key"
    )


# ---- a first look --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seeds", "n", "first", "name"),
    [
        ([5, 3, 9], 2, [5, 3], "helps+seeds2"),
        ([5, 3, 9], 1, [5], "helps+seeds1"),
        ([5, 3, 9], 3, [5, 3, 9], "helps"),
        (UNTIL, 3, [0, 1, 2], "helps+seeds3"),
        (UNTIL, 20, list(range(20)), "helps+seeds20"),
    ],
)
def test_a_first_look_has_the_first_seeds_and_a_name_of_its_own_and_shares_its_runs(
    write, seeds, n, first, name
):
    path = write(seeds=seeds)
    whole, look = expand(path), expand(path, (), n)
    assert (look.name, look.seeds) == (name, first)
    assert bool(look.first_look) == (name != "helps")
    assert not whole.first_look
    assert look.arms == whole.arms
    assert f"--seeds={n}" in look.command


@pytest.mark.parametrize(("seeds", "most"), [([0, 1, 2], 3), (UNTIL, 20)])
@pytest.mark.parametrize("n", [0, -1, 21])
def test_a_first_look_with_none_or_more_than_all_seeds_is_refused(write, seeds, most, n):
    with pytest.raises(
        ValueError, match=rf"--seeds: {n} is not allowed; it must be between 1 and {most}"
    ):
        expand(write(seeds=seeds), (), n)


def test_a_claim_is_checked_also_when_it_is_made_in_python():
    with pytest.raises(ValueError, match="kind: 'better' is not allowed"):
        Claim(id="x", contrast=("a", "b"), metric="test/top1", kind="better", margin=1.0)
    with pytest.raises(ValueError, match="must be a list of 2"):
        Claim(id="x", contrast=("a", "b", "c"), metric="test/top1", kind="superior", margin=1.0)


@pytest.mark.parametrize(
    ("metric", "lower"), [("test/top1", False), ("val/top5", False), ("test/loss", True)]
)
def test_only_a_loss_is_better_when_lower(metric, lower):
    assert (
        Claim(
            id="x", contrast=("a", "b"), metric=metric, kind="superior", margin=0.1
        ).measure.lower_is_better
        == lower
    )


# ---- registration --------------------------------------------------------------------------------


@pytest.fixture
def registered(write, tmp_path):
    """The options under which the study was registered."""
    options = ["--runtime.outputs", str(tmp_path / "outputs")]
    Registration.register(expand(write(), options))
    return options


def edits(path: str, options: list[str]) -> list[str]:
    expansion = expand(path, options)
    registration = Registration.load_for(expansion)
    assert registration is not None
    return registration.edits(expansion)


def test_before_the_first_run_nothing_is_registered(write, tmp_path):
    assert Registration.load_for(expand(write(), ["--runtime.outputs", str(tmp_path)])) is None


def test_an_unchanged_study_shows_no_edits(write, registered):
    assert edits(write(), registered) == []


def test_a_registration_is_made_once(write, registered):
    expansion = expand(write(alpha=0.01), registered)
    before = (expansion.directory() / "registered.yaml").read_bytes()
    Registration.register(expansion)
    assert (expansion.directory() / "registered.yaml").read_bytes() == before


def test_another_study_of_the_same_name_is_refused_and_a_reworded_one_is_not(write, registered):
    reworded = {"question": "Does it really help?"}
    assert edits(write(**reworded), registered) == []
    other = expand(
        write(**reworded, arms={"a": {"model.width": 0.5}, "b": {"model.width": 0.25}}), registered
    )
    with pytest.raises(
        ValueError, match=r"another study of this name was run, 'Does it help\?'; rename"
    ):
        Registration.register(other)


@pytest.fixture
def copied(write, folder, tmp_path, registered):
    """Copies of the registered study's folder, or the folder moved, each edited; returns its
    expansion.
    """
    first = expand(write(), registered)
    remember_files(first)

    def copy(moved: bool = False, **changes) -> Expansion:
        shutil.copytree(folder, tmp_path / "elsewhere" / folder.name, dirs_exist_ok=True)
        if moved:
            shutil.rmtree(folder)
        study = {key: value for key, value in (STUDY | changes).items() if value is not None}
        other = tmp_path / "elsewhere" / folder.name / "study.yaml"
        other.write_text(yaml.safe_dump(study, sort_keys=False))
        return expand(str(other), registered)

    return copy


@pytest.mark.parametrize(
    "changes",
    [
        {"claims": [CLAIM | {"margin": 0.1}]},
        {"seeds": [0, 1]},
        {"question": "Does something else help?", "claims": []},
        {"arms": STUDY["arms"] | {"c": {"model.width": 0.5}}},
    ],
)
def test_another_study_file_of_the_same_name_is_refused_and_told_whose_the_directory_is(
    copied, folder, changes
):
    with pytest.raises(ValueError, match="belongs to another study of this name") as error:
        copied(**changes)
    assert [
        word
        for word in (str(folder / "study.yaml"), "rename", "--runtime.outputs")
        if word not in str(error.value)
    ] == []


def test_a_copy_that_only_its_base_makes_another_study_is_refused(copied, tmp_path):
    (tmp_path / "elsewhere" / "helps").mkdir(parents=True)
    copied()
    base = tmp_path / "elsewhere" / "helps" / "base.yaml"
    base.write_text(base.read_text().replace("epochs: 3", "epochs: 4"))
    with pytest.raises(ValueError, match="belongs to another study"):
        refuse_namesake(expand(str(base.parent), [f"--runtime.outputs={tmp_path / 'outputs'}"]))


def test_an_equal_copy_as_in_another_clone_is_the_same_study_also_when_one_is_edited_later(
    write, copied, registered
):
    copy = copied()
    refuse_namesake(copy)
    remember_files(copy)
    refuse_namesake(expand(write(alpha=0.01), registered))
    refuse_namesake(copied(alpha=0.01))


def test_a_moved_folder_is_the_same_study_also_when_it_is_edited(copied):
    other = copied(moved=True, seeds=[0, 1])
    assert Registration.load_for(other).edits(other) == ["seeds [0, 1, 2] -> [0, 1]"]


def test_the_same_file_is_the_same_study_also_when_it_is_edited(write, registered):
    remember_files(expand(write(), registered))
    refuse_namesake(expand(write(alpha=0.01), registered))


def test_two_layers_of_the_same_name_make_two_studies(write, tmp_path):
    options = [f"--runtime.outputs={tmp_path / 'outputs'}"]
    for folder, epochs in (("a", 4), ("b", 5)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "long.yaml").write_text(f"train: {{epochs: {epochs}}}")
    first, second = (
        expand(write(), ["-c", str(tmp_path / folder / "long.yaml"), *options]) for folder in "ab"
    )
    Registration.register(first)
    remember_files(first)
    refuse_namesake(first)
    with pytest.raises(ValueError, match=r"belongs to another study of this name, .*a/long.yaml"):
        refuse_namesake(second)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"alpha": 0.01}, ["alpha 0.05 -> 0.01"]),
        ({"seeds": [0, 1]}, ["seeds [0, 1, 2] -> [0, 1]"]),
        ({"seeds": [2, 1, 0]}, ["seeds [0, 1, 2] -> [2, 1, 0]"]),
        ({"seeds": [3, 4, 5]}, ["seeds [0, 1, 2] -> [3, 4, 5]"]),
        ({"seeds": UNTIL}, [f"seeds [0, 1, 2] -> {UNTIL | {'futility': None}}"]),
        ({"claims": [CLAIM | {"margin": 0.1}]}, ["claim c: margin 0.5 -> 0.1"]),
        ({"claims": [CLAIM | {"kind": "equivalent"}]}, ["claim c: kind superior -> equivalent"]),
        (
            {"claims": [CLAIM | {"contrast": ["b", "a"]}]},
            ["claim c: contrast ['a', 'b'] -> ['b', 'a']"],
        ),
        ({"claims": [CLAIM | {"diverged": 0.0}]}, ["claim c: diverged None -> 0.0"]),
        ({"claims": [CLAIM | {"id": "d"}]}, ["claim d added", "claim c removed"]),
        ({"claims": []}, ["claim c removed"]),
        ({"arms": STUDY["arms"] | {"c": {"model.width": 0.5}}}, ["arm c added"]),
        (
            {"arms": STUDY["arms"] | {"b": {"model.residual": "none", "model.width": 0.5}}},
            ["arm b: model.width 1.0 -> 0.5"],
        ),
    ],
)
def test_every_later_edit_is_told_in_words(write, registered, changes, expected):
    assert edits(write(**changes), registered) == expected


def test_a_field_that_a_later_version_has_added_is_no_edit(write, registered):
    expansion = expand(write(), registered)
    file = expansion.directory() / "registered.yaml"
    old = yaml.safe_load(file.read_text())
    for science in old["arms"].values():
        del science["data.mixup"]
    file.write_text(yaml.safe_dump(old))
    assert Registration.load_for(expansion).edits(expansion) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"claims": 3},
        {"claims": [3]},
        {"claims": [{}]},
        {"claims": [{"id": ["a"]}]},
        {"alpha": "x"},
        {"seeds": {"start": 3}},
        {"seeds": {"start": 3, "step": 1, "max": 9, "first": 1}},
        {"seeds": "all"},
        {"arms": []},
        {"arms": {"a": 3}},
        {"more": 1},
        {"time": None},
        {"question": 3},
    ],
    ids=str,
)
def test_a_registration_whose_fields_are_of_other_types_is_one_line(write, registered, changes):
    expansion = expand(write(), registered)
    file = expansion.directory() / "registered.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | changes))
    with pytest.raises(
        ValueError,
        match=r"registered\.yaml: not a registration of this version \(.+\); remove it to register",
    ):
        Registration.load_for(expand(write(), registered))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xe9",
        b"[",
        b"{? [1] : 2}",
        b"a: 2026-13-45",
        b"[" * 10**4,
        b"!own 3",
        b"!!bool 3",
        b"!!timestamp 3",
        b"x: &x [*x]",
    ],
)
def test_a_registration_that_is_no_yaml_is_one_line(write, registered, data):
    (expand(write(), registered).directory() / "registered.yaml").write_bytes(data)
    with pytest.raises(
        ValueError,
        match=r"registered\.yaml: not a registration of this version \(.+\); remove it to register",
    ):
        Registration.load_for(expand(write(), registered))


def test_a_changed_base_is_an_edit_of_every_arm(write, registered, folder):
    path = write()
    (folder / "base.yaml").write_text(
        "data: {name: digits, size: 16, crop: none}\ntrain: {epochs: 4}\n"
    )
    assert sorted(edits(path, registered)) == [
        "arm a: train.epochs 3 -> 4",
        "arm b: train.epochs 3 -> 4",
    ]
