"""xceptlab from Python: every snippet of its page runs, and what it gives is what the commands
give.
"""

import os
import re
import shutil
import subprocess
import sys
from enum import IntEnum, StrEnum

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

import xceptlab
from conftest import ROOT, TINY
from made import leave, photographs
from xceptlab.config.loading import load_run
from xceptlab.data import resolved
from xceptlab.data.module import DataModule
from xceptlab.models.build import build
from xceptlab.models.features import features
from xceptlab.study.plan import expand

PAGE = (ROOT / "docs" / "python.md").read_text()

SMALL = {
    "model.middle_blocks": 1, "data.train_images": 300, "data.test_images": 101, "data.size": 8, "train.epochs": 2,
    "runtime.log_every": 1, "runtime.wandb": "disabled", "runtime.accelerator": "cpu",
}  # fmt: skip
WHOLE = ["--data.size=32", "--data.train_images=0", "--data.test_images=0", "--data.validation=0"]
DIGITS = [
    "configs/model/xception_tiny.yaml",
    "configs/data/digits.yaml",
    "configs/train/digits.yaml",
]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    return tmp_path_factory.mktemp("trained") / "outputs"


@pytest.fixture(scope="module")
def run(outputs):
    """A run of 10 steps on digits."""
    return xceptlab.train(*DIGITS, SMALL, {"runtime.outputs": str(outputs)})


@pytest.fixture
def study(tmp_path, monkeypatch):
    """The shipped study, of which nothing has been trained."""
    monkeypatch.chdir(tmp_path)
    return xceptlab.Study("residual", SMALL)


# ---- the page ------------------------------------------------------------------------------------


def test_every_snippet_of_the_page_runs_and_prints_what_it_prints_only(
    tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    names = {}
    for snippet in re.findall(r"```python\n(.*?)```", PAGE, re.S):
        exec(compile(snippet, "docs/python.md", "exec"), names)
    printed = capfd.readouterr()
    assert printed.out.startswith("INCONCLUSIVE  residual-helps: ")
    assert printed.err == ""
    assert len(names["runs"]) == 6
    assert set(names["runs"]["status"]) == {"done"}
    assert names["probe"].n_features_in_ == names["run"].network.classifier.in_features
    assert names["page"].is_file()


def test_the_page_lists_every_name():
    listed = re.findall(r"^\| `(\w+)", PAGE, re.M)
    assert sorted(listed) == sorted(xceptlab.__all__)
    for name in xceptlab.__all__:
        assert name in dir(xceptlab)
        assert getattr(xceptlab, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'Studdy'"):
        xceptlab.Studdy  # noqa: B018


# ---- configuration -------------------------------------------------------------------------------


def test_layers_are_those_of_the_command_line():
    config = xceptlab.configure(
        *DIGITS, {"train": {"lr": 0.5}, "model.fc": [8], "data.flip": True, "seed": np.int64(3)}
    )
    args = [piece for file in DIGITS for piece in ("-c", file)]
    assert config == load_run(
        [*args, "--train.lr=0.5", "--model.fc=[8]", "--data.flip=true", "--seed=3"]
    )
    assert xceptlab.configure({"train.lr": 0.5}, {"train.lr": 0.25}).train.lr == 0.25
    assert xceptlab.configure().model.width == 1.0


def test_a_path_is_its_text(tmp_path):
    paths = {"runtime.outputs": tmp_path / "out", "data": {"root": tmp_path / "data"}}
    config = xceptlab.configure(paths, {"model.weights": tmp_path / "a.safetensors"})
    assert config.runtime.outputs == str(tmp_path / "out")
    assert config.data.root == str(tmp_path / "data")
    assert config.model.weights == str(tmp_path / "a.safetensors")


def test_a_study_with_a_path_as_outputs_is_the_one_with_its_text(tmp_path):
    by_path = xceptlab.Study("residual", SMALL, {"runtime.outputs": tmp_path / "out"})
    by_text = xceptlab.Study("residual", SMALL, {"runtime.outputs": str(tmp_path / "out")})
    assert by_path.expansion == by_text.expansion


def test_a_study_has_the_name_and_the_command_that_its_values_would_have_as_options(tmp_path):
    values = {"train.lr": 0.05, "data.flip": False, "model.fc": [8], "runtime.outputs": tmp_path}
    options = ["--train.lr=0.05", "--data.flip=false", "--model.fc=[8]"]
    by_text = expand("residual", [*options, f"--runtime.outputs={tmp_path}"])
    by_value = xceptlab.Study("residual", values).expansion
    assert by_value == by_text
    assert by_value.name == "residual+train.lr=0.05+data.flip=false+model.fc=_8_"
    assert "--train.lr=0.05 --data.flip=false '--model.fc=[8]'" in by_value.command


@pytest.mark.parametrize("seeds", ["3", [0, 1], True, 2.0])
def test_a_number_of_seeds_is_a_whole_one(seeds):
    with pytest.raises(
        xceptlab.Refused, match=r"^seeds: .* is not allowed; it must be a whole number"
    ):
        xceptlab.Study("residual", seeds=seeds)


def test_what_only_a_command_line_knows_is_no_key():
    for key in ("print_config", "config"):
        with pytest.raises(xceptlab.Refused, match=f"{key}: there is no such key"):
            xceptlab.Study("residual", {key: None})


class Optimizers(StrEnum):
    ADAMW = "adamw"


class Widths(IntEnum):
    NARROW = 8


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"model.fc": np.array([8, 4])}, [8, 4]),
        ({"model.fc": (np.int64(8), 4)}, [8, 4]),
        ({"data.flip": np.bool_(False)}, False),
        ({"data.mixup": np.float64(0.25)}, 0.25),
        ({"data.pad": np.array(2)}, 2),
        ({"train.optimizer": np.str_("adamw")}, "adamw"),
        ({"train.optimizer": Optimizers.ADAMW}, "adamw"),
        ({"model.fc": [Widths.NARROW]}, [8]),
    ],
)
def test_values_of_numpy_and_of_enumerations_are_pythons(value, expected):
    ((key, _),) = value.items()
    section, name = key.split(".")
    found = getattr(getattr(xceptlab.configure(*DIGITS, value), section), name)
    plain = list(found) if isinstance(found, tuple) else found
    assert plain == expected
    assert type(plain) is type(expected)
    if isinstance(plain, list):
        assert [type(item) for item in plain] == [type(item) for item in expected]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"model.timm": None}, "model.timm: null is not allowed; it must be text"),
        ({"runtime.wandb_project": None}, "runtime.wandb_project: null is not allowed"),
        ({"train.lr": None}, "train.lr: null is not allowed; it must be a finite number"),
        ({"model.timm": ["resnet18"]}, "model.timm: ['resnet18'] is not allowed; it must be text"),
        ({"data.root": {1}}, "data.root: a value of type set is not allowed; it must be text, a"),
        ({"model.fc": [{1}]}, "model.fc: a value of type set is not allowed"),
        ({"data.root": b"data"}, "data.root: a value of type bytes is not allowed"),
        ({"train.lr": np.longdouble(1)}, "train.lr: a value of type longdouble is not allowed"),
        ({"model.options.sizes": {1: 2}}, "model.options.sizes: the name 1 in the mapping is not"),
        ({"config": "configs/data/digits.yaml"}, "config: there is no such key"),
    ],
)
def test_a_value_that_its_field_does_not_take_is_refused_and_not_read_as_text(value, message):
    with pytest.raises(xceptlab.Refused, match=re.escape(message)) as refused:
        xceptlab.configure(value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (({"train.lrr": 1},), "train.lrr: there is no such key; did you mean train.lr?"),
        (({"train.lr": -1},), "is not allowed; it must be above 0"),
        (("nofile.yaml",), "nofile.yaml: No such file"),
        ((3,), "a layer is int; it must be a configuration file or values by key"),
    ],
)
def test_a_layer_that_cannot_be_used_is_refused_in_one_line(layers, message):
    with pytest.raises(xceptlab.Refused, match=re.escape(message)) as refused:
        xceptlab.configure(*layers)
    assert "\n" not in str(refused.value)


def test_a_run_of_an_own_data_set_has_an_id_once_its_files_were_looked_at(tmp_path):
    root = photographs(tmp_path, "ab", train=2, val=2)
    config = xceptlab.configure("configs/data/folder.yaml", {"data.root": root})
    with pytest.raises(
        xceptlab.Refused, match=r"run_id: .*; xceptlab\.data\.resolved\(config\) does"
    ):
        config.run_id  # noqa: B018
    assert resolved(config).run_id.startswith("folder-")


# ---- a run ---------------------------------------------------------------------------------------


def test_a_run_from_python_is_the_one_of_the_command_line(run, outputs):
    config = resolved(load_run([*TINY, f"--runtime.outputs={outputs}"]))
    assert run.id == config.run_id
    assert run.status == "done"
    assert run.record.status == "finished"
    assert run.metrics == run.record.metrics
    assert xceptlab.Run(run.id, outputs).path == xceptlab.Run(run.path).path == run.path
    assert run.id in repr(run)
    assert "done, " in repr(run)


def test_a_run_that_is_done_is_not_trained_again(run):
    before = (run.path / "record.json").stat().st_mtime_ns
    assert xceptlab.train(run.config).path == run.path
    assert (run.path / "record.json").stat().st_mtime_ns == before


def test_a_run_on_several_devices_is_not_trained_in_this_process():
    with pytest.raises(
        xceptlab.Refused, match=r"runtime\.devices: a run on 2 devices needs processes of its own"
    ):
        xceptlab.train(*DIGITS, {"runtime.devices": 2})


def test_the_curves_are_the_log(run):
    curves = run.curves()
    assert list(curves.columns) == ["step", "epoch", "metric", "value"]
    (row,) = curves[curves["metric"] == "test/top1"].itertuples()
    assert (row.step, row.value) == (10, run.metrics["test/top1"])
    assert len(curves[curves["metric"] == "train/loss"]) == 10


def test_the_network_scores_what_the_run_scored(run):
    assert not run.network.training
    test = run.split_features("test")
    with torch.no_grad():
        right = run.network.classifier(test.values).argmax(1) == test.labels
    assert (
        right.numpy().astype(np.uint8).tolist() == np.load(run.path / "test_correct.npy").tolist()
    )


@pytest.mark.parametrize("split", ["train", "val"])
def test_features_of_a_split_are_in_its_order_and_unaugmented(run, split):
    data = DataModule(run.config)
    data.setup("fit")
    of_split = {"train": data.train, "val": data.validation}[split]
    found = run.split_features(split)
    assert found.labels.tolist() == of_split.source.labels[of_split.members].tolist()
    first = run.transform(of_split.source.images[of_split.members[0]])
    torch.testing.assert_close(run.features(first[None])[0], found.values[0], rtol=1e-4, atol=1e-5)


def test_features_are_those_of_eval_mode_and_leave_the_network_as_it_was(run):
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    again = xceptlab.Run(run.path)
    expected, of_split = again.features(images), again.split_features("val").values
    again.network.train()
    again.network.classifier.eval()  # as one that is frozen
    modes = [module.training for module in again.network.modules()]
    before = {name: value.clone() for name, value in again.network.state_dict().items()}
    assert torch.equal(again.features(images), expected)
    assert torch.equal(again.split_features("val").values, of_split)
    assert [module.training for module in again.network.modules()] == modes
    for name, value in again.network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_features_do_not_need_the_weights_that_a_training_started_from(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run.path, copy)
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["model"] |= {"weights": "gone.safetensors", "weights_digest": "0123456789abcdef"}
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    again = xceptlab.Run(copy)
    assert again.config.model.weights == "gone.safetensors"
    assert torch.equal(again.split_features("val").values, run.split_features("val").values)


def test_a_run_and_a_study_are_found_below_the_users_home(run, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(run.path, tmp_path / "outputs/runs" / run.id)
    assert xceptlab.Run(run.id, outputs="~/outputs").path == tmp_path / "outputs/runs" / run.id
    assert xceptlab.Run(f"~/outputs/runs/{run.id}").id == run.id
    shutil.copytree(ROOT / "experiments/residual", tmp_path / "mine")
    assert xceptlab.Study("~/mine").name == "mine"


def test_the_table_of_verdicts_tells_an_interaction_from_a_main_effect(tmp_path):
    effects = {
        "main": {"model.residual": ["all", "none"]},
        "both": {"model.intermediate": ["none", "relu"], "model.residual": ["all", "none"]},
    }
    claims = [
        {"id": name, "effect": effect, "metric": "test/top1", "kind": "superior", "margin": 0}
        for name, effect in effects.items()
    ]
    content = {
        "question": "Both?",
        "base": ["configs/data/digits.yaml"],
        "seeds": [0, 1, 2],
        "grid": effects["both"],
        "claims": claims,
    }
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(content))
    study = xceptlab.Study(str(tmp_path / "grid.yaml"), {"runtime.outputs": str(tmp_path)})
    table = study.verdicts().table().set_index("claim")
    assert list(table["a"]) == ["model.residual all"] * 2
    assert list(table["gain"]) == ["", "the gain of model.intermediate none over relu"]


def test_features_come_from_the_weights_that_were_loaded_into_the_network(run):
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    again = xceptlab.Run(run.path)
    expected = again.features(images)
    weights = {name: torch.zeros_like(value) for name, value in again.network.state_dict().items()}
    again.network.load_state_dict(weights)
    assert not torch.equal(again.features(images), expected)


def test_a_split_that_is_none_is_refused(run):
    with pytest.raises(xceptlab.Refused, match="'all' is no split; there are train, val, test"):
        run.split_features("all")


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_features_of_timms_networks_are_those_before_their_classifier(name):
    config = load_run([f"--model.timm={name}"])
    network = build(config.model, 5).eval()
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network.forward_head(network.forward_features(images), pre_logits=True)
    torch.testing.assert_close(features(network, images), expected)


def test_a_network_whose_classifier_nobody_names_has_no_features():
    with pytest.raises(
        xceptlab.Refused,
        match="Sequential has neither a module `classifier` nor a method `get_classifier",
    ):
        features(torch.nn.Sequential(torch.nn.Flatten()), torch.zeros(1, 3, 8, 8))


def test_a_picture_is_prepared_as_the_digits_are(run):
    from sklearn.datasets import load_digits

    data = DataModule(run.config)
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    grey = np.round(load_digits().images * (255 / 16)).astype(np.uint8)
    prepared = torch.stack([run.transform(picture) for picture in grey])
    for image in batch.images[:5]:
        assert any(torch.equal(image, one) for one in prepared)
    assert torch.equal(run.transform(Image.fromarray(grey[3])), run.transform(grey[3]))
    assert torch.equal(run.transform(grey[3][..., None]), run.transform(grey[3]))


def test_a_picture_is_prepared_as_photographs_are(tmp_path):
    root = photographs(tmp_path, "ab", train=2, val=2)
    config = resolved(
        load_run(
            [*TINY, "--data.name=folder", f"--data.root={root}", "--data.eval_crop=0.8", *WHOLE]
        )
    )
    data = DataModule(config)
    data.setup("test")
    (batch,) = data.test_dataloader()
    from xceptlab.data.transform import Transform

    for row, name in enumerate(("a/a0", "a/a1", "b/b0", "b/b1")):
        with Image.open(root / "val" / f"{name}.jpg") as picture:
            assert torch.equal(Transform(config.data)(picture), batch.images[row])


@pytest.mark.parametrize(
    "picture", [np.zeros((3, 8, 8), np.float32), np.zeros((8, 8, 2), np.uint8), "a.jpg", [1, 2]]
)
def test_what_is_no_picture_is_refused(run, picture):
    with pytest.raises(xceptlab.Refused, match="is no picture; it must be"):
        run.transform(picture)


def test_a_run_that_is_not_there_or_not_done_is_refused(study):
    with pytest.raises(
        xceptlab.Refused, match="nothing: neither a run's folder nor a run under outputs/runs"
    ):
        xceptlab.Run("nothing")
    with pytest.raises(xceptlab.Refused, match="neither a run's folder"):
        study["residual", 0]
    directory = leave(study.expansion, "residual", 0, 90.0, record=None)
    (directory.path / "config.yaml").write_text("{data: {name: digits, crop: none}}")
    begun = study["residual", 0]
    assert (begun.status, begun.metrics, begun.record) == ("stopped", {}, None)
    with pytest.raises(xceptlab.Refused, match=r"stopped, so that there is no model\.safetensors"):
        begun.network  # noqa: B018


def test_weights_that_were_removed_from_a_finished_run_are_said_to_be_missing(run, tmp_path):
    copy = tmp_path / "runs" / run.id
    shutil.copytree(run.path, copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(
        xceptlab.Refused, match=r"model\.safetensors: the file is missing, though the run is done$"
    ):
        xceptlab.Run(copy).network  # noqa: B018


# ---- a study -------------------------------------------------------------------------------------


def test_a_study_is_the_one_of_the_command_line(study):
    args = [f"--{key}={value}" for key, value in SMALL.items()]
    assert study.arms == expand("residual", args).arms
    assert study.name == expand("residual", args).name
    assert study.question == "Do residual connections help Xception?"
    assert repr(study).endswith(": 2 arms, 0 of 10 runs done>")


def test_the_table_of_runs_has_a_row_for_each_done_or_not(study):
    leave(study.expansion, "residual", 0, 90.0)
    leave(study.expansion, "no_residual", 0, 0.0, status="diverged", metrics={})
    leave(study.expansion, "residual", 1, 80.0, record=None)
    runs = study.runs()
    assert len(runs) == 10
    assert list(runs.columns[:5]) == ["arm", "seed", "model.residual", "status", "test/loss"]
    by_run = runs.set_index(["arm", "seed"])
    assert by_run["status"]["residual", 0] == "done"
    assert by_run["status"]["no_residual", 0] == "diverged"
    assert by_run["status"]["residual", 1] == "stopped"
    assert by_run["status"]["residual", 2] == "waiting"
    assert by_run["model.residual"]["no_residual", 3] == "none"
    assert by_run["test/top1"]["residual", 0] == 90.0
    assert by_run["test/top1"].isna().sum() == 9
    assert by_run["device"]["residual", 0] == "a CPU"


def test_the_table_of_curves_is_tidy(study):
    assert list(study.curves().columns) == ["arm", "seed", "step", "epoch", "metric", "value"]
    assert len(study.curves()) == 0
    leave(study.expansion, "no_residual", 2, 90.0)
    curves = study.curves()
    assert set(curves["arm"]) == {"no_residual"}
    last = curves[curves["metric"] == "val/top1"].iloc[-1]
    assert (last["seed"], last["epoch"], last["value"]) == (2, 2.0, 89.0)


def test_the_plan_shows_what_each_arm_costs_and_is_refused_where_it_is_not_controlled(
    study, tmp_path
):
    plan = study.plan().set_index("arm")
    assert plan["model.residual"].to_dict() == {"residual": "all", "no_residual": "none"}
    assert plan["parameters"]["residual"] > plan["parameters"]["no_residual"]
    (tmp_path / "two.yaml").write_text(
        "{question: Which, base: [], seeds: [0], arms: {a: {data.name: cifar10, data.size: 32, data.crop: pad},"
        " b: {data.name: cifar100, data.size: 32, data.crop: pad}}}"
    )
    with pytest.raises(xceptlab.Refused, match="'b' differs from 'a' in its modules"):
        xceptlab.Study(tmp_path / "two.yaml").plan()


def test_verdicts_are_objects_and_a_table(study):
    assert study.verdicts()["residual-helps"].outcome == "incomplete"
    for seed, top1 in enumerate((97.0, 96.0, 97.5, 96.5, 97.2)):
        leave(study.expansion, "residual", seed, top1)
        leave(study.expansion, "no_residual", seed, top1 - 5 - seed / 10)
    verdicts = study.verdicts()
    verdict = verdicts["residual-helps"]
    assert (verdict.outcome, verdict.n) == ("supported", 5)
    assert repr(verdict) == "<Verdict residual-helps: supported, +5.20 from 5 pairs>"
    assert repr(verdicts).startswith(
        "SUPPORTED  residual-helps: Supported: residual is 5.20 points better"
    )
    (row,) = verdicts.table().itertuples()
    assert (row.claim, row.a, row.b, row.outcome, row.margin) == (
        "residual-helps",
        "residual",
        "no_residual",
        "supported",
        0.5,
    )
    assert "<table" in verdicts._repr_html_()
    again = xceptlab.judge(study.runs(), ("residual", "no_residual"), margin=0.5)
    assert again["residual superior no_residual"].p_adjusted == pytest.approx(verdict.p_adjusted)
    assert study.report().name == "report.html"


def test_what_a_study_lacks_is_refused_in_one_line(study):
    with pytest.raises(xceptlab.Refused, match="nothing: no study there"):
        xceptlab.Study("nothing")
    with pytest.raises(xceptlab.Refused, match="no run of it is in"):
        study.report()
    with pytest.raises(xceptlab.Refused, match="there is no run"):
        study["residual", 9]
    tuned = xceptlab.Study("tuned", SMALL)
    with pytest.raises(
        xceptlab.Refused, match=r"there are the trials residual@0\.\d+, .* seeds 0,"
    ):
        tuned["residual", 0]
    with pytest.raises(xceptlab.Refused, match="jobs: 0 is not allowed"):
        study.run(jobs=0)


def test_runs_that_fail_are_told_with_their_reason(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = xceptlab.Study("residual", SMALL, {"train.precision": "16-mixed"}, seeds=1)
    with pytest.raises(
        xceptlab.Refused,
        match=r"2 runs failed; digits-.*: train.precision: 16-mixed needs a GPU .*log.txt",
    ):
        study.run()
    assert set(study.runs()["status"]) == {"failed"}


def test_a_script_without_a_guard_runs_its_study_once(tmp_path):
    code = f"import xceptlab; print(xceptlab.Study('residual', {SMALL}, {{'train.epochs': 1}}, seeds=1).run())"
    (tmp_path / "script.py").write_text(code)
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("2 of 2 runs done") == 1
    assert len(done.stdout.splitlines()) == 1


# ---- scores of other tools -----------------------------------------------------------------------

SCORES = pd.DataFrame(
    {
        "arm": ["a"] * 3 + ["b"] * 3,
        "seed": [0, 1, 2] * 2,
        "test/top1": [90.0, 91.0, 92.0, 80.0, 81.1, 82.0],
    }
)


def test_scores_of_other_tools_are_judged_as_by_the_command():
    assert xceptlab.judge(SCORES, ("a", "b"))["a superior b"].outcome == "supported"
    assert xceptlab.judge(SCORES, ("b", "a"))["b superior a"].outcome == "contradicted"
    both = xceptlab.judge(SCORES, [("a", "b"), ("b", "a")])
    assert [verdict.outcome for verdict in both.values()] == ["supported", "contradicted"]
    with pytest.raises(xceptlab.Refused, match="is the same as the claim 'a equivalent b'"):
        xceptlab.judge(SCORES, [("a", "b"), ("b", "a")], kind="equivalent", margin=1.0)
    long = SCORES.rename(columns={"test/top1": "value"}).assign(metric="test/top1")
    assert xceptlab.judge(long, ("a", "b"))["a superior b"].estimate == pytest.approx(
        9.9666, abs=1e-3
    )


@pytest.mark.parametrize("scores", [SCORES.to_dict("list"), "results.csv", None])
def test_what_is_no_table_is_refused_in_one_line(scores):
    with pytest.raises(
        xceptlab.Refused, match=r"^scores: .* DataFrame, which pandas\.read_csv"
    ) as refused:
        xceptlab.judge(scores, ("a", "b"))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("contrast", [3, "ab", [("a", "b"), 3]])
def test_a_contrast_that_is_none_is_refused_in_one_line(contrast):
    with pytest.raises(xceptlab.Refused, match=r"^contrast: .* must be a pair of arms"):
        xceptlab.judge(SCORES, contrast)


def test_a_claim_that_is_not_there_is_refused_with_those_that_are():
    verdicts = xceptlab.judge(SCORES, ("a", "b"))
    with pytest.raises(xceptlab.Refused, match="there is no claim 'nope'; there are a superior b"):
        verdicts["nope"]
    assert verdicts.get("nope") is None
    assert "nope" not in verdicts


def test_a_table_with_two_columns_of_the_metrics_name_is_refused():
    twice = pd.concat([SCORES, SCORES[["test/top1"]] / 2], axis=1)
    with pytest.raises(
        xceptlab.Refused, match="scores: the column 'test/top1' stands there 2 times"
    ):
        xceptlab.judge(twice, ("a", "b"))
    assert xceptlab.judge(pd.concat([SCORES, SCORES.assign(x=1)[["x", "x"]]], axis=1), ("a", "b"))


def test_claims_of_a_file_are_judged(tmp_path):
    file = tmp_path / "claims.yaml"
    file.write_text(
        "claims: [{id: one, contrast: [a, b], metric: test/top1, kind: superior, margin: 1}]"
    )
    assert xceptlab.judge(SCORES, claims=file)["one"].outcome == "supported"


def test_arms_may_be_named_by_numbers():
    numbered = SCORES.assign(arm=SCORES["arm"].map({"a": 1, "b": 2}))
    assert (
        xceptlab.judge(numbered, (1, 2)).table()["outcome"].tolist()
        == xceptlab.judge(SCORES, ("a", "b")).table()["outcome"].tolist()
    )


def test_a_run_without_a_score_is_refused_unless_it_is_declared_what_it_scores():
    broken = SCORES.assign(**{"test/top1": SCORES["test/top1"].where(SCORES["seed"] != 1)})
    with pytest.raises(
        xceptlab.Refused, match="arm 'a', seed 1 has no finite test/top1; `diverged` declares"
    ):
        xceptlab.judge(broken, ("a", "b"))
    assert xceptlab.judge(broken, ("a", "b"), diverged=10.0)["a superior b"].n == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"either contrast=\(A, B\) or claims=FILE"),
        (
            {"contrast": ("a", "c")},
            "scores: claim 'a superior c': there is no arm 'c'; there are a, b",
        ),
        ({"contrast": "ab"}, "contrast"),
        (
            {"claims": "claims.yaml", "margin": 1.0, "alpha": 0.01},
            "judge: margin, alpha: not allowed with claims",
        ),
        (
            {"contrast": ("a", "b"), "metric": "acc"},
            "scores: there is no column 'acc'; there are arm, seed, test/top1",
        ),
        ({"contrast": ("a", "b"), "arm": "model"}, "scores: there is no column 'model'"),
        ({"contrast": ("a", "b"), "margin": -1.0}, "margin: -1.0 is not allowed"),
    ],
)
def test_what_cannot_be_judged_is_refused_in_one_line(arguments, message):
    with pytest.raises(xceptlab.Refused, match=message):
        xceptlab.judge(SCORES, **arguments)


def test_a_single_module_need_not_stand_in_a_list(run):
    with pytest.raises(xceptlab.Refused, match=r"^extensions: .*/spy\.py: no such file"):
        xceptlab.Run(run.path, extensions="spy.py")
