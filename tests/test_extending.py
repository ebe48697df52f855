"""What a module of the user's registers goes the way of what is built in: every snippet of its page
runs, outside the package.
"""

import dataclasses
import functools
import importlib
import json
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.callbacks import (
    EarlyStopping,
    GradientAccumulationScheduler,
    StochasticWeightAveraging,
)
from torch import nn

import xceptlab
from conftest import ROOT, TINY
from made import CLAIM
from xceptlab import register
from xceptlab.cli import main
from xceptlab.config.field_types import Bounds
from xceptlab.config.loading import dump_run, load_run
from xceptlab.config.schema import DataConfig, ModelConfig, RunConfig
from xceptlab.data.sets import data_set
from xceptlab.models.build import build
from xceptlab.models.cost import cost
from xceptlab.models.features import features
from xceptlab.runs.directory import RunDirectory
from xceptlab.study.comparison import module_trees
from xceptlab.study.plan import expand
from xceptlab.training.metrics import per_image
from xceptlab.training.task import Task
from xceptlab.training.train import evaluate, train

PAGE = (ROOT / "docs" / "extending.md").read_text()
NAMED = re.compile(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", re.S)
QUICK = ["--runtime.wandb=disabled", "--runtime.accelerator=cpu", "--runtime.log_every=1"]
DIGITS = [piece for kind, name in (("model", "xception_tiny"), ("data", "digits"), ("train", "digits"))
          for piece in ("-c", str(ROOT / "configs" / kind / f"{name}.yaml"))]  # fmt: skip


@pytest.fixture(autouse=True)
def _registers_nothing_for_others(monkeypatch):
    monkeypatch.setattr(register, "_entries", {})
    monkeypatch.setattr(register, "_loaded", {})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The files of the page, in a folder from where commands are given."""
    for name, text in NAMED.findall(PAGE):
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def module(folder, text, name="mine.py"):
    (folder / name).write_text("import torch\nfrom torch import nn\nimport xceptlab\n" + text)
    return name


def number_of(line, file):
    """The number of the one line of a module that is this one but for its indentation."""
    numbers = [
        i for i, one in enumerate(file.read_text().splitlines(), start=1) if one.strip() == line
    ]
    (number,) = numbers
    return number


def write_study(extensions, arms, **more):
    """Write study.yaml, of one seed unless more is said, into the working directory."""
    study = {"question": "?", "extensions": extensions, "base": [], "seeds": [0], "arms": arms}
    Path("study.yaml").write_text(yaml.safe_dump(study | more))


def activation(folder, version=1, name="mine.py"):
    return module(
        folder,
        f"@xceptlab.register.activation('mine', version={version})\ndef mine():\n    return nn.Tanh()\n",
        name,
    )


# ---- the page ------------------------------------------------------------------------------------


def test_every_snippet_of_the_page_is_a_file_or_a_command():
    blocks = re.findall(r"```(\w+)\n", PAGE)
    assert blocks.count("python") + blocks.count("yaml") == len(NAMED.findall(PAGE)) == 9
    assert blocks.count("sh") == 2


def test_the_study_of_the_page_goes_through_plan_study_report_and_export(folder, capsys):
    commands = [
        shlex.split(line)[1:]
        for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S)
        for line in block.splitlines()
    ]
    assert [command[0] for command in commands] == ["plan", "study", "report", "export"]
    plan, study, report, (export, _, output, flag, files) = commands
    assert main([*plan, *QUICK]) == 0
    shown = capsys.readouterr().out
    assert "model.options.residual: True" in shown
    assert "test/brier, margin 0.01" in shown
    assert main([*study, *QUICK]) == 0
    assert main([*report, *QUICK]) == 0
    assert "residual-helps" in capsys.readouterr().out

    runs = xceptlab.Study("study.yaml").runs()
    assert list(runs["status"]) == ["done"] * 6
    assert runs["test/brier"].between(0, 2).all()
    assert list(runs["model.options.residual"]) == [True] * 3 + [False] * 3
    (page,) = folder.glob("outputs/studies/*/report.md")
    assert "test/brier" in page.read_text()
    assert "mixer" in page.read_text()

    run = Path("outputs/runs") / runs["run_id"][0]
    assert main([export, str(run), output, flag, files]) == 0
    program = torch.export.load(output).module()
    test = xceptlab.Run(run)
    images = test.transform(np.zeros((16, 16, 3), np.uint8))[None]
    with torch.no_grad():
        torch.testing.assert_close(program(images), test.network(images))
    assert test.split_features("test").values.shape == (150, 8)
    assert test.record.science["extensions"] == {
        "model mixer": 1,
        "data shapes": 1,
        "metric brier": 1,
    }


def test_what_is_varied_on_the_page_trains_and_continues_to_the_same_bits(folder):
    outputs = [f"--runtime.outputs={folder / 'outputs'}", "--train.warmup=0.2"]
    config = load_run([*TINY, "-c", "varied.yaml", *outputs])
    assert train(config, progress=False, quiet=True).status == "finished"
    log = RunDirectory.of(config.runtime.outputs, config.run_id).log()
    rates = [line["lr"] / config.train.lr for line in log if "lr" in line]
    assert rates == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25])  # 10 steps
    assert any(isinstance(one, sys.modules[one.__module__].Squash) for one in build(config.model, 10).modules()
               if type(one).__name__ == "Squash")  # fmt: skip
    again = load_run(
        [*TINY, "-c", "varied.yaml", f"--runtime.outputs={folder / 'again'}", "--train.warmup=0.2"]
    )
    assert (
        train(again, progress=False, quiet=True).metrics
        == RunDirectory.of(config.runtime.outputs, config.run_id).record().metrics
    )
    quiet = load_run([*TINY, "-c", "varied.yaml", *outputs, "--train.callbacks=[]"])
    assert train(quiet, progress=False, quiet=True).metrics != train(config).metrics


# ---- identity ------------------------------------------------------------------------------------


def test_a_run_that_uses_nothing_from_outside_is_the_run_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain = load_run(DIGITS)
    named = load_run([*DIGITS, "--extensions", activation(tmp_path)])
    assert named.run_id == plain.run_id
    assert named.science() == plain.science()
    assert "extensions" not in plain.science()
    assert plain.run_id == "digits-seed0-05fee39e43"


def test_name_and_version_of_what_is_used_are_part_of_what_a_run_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ids = []
    for version in (1, 2):
        register._entries.clear()
        register._loaded.clear()
        config = load_run(
            [*DIGITS, "--extensions", activation(tmp_path, version), "--model.intermediate=mine"]
        )
        assert config.science()["extensions"] == {"activation mine": version}
        ids.append(config.run_id)
    (tmp_path / "elsewhere").mkdir()
    register._entries.clear()
    moved = [
        "--extensions",
        f"elsewhere/{activation(tmp_path / 'elsewhere', 2)}",
        "--model.intermediate=mine",
    ]
    assert load_run([*DIGITS, *moved]).run_id == ids[1] != ids[0]


@pytest.mark.parametrize(
    ("kind", "default", "given"),
    [
        (int | bool, 1, "true"),
        (bool | float, False, "0.0"),
        (int | float, 1, "1.0"),
        (Any, 1, "true"),
        (Any, 0, "0.0"),
    ],
)
def test_what_python_takes_for_the_default_and_is_not_is_no_default(kind, default, given):
    register_odd(kind, default)
    run = run_with_depth(given)
    (depth,) = run.model.options.values()
    assert repr(depth).lower() == given
    assert run.run_id != load_run(["--model.family=odd"]).run_id


def test_options_that_have_their_defaults_make_no_other_run(folder):
    args = ["-c", "recipe.yaml", "--extensions=[mixer.py, shapes.py, brier.py]"]
    plain = load_run(args)
    assert load_run([*args, "--model.options.residual=true"]).run_id == plain.run_id
    assert (
        load_run([*args, "--model.options={width: 8, depth: 1, residual: true}"]).run_id
        == plain.run_id
    )
    assert load_run([*args, "--model.options.depth=3"]).run_id != plain.run_id
    assert load_run([*args, "--model.options={}"]).model == ModelConfig(family="mixer")


# ---- a model family ------------------------------------------------------------------------------


def test_modules_that_two_arms_share_start_equal_and_by_the_seed(folder):
    register.load(["mixer.py"])
    shallow, deep = (
        build(ModelConfig(family="mixer", options={"depth": depth}), 3, seed=5).state_dict()
        for depth in (1, 3)
    )
    assert shallow.keys() < deep.keys()
    for name, value in shallow.items():
        assert torch.equal(value, deep[name])
    other = build(ModelConfig(family="mixer", options={"depth": 1}), 3, seed=6).state_dict()
    assert not torch.equal(shallow["patches.weight"], other["patches.weight"])
    assert not torch.equal(deep["channels.0.0.weight"], deep["channels.1.0.weight"])


def test_what_torch_draws_elsewhere_changes_no_weights_and_is_not_changed(folder):
    register.load(["mixer.py"])
    config = ModelConfig(family="mixer")
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = build(config, 3).state_dict()
    assert torch.equal(torch.rand(3), expected)
    assert all(
        torch.equal(value, first[name]) for name, value in build(config, 3).state_dict().items()
    )


def test_modules_of_other_kinds_are_drawn_by_their_names_too_or_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = """
class Own(nn.Module):
    def __init__(self, classes, bare):
        super().__init__()
        self.attention = nn.MultiheadAttention(3, 1)
        self.line = nn.Conv1d(3, classes, 1)
        if bare:
            self.place = nn.Parameter(torch.randn(3))
    def forward(self, x):
        return self.line(self.attention(*[x.flatten(2).transpose(1, 2)] * 3)[0].transpose(1, 2)).mean(2)

@xceptlab.register.model("own", version=1)
def own(options, classes):
    assert options is None
    return Own(classes, bare=False)

@xceptlab.register.model("bare", version=1)
def bare(options, classes):
    return Own(classes, bare=True)

@xceptlab.register.model("none", version=1)
def none(options, classes):
    return "a network"
"""
    register.load([module(tmp_path, text)])
    config = ModelConfig(family="own")
    a, b, c = (build(config, 5, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["line.weight"], c["line.weight"])
    assert not torch.equal(a["attention.in_proj_weight"], c["attention.in_proj_weight"])
    with pytest.raises(
        xceptlab.Refused,
        match=r"model.family: Own has parameters of its own; it needs a method reset_parameters",
    ):
        build(ModelConfig(family="bare"), 5)
    with pytest.raises(
        xceptlab.Refused,
        match=r"^model 'none': gives a value of type str; it must give an nn.Module",
    ):
        build(ModelConfig(family="none"), 5)


def test_what_a_family_costs_is_counted(folder):
    register.load(["mixer.py"])
    parameters, macs = cost(ModelConfig(family="mixer", options={"width": 8, "depth": 1}), 3, 16)
    assert parameters == 392 + (80 + 16) + (72 + 16) + 27
    assert macs == 16 * (8 * 48 + 8 * 9 + 8 * 8) + 8 * 3
    flat = "def flat(options, classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(192, classes))\n"
    register.load([module(folder, f"@xceptlab.register.model('flat', version=1)\n{flat}")])
    with pytest.raises(xceptlab.Refused, match="does not fit this network"):
        cost(ModelConfig(family="flat"), 3, 16)


def test_an_arm_that_differs_in_more_options_than_it_declares_is_refused(folder):
    study = yaml.safe_load((folder / "study.yaml").read_text())
    study["arms"] = {
        "one": {"model.options": {"width": 8, "depth": 1}},
        "two": {"model": {"options": {"width": 8, "depth": 2}}},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study | {"claims": []}))
    expansion = expand("study.yaml")
    assert expansion.differences("two") == {"model.options.depth": (1, 2)}
    assert [row.name for row in module_trees(expansion)["two"]].count("places.1.0") == 1
    study["arms"] = {"one": {}, "two": {"model": {"options": {"residual": False}}}}
    (folder / "study.yaml").write_text(yaml.safe_dump(study | {"claims": []}))
    expansion = expand("study.yaml")  # the other options are the recipe's
    assert expansion.differences("two") == {"model.options.residual": (True, False)}
    assert expansion.arms["two"].model.options == {"width": 8, "depth": 1, "residual": False}
    assert expand("study.yaml", ["--model.options.depth=3"]).name != expansion.name
    with pytest.raises(
        xceptlab.Refused, match=r"--model.options.residual: the study study.yaml decides it"
    ):
        expand("study.yaml", ["--model.options.residual=true"])
    study["arms"] = {"one": {"model.options.width": 8}, "two": {"model.family": "xception"}}
    (folder / "study.yaml").write_text(yaml.safe_dump(study | {"claims": []}))
    with pytest.raises(xceptlab.Refused, match=r"model.options"):
        expand("study.yaml")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"deep": 3},
            "model.options.deep: there is no such key; did you mean model.options.depth?",
        ),
        (
            {"depth": "three"},
            "model.options.depth: 'three' is not allowed; it must be a whole number",
        ),
        ({"residual": 1}, "model.options.residual: 1 is not allowed; it must be true or false"),
    ],
)
def test_an_option_that_the_family_does_not_have_is_refused(folder, options, message):
    register.load(["mixer.py"])
    with pytest.raises(xceptlab.Refused, match=re.escape(message)):
        ModelConfig(family="mixer", options=options)
    with pytest.raises(
        xceptlab.Refused,
        match=r"model.options: .* is not allowed; it must be left out: .*xception has none",
    ):
        ModelConfig(options=options)


def test_a_name_that_nothing_has_registered_is_refused_with_those_that_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for override in ("--train.metrics=[brier]", "--train.callbacks=[brier]"):
        with pytest.raises(
            xceptlab.Refused,
            match=r"'brier' is not allowed; it must be what a module of `extensions` registers$",
        ):
            load_run([override])
    activation(tmp_path)
    register.load(["mine.py"])
    with pytest.raises(
        xceptlab.Refused,
        match=r"'yours' is .* must be one of none, .*, mine, or what a module of `extensions` reg",
    ):
        load_run(["--model.intermediate=yours"])


@pytest.mark.parametrize(
    "source", ["--model.options.depth=3", "--model.options={depth: 3}", "file"]
)
def test_options_of_xception_are_refused_with_what_gave_them(folder, source):
    (folder / "options.yaml").write_text("model: {options: {depth: 3}}")
    place = "options.yaml" if source == "file" else "--model.options.depth"
    with pytest.raises(xceptlab.Refused) as error:
        load_run(["-c", "options.yaml"] if source == "file" else [source])
    refusal = "model.options: {depth: 3} is not allowed; it must be left out: xception has none"
    assert str(error.value) == (
        refusal if source == "--model.options={depth: 3}" else f"{place}: {refusal}"
    )


@dataclasses.dataclass
class Nested:
    depth: int = 1


def register_odd(kind, default=None):
    """Register a family with an option ``depth`` of a type."""
    depth = ("depth", kind, dataclasses.field(default_factory=lambda: default))
    options = dataclasses.make_dataclass("Odd", [("width", int, 8), depth], frozen=True)
    register.model("odd", version=1, options=options)(lambda options, classes: None)


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        (Path, r"pathlib\.\w*\.?Path"),
        (list, "list"),
        (dict, "dict"),
        (tuple, "tuple"),
        (Nested, "test_extending.Nested"),
        (list[Path], r"list\[pathlib\.\w*\.?Path\]"),
        (dict[int, int], r"dict\[int, int\]"),
        (Sequence[int], r"collections.abc.Sequence\[int\]"),
        (Annotated[int, "layers"], r"(typing\.)?Annotated\[int, 'layers'\]"),
        (int | Path, r"int \| pathlib\.\w*\.?Path"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"depth": 3}, {"depth": [3]}])
def test_an_option_of_a_type_that_cannot_be_checked_is_refused_whatever_its_value(
    kind, shown, options
):
    register_odd(kind)
    allowed = "it must be int, float, bool, str, None"
    with pytest.raises(
        xceptlab.Refused,
        match=rf"^model\.options\.depth: .* declares it as {shown}, .*not allowed; {allowed}",
    ):
        ModelConfig(family="odd", options=options)


@pytest.mark.parametrize(
    ("kind", "value", "wrong", "allowed"),
    [
        (list[int], [1, 2], [1, "a"], "a list (each a whole number)"),
        (tuple[int, int], (1, 2), [1], "a list of 2 (each a whole number)"),
        (tuple[int, str], (1, "a"), [1, 2], "a list of 2 (a whole number, text)"),
        (dict[str, float], {"a": 1.0}, {"a": "b"}, "a finite number"),
        (Literal["a", "b"] | None, "b", "c", "one of a, b or null"),
        (Literal[1, 2], 1, True, "one of 1, 2"),
        (Annotated[int, Bounds(at_least=1)], 3, 0, "at least 1"),
        (Any, {"a": [1]}, None, ""),
    ],
)
def test_an_option_of_a_type_that_can_be_checked_is_checked(kind, value, wrong, allowed):
    register_odd(kind)
    assert load_run(
        ["--model.family=odd", f"--model.options.depth={json.dumps(value)}"]
    ).model.options == {"depth": value}
    if allowed:
        with pytest.raises(
            xceptlab.Refused, match=rf"model\.options\.depth.*it must be {re.escape(allowed)}"
        ):
            ModelConfig(family="odd", options={"depth": wrong})


def test_an_option_without_a_value_at_the_end_is_refused_as_any_key_is():
    register_odd(int | None, 3)
    with pytest.raises(xceptlab.Refused, match=r"argument --model\.options\.depth: expected one"):
        load_run(["--model.family=odd", "--model.options.depth"])


def run_with_depth(depth):
    """The run of the family of ``register_odd`` with an option as the command line has it."""
    return load_run(["--model.family=odd", f"--model.options.depth={depth}"])


@pytest.mark.parametrize(
    ("kind", "given", "also", "value"),
    [
        (Annotated[float, Bounds(at_least=0)], "1", "1.0", 1.0),
        (float | None, "1", "1.0", 1.0),
        (Literal[0.5, 1.0], "1", "1.0", 1.0),
        (Literal[1, 2], "1.0", "1", 1),
        (list[float], "[1, 2]", "[1.0, 2.0]", [1.0, 2.0]),
        (dict[str, float], "{a: 1}", "{a: 1.0}", {"a": 1.0}),
        (tuple[float, ...], "[1, 2]", "[1.0, 2.0]", (1.0, 2.0)),
        (tuple[float, int], "[1, 2]", "[1.0, 2]", (1.0, 2)),
        (tuple[tuple[int, ...], ...] | None, "[[1], [2]]", "[[1],[2]]", ((1,), (2,))),
    ],
)
def test_equal_options_are_equal_values_and_the_same_run(kind, given, also, value):
    register_odd(kind)
    run = run_with_depth(given)
    (depth,) = run.model.options.values()
    assert repr(depth) == repr(value)
    assert run.run_id == run_with_depth(also).run_id
    assert run.to_dict() == run_with_depth(also).to_dict()
    assert run.science() == json.loads(json.dumps(run.science()))


@pytest.mark.parametrize(
    ("kind", "default", "given"),
    [
        (tuple[int, ...], (2, 3), "[2, 3]"),
        (tuple[tuple[int, int], ...], ((2, 3),), "[[2, 3]]"),
        (list[int], (2, 3), "[2, 3]"),
        (float | None, 1, "1.0"),
    ],
)
def test_a_default_that_is_given_as_yaml_has_it_makes_no_other_run(kind, default, given):
    register_odd(kind, default)
    run = run_with_depth(given)
    assert run.model.options == {}
    assert run.run_id == load_run(["--model.family=odd"]).run_id


def test_numbers_that_a_family_keeps_apart_are_different_runs():
    register_odd(int | float)
    assert run_with_depth("1").run_id != run_with_depth("1.0").run_id


@pytest.mark.parametrize(
    "text",
    [
        "model.options.depth: {a: 1}",
        "model: {options: {depth: {a: 1}}}",
        "model.options: {depth: {a: 1}}",
    ],
)
def test_an_option_that_is_a_mapping_may_stand_in_a_file_however_it_is_nested(folder, text):
    register_odd(dict[str, int], {})
    (folder / "odd.yaml").write_text(f"model.family: odd\n{text}")
    assert load_run(["-c", "odd.yaml"]).model.options == {"depth": {"a": 1}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"timm": "resnet18"},
            "model.family: 'mixer' is not allowed; it must be xception, or left out, with model.timm",
        ),
        (
            {"weights": "a.safetensors"},
            "model.weights: 'a.safetensors' is not allowed; it must be left out with model.family",
        ),
    ],
)
def test_what_only_other_networks_can_do_is_refused(folder, changes, message):
    register.load(["mixer.py"])
    with pytest.raises(xceptlab.Refused, match=re.escape(message)):
        ModelConfig(family="mixer", **changes)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))", "LazyLinear '1' has no shape before"),
        ("nn.LazyBatchNorm2d(affine=False)", "LazyBatchNorm2d has no shape before its first batch"),
        ("Noted(3, classes)", "its state has _extra_state, which is no tensor"),
    ],
)  # fmt: skip
def test_a_network_whose_weights_cannot_be_drawn_or_saved_is_one_line(
    tmp_path, monkeypatch, capsys, layer, message
):
    monkeypatch.chdir(tmp_path)
    text = f"""
class Noted(nn.Linear):
    def get_extra_state(self):
        return {{"notes": []}}

@xceptlab.register.model("bad", version=1)
def bad(options, classes):
    return {layer}
"""
    assert main(["describe", "--extensions", module(tmp_path, text), "--model.family=bad"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"xceptlab: model 'bad': {message}")


# ---- what a function gives ------------------------------------------------------------------------

CHECKPOINTS = "a value of type ModelCheckpoint; it must give no callback that writes checkpoints"


@pytest.mark.parametrize(
    ("kind", "use", "given", "message"),
    [
        ("metric", "train.metrics=[bad]", "0.5", "a value of type float; it must give a tensor (B"),
        ("metric", "train.metrics=[bad]", "given[0].numpy()", "a value of type ndarray; it must"),
        ("metric", "train.metrics=[bad]", "None", "None; it must give a tensor (B,) of a value"),
        ("optimizer", "train.optimizer=bad", "None", "None; it must give a torch.optim.Optimizer"),
        ("optimizer", "train.optimizer=bad", "1", "a value of type int; it must give a torch.opt"),
        ("schedule", "train.schedule=bad", "None", "None; it must give a number"),
        ("schedule", "train.schedule=bad", "'1'", "a value of type str; it must give a number"),
        ("schedule", "train.schedule=bad", "float('nan')", "nan; it must give a factor of 0 or more"),
        ("schedule", "train.schedule=bad", "-1.0", "-1; it must give a factor of 0 or more"),
        ("callback", "train.callbacks=[bad]", "None", "None; it must give a Lightning Callback"),
        ("callback", "train.callbacks=[bad]", "[1]", "a value of type list; it must give a Light"),
        ("callback", "train.callbacks=[bad]", "callbacks.ModelCheckpoint()", CHECKPOINTS),
        ("activation", "model.intermediate=bad", "None", "None; it must give an nn.Module"),
        ("activation", "model.intermediate=bad", "torch.tanh", "a value of type builtin_function"),
        ("activation", "model.intermediate=bad", "SHARED", "a value of type PReLU; it must give a "
         "new module with each call"),
    ],
)  # fmt: skip
def test_what_a_function_must_not_give_is_one_line_that_names_it(
    tmp_path, monkeypatch, capsys, kind, use, given, message
):
    monkeypatch.chdir(tmp_path)
    text = f"""
from pytorch_lightning import callbacks

SHARED = nn.PReLU()

@xceptlab.register.{kind}("bad", version=1)
def bad(*given):
    return {given}
"""
    args = [*TINY, "--extensions", module(tmp_path, text), f"--{use}"]
    assert main(["train", *args, f"--runtime.outputs={tmp_path / 'outputs'}"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"xceptlab: {kind} 'bad': gives {message}")


@pytest.mark.parametrize(
    ("about", "given", "message"),
    [
        ("", "100.0 * (given[0].argmax(1) != given[1]).float()", "metric 'wrong': gives 100 for an im"),
        (", guessing=lambda classes: 1 - 1 / classes", "(given[0].argmax(1) != given[1]).float()",
         "register.metric('wrong'): guessing gives 0.5 with 2 classes; it must"),
    ],
)  # fmt: skip
def test_a_metric_in_percent_gives_shares_and_is_guessed_in_percent(
    tmp_path, monkeypatch, capsys, about, given, message
):
    monkeypatch.chdir(tmp_path)
    text = f"""
@xceptlab.register.metric("wrong", version=1, unit="%", lower_is_better=True{about})
def wrong(*given):
    return {given}
"""
    args = [*TINY, "--extensions", module(tmp_path, text), "--train.metrics=[wrong]"]
    assert main(["train", *args, f"--runtime.outputs={tmp_path / 'outputs'}"]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_report_tells_a_registered_optimizer_and_schedule_by_their_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = """
@xceptlab.register.optimizer("mine", version=1)
def mine(groups, train):
    return torch.optim.SGD(groups, lr=train.lr)

@xceptlab.register.schedule("halved", version=1)
def halved(part, train):
    return 0.5
"""
    file = module(tmp_path, text)
    train = {"epochs": 1, "optimizer": "mine", "schedule": "halved"}
    Path("base.yaml").write_text(yaml.safe_dump({"train": train, "data": {"train_images": 100}}))
    arms = {"one": {}, "two": {"model.residual": "none"}}
    base = [*map(str, DIGITS[1::2]), "base.yaml"]
    write_study([file], arms, base=base, claims=[CLAIM | {"contrast": ["one", "two"]}])
    assert main(["study", "study.yaml", *QUICK]) == 0
    report = next(Path("outputs/studies").glob("*/report.md")).read_text()
    assert "| optimizer | mine |" in report
    assert re.search(r"\| learning rate \| [\d.]+, halved", report)


@pytest.mark.parametrize("code", [0, 3])
def test_an_exit_of_the_users_code_is_no_exit_code_of_ours(tmp_path, monkeypatch, capsys, code):
    monkeypatch.chdir(tmp_path)
    file = module(tmp_path, FORWARD.format(line=f"raise SystemExit({code})"))
    args = [*TINY, "--extensions", file, "--model.family=bad"]
    assert main(["train", *args, f"--runtime.outputs={tmp_path / 'outputs'}"]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert re.match(rf"xceptlab: model 'bad': .*mine.py: line \d+: SystemExit: {code}$", told)


def test_a_callback_that_lightning_finds_impossible_is_refused_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = """
from pytorch_lightning.callbacks import BatchSizeFinder

@xceptlab.register.callback("finder", version=1)
def finder(config):
    return BatchSizeFinder()
"""
    args = [*TINY, "--extensions", module(tmp_path, text), "--train.callbacks=[finder]"]
    config = load_run([*args, f"--runtime.outputs={tmp_path / 'outputs'}"])
    with pytest.raises(xceptlab.Refused, match=r"^train.callbacks: finder: .*batch_size"):
        train(config, progress=False, quiet=True)


# ---- what the code of a user raises --------------------------------------------------------------

FORWARD = """
class Bad(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.classifier = nn.Linear(4, classes)
    def forward(self, x):
        {line}
@xceptlab.register.model("bad", version=1)
def bad(options, classes):
    return Bad(classes)
"""
FUNCTION = """
@xceptlab.register.{kind}("bad", version=1{about})
def bad(*given):
    {line}
"""


@pytest.mark.parametrize(
    ("kind", "use", "line", "message"),
    [
        ("model", "model.family=bad", "return nn.Linear('a', 3)", "TypeError: "),
        ("activation", "model.intermediate=bad", "raise KeyError('x')", "KeyError: 'x'"),
        ("optimizer", "train.optimizer=bad", "return torch.optim.SGD(given[0], lr=-1)", "ValueError: "),
        ("schedule", "train.schedule=bad", "return 1 / 0", "ZeroDivisionError: division by zero"),
        ("metric", "train.metrics=[bad]", "return given[0] @ given[0]", "RuntimeError: "),
        ("callback", "train.callbacks=[bad]", "assert not given", "AssertionError:"),
        ("data", "data.name=bad", "return int('x')", "ValueError: invalid literal"),
    ],
)  # fmt: skip
def test_an_error_that_a_function_raises_is_one_line_that_names_its_own(
    tmp_path, monkeypatch, capsys, kind, use, line, message
):
    monkeypatch.chdir(tmp_path)
    about = ", classes=3" if kind == "data" else ""
    file = module(tmp_path, FUNCTION.format(kind=kind, about=about, line=line))
    args = [*TINY, "--extensions", file, f"--{use}", f"--runtime.outputs={tmp_path / 'outputs'}"]
    assert main(["train", *args]) == 2
    at = number_of(line, tmp_path / file)
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith(
        f"xceptlab: {kind} 'bad': {(tmp_path / file).resolve()}: line {at}: {message}"
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("return self.clasifier(x)", "AttributeError: 'Bad' object has no attribute 'clasifier'"),
        ("return self.classifier(x.mean((2, 3)))", "RuntimeError: "),
        ("assert x.shape[1] == 4, 'four channels'", "AssertionError: four channels"),
    ],
)
def test_an_error_that_no_size_of_images_mends_names_the_line_of_the_network(
    tmp_path, monkeypatch, capsys, line, message
):
    monkeypatch.chdir(tmp_path)
    file = module(tmp_path, FORWARD.format(line=line))
    assert main(["describe", "--extensions", file, "--model.family=bad"]) == 2
    at = number_of(line, tmp_path / file)
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith(
        f"xceptlab: model 'bad': {(tmp_path / file).resolve()}: line {at}: {message}"
    )


ONLY_LARGE = """
class Bad(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.classifier = nn.Linear(3, classes)
    def forward(self, x):
        if x.shape[-1] > 16:
            {line}
        return self.classifier(x.mean((2, 3)))
@xceptlab.register.model("bad", version=1)
def bad(options, classes):
    return Bad(classes)
"""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("return self.oops(x)", "model 'bad': {file}: line {at}: AttributeError: "),
        (
            "assert False, 'too large'",
            "data.size: 64 does not fit this network (too large); the sm",
        ),
        ("open('/nowhere/weights')", "/nowhere/weights: No such file or directory"),
        ("raise xceptlab.Refused('my own words')", "my own words"),
    ],
)
def test_the_size_of_images_is_blamed_for_errors_about_it_only(
    tmp_path, monkeypatch, capsys, line, message
):
    monkeypatch.chdir(tmp_path)
    file = module(tmp_path, ONLY_LARGE.format(line=line))
    args = ["--extensions", file, "--model.family=bad", "--data.size=64"]
    assert main(["describe", *args]) == 2
    at = number_of(line, tmp_path / file)
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("xceptlab: " + message.format(file=(tmp_path / file).resolve(), at=at))


def test_the_line_is_named_also_of_a_module_that_is_found_by_a_link(tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    module(tmp_path / "there", FORWARD.format(line="return self.clasifier(x)"), "linked_one.py")
    (tmp_path / "link").symlink_to("there")
    monkeypatch.syspath_prepend(tmp_path / "link")
    register.load(["linked_one"])
    with pytest.raises(
        xceptlab.Refused, match=r"^model 'bad': .*there/linked_one.py: line \d+: Attr"
    ):
        cost(ModelConfig(family="bad"), 3, 16)


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"),
                                   RuntimeError("CUDA error: an illegal memory access")])  # fmt: skip
def test_an_error_of_the_device_is_not_the_functions_that_ran_then(error):
    def raising(*given):
        raise error

    entry = register.Entry(kind="metric", name="innocent", version=1, make=raising)
    with pytest.raises(type(error)) as raised:
        entry.call()
    assert raised.value is error


def test_a_data_set_that_gives_something_else_than_two_pairs_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = FUNCTION.format(kind="data", about=", classes=3", line="return 1, 2, 3")
    args = ["--extensions", module(tmp_path, text), "--data.name=bad", "--data.crop=none"]
    config = load_run(args)
    with pytest.raises(
        xceptlab.Refused, match=r"^data 'bad': gives a value of type tuple; it must"
    ):
        data_set("bad").load(config.data)


def test_options_that_are_no_class_are_refused_at_once():
    @dataclasses.dataclass(frozen=True)
    class Wide:
        width: int = 8

    with pytest.raises(xceptlab.Refused, match="options must be a dataclass"):
        register.model("wide", version=1, options=Wide())


def test_an_option_of_any_value_in_a_list_of_fixed_length_is_refused_in_words():
    register_odd(tuple[Any, int])
    with pytest.raises(
        xceptlab.Refused, match=r"it must be a list of 2 \(any value, a whole number\)"
    ):
        ModelConfig(family="odd", options={"depth": [1, 2, 3]})


def test_a_network_that_does_not_call_its_classifier_has_no_features():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.classifier = nn.Linear(3, 2)

        def forward(self, x):
            return x.mean((2, 3)) @ self.classifier.weight.T

    with pytest.raises(xceptlab.Refused, match="Odd does not call its classifier"):
        features(Odd(), torch.ones(1, 3, 4, 4))


def test_what_the_options_of_a_family_raise_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = """
import dataclasses

@dataclasses.dataclass(frozen=True)
class Wide:
    width: int = 8
    def __post_init__(self):
        if self.width % 8:
            raise ValueError("width must be a multiple of 8")

@xceptlab.register.model("wide", version=1, options=Wide)
def wide(options, classes):
    return nn.Linear(options.width, classes)
"""
    args = ["--extensions", module(tmp_path, text), "--model.family=wide"]
    with pytest.raises(xceptlab.Refused, match=r"model\.options: width must be a multiple of 8"):
        load_run([*args, "--model.options.width=9"])


# ---- what a network keeps ------------------------------------------------------------------------

STATEFUL = """
class Kept(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.classifier = nn.Linear(3, classes)
        {init}
    def forward(self, x):
        x = x.mean((2, 3))
        if self.training:
            {update}
        return self.classifier(x - self.{name})

@xceptlab.register.model("kept", version=1)
def kept(options, classes):
    return Kept(classes)
"""


def stateful(folder, init, update, name="shift"):
    return module(folder, STATEFUL.format(init=init, update=update, name=name))


KEPT = [*DIGITS[2:], "--model.family=kept", "--data.train_images=300", "--data.test_images=101",
        "--data.size=8", "--train.epochs=2", "--train.precision=32-true", *QUICK]  # fmt: skip
MOVES = "self.shift = 0.9 * self.shift + x.detach().mean(0)"


@pytest.mark.parametrize(
    ("init", "update"),
    [
        ("self.shift = torch.zeros(3)", MOVES),
        ("self.register_buffer('shift', torch.zeros(3), persistent=False)", MOVES),
        ("self.shift = 0", "self.shift += 1"),
        ("self.shift = torch.rand(3)", "pass"),
    ],
)
def test_a_run_whose_weights_are_not_all_of_its_network_is_refused_also_when_tried_again(
    tmp_path, monkeypatch, capsys, init, update
):
    monkeypatch.chdir(tmp_path)
    args = [*KEPT, "--extensions", stateful(tmp_path, init, update)]
    args += [f"--runtime.outputs={tmp_path / 'outputs'}"]
    for _ in range(2):
        assert main(["train", *args]) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith("xceptlab: model kept: the network keeps state outside of its param")
        assert "register_buffer" in line
        config = load_run(args)
        directory = RunDirectory.of(config.runtime.outputs, config.run_id)
        assert directory.record() is None
        assert not (directory.path / "model.safetensors").exists()


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed"])
def test_a_network_that_keeps_its_state_in_buffers_is_recorded_and_evaluated_alike(
    tmp_path, monkeypatch, precision
):
    monkeypatch.chdir(tmp_path)
    init = "self.register_buffer('shift', torch.zeros(3))"
    args = [*KEPT, "--extensions", stateful(tmp_path, init, MOVES), "--train.ema=0.9"]
    config = load_run(
        [*args, f"--runtime.outputs={tmp_path / 'outputs'}", f"--train.precision={precision}"]
    )
    record = train(config, progress=False, quiet=True)
    file = RunDirectory.of(config.runtime.outputs, config.run_id).path / "model.safetensors"
    scores = evaluate(config, file, "test")
    # `evaluate` rounds weights of 64 bits to 32
    assert scores["test/loss"] == pytest.approx(record.metrics["test/loss"], rel=1e-6)


def test_a_network_with_tied_weights_is_recorded_evaluated_and_exported_alike(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    text = """
class Tied(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.block = nn.Conv2d(3, 3, 3, padding=1)
        self.again = self.block
        self.other = nn.Conv2d(3, 3, 3, padding=1)
        self.other.weight = self.block.weight
        self.classifier = nn.Linear(3, classes)
    def forward(self, x):
        return self.classifier(self.other(self.again(self.block(x))).mean((2, 3)))

@xceptlab.register.model("kept", version=1)
def kept(options, classes):
    return Tied(classes)
"""
    args = [*KEPT, "--extensions", module(tmp_path, text), "--train.ema=0.9"]
    config = load_run([*args, f"--runtime.outputs={tmp_path / 'outputs'}"])
    record = train(config, progress=False, quiet=True)
    run = RunDirectory.of(config.runtime.outputs, config.run_id).path
    assert evaluate(config, run / "model.safetensors", "test") == {
        name: value for name, value in record.metrics.items() if name.startswith("test/")
    }
    state = xceptlab.Run(run).network.state_dict()
    assert torch.equal(state["block.weight"], state["other.weight"])
    assert torch.equal(state["block.bias"], state["again.bias"])
    assert record.parameters == (81 + 3) + 3 + (30 + 10)
    assert main(["export", str(run), "tied.pt2"]) == 0


def test_state_that_a_registered_activation_keeps_is_found_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = """
class Counting(nn.Module):
    calls = 0
    def forward(self, x):
        self.calls += self.training
        return x * (1 + self.calls)

@xceptlab.register.activation("counting", version=1)
def counting():
    return Counting()
"""
    args = [*TINY, "--extensions", module(tmp_path, text), "--model.intermediate=counting"]
    config = load_run([*args, f"--runtime.outputs={tmp_path / 'outputs'}"])
    with pytest.raises(xceptlab.Refused, match=r"^activation counting: the network keeps state"):
        train(config, progress=False, quiet=True)


# ---- a data set ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (
            "np.zeros((4, 8, 8, 3))",
            "[0, 1, 0, 1]",
            "the training images are float64 of shape (4, 8, 8, 3); they must be uint8 of",
        ),
        (
            "np.zeros((4, 9, 8, 3), np.uint8)",
            "[0, 1, 0, 1]",
            "they must be uint8 of shape (n, 8, 8, 3)",
        ),
        (
            "np.zeros((4, 8, 8, 3), np.uint8)",
            "[0, 1, 2, 1]",
            "labels must be 4 whole numbers from 0 to 1, one for each image",
        ),
        (
            "np.zeros((4, 8, 8, 3), np.uint8)",
            "[0, 1]",
            "labels must be 4 whole numbers from 0 to 1, one for each image",
        ),
    ],
)
def test_images_that_are_none_are_refused(tmp_path, monkeypatch, images, labels, message):
    monkeypatch.chdir(tmp_path)
    made = f"def bad(root, size):\n    return [({images}, {labels})] * 2\n"
    text = f"import numpy as np\n@xceptlab.register.data('bad', version=1, classes=2)\n{made}"
    register.load([module(tmp_path, text)])
    from xceptlab.data import splits

    with pytest.raises(xceptlab.Refused, match=re.escape(message)):
        splits(DataConfig(name="bad", size=8, crop="none"))


@pytest.mark.parametrize(
    ("registered", "message"),
    [
        ("(5, 0)", "data.name: few: there are 4 training images; it is registered with 5"),
        ("(0, 3)", "data.name: few: there are 4 test images; it is registered with 3"),
    ],
)
def test_other_numbers_of_images_than_are_registered_are_refused(
    tmp_path, monkeypatch, registered, message
):
    monkeypatch.chdir(tmp_path)
    text = f"""
import numpy as np
@xceptlab.register.data("few", version=1, classes=2, images={registered})
def few(root, size):
    return [(np.zeros((4, size, size, 3), np.uint8), np.array([0, 1, 0, 1]))] * 2
"""
    register.load([module(tmp_path, text)])
    from xceptlab.data import splits

    with pytest.raises(xceptlab.Refused, match=re.escape(message)):
        splits(DataConfig(name="few", size=8, crop="none"))


def test_a_training_that_a_callback_ends_early_is_said_by_the_run_and_in_the_report(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    text = """
import pytorch_lightning as pl
@xceptlab.register.callback("early", version=1)
def early(config):
    return Early()
class Early(pl.Callback):
    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.global_step >= 3
"""
    arms = {"a": {"train.lr": 0.1}, "b": {"train.lr": 0.2}}
    claims = [CLAIM | {"margin": 0}]
    write_study([module(tmp_path, text)], arms, seeds=[0, 1, 2], claims=claims)
    assert main(["study", "study.yaml", *TINY, "--train.callbacks=[early]"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    log = next(Path("outputs/runs").glob("*/log.txt")).read_text()
    steps = re.search(r"made 3 of (\d+) optimizer steps; a callback ended it", log)[1]
    assert (
        f"3 of {steps}, as a callback ended the training or gathered batches: a seed 0," in printed
    )


def lines_of(run):
    return RunDirectory.of(run.runtime.outputs, run.run_id).log()


@pytest.mark.parametrize(
    ("make", "steps"),
    [
        (lambda config: GradientAccumulationScheduler({0: 2}), 3),
        (lambda config: GradientAccumulationScheduler({0: 100}), 1),
        (lambda config: StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1), 5),
    ],
)
def test_a_callback_of_lightnings_has_every_step_in_the_log(make, steps, tiny):
    register.callback("theirs", version=1)(make)
    run = tiny("--train.callbacks=[theirs]", "--train.batch_size=64")
    train(run, progress=False)
    lines = [line for line in lines_of(run) if "train/loss" in line]
    assert [line["step"] for line in lines] == list(range(1, 2 * steps + 1))
    assert all(0 <= line["train/top1"] <= 100 for line in lines)
    assert all(1 < line["train/loss"] < 4 for line in lines)
    assert [line["epoch"] for line in lines][steps - 1 :: steps] == [1.0, 2.0]


def test_a_training_that_a_callback_ends_between_two_lines_of_the_log_is_finished(tiny):
    register.callback("early", version=1)(lambda config: Early())
    run = tiny("--train.callbacks=[early]", "--runtime.log_every=100")
    train(run, progress=False)
    assert [line["step"] for line in lines_of(run) if "train/loss" in line] == [3]


class Early(pl.Callback):
    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.global_step >= 3


@pytest.mark.parametrize("ema", [0, 0.9])
def test_a_training_that_a_callback_has_ended_is_not_trained_further_after_an_interruption(
    tiny, tmp_path, monkeypatch, ema
):
    register.callback("early", version=1)(
        lambda config: EarlyStopping("val/top1", patience=1, mode="min")
    )
    options = ("--train.callbacks=[early]", "--train.epochs=6", f"--train.ema={ema}")
    whole, halved = tiny(*options), tiny(*options, f"--runtime.outputs={tmp_path / 'halved'}")
    train(whole, progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(Task, "test_step", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(halved, progress=False)
    train(halved, progress=False)
    weights = [
        RunDirectory.of(run.runtime.outputs, run.run_id).path / "model.safetensors"
        for run in (whole, halved)
    ]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert lines_of(whole)[-1]["step"] < 6 * 5
    keys = ("step", "epoch", "test/loss")
    assert [lines_of(whole)[-1][key] for key in keys] == [lines_of(halved)[-1][key] for key in keys]


def test_a_module_that_changed_after_it_was_loaded_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = activation(tmp_path)
    options = [f"--extensions=[{name}]", "--model.intermediate=mine"]
    load_run(options)
    load_run(options)
    (tmp_path / name).write_text((tmp_path / name).read_text().replace("version=1", "version=2"))
    with pytest.raises(xceptlab.Refused, match="has changed since this process loaded it"):
        load_run(options)
    (tmp_path / name).unlink()
    load_run(options)


def test_a_module_of_which_nothing_is_used_is_pointed_out(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    used, unused = activation(tmp_path), activation(tmp_path, name="other.py")
    (tmp_path / unused).write_text((tmp_path / unused).read_text().replace("mine", "spare"))
    arms = {"a": {}, "b": {"model.intermediate": "mine"}}
    write_study([used, unused], arms)
    assert main(["plan", "study.yaml", *TINY]) == 0
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if "extensions" in line]
    assert warning.endswith("other.py: registers activation spare, and nothing of it is used")
    assert main(["train", *TINY, f"--extensions=[{used}]"]) == 0
    assert "registers activation mine, and nothing of it is used" in capsys.readouterr().err
    # Another arm of a study may use what this one does not.
    extensions = f"--extensions=[{used}]"
    assert (
        main(["train", *TINY, extensions, "--seed=1", "--runtime.study=s", "--runtime.arm=a"]) == 0
    )
    assert "nothing of it is used" not in capsys.readouterr().err


def test_a_component_that_only_tuning_names_is_used(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = """
@xceptlab.register.optimizer("plain", version=1)
def plain(groups, train):
    return torch.optim.SGD(groups, lr=train.lr)
"""
    arms = {"a": {"model.residual": "all"}, "b": {"model.residual": "none"}}
    tune = {"keys": {"train.optimizer": ["sgd", "plain"]}, "select": "val/loss"}
    write_study([module(tmp_path, text)], arms, tune=tune)
    assert main(["plan", "study.yaml", *TINY]) == 0
    assert "nothing of it is used" not in capsys.readouterr().err


def test_parameters_that_an_optimizer_is_not_given_are_pointed_out(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = """
@xceptlab.register.optimizer("careless", version=1)
def careless(groups, train):
    return torch.optim.SGD(groups[0]["params"][2:], lr=train.lr)
"""
    extensions = f"--extensions=[{module(tmp_path, text)}]"
    assert main(["train", *TINY, extensions, "--train.optimizer=careless"]) == 0
    said = capsys.readouterr().err
    assert "careless has not been given 2 parameters of the network, which stay as they are" in said
    assert main(["train", *TINY, extensions, "--train.optimizer=sgd"]) == 0
    assert "has not been given" not in capsys.readouterr().err


def test_a_registered_data_set_is_split_as_any_other(folder):
    from xceptlab.data import splits

    register.load(["shapes.py"])
    config = DataConfig(name="shapes", size=16, crop="pad", validation=0.1, test_images=60)
    assert config.classes == 3
    assert config.images() == (270, 30, 60)
    found = splits(config)
    assert [len(members) for _, members in found.values()] == [270, 30, 60]
    with pytest.raises(
        xceptlab.Refused,
        match=r"data.crop: 'resized' is not allowed; it must be one of none, pad for shapes",
    ):
        DataConfig(name="shapes", size=16)
    with pytest.raises(
        xceptlab.Refused, match=r"data.num_classes: 4 is not allowed; it must be 0 or 3 for shapes"
    ):
        DataConfig(name="shapes", size=16, crop="none", num_classes=4)


# ---- names and modules ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "there"),
    [
        ("model.intermediate", "none, relu, elu"),
        ("model.family", "xception"),
        ("data.name", "digits, cifar10, cifar100, imagenet, folder"),
        ("train.optimizer", "sgd, rmsprop, adamw"),
        ("train.schedule", "constant, exponential, cosine"),
    ],
)
def test_a_name_that_is_not_registered_is_refused_with_those_that_are(
    tmp_path, monkeypatch, capsys, key, there
):
    monkeypatch.chdir(tmp_path)
    activation(tmp_path)
    assert main(["train", "--extensions=mine.py", f"--{key}=nobody"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"xceptlab: {key}: 'nobody' is not allowed; it must be one of {there}")
    assert ("mine" in line.split(", or ")[0]) == (key == "model.intermediate")
    assert main(["train", "--train.callbacks=[nobody]"]) == 2
    assert "train.callbacks: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "extensions: .*mine.py: no such file"),
        ("1 / 0\n", "extensions: .*mine.py: line 4: ZeroDivisionError: division by zero"),
        ("def\n", "extensions: .*mine.py: line 4: SyntaxError: invalid syntax"),
        ("import sys\nsys.exit(0)\n", "extensions: .*mine.py: line 5: SystemExit: 0"),
        ("exit('enough')\n", "extensions: .*mine.py: line 4: SystemExit: enough"),
        (
            "xceptlab.register.activation('a b', version=1)\n",
            r"mine.py: register.activation\('a b'\): a name is made of letters",
        ),
        (
            "xceptlab.register.activation('a', version=0)\n",
            r"register.activation\('a'\): the version 0 is not allowed",
        ),
        (
            "xceptlab.register.model('a', version=1, options=int)\n",
            r"register.model\('a'\): options must be a dataclass",
        ),
    ],
)
def test_a_module_that_cannot_be_used_is_one_line(tmp_path, monkeypatch, capsys, text, message):
    monkeypatch.chdir(tmp_path)
    if text:
        module(tmp_path, text)
    assert main(["train", "--extensions=mine.py"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line)


def test_a_name_that_two_modules_register_is_refused_and_one_module_may_be_named_twice(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for name in ("mine.py", "yours.py"):
        activation(tmp_path, name=name)
    load_run(["--extensions=[mine.py, ./mine.py]"])
    with pytest.raises(
        xceptlab.Refused,
        match=r"yours.py: register.activation\('mine'\): .*mine.py and .*yours.py both register",
    ):
        load_run(["--extensions=yours.py"])


def test_a_file_that_was_imported_may_be_named_too_and_the_other_way_round(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name, first, then in (
        ("first", importlib.import_module, lambda name: load_run([f"--extensions={name}.py"])),
        ("second", lambda name: load_run([f"--extensions={name}.py"]), importlib.import_module),
    ):
        module(
            tmp_path,
            f"@xceptlab.register.callback('{name}', version=1)\ndef make(run): ...\n",
            f"{name}.py",
        )
        first(name)
        registered = register.entry("callback", name)
        then(name)
        assert register.entry("callback", name) is registered
        del sys.modules[name]


def test_a_file_that_has_changed_since_it_was_imported_is_not_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    activation(tmp_path, name="edited.py")
    importlib.import_module("edited")
    (tmp_path / "edited.py").open("a").write("scale = 2\n")
    with pytest.raises(
        xceptlab.Refused, match=r"edited.py has changed since this process loaded it; start a new"
    ) as refused:
        load_run(["--extensions=edited.py"])
    assert "\n" not in str(refused.value)
    del sys.modules["edited"]


def test_a_file_that_registers_one_name_twice_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    once = "@xceptlab.register.callback('mine', version=1)\ndef make{}(run): ...\n"
    module(tmp_path, once.format(1) + once.format(2))
    with pytest.raises(xceptlab.Refused, match=r"mine.py and .*mine.py both register it"):
        load_run(["--extensions=mine.py"])


def test_two_functions_of_one_name_may_not_register_one_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    once = "@xceptlab.register.callback('mine', version=1)\ndef make(run): ...\n"
    module(tmp_path, once + once)
    with pytest.raises(
        xceptlab.Refused, match=r"mine.py registers it in line 4 and in line 6; rename one of them"
    ):
        load_run(["--extensions=mine.py"])


def test_a_module_is_executed_once_and_found_beside_the_file_that_names_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beside").mkdir()
    activation(tmp_path / "beside")
    (tmp_path / "beside" / "mine.py").open("a").write("open('executed', 'a').write('x')\n")
    (tmp_path / "beside" / "a.yaml").write_text(
        "{extensions: mine.py, model: {intermediate: mine}}"
    )
    (tmp_path / "b.yaml").write_text("{extensions: [json], train: {epochs: 3}}")
    for _ in range(2):
        config = load_run(["-c", "beside/a.yaml", "-c", "b.yaml"])
    assert config.extensions == (str(tmp_path / "beside" / "mine.py"), "json")
    assert (tmp_path / "executed").read_text() == "x"
    assert xceptlab.configure("beside/a.yaml").model.intermediate == "mine"
    assert (
        xceptlab.configure(
            {"extensions": ["beside/mine.py"], "model.intermediate": "mine"}
        ).model.intermediate
        == "mine"
    )


def test_the_folder_of_a_run_names_no_code_to_be_executed(folder, capsys):
    config = load_run([*TINY, "-c", "varied.yaml", f"--runtime.outputs={folder / 'outputs'}"])
    train(config, progress=False, quiet=True)
    run = RunDirectory.of(config.runtime.outputs, config.run_id).path
    text = (run / "config.yaml").read_text()
    assert "extensions" not in yaml.safe_load(text)
    assert "--extensions=" in text.splitlines()[0]
    register._entries.clear()
    register._loaded.clear()
    for command in (["evaluate", str(run)], ["describe", str(run)], ["export", str(run), "a.onnx"]):
        assert main(command) == 2
        assert "model.intermediate: 'squash' is not allowed" in capsys.readouterr().err
    with pytest.raises(xceptlab.Refused, match="'squash' is not allowed"):
        xceptlab.Run(run)
    (run / "config.yaml").write_text(f"extensions: [{folder / 'squash.py'}]\n{text}")
    for command in (["evaluate", str(run)], ["describe", str(run)], ["export", str(run), "a.onnx"]):
        assert main(command) == 2
        assert "a run's folder may not, as they are executed" in capsys.readouterr().err
    assert register.names("activation") == []
    (run / "config.yaml").write_text(text)
    assert main(["describe", str(run), "--extensions=[squash.py, training.py, noise.py]"]) == 0
    assert main(["evaluate", str(run)]) == 0  # this process has loaded them
    register._entries.clear()
    register._loaded.clear()
    (folder / "squash.py").write_text(
        (folder / "squash.py").read_text().replace("version=1", "version=2")
    )
    with pytest.raises(
        xceptlab.Refused, match="trained with version 1 of activation squash; here it is version 2"
    ):
        xceptlab.Run(run, extensions=["squash.py", "training.py", "noise.py"])


def test_an_installed_package_is_found_by_its_entry_point(tmp_path, monkeypatch):
    (tmp_path / "installed").mkdir()
    activation(tmp_path / "installed", name="offered.py")
    monkeypatch.syspath_prepend(tmp_path / "installed")
    point = SimpleNamespace(value="offered:anything")
    monkeypatch.setattr(
        register.importlib.metadata,
        "entry_points",
        lambda group: [point] if group == "xceptlab" else [],
    )
    assert load_run(["--model.intermediate=mine"]).science()["extensions"] == {"activation mine": 1}


def test_a_broken_installed_package_is_told_each_time_and_hides_no_other(tmp_path, monkeypatch):
    activation(tmp_path, name="sound.py")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    points = [SimpleNamespace(value=f"{name}:x") for name in ("broken", "sound")]
    monkeypatch.setattr(register.importlib.metadata, "entry_points", lambda group: points)
    for _ in range(2):
        with pytest.raises(xceptlab.Refused, match=r"broken: .*ZeroDivisionError"):
            register.find("activation", "mine")
    del points[0]
    assert register.find("activation", "mine")


def test_what_a_notebook_registers_is_used_in_its_process():
    @register.activation("of_a_cell", version=1)
    def of_a_cell():
        return nn.Tanh()

    config = xceptlab.configure({"model.intermediate": "of_a_cell"})
    assert any(isinstance(module, nn.Tanh) for module in build(config.model, 10).modules())
    assert (
        RunConfig(model=ModelConfig(intermediate="of_a_cell")).run_id == config.run_id
        if config.data.identity_is_known
        else True
    )


def test_a_partial_may_be_registered_again_and_is_not_another_one(monkeypatch):
    monkeypatch.setattr(register, "_entries", {})
    for _ in range(2):
        register.activation("leaky", version=1)(functools.partial(nn.LeakyReLU, 0.1))
    assert register.entry("activation", "leaky").make().negative_slope == 0.1
    with pytest.raises(xceptlab.Refused, match=r"register.activation\('leaky'\): .* both register"):
        register.activation("leaky", version=1)(functools.partial(nn.LeakyReLU, 0.5))


def test_a_notebooks_cell_may_be_edited_and_run_again(monkeypatch):
    notebook = ModuleType("notebook")
    monkeypatch.setitem(sys.modules, "notebook", notebook)
    cell = "@xceptlab.register.activation('edited', version=1)\ndef make(): return {}\n"
    for lines_before, value in ((0, 1), (3, 2)):
        exec("import xceptlab\n" + "\n" * lines_before + cell.format(value), vars(notebook))
    assert register.entry("activation", "edited").make() == 2


def test_the_file_of_a_run_tells_that_no_module_registers_what_it_uses(monkeypatch):
    monkeypatch.setattr(register, "_entries", {})
    register.activation("of_a_cell", version=1)(nn.Tanh)
    text = dump_run(xceptlab.configure({"model.intermediate": "of_a_cell"}))
    assert text.splitlines()[0] == (
        "# Uses activation of_a_cell 1 from outside; registered by an installed package or in the process, and by no module "
        "of extensions"
    )


def test_a_study_names_its_modules_and_its_runs_are_told_of_them(folder):
    expansion = expand("study.yaml")
    assert {Path(name).name for name in expansion.arms["plain"].extensions} == {
        "mixer.py",
        "shapes.py",
        "brier.py",
    }
    from xceptlab.launch.launcher import Job

    config = expansion.run("plain", 0)
    argv = Job(config).write_config()
    register._entries.clear()
    register._loaded.clear()
    assert load_run(argv[1:]).run_id == config.run_id


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        (
            lambda logits, labels: logits.mean(),
            r"gives values of shape \(\) for 4 images; it must give one for each",
        ),
        (lambda logits, labels: logits, r"gives values of shape \(4, 3\) for 4 images"),
        (lambda logits, labels: labels / 0, "gives a value that is not finite for logits that are"),
    ],
)
def test_a_metric_must_give_a_finite_value_for_each_image(compute, message):
    xceptlab.register.metric("odd", version=1)(compute)
    with pytest.raises(xceptlab.Refused, match=f"metric 'odd': {message}"):
        per_image("odd", torch.zeros(4, 3), torch.zeros(4, dtype=torch.long))


def test_a_family_must_give_a_logit_for_each_class():
    xceptlab.register.model("wide", version=1)(
        lambda options, classes: nn.Sequential(nn.Flatten(), nn.Linear(192, 1000))
    )
    with pytest.raises(
        xceptlab.Refused, match=r"gives \(1000,\) for an image, and there are 3 classes"
    ):
        cost(ModelConfig(family="wide"), 3, 8)
