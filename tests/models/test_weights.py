"""A pretrained start: weights in place of drawn ones, known by their bytes, and a controlled factor
of a study.
"""

import dataclasses
import math
import os
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml

from conftest import TINY
from made import CLAIM, photographs
from xceptlab import cli
from xceptlab.config.loading import dump, load_run
from xceptlab.config.schema import ModelConfig
from xceptlab.data import resolved
from xceptlab.models import pretrained
from xceptlab.models import warm_start as warm
from xceptlab.models.build import build
from xceptlab.models.names import to_timm
from xceptlab.models.warm_start import warm_start
from xceptlab.runs.directory import RunDirectory
from xceptlab.study.plan import expand
from xceptlab.study.registration import Registration
from xceptlab.training.task import Task
from xceptlab.training.train import train

NARROW = ModelConfig(width=0.0625, middle_blocks=1, stem="cifar")
TIMMS = dataclasses.replace(
    NARROW, middle_blocks=8, stem="imagenet", **pretrained.CONSTANTS["timm"]
)
CLASSES = 10


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run on the digits."""
    outputs = tmp_path_factory.mktemp("source")
    record = train(
        load_run([*TINY, "--train.epochs=1", f"--runtime.outputs={outputs}"]), progress=False
    )
    return outputs / "runs" / record.run_id


@pytest.fixture
def command(tmp_path, capsys):
    """``command("train", ...)``: exit code, standard output and standard error."""

    def call(name, *arguments, layers=TINY):
        code = cli.main(
            [name, *layers, *map(str, arguments), f"--runtime.outputs={tmp_path / 'outputs'}"]
        )
        return code, *capsys.readouterr()

    return call


def saved(file, config, classes=CLASSES, seed=7, names=lambda state: state):
    """A lone file of drawn weights, and these weights."""
    state = build(config, classes, seed).state_dict()
    file.parent.mkdir(exist_ok=True)
    if file.suffix == ".safetensors":
        safetensors.torch.save_file(names(state), file)
    else:
        torch.save(names(state), file)
    return state


def started(config, file, classes=CLASSES, seed=0):
    """A network that was drawn, its weights before, and what it starts from."""
    config = dataclasses.replace(config, weights=str(file))
    network = build(config, classes, seed)
    return network.state_dict(), warm_start(config, network)


def differing(a, b):
    """The modules in whose weights two networks differ."""
    assert a.keys() == b.keys()
    return {name.rpartition(".")[0] for name in a if not torch.equal(a[name], b[name])}


# ---- what a training starts from -----------------------------------------------------------------


KINDS = {
    "ours.safetensors": (NARROW, lambda state: state),
    "ours.pth": (NARROW, lambda state: state),
    "step1.ckpt": (
        NARROW,
        lambda state: {
            "pytorch-lightning_version": "2",
            "state_dict": {f"network.{k}": v for k, v in state.items()},
        },
    ),
    "half.pth": (NARROW, lambda state: {name: value.double() for name, value in state.items()}),
    "timms.safetensors": (TIMMS, to_timm),
    "timms.pth": (TIMMS, to_timm),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_starts_a_network_whose_drawn_weights_are_replaced(name, tmp_path):
    config, names = KINDS[name]
    state = saved(tmp_path / name, config, names=names)
    drawn, start = started(config, tmp_path / name)
    assert differing(drawn, state) >= {"entry.stem.conv1", "classifier"}
    assert differing(start.state, state) == set()
    unknown = ", whose padding and bn_eps are not known"
    assert start.source == (f"{name} (timm)" if "timm" in name else f"{name} (xceptlab){unknown}")
    assert str(start).endswith("every weight is theirs, also those of the classifier")


@pytest.mark.parametrize(
    ("theirs", "ours", "classes", "drawn"),
    [
        ((), (), 3, ["classifier"]),
        ((16,), (16,), 3, ["classifier"]),
        ((16, 8), (16, 9), 3, ["fc.2", "classifier"]),
        ((), (16,), 3, ["fc.0", "classifier"]),
        ((16,), (), 3, ["classifier"]),
        ((16,), (8,), 3, ["fc.0", "classifier"]),
    ],
)
def test_with_another_number_of_classes_the_classifier_is_drawn_as_without_weights(
    theirs, ours, classes, drawn, tmp_path
):
    """So that arms of one seed agree in it."""
    state = saved(tmp_path / "x.pth", dataclasses.replace(NARROW, fc=theirs))
    config = dataclasses.replace(NARROW, fc=ours)
    before, start = started(config, tmp_path / "x.pth", classes)
    for name, value in start.state.items():
        source = before if name.rpartition(".")[0] in drawn else state
        assert torch.equal(value, source[name]), name
    verb = "is" if len(drawn) == 1 else "are"
    assert start.anew == f"{', '.join(drawn)} {verb} drawn anew (10 classes there, 3 here)"
    _, again = started(
        dataclasses.replace(config, intermediate="relu"), tmp_path / "x.pth", classes
    )
    assert torch.equal(again.state["classifier.weight"], before["classifier.weight"])


@pytest.mark.parametrize("classes", [CLASSES, 3])
@pytest.mark.parametrize("counts", [True, False])
def test_whether_weights_fit_is_seen_without_drawing_any(tmp_path, classes, counts):
    """As a study does for each of its arms, on the meta device."""

    def kept(state):
        return {n: value for n, value in state.items() if counts or "num_batches" not in n}

    saved(tmp_path / "x.pth", NARROW, names=kept)
    config = dataclasses.replace(NARROW, weights=str(tmp_path / "x.pth"))
    warm.check(config, classes)
    assert warm.draws_a_layer(config, classes) == (classes != CLASSES)
    with pytest.raises(ValueError, match="does not fit the network"):
        warm.check(dataclasses.replace(config, middle_blocks=2), classes)


def test_without_a_classifier_in_the_file_it_is_drawn(tmp_path):
    def headless(state):
        return {name: value for name, value in state.items() if "classifier" not in name}

    saved(tmp_path / "x.pth", NARROW, names=headless)
    drawn, start = started(NARROW, tmp_path / "x.pth")
    assert start.anew == "classifier is drawn anew (there is none there)"
    assert torch.equal(start.state["classifier.weight"], drawn["classifier.weight"])


def test_a_keras_file_starts_a_network_of_other_classes(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")
    keras.applications.Xception(weights=None, classes=2).save_weights(tmp_path / "x.weights.h5")
    _, start = started(ModelConfig(), tmp_path / "x.weights.h5", classes=3)
    assert (start.source, start.anew) == (
        "x.weights.h5 (Keras)",
        "classifier is drawn anew (2 classes there, 3 here)",
    )
    theirs = pretrained.load(tmp_path / "x.weights.h5").state_dict()
    assert {name.partition(".")[0] for name in differing_of_shape(start.state, theirs)} == {
        "classifier"
    }
    with pytest.raises(
        ValueError,
        match=r"model\.weights: .*x\.weights\.h5: trained with other constants than model\.padding sym",
    ):
        started(ModelConfig(padding="symmetric"), tmp_path / "x.weights.h5")


def differing_of_shape(a, b):
    return [
        name for name in a if a[name].shape != b[name].shape or not torch.equal(a[name], b[name])
    ]


CONSTANTS = {
    "padding": ({"padding": "same"}, "model.padding same; set --model.padding symmetric"),
    "bn_eps": ({"bn_eps": 1e-3}, "model.bn_eps 0.001; set --model.bn_eps 1e-05"),
    "both": (
        {"padding": "same", "bn_eps": 1e-3},
        "model.padding same, model.bn_eps 0.001; set --model.padding symmetric --model.bn_eps 1e-05",
    ),
}


@pytest.mark.parametrize("source", ["timm", "a run"])
@pytest.mark.parametrize("constants", CONSTANTS)
def test_other_constants_than_the_weights_were_trained_with_are_refused(
    source, constants, tmp_path
):
    changes, said = CONSTANTS[constants]
    saved(tmp_path / "x.pth", TIMMS, names=to_timm if source == "timm" else lambda state: state)
    if source == "a run":
        (tmp_path / "config.yaml").write_text(
            dump(dataclasses.replace(load_run(TINY), model=TIMMS))
        )
    with pytest.raises(
        ValueError, match=rf"^model\.weights: {tmp_path}/x\.pth: trained with other constants than "
    ) as refused:
        started(dataclasses.replace(TIMMS, **changes), tmp_path / "x.pth")
    assert str(refused.value).endswith(said)
    # how fast statistics follow is the training's
    started(dataclasses.replace(TIMMS, bn_momentum=0.5), tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"middle_blocks": 2},
            r"middle\.1\.units\.0\.separable\.depthwise\.weight is missing; .* and 15 more",
        ),
        ({"middle_blocks": 0}, r"middle\.0\.units\.0\.separable\.depthwise\.weight is unexpected"),
        (
            {"width": 0.125},
            r"entry\.stem\.conv1\.weight has shape \(2, 3, 3, 3\), not \(4, 3, 3, 3\)",
        ),
        ({"residual": "none"}, r"entry\.block1\.skip\.conv\.weight is unexpected"),
        ({"convolution": "regular"}, r"is missing"),
    ],
)
@pytest.mark.parametrize("classes", [CLASSES, 3])
def test_weights_that_do_not_fit_are_refused(changes, said, classes, tmp_path):
    saved(tmp_path / "x.pth", NARROW)
    with pytest.raises(
        ValueError, match=rf"^model\.weights: {tmp_path}/x\.pth: does not fit the network: .*{said}"
    ):
        started(dataclasses.replace(NARROW, **changes), tmp_path / "x.pth", classes)


@pytest.mark.parametrize(
    ("damaged", "said"),
    [
        (
            lambda weight: weight.index_fill(0, torch.tensor([0]), math.nan),
            "has values that are not finite",
        ),
        (lambda weight: weight * math.inf, "has values that are not finite"),
        (lambda weight: weight.to(torch.int8), "is of int8, not float32"),
        (lambda weight: weight.to(torch.complex64), "is of complex64, not float32"),
    ],
)
def test_weights_that_are_no_finite_numbers_are_refused(damaged, said, tmp_path):
    name = "entry.stem.conv1.weight"
    saved(tmp_path / "x.pth", NARROW, names=lambda state: {**state, name: damaged(state[name])})
    with pytest.raises(ValueError, match=rf"does not fit the network: {name} {said}"):
        started(NARROW, tmp_path / "x.pth")


def test_with_as_many_classes_the_top_must_fit_too(tmp_path):
    saved(tmp_path / "x.pth", NARROW)
    with pytest.raises(ValueError, match=r"does not fit the network: fc\.0\.weight is missing"):
        started(dataclasses.replace(NARROW, fc=(8,)), tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("field", "value"),
    [("stem", "imagenet"), ("intermediate", "relu"), ("residual", "projection_only")],
)
def test_what_weights_cannot_show_is_said(field, value, run):
    """Equal names and shapes, another function of them: as configured, and kept in the record."""
    config = load_run(["-c", str(run / "config.yaml")]).model
    _, start = started(dataclasses.replace(config, **{field: value}), run)
    assert start.source == f"the run {run.name}, trained with {field} {getattr(config, field)}"


# ---- runs ----------------------------------------------------------------------------------------


def test_a_run_starts_from_the_weights_of_another_and_its_record_says_so(run, tmp_path, command):
    unchanging = ["--train.epochs=1", "--train.lr=1e-12", "--train.weight_decay=0"]
    code, out, err = command("train", f"--model.weights={run}", *unchanging)
    assert code == 0
    (folder,) = (tmp_path / "outputs/runs").iterdir()
    assert f"{folder.name}: starts from the run {run.name}; every weight is theirs" in err
    record = RunDirectory(folder).record()
    assert record.weights == f"the run {run.name}"
    assert f"-weights{record.science['model.weights_digest'][:6]}-" in record.run_id
    before, after = (
        safetensors.torch.load_file(path / "model.safetensors") for path in (run, folder)
    )
    trained = [name for name in before if name.endswith((".weight", ".bias"))]
    assert max((before[name] - after[name]).abs().max() for name in trained) < 1e-6
    code, out, err = command("train", f"--model.weights={run / 'model.safetensors'}", *unchanging)
    assert (code, "(was trained before)" in out, err) == (0, True, "")


@pytest.mark.parametrize(
    ("changes", "warned"),
    [
        ([], False),
        (["--data.validation=0"], False),
        (["--data.validation=0.2"], True),
        (["--data.validation_seed=1"], True),
        (["--data.train_images=200"], True),
    ],
)
def test_a_start_from_a_run_that_trained_on_what_is_held_out_is_pointed_out(
    run, tmp_path, command, changes, warned
):
    code, _, err = command("train", f"--model.weights={run}", "--train.epochs=1", *changes)
    seen = "may have trained on images that are held out for validation here"
    assert (code, seen in err) == (0, warned)
    (folder,) = (tmp_path / "outputs/runs").iterdir()
    assert (f"; it {seen}" in RunDirectory(folder).record().weights) == warned


OWN = ["--data.name=folder", "--data.crop=resized", "--data.train_images=0",
       "--data.test_images=0", "--train.batch_size=7", "--train.epochs=1"]  # fmt: skip


def added(root):
    shutil.copyfile(root / "train/a/a0.jpg", root / "train/a/new.jpg")


def with_another_class(root):
    shutil.copytree(root / "train/a", root / "train/d")
    shutil.copytree(root / "val/a", root / "val/d")


def of_other_classes(root):
    for folder in [*root.glob("*/?")]:
        folder.rename(folder.with_name(f"other_{folder.name}"))


CHANGES = {
    "the same files": (lambda root: None, False),
    "one more": (added, True),
    "one renamed": (lambda root: (root / "train/a/a0.jpg").rename(root / "train/a/z.jpg"), True),
    "one gone": (lambda root: (root / "train/b/b0.jpg").unlink(), True),
    "another class": (with_another_class, True),
    "a class gone": (lambda root: [shutil.rmtree(root / part / "c") for part in ("train", "val")], True),
    "other classes": (of_other_classes, False),
}  # fmt: skip


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """An own data set, and the folder of a run on it."""
    folder = tmp_path_factory.mktemp("own")
    root = photographs(folder / "tree", "abc", train=8, val=2)
    options = [*OWN, "--data.validation=0.25", f"--data.root={root}"]
    config = resolved(load_run([*TINY, *options, f"--runtime.outputs={folder / 'outputs'}"]))
    record = train(config, progress=False)
    return root, folder / "outputs/runs" / record.run_id


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("own_part", [False, True])
def test_a_start_on_ones_own_data_that_have_changed_since_is_pointed_out(
    own, tmp_path, command, change, own_part
):
    """Which photographs are held out depends on all of them, or on who has moved which to ``val``."""
    root, run = own
    alter, warned = CHANGES[change]
    shutil.copytree(root, tmp_path / "tree")
    alter(tmp_path / "tree")
    options = [*OWN, f"--data.root={tmp_path / 'tree'}", f"--model.weights={run}"]
    options.append(f"--data.validation={0 if own_part else 0.25}")
    if own_part:
        shutil.copytree(tmp_path / "tree/val", tmp_path / "tree/test")
        warned = change != "other classes"
    code, _, err = command("train", *options)
    seen = "may have trained on images that are held out for validation here"
    assert (code, seen in err) == (0, warned)
    (folder,) = (tmp_path / "outputs/runs").iterdir()
    assert (f"; it {seen}" in RunDirectory(folder).record().weights) == warned


def test_with_a_part_for_validation_fewer_training_images_hold_out_no_others(
    own, tmp_path, command
):
    root = shutil.copytree(own[0], tmp_path / "tree")
    shutil.copytree(root / "val", root / "test")
    options = [*OWN, "--data.validation=0", f"--data.root={root}"]
    assert command("train", *options)[0] == 0
    (run,) = (tmp_path / "outputs/runs").iterdir()
    code, _, err = command("train", *options, "--data.train_images=12", f"--model.weights={run}")
    assert (code, "starts from the run" in err, "held out" in err) == (0, True, False)


def test_weights_are_not_needed_any_more_once_a_training_has_begun(
    run, tmp_path, command, monkeypatch
):
    file = tmp_path / "start.safetensors"
    shutil.copy(run / "model.safetensors", file)
    monkeypatch.setattr(Task, "on_train_epoch_end", lambda self: file.unlink(), raising=False)
    assert command("train", f"--model.weights={file}", "--train.epochs=1")[0] == 0
    assert not file.exists()


def test_a_run_on_other_classes_draws_its_classifier(run, tmp_path, command):
    data = [
        f"--data.root={photographs(tmp_path / 'tree', 'abc', train=8, val=2)}",
        "--data.name=folder",
        "--data.crop=resized",
    ]
    small = [
        "--data.train_images=0",
        "--data.test_images=0",
        "--data.validation=0",
        "--train.batch_size=8",
        "--train.epochs=1",
    ]
    code, _, err = command(
        "train", f"--model.weights={run}", *data, "--seed=5", layers=[*TINY, *small]
    )
    drawn = "; classifier is drawn anew (10 classes there, 3 here)"
    assert (code, drawn in err) == (0, True)
    (folder,) = (tmp_path / "outputs/runs").iterdir()
    assert RunDirectory(folder).record().weights.endswith(drawn)


def test_where_the_file_lies_is_not_part_of_the_identity_and_what_is_in_it_is(run, tmp_path, tiny):
    before = resolved(tiny(f"--model.weights={run}")).run_id
    shutil.copytree(run, tmp_path / "moved")
    shutil.copyfile(run / "model.safetensors", tmp_path / "lone.safetensors")
    for same in (run / "model.safetensors", tmp_path / "moved", tmp_path / "lone.safetensors"):
        assert tiny(f"--model.weights={same}").run_id == before
    (tmp_path / "lone.safetensors").write_bytes((run / "model.safetensors").read_bytes() + b"\0")
    assert tiny(f"--model.weights={tmp_path / 'lone.safetensors'}").run_id != before
    assert tiny().run_id != before


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("nowhere.h5", "model.weights: nowhere.h5: no such file"),
        ("tests", "model.weights: tests/model.safetensors: no such file"),
        (
            "legacy_xception",
            "no such file; timm's weights need one, by which they are known: torch.save(timm.create_model('leg",
        ),
        (
            "README.md",
            "README.md: neither a weight file (.h5, .keras, .safetensors, .pth) nor timm's Xception",
        ),
    ],
)
def test_weights_that_are_not_there_are_refused_before_anything_starts(
    path, said, tmp_path, command
):
    code, _, err = command("train", f"--model.weights={path}")
    assert (code, len(err.splitlines()), said in err) == (2, 1, True)
    assert not (tmp_path / "outputs").exists()


def test_weights_that_do_not_fit_leave_no_run_behind(run, tmp_path, command):
    code, _, err = command("train", f"--model.weights={run}", "--model.padding=symmetric")
    assert (code, len(err.splitlines()), "set --model.padding same" in err) == (2, 1, True)
    assert not (tmp_path / "outputs").exists()


def test_a_child_whose_weights_were_changed_refuses_to_train(tmp_path, tiny, command):
    file = tmp_path / "x.safetensors"
    config = tiny("--model.middle_blocks=0").model
    saved(file, config)
    child = tiny("--model.middle_blocks=0", f"--model.weights={file}")
    (tmp_path / "config.yaml").write_text(dump(child))
    saved(file, config, seed=8)
    code, _, err = command("train", "-c", tmp_path / "config.yaml", layers=[])
    assert (code, len(err.splitlines())) == (2, 1)
    assert err.startswith(
        f"xceptlab: model.weights_digest: {child.model.weights_digest} is not what is in {file}, which is "
    )
    assert "put back what was there" in err
    file.unlink()  # it stands for the file, but nothing can be trained
    code, _, err = command("train", "-c", tmp_path / "config.yaml", layers=[])
    assert (code, err.splitlines()[-1]) == (2, f"xceptlab: model.weights: {file}: no such file")


def test_an_interrupted_run_continues_from_its_checkpoint_and_not_from_the_weights(
    run, tmp_path, command, monkeypatch
):
    def stop(self):
        if self.current_epoch == 1:
            raise KeyboardInterrupt

    options = [f"--model.weights={run}", "--train.ema=0.9"]
    assert command("train", *options)[0] == 0
    (whole,) = (tmp_path / "outputs/runs").iterdir()
    whole = whole.rename(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(Task, "on_train_epoch_start", stop)
        code, _, err = command("train", *options)
        assert (code, "starts from the run" in err) == (130, True)
    code, _, err = command("train", *options)
    (continued,) = (tmp_path / "outputs/runs").iterdir()
    assert (code, "continues from step" in err, "starts from" in err) == (0, True, False)
    assert (continued / "model.safetensors").read_bytes() == (
        whole / "model.safetensors"
    ).read_bytes()
    assert RunDirectory(continued).record().weights == f"the run {run.name}"


def test_an_interrupted_run_begins_anew_from_other_weights_and_says_so(
    tmp_path, tiny, command, monkeypatch
):
    def stop(self):
        raise KeyboardInterrupt

    file = tmp_path / "x.safetensors"
    config = tiny("--model.middle_blocks=0").model
    saved(file, config)
    options = ["--model.middle_blocks=0", f"--model.weights={file}"]
    with monkeypatch.context() as patch:
        patch.setattr(Task, "on_test_epoch_start", stop)
        assert command("train", *options)[0] == 130
    (begun,) = (tmp_path / "outputs/runs").iterdir()
    saved(file, config, seed=8)
    assert (
        f"begins anew; {begun} was begun on other weights, and is another run"
        in command("train", *options)[2]
    )
    assert "begins anew" not in command("train", *options[:1])[2]


def test_a_run_is_evaluated_and_exported_without_what_it_started_from(tmp_path, tiny, command):
    file = tmp_path / "x.safetensors"
    saved(file, tiny("--model.middle_blocks=0").model)
    assert (
        command("train", "--model.middle_blocks=0", "--train.epochs=1", f"--model.weights={file}")[
            0
        ]
        == 0
    )
    (folder,) = (tmp_path / "outputs/runs").iterdir()
    scores = RunDirectory(folder).record().metrics
    # a file that was changed says nothing either
    for change in (lambda: saved(file, NARROW), file.unlink):
        change()
        code, out, err = command("evaluate", folder, layers=[])
        assert (code, err.count("xceptlab: "), f"test/top1 {scores['test/top1']:.6g}" in out) == (
            0,
            0,
            True,
        )
        assert command("describe", folder, layers=[])[0] == 0
    code, out, err = command("export", folder, tmp_path / "x.pt2", layers=[])
    assert (code, err) == (0, "")
    assert str(file).encode() not in (tmp_path / "x.pt2").read_bytes()
    with pytest.raises(ValueError, match=r"no such file"):
        resolved(tiny(f"--model.weights={file}"))


# ---- studies -------------------------------------------------------------------------------------


STUDY = {
    "question": "Do weights help?",
    "base": ["base.yaml"],
    "seeds": [0],
    "arms": {"scratch": {}, "pretrained": {"model.weights": "x.safetensors"}},
}


@pytest.fixture
def study(tmp_path, tiny, monkeypatch):
    """A study's folder, with weights beside the study file; written with some keys changed."""
    folder = tmp_path / "study"
    config = tiny("--model.middle_blocks=0", "--train.epochs=1")

    def write(**changes):
        saved(folder / "x.safetensors", config.model)
        (folder / "base.yaml").write_text(dump(config))
        (folder / "study.yaml").write_text(yaml.safe_dump(STUDY | changes, sort_keys=False))
        return folder

    return write


def test_a_study_of_pretrained_and_drawn_weights_is_controlled_and_says_so(
    study, tmp_path, command
):
    folder = study()
    expansion = expand(str(folder))
    ((key, (before, after)),) = expansion.differences("pretrained").items()
    digest = expansion.arms["pretrained"].model.weights_digest
    assert (key, before, after) == ("model.weights", "drawn", f"x.safetensors ({digest[:6]})")
    code, out, err = command("plan", folder, layers=[])
    assert (code, err, "model.weights: drawn ->" in out, "x.safetensors (" in out) == (
        0,
        "",
        True,
        True,
    )
    assert command("study", folder, "--jobs=2", layers=[])[0] == 0
    report = (tmp_path / "outputs/studies/study/report.md").read_text()
    assert (
        f"| initial weights | drawn; pretrained: x.safetensors (xceptlab), whose padding and bn_eps are not known, as {digest} |"
        in report
    )
    assert f"`pretrained`: `model.weights` drawn → x.safetensors ({digest[:6]})" in report
    assert "the arms differ in it" not in report
    assert "whose own training no budget here counts" not in report  # there is no claim
    claim = CLAIM | {"contrast": ["pretrained", "scratch"]}
    code, out, err = command("plan", study(claims=[claim], seeds=[0, 1, 2]), layers=[])
    said = "claim c: pretrained starts from weights whose own training no budget here counts"
    assert (code, said in err) == (0, True)
    folder = study()

    (folder / "x.safetensors").rename(tmp_path / "gone")
    # what was registered stands for the file, and all is done
    for name in ("status", "report", "plan", "study"):
        code, out, err = command(name, folder, layers=[])
        assert (code, "Traceback" in err) == (0, False)
    (lost, *_) = (tmp_path / "outputs/runs").glob("*weights*")
    shutil.rmtree(lost)
    code, _, err = command("study", folder, layers=[])
    assert (code, err.splitlines()[-1]) == (
        2,
        "xceptlab: model.weights: x.safetensors: no such file",
    )
    saved(folder / "x.safetensors", expansion.arms["scratch"].model, seed=9)
    code, out, err = command("report", folder, layers=[])
    assert (code, "holds other weights, " in err) == (0, True)
    assert f"arm pretrained: model.weights_digest {digest} -> " in " ".join(out.split())


def test_weights_are_looked_for_beside_the_study_file_and_then_from_the_working_directory(
    study, tmp_path, monkeypatch
):
    folder = study(
        arms={},
        grid={
            "model.weights": ["", "x.safetensors", str(tmp_path / "y.pth")],
            "model.dropout": [0, 0.5],
        },
    )
    saved(tmp_path / "y.pth", ModelConfig())
    arms = expand(str(folder)).arms
    assert [arm for arm in arms if arm.startswith(("none", "x"))] == [
        "none-0",
        "none-0.5",
        "x.safetensors-0",
        "x.safetensors-0.5",
    ]
    assert Path(arms["x.safetensors-0"].model.weights) == folder / "x.safetensors"
    monkeypatch.chdir(folder.parent)
    beside = study(arms=STUDY["arms"] | {"pretrained": {"model.weights": "y.pth"}})
    assert expand(str(beside)).arms["pretrained"].model.weights == "y.pth"
    monkeypatch.setenv("HOME", str(tmp_path))
    at_home = study(arms=STUDY["arms"] | {"pretrained": {"model": {"weights": "~/y.pth"}}})
    assert expand(str(at_home)).arms["pretrained"].model.weights == str(tmp_path / "y.pth")


def test_arms_of_equal_weights_under_two_names_are_the_same_science(study):
    folder = study(
        arms={"a": {"model.weights": "x.safetensors"}, "b": {"model.weights": "copy.safetensors"}}
    )
    shutil.copyfile(folder / "x.safetensors", folder / "copy.safetensors")
    with pytest.raises(ValueError, match="the arms 'a' and 'b' are the same science"):
        expand(str(folder))


def test_a_study_with_weights_that_do_not_fit_registers_nothing(study, tmp_path, command):
    folder = study(arms={"a": {}, "b": {"model.weights": "x.safetensors", "model.width": 0.25}})
    for name in ("plan", "study"):
        code, _, err = command(name, folder, layers=[])
        assert (code, len(err.splitlines())) == (2, 1)
        assert "arm 'b': model.weights: " in err
        assert "has shape" in err
    assert not (tmp_path / "outputs").exists()


def test_weights_of_the_command_line_make_another_study(study):
    folder = study(arms={"a": {}, "b": {"model.dropout": 0.5}})
    with_weights = expand(
        str(folder), [f"--model.weights={os.path.relpath(folder / 'x.safetensors')}"]
    )
    assert with_weights.name != expand(str(folder)).name
    assert all(arm.model.weights_digest for arm in with_weights.arms.values())
    assert with_weights.differences("b") == {"model.dropout": (0.0, 0.5)}
    digests = {
        science["model.weights_digest"]
        for science in Registration.of_today(with_weights).arms.values()
    }
    assert len(digests - {""}) == 1
