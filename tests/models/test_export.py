"""Networks for other tools compute what ours computes, and foreign weights are evaluated as our
own.
"""

import json
import re
from collections import OrderedDict
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from PIL import Image
from torch import nn

import made
import xceptlab.models.export
from conftest import ROOT, enliven
from xceptlab import register
from xceptlab.cli import main
from xceptlab.config.loading import load_run
from xceptlab.config.schema import DataConfig, ModelConfig, RunConfig
from xceptlab.data.transform import Transform
from xceptlab.errors import Refused
from xceptlab.models import pretrained
from xceptlab.models.build import build
from xceptlab.models.export import export
from xceptlab.models.names import to_timm
from xceptlab.models.warm_start import warm_start
from xceptlab.models.xception import Xception
from xceptlab.study.plan import expand

PREPROCESSED_AS_TIMM = ["--data.eval_crop=0.8975", "--data.eval_interpolation=bicubic"]
AS_TIMM = ["--model.padding=symmetric", "--model.bn_eps=1e-5", *PREPROCESSED_AS_TIMM]
TWO = ["--data.name=folder", "--data.num_classes=2", "--data.size=96"]
NARROW = ["--model.width=0.125", "--model.middle_blocks=1"]
SMALL = [*NARROW, *TWO]


def weights(folder, *args):
    """A file of ours with random weights and BatchNorm statistics, and its configuration."""
    config = load_run(list(args))
    network = enliven(Xception(config.model, config.data.classes, seed=1))
    safetensors.torch.save_file(network.state_dict(), folder / "ours.safetensors")
    return folder / "ours.safetensors", config, network


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def photographs(tmp_path):
    """A tree of two classes."""
    return made.photographs(tmp_path / "photographs", "ab", train=2, val=6)


def evaluated(capsys, file, photographs, *args):
    options = [
        "-c",
        "configs/data/imagenet.yaml",
        "--data.root",
        str(photographs),
        "--data.validation=0",
        *TWO,
    ]
    assert (
        main(
            [
                "evaluate",
                str(file),
                *options,
                "--runtime.accelerator=cpu",
                "--runtime.workers=0",
                *args,
            ]
        )
        == 0
    )
    printed = capsys.readouterr()
    return printed.out, printed.err


def test_evaluate_gives_foreign_weights_the_constants_of_their_source(
    tmp_path, photographs, capsys
):
    file, _, network = weights(tmp_path, *SMALL, *AS_TIMM)
    ours, _ = evaluated(capsys, file, photographs, *NARROW, *AS_TIMM)
    assert ours.startswith("test/")
    assert ours != evaluated(capsys, file, photographs, *NARROW)[0]
    state = to_timm(network.state_dict())
    safetensors.torch.save_file(state, tmp_path / "timm.safetensors")
    torch.save(state, tmp_path / "timm.pth")
    for foreign in ("timm.safetensors", "timm.pth"):
        scores, said = evaluated(capsys, tmp_path / foreign, photographs, *NARROW)
        assert scores == ours
        assert (
            f"{foreign}: weights from timm; padding symmetric, bn_eps 1e-05, bn_momentum 0.1"
            in said
        )
        assert (
            f"{foreign}: preprocessing of timm; data.eval_crop 0.8975, data.eval_interpolation bicubic\n"
            in said
        )


def test_a_folder_of_ours_that_has_timms_name_is_ours(tmp_path, photographs, capsys):
    folder = tmp_path / "xception"
    folder.mkdir()
    file, _, _ = weights(tmp_path, *SMALL)
    file.rename(folder / "model.safetensors")
    config = load_run(["-c", "configs/data/folder.yaml", f"--data.root={photographs}"])
    assert pretrained.with_published_preprocessing(config, folder) is config
    assert "preprocessing" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "used"),
    [
        (
            ["--data.eval_crop=0.875"],
            "data.eval_crop 0.875 (as configured), data.eval_interpolation bicubic",
        ),  # the default, but said
        (
            ["--data.eval_crop", "0.95"],
            "data.eval_crop 0.95 (as configured), data.eval_interpolation bicubic",
        ),
        (
            ["--data.eval_interpolation=bilinear"],
            "data.eval_crop 0.8975, data.eval_interpolation bilinear (as configured)",
        ),
        (["-c", "LAYER"], "data.eval_crop 1.0 (as configured), data.eval_interpolation bicubic"),
    ],
)
def test_preprocessing_that_the_user_has_configured_is_kept(
    tmp_path, photographs, capsys, given, used
):
    (tmp_path / "layer.yaml").write_text("data: {eval_crop: 1.0}\n")
    given = [str(tmp_path / "layer.yaml") if piece == "LAYER" else piece for piece in given]
    _, _, network = weights(tmp_path, *SMALL)
    torch.save(to_timm(network.state_dict()), tmp_path / "timm.pth")
    scores, said = evaluated(capsys, tmp_path / "timm.pth", photographs, *NARROW, *given)
    assert f"timm.pth: preprocessing of timm; {used}\n" in said
    own = evaluated(capsys, tmp_path / "ours.safetensors", photographs, *NARROW, *AS_TIMM, *given)
    assert scores == own[0]
    assert "preprocessing" not in own[1]


def test_images_in_memory_are_not_cropped_as_timm_does(tmp_path, capsys):
    _, _, network = weights(tmp_path, *NARROW, "-c", "configs/data/digits.yaml")
    torch.save(to_timm(network.state_dict()), tmp_path / "timm.pth")
    assert (
        main(
            [
                "evaluate",
                str(tmp_path / "timm.pth"),
                *NARROW,
                "-c",
                "configs/data/digits.yaml",
                "--data.test_images=20",
            ]
        )
        == 0
    )
    assert "preprocessing" not in capsys.readouterr().err


def test_evaluate_takes_a_keras_file(tmp_path, photographs, capsys, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(0)
    keras.applications.Xception(weights=None, classes=2).save_weights(tmp_path / "x.weights.h5")
    safetensors.torch.save_file(
        pretrained.load(tmp_path / "x.weights.h5").state_dict(), tmp_path / "ours.safetensors"
    )
    scores, said = evaluated(capsys, tmp_path / "x.weights.h5", photographs)
    assert "preprocessing" not in said  # Keras states none but the range of pixels, which is ours
    assert "weights from Keras; padding same, bn_eps 0.001" in said
    assert scores == evaluated(capsys, tmp_path / "ours.safetensors", photographs)[0]


def test_evaluate_asks_timm_for_its_xception_by_name(tmp_path, photographs, capsys, monkeypatch):
    import timm

    _, _, network = weights(tmp_path, *SMALL, *AS_TIMM)
    theirs = SimpleNamespace(state_dict=lambda: to_timm(network.state_dict()))
    monkeypatch.setattr(
        timm, "create_model", lambda name, pretrained: {"legacy_xception.tf_in1k": theirs}[name]
    )
    ours, _ = evaluated(capsys, tmp_path / "ours.safetensors", photographs, *NARROW, *AS_TIMM)
    assert evaluated(capsys, "legacy_xception.tf_in1k", photographs, *NARROW)[0] == ours

    def offline(*args, **options):
        raise OSError("Name or service not known")

    monkeypatch.setattr(timm, "create_model", offline)
    assert main(["evaluate", "legacy_xception", "--data.root", str(photographs), *TWO]) == 2
    error = capsys.readouterr().err
    assert (len(error.splitlines()), "timm cannot load its weights here" in error) == (1, True)


@pytest.mark.parametrize(
    "name", ["legacy_xceptoin", "inception_v3", "no/such/xception.h5", "my_xception"]
)
def test_weights_that_are_nowhere_are_one_line(name, photographs, capsys):
    assert main(["evaluate", name, "--data.root", str(photographs), *TWO]) == 2
    error = capsys.readouterr().err
    assert (len(error.splitlines()), name in error) == (1, True)


# ---- export --------------------------------------------------------------------------------------


def test_timms_layout_goes_out_and_in_to_the_same_bits(tmp_path, capsys):
    import timm

    file, _, network = weights(tmp_path, *TWO, *AS_TIMM)
    assert main(["export", str(file), str(tmp_path / "timm.safetensors"), *TWO, *AS_TIMM]) == 0
    assert "timm's legacy_xception" in capsys.readouterr().out
    back = pretrained.load(tmp_path / "timm.safetensors").state_dict()
    assert back.keys() == network.state_dict().keys()
    assert all(torch.equal(back[name], value) for name, value in network.state_dict().items())
    theirs = timm.create_model("legacy_xception", num_classes=2)
    theirs.load_state_dict(safetensors.torch.load_file(tmp_path / "timm.safetensors"))
    x = torch.randn(2, 3, 96, 96)
    assert torch.allclose(theirs.eval()(x), network(x), atol=1e-5)


@pytest.mark.parametrize(
    ("variant", "words"),
    [
        (
            [],
            [
                "model.padding same (timm: symmetric)",
                ".onnx and .pt2 take it as it is",
            ],
        ),
        ([*AS_TIMM, "--model.width=0.25"], ["model.width 0.25 (timm: 1.0)"]),
        (
            [*AS_TIMM, *NARROW, "--model.intermediate=relu"],
            ["model.intermediate relu (timm: none)"],
        ),
        (
            [*AS_TIMM, *NARROW, "--model.residual=projection_only"],
            ["model.residual projection_only"],
        ),
        ([*AS_TIMM, *NARROW, "--model.stem=cifar"], ["model.stem cifar"]),
        ([*AS_TIMM, *NARROW, "--model.fc=[4]"], ["model.fc (4,)"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_a_variant_that_timm_lacks_is_refused(tmp_path, variant, words):
    file, config, _ = weights(tmp_path, *TWO, *variant)
    with pytest.raises(ValueError) as error:
        export(config, file, tmp_path / "timm.safetensors")
    assert [word for word in words if word not in str(error.value)] == []
    assert not (tmp_path / "timm.safetensors").exists()


def test_torchs_program_computes_the_same_for_any_batch(tmp_path):
    file, config, network = weights(tmp_path, *SMALL)
    export(config, file, tmp_path / "x.pt2")
    program = torch.export.load(tmp_path / "x.pt2").module()
    for n in (1, 5):
        x = torch.randn(n, 3, 96, 96)
        assert torch.equal(program(x), network(x))


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory):
    for name in xceptlab.models.export.ONNX_PACKAGES:
        pytest.importorskip(name)
    folder = tmp_path_factory.mktemp("onnx")
    file, config, network = weights(folder, *SMALL)
    said = export(config, file, folder / "x.onnx")
    return folder / "x.onnx", said, network


def test_onnx_computes_the_same_for_any_batch(onnx_file):
    import onnxruntime

    file, said, network = onnx_file
    assert "onnxruntime's logits differ by" in said
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for n in (1, 5):
        x = torch.randn(n, 3, 96, 96)
        ours = network(x).detach()
        assert (
            torch.as_tensor(session.run(None, {"images": x.numpy()})[0]) - ours
        ).abs().max() < 1e-4 * ours.std()
    assert sorted(path.name for path in file.parent.iterdir()) == ["ours.safetensors", "x.onnx"]


@pytest.mark.parametrize("wrong", [1e-3, float("nan")])
def test_onnx_that_computes_something_else_is_not_kept(onnx_file, tmp_path, monkeypatch, wrong):
    right = xceptlab.models.export._onnxruntime
    monkeypatch.setattr(
        xceptlab.models.export, "_onnx", lambda network, images, told: onnx_file[0].read_bytes()
    )
    monkeypatch.setattr(
        xceptlab.models.export,
        "_onnxruntime",
        lambda data, images: right(data, images) * (1 + wrong) + wrong,
    )
    file, config, _ = weights(tmp_path, *SMALL)
    with pytest.raises(ValueError, match=r"onnxruntime's logits differ by .* \(allowed: 0.0001\)"):
        export(config, file, tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()


def test_without_the_onnx_packages_the_error_names_them(tmp_path, monkeypatch):
    monkeypatch.setattr(xceptlab.models.export, "ONNX_PACKAGES", ("onnx-that-is-not-there",))
    file, config, _ = weights(tmp_path, *SMALL)
    with pytest.raises(
        ValueError, match=r"needs onnx-that-is-not-there \(pip install 'xceptlab\[onnx\]'\)"
    ):
        export(config, file, tmp_path / "x.onnx")


@pytest.mark.parametrize(
    ("output", "words"),
    [("x.pt", [".onnx, .pt2, .safetensors"]), ("no/x.pt2", ["no folder"])],
)
def test_what_cannot_be_written_is_one_line(tmp_path, capsys, output, words):
    file, *_ = weights(tmp_path, *SMALL)
    assert main(["export", str(file), str(tmp_path / output), *SMALL]) == 2
    error = capsys.readouterr().err
    assert (len(error.splitlines()), [word for word in words if word not in error]) == (1, [])


def test_timms_own_models_are_exported_and_say_which_images_are_too_small(tmp_path):
    file = tmp_path / "model.safetensors"
    config = load_run(["--model.timm=resnet10t", *TWO])
    network = build(config.model, 2).eval()
    safetensors.torch.save_file(network.state_dict(), file)
    export(config, file, tmp_path / "x.pt2")
    x = torch.randn(3, 3, 96, 96)
    assert torch.equal(torch.export.load(tmp_path / "x.pt2").module()(x), network(x))
    with pytest.raises(ValueError, match=r"model.timm is resnet10t"):
        export(config, file, tmp_path / "x.safetensors")
    config = load_run(["--model.timm=inception_v3", *TWO, "--data.size=8"])
    safetensors.torch.save_file(build(config.model, 2).state_dict(), file)
    with pytest.raises(
        ValueError,
        match=r"data.size: 8 does not fit this network \(.*\); the smallest that does is 75",
    ):
        export(config, file, tmp_path / "y.pt2")


# ---- what the files say --------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["onnx", "pt2", "safetensors"])
def test_the_documented_code_uses_an_exported_file_and_finds_what_it_needs_in_it(
    tmp_path, monkeypatch, suffix
):
    for name in xceptlab.models.export.ONNX_PACKAGES if suffix == "onnx" else ():
        pytest.importorskip(name)
    variant = [*TWO, *AS_TIMM] if suffix == "safetensors" else SMALL
    file, config, network = weights(tmp_path, *variant)
    export(config, file, tmp_path / f"network.{suffix}")
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "export.md").read_text(), re.S)
    (example,) = [code for code in examples if f'"network.{suffix}"' in code]
    pixels = np.random.default_rng(0).integers(0, 256, (3, 96, 96, 3), dtype=np.uint8)
    found = {"pixels": pixels}
    monkeypatch.chdir(tmp_path)
    exec(example, found)
    images = (torch.tensor(pixels).float() / 127.5 - 1).permute(0, 3, 1, 2)
    assert (torch.as_tensor(found["logits"]) - network(images)).abs().max() < 1e-4 * network(
        images
    ).std()
    told = {
        key: value.decode() if isinstance(value, bytes) else value
        for key, value in found["told"].items()
    }
    assert (told["size"], "RGB, x / 127.5 - 1" in told["images"]) == ("96", True)
    assert json.loads(told["model"])["width"] == config.model.width


def test_timms_network_is_not_the_run_in_whose_folder_it_is_exported(tmp_path, monkeypatch):
    made.leave(expand("experiments/residual", [f"--runtime.outputs={tmp_path}"]), "residual", 0, 90)
    (run,) = (tmp_path / "runs").iterdir()
    (run / "config.yaml").write_text("data: {name: digits, size: 16, crop: none}")
    (run / "model.safetensors").touch()
    config = load_run(TWO)
    monkeypatch.chdir(run)
    of_run = xceptlab.models.export.metadata(config, config.model, "model.safetensors")
    assert of_run["run_id"] == run.name
    of_timm = xceptlab.models.export.metadata(config, config.model, "legacy_xception")
    assert "run_id" not in of_timm


@pytest.mark.parametrize("orientation", [1, 6])
def test_the_documented_code_makes_the_pixels_of_an_evaluation(tmp_path, monkeypatch, orientation):
    made.photographs(tmp_path, "a", train=1, val=0)
    with Image.open(tmp_path / "train/a/a0.jpg") as photograph:
        exif = photograph.getexif()
        exif[0x0112] = orientation
        photograph.save(tmp_path / "photo.jpg", exif=exif)
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "export.md").read_text(), re.S)
    (example,) = [code for code in examples if '"photo.jpg"' in code]
    found: dict = {}
    monkeypatch.chdir(tmp_path)
    exec(example.replace("299", "24"), found)
    config = load_run(["--data.name=folder", "--data.num_classes=2", "--data.size=24"])
    expected = Transform(config.data)(Image.open("photo.jpg"))  # (3, 24, 24)
    images = (torch.tensor(found["pixels"]).float() / 127.5 - 1).permute(0, 3, 1, 2)
    torch.testing.assert_close(images[0], expected)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            TWO,
            {"central_crop": "0.875", "interpolation": "bilinear", "exif_orientation": "applied"},
        ),
        (
            [*TWO, *PREPROCESSED_AS_TIMM, "--data.exif_orientation=false"],
            {"central_crop": "0.8975", "interpolation": "bicubic", "exif_orientation": "ignored"},
        ),
        (["--data.name=digits", "--data.crop=none"], {"central_crop": "1"}),
    ],
)
def test_an_exported_file_says_how_photographs_are_made_into_images(tmp_path, changes, told):
    config = load_run(changes)
    found = xceptlab.models.export.metadata(config, config.model, tmp_path / "ours.safetensors")
    keys = ("central_crop", "interpolation", "exif_orientation", "class_names")
    assert {key: found[key] for key in keys if key in found} == told


def test_a_file_of_timms_weights_says_the_preprocessing_that_evaluate_takes(tmp_path):
    weights(tmp_path, *TWO, *AS_TIMM)
    config = load_run([*TWO, *AS_TIMM])
    export(config, tmp_path / "ours.safetensors", tmp_path / "timms.safetensors")
    export(config, tmp_path / "timms.safetensors", tmp_path / "x.safetensors")
    with safetensors.safe_open(tmp_path / "x.safetensors", "pt") as file:
        told = file.metadata()
    assert (told["central_crop"], told["interpolation"]) == ("0.8975", "bicubic")


def test_a_run_is_loaded_by_its_configuration_whatever_its_network(tmp_path, tiny):
    config = tiny("--model.residual=none")
    run = tmp_path / "run"
    run.mkdir()
    network = Xception(config.model, 10, seed=3)
    safetensors.torch.save_file(network.state_dict(), run / "model.safetensors")
    with pytest.raises(
        ValueError,
        match=r"does not fit .*config.yaml is not beside it: give the fields of its model",
    ):
        pretrained.load(run)
    (run / "config.yaml").write_text(yaml.safe_dump(config.to_dict()))
    x = torch.randn(2, 3, 8, 8)
    for where in (run, run / "model.safetensors", str(run)):
        assert torch.equal(pretrained.load(where)(x), network.eval()(x))
    assert pretrained.load(run, bn_eps=0.1).entry.stem.norm1.eps == 0.1
    own = config.to_dict() | {
        "data": {"name": "imagenet", "num_classes": 10},
        "train": {"of_another_version": 1},
    }
    (run / "config.yaml").write_text(yaml.safe_dump(own))  # of the run only the network matters
    assert torch.equal(pretrained.load(run)(x), network.eval()(x))
    for wrong, said in (
        ({"model": 1}, "model: 1 is not allowed"),
        ({"model": {"wdith": 1}}, r"model\.wdith: there is no such key"),
    ):
        (run / "config.yaml").write_text(yaml.safe_dump(wrong))
        with pytest.raises(ValueError, match=said):
            pretrained.load(run)
    (run / "config.yaml").write_text(yaml.safe_dump(config.to_dict()))
    with pytest.raises(ValueError, match="does not fit"):
        pretrained.load(run, width=0.25)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"timm": "resnet18"}, r"weights of timm's resnet18, which timm.create_model\("),
        ({"timm": "densenet121"}, r"weights of timm's densenet121, which timm.create_model\("),
        ({"family": "plain"}, r"weights of the family plain, whose network xceptlab.Run"),
    ],
)
def test_a_run_of_another_network_is_not_taken_for_timms_xception(
    tmp_path, monkeypatch, capsys, model, said
):
    """Also where the other network begins with a layer ``conv1``, as timm's Xception does."""
    monkeypatch.setattr(register, "_entries", {})
    layers = {"conv1": nn.Conv2d(3, 4, 3), "pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten()}
    register.model("plain", version=1)(
        lambda options, classes: nn.Sequential(OrderedDict(layers, fc=nn.Linear(4, classes)))
    )
    config = ModelConfig(**model)
    network = build(config, 10, seed=3)
    safetensors.torch.save_file(network.state_dict(), tmp_path / "model.safetensors")
    misfit = r"does not fit the network: entry\.stem\.conv1\.weight is missing"
    with pytest.raises(Refused, match=misfit):
        pretrained.load(tmp_path)
    with pytest.raises(Refused, match=misfit):
        pretrained.restore(ModelConfig(), 10, tmp_path)
    run = RunConfig(model=config, data=DataConfig(name="digits", size=8, crop="none"))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(run.to_dict()))
    started = ModelConfig(weights=str(tmp_path))
    with pytest.raises(Refused, match=f"^model.weights: .*{misfit}"):
        warm_start(started, build(started, 10))
    capsys.readouterr()
    for where in (tmp_path, tmp_path / "model.safetensors"):
        with pytest.raises(Refused, match=said):
            pretrained.load(where)
    restored, _ = pretrained.restore(config, 10, tmp_path)
    assert all(map(torch.equal, restored.parameters(), network.parameters()))
    photographs = RunConfig(data=DataConfig(name="imagenet"))
    assert pretrained.with_published_preprocessing(photographs, tmp_path) is photographs
    assert capsys.readouterr().err == ""


def test_a_run_of_timms_xception_is_loaded_with_timms_constants(tmp_path, capsys):
    config = ModelConfig(timm="legacy_xception")
    theirs = build(config, 10, seed=3)
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    run = RunConfig(model=config, data=DataConfig(name="digits", size=8, crop="none"))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(run.to_dict()))
    ours = pretrained.load(tmp_path)
    assert "weights from timm; padding symmetric, bn_eps 1e-05" in capsys.readouterr().err
    x = torch.randn(1, 3, 96, 96)
    torch.testing.assert_close(ours(x), theirs.eval()(x), rtol=1e-4, atol=1e-5)
