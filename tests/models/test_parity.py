"""The network against its references, with the same random weights and BatchNorm statistics in
both.
"""

import dataclasses
import os

import numpy as np
import pytest
import safetensors.torch
import torch

os.environ["KERAS_BACKEND"] = "torch"
h5py = pytest.importorskip("h5py")
keras = pytest.importorskip("keras")
timm = pytest.importorskip("timm")

from conftest import enliven  # noqa: E402
from xceptlab.config.schema import ModelConfig  # noqa: E402
from xceptlab.models import pretrained  # noqa: E402
from xceptlab.models.names import from_timm, timm_names, to_timm  # noqa: E402
from xceptlab.models.xception import Block, Xception  # noqa: E402

SIZES = [299, 224, 96, 71, 64]
SYMMETRIC = ModelConfig(padding="symmetric", bn_eps=1e-5, bn_momentum=0.1)


def images(size, n=2, dtype=torch.float32):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(size), dtype=dtype)


def close(ours, theirs, tolerance=1e-4):
    """max |difference| below tolerance x the reference's deviation, which is itself no accident of tiny numbers."""
    assert theirs.std() > 0.1
    assert (ours - theirs).abs().max() / theirs.std() < tolerance


def same(a, b):
    """Equal weights, to the bit."""
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


@pytest.fixture(scope="module")
def keras_model():
    """Keras's Xception, its last layer giving logits, with random BatchNorm statistics as in
    ``enliven``.
    """
    keras.utils.clear_session()  # layers are counted from the start
    keras.utils.set_random_seed(0)
    model = keras.applications.Xception(weights=None, classifier_activation=None)
    generator = np.random.default_rng(0)
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert {(layer.epsilon, layer.momentum) for layer in norms} == {(1e-3, 0.99)}
    for layer in norms:
        gamma, beta, mean, variance = layer.get_weights()
        layer.set_weights(
            [
                generator.uniform(0.8, 1.2, gamma.shape),
                generator.normal(0, 0.1, beta.shape),
                mean,
                variance,
            ]
        )
        layer.momentum = 0.0
    model(images(299).permute(0, 2, 3, 1), training=True)
    for layer in norms:
        gamma, beta, mean, variance = layer.get_weights()
        mean = mean + generator.normal(0, 0.1, mean.shape) * variance**0.5
        layer.set_weights(
            [gamma, beta, mean, variance * generator.uniform(0.5, 1.5, variance.shape)]
        )
        layer.momentum = 0.99
    assert model.count_params() == 22_910_480
    assert sum(np.prod(weight.shape) for weight in model.trainable_weights) == 22_855_952
    head = model.get_layer("predictions")
    kernel, bias = head.get_weights()
    head.set_weights([kernel, generator.normal(0, 0.1, bias.shape)])
    return model


def saved(model, folder, name):
    """A file of Keras's; old.h5 has the layout of Keras 1 and 2's ``save_weights``, in which the
    published files are.
    """
    if name == "old.h5":
        new = saved(model, folder, "new.h5")
        with h5py.File(new) as file, h5py.File(folder / name, "w") as old:
            for layer in file["model_weights"]:
                file.copy(f"model_weights/{layer}", old)
            old.attrs.update(file["model_weights"].attrs)
    elif "weights" in name:
        model.save_weights(folder / name)
    else:
        model.save(folder / name)
    return folder / name


@pytest.fixture(scope="module")
def keras_file(keras_model, tmp_path_factory):
    return saved(keras_model, tmp_path_factory.mktemp("keras"), "x.weights.h5")


@pytest.fixture(scope="module")
def from_keras(keras_file):
    network = pretrained.load(keras_file)
    assert not network.training
    return network


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES)
def test_logits_and_features_are_keras(size, keras_model, from_keras):
    ours, x = from_keras, images(size, n=1)
    headless = keras.Model(keras_model.input, keras_model.get_layer("avg_pool").output)
    # layer by layer, since Keras's application refuses other sizes
    tensors = {id(headless.inputs[0]): x.permute(0, 2, 3, 1)}
    for layer in headless.layers[1:]:
        node = layer._inbound_nodes[0]
        inputs = [tensors[id(tensor)] for tensor in node.input_tensors]
        tensors[id(node.outputs[0])] = layer(inputs if len(inputs) > 1 else inputs[0])
    features = torch.as_tensor(tensors[id(headless.outputs[0])])
    kernel, bias = (torch.as_tensor(w) for w in keras_model.get_layer("predictions").get_weights())
    close(ours.features(x), features)
    close(ours(x), features @ kernel + bias)


@pytest.mark.parametrize("name", ["x.h5", "x.keras", "old.h5"])
def test_every_keras_file_gives_the_same_weights(name, keras_model, from_keras, tmp_path):
    same(pretrained.load(saved(keras_model, tmp_path, name)).state_dict(), from_keras.state_dict())


def test_keras_automatic_names_mean_other_layers_in_another_format(
    keras_model, keras_file, tmp_path
):
    with h5py.File(keras_file) as file:
        assert file["layers/batch_normalization/vars/0"].shape == (32,)
    with h5py.File(saved(keras_model, tmp_path, "x.h5")) as file:
        assert file["model_weights/batch_normalization/batch_normalization/gamma"].shape == (128,)


@pytest.mark.parametrize("name", ["x.weights.h5", "x.h5", "x.keras", "old.h5"])
def test_without_top_the_classifier_is_random_and_the_rest_the_same(
    name, keras_model, from_keras, tmp_path, capsys
):
    # the second in this process: conv2d_4 and so on
    headless = keras.applications.Xception(weights=None, include_top=False)
    headless.set_weights(keras_model.get_weights()[:-2])
    network = pretrained.load(saved(headless, tmp_path, name), classes=3)
    assert network.classifier.weight.shape == (3, 2048)
    assert "weights from Keras; padding same, bn_eps 0.001" in (said := capsys.readouterr().err)
    assert "has no top, so the classifier is random" in said
    same(
        *(
            {k: v for k, v in n.state_dict().items() if "classifier" not in k}
            for n in (network, from_keras)
        )
    )


@pytest.mark.parametrize("name", ["x.weights.h5", "old.h5"])
def test_a_keras_file_that_does_not_fit_says_what(name, keras_model, tmp_path):
    root, layer = (
        ("layers", "batch_normalization_39") if name == "x.weights.h5" else ("/", "block2_sepconv1")
    )
    file = saved(keras_model, tmp_path, name)
    with h5py.File(file, "a") as content:
        content.copy(f"{root}/{layer}", f"{root}/dense_1")
        if root == "/":
            content.attrs["layer_names"] = [*content.attrs["layer_names"], "dense_1"]
            content["dense_1"].attrs["weight_names"] = ["a"]
    with pytest.raises(ValueError, match=r"does not fit the network: dense_1 is unexpected$"):
        pretrained.load(file)
    with h5py.File(file, "a") as content:
        del content[f"{root}/dense_1"], content[f"{root}/{layer}"]
        if root == "/":
            names = content.attrs["layer_names"]
            content.attrs["layer_names"] = [
                each for each in names if each not in ("dense_1", layer)
            ]
    with pytest.raises(
        ValueError, match=r"does not fit the network: block(14|2)_sepconv.\w* is missing$"
    ):
        pretrained.load(file)
    with pytest.raises(
        ValueError,
        match=r"entry\.stem\.conv1\.weight has shape \(32, 3, 3, 3\), not \(16, 3, 3, 3\)",
    ):
        pretrained.load(saved(keras_model, tmp_path, "again.weights.h5"), width=0.5)


@pytest.fixture(scope="module")
def timm_model():
    torch.manual_seed(0)
    model = timm.create_model("legacy_xception", pretrained=False)
    assert {
        (m.eps, m.momentum) for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)
    } == {(1e-5, 0.1)}
    return enliven(model)


@pytest.fixture
def loaded_from_timm(timm_model, tmp_path):
    torch.save(timm_model.state_dict(), tmp_path / "legacy_xception.pth")
    return pretrained.load(tmp_path / "legacy_xception.pth")


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES)
def test_logits_and_features_are_timms(size, timm_model, loaded_from_timm):
    x = images(size)
    timm_model.eval()
    close(loaded_from_timm(x), timm_model(x))
    features = timm_model.forward_head(timm_model.forward_features(x), pre_logits=True)
    close(loaded_from_timm.features(x), features)


def test_training_and_gradients_are_timms(timm_model, loaded_from_timm):
    x, labels = images(96, n=4, dtype=torch.float64), torch.tensor([1, 5, 7, 900])
    theirs, ours = timm_model.double().train(), loaded_from_timm.double().train()
    logits = [model(x) for model in (ours, theirs)]
    close(logits[0], logits[1])
    for one in logits:
        torch.nn.functional.cross_entropy(one, labels).backward()
    mine = dict(ours.named_parameters())
    names = {
        f"{a}.{kind}": f"{b}.{kind}" for a, b in timm_names().items() for kind in ("weight", "bias")
    }
    reference = dict(theirs.named_parameters())
    assert len(mine) == len(reference)
    for name, parameter in mine.items():
        other = reference[names[name]].grad
        assert (parameter.grad - other).norm() <= 1e-4 * other.norm() + 1e-12, name
    for name, buffer in ours.named_buffers():
        module, _, kind = name.rpartition(".")
        assert torch.allclose(
            buffer, theirs.get_buffer(f"{timm_names()[module]}.{kind}"), rtol=1e-6
        ), name
    timm_model.float()


@torch.no_grad()
def test_the_parity_would_show_what_ports_get_wrong(timm_model):
    """The max poolings' padding, unless every size on the way is odd, and a ReLU in place at the
    head of a block.

    Measured on these weights, in norms of the logits: 7% at 299 pixels, 34% at 96; 40%. Other
    weights give other numbers.
    """
    state = from_timm(timm_model.float().state_dict(), "timm")

    def moved(size, padding, in_place=False):
        x, logits = images(size, n=1), []
        for network in (
            Xception(SYMMETRIC),
            Xception(dataclasses.replace(SYMMETRIC, padding=padding)),
        ):
            network.load_state_dict(state)
            logits.append(network.eval()(x))
        if in_place:
            for module in network.modules():
                if isinstance(module, Block) and hasattr(module.units[0], "relu"):
                    module.units[0].relu.inplace = True
            logits[1] = network(x)
        return ((logits[1] - logits[0]).norm() / logits[0].norm()).item()

    assert moved(299, "same") > 0.01
    assert moved(96, "same") > 0.1
    assert moved(71, "same") < 1e-6
    assert moved(96, "symmetric", in_place=True) > 0.2


def test_timms_layout_goes_out_and_in_bit_exactly(timm_model):
    state = timm_model.float().state_dict()
    same(to_timm(from_timm(state, "x")), state)


def test_initialisations_have_the_sources_distributions():
    ours = Xception(ModelConfig(init="timm"), seed=0)
    torch.manual_seed(0)
    theirs = timm.create_model("legacy_xception", pretrained=False)
    for a, b in timm_names().items():
        mine, other = ours.get_submodule(a), theirs.get_submodule(b)
        if mine.weight.numel() > 10_000:
            assert mine.weight.std().item() == pytest.approx(other.weight.std().item(), rel=0.05), a
            assert mine.weight.abs().max().item() == pytest.approx(
                other.weight.abs().max().item(), rel=0.35
            ), a


def test_files_that_do_not_fit_are_refused(timm_model, tmp_path):
    state = dict(timm_model.state_dict())
    torch.save({k: v for k, v in state.items() if k != "bn2.weight"}, tmp_path / "missing.pth")
    with pytest.raises(ValueError, match=r"entry.stem.norm2.weight is missing"):
        pretrained.load(tmp_path / "missing.pth")
    torch.save({**state, "extra.weight": torch.zeros(1)}, tmp_path / "extra.pth")
    with pytest.raises(ValueError, match=r"extra.weight is unexpected"):
        pretrained.load(tmp_path / "extra.pth")
    torch.save(state, tmp_path / "wide.pth")
    with pytest.raises(ValueError, match=r"has shape"):
        pretrained.load(tmp_path / "wide.pth", width=0.5)
    torch.save({k: v for k, v in state.items() if k != "fc.bias"}, tmp_path / "half.pth")
    with pytest.raises(ValueError, match=r"classifier.bias is missing"):
        pretrained.load(tmp_path / "half.pth")
    with pytest.raises(ValueError, match="did you mean legacy_xception"):
        pretrained.load("legacy_xceptoin")


@pytest.mark.parametrize("name", ["x.weights.h5", "x.h5", "x.keras", "x.safetensors", "x.pth"])
def test_a_truncated_or_foreign_file_is_refused(name, keras_model, timm_model, tmp_path):
    if "safetensors" in name:
        safetensors.torch.save_file(timm_model.state_dict(), tmp_path / name)
    elif "pth" in name:
        torch.save(timm_model.state_dict(), tmp_path / name)
    else:
        saved(keras_model, tmp_path, name)
    whole = (tmp_path / name).read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 5):
        (tmp_path / name).write_bytes(whole[:size])
        with pytest.raises(ValueError, match=f"{name}: not a readable"):
            pretrained.load(tmp_path / name)
    (tmp_path / name).write_text("no weights at all")
    with pytest.raises(ValueError, match=f"{name}: not a readable"):
        pretrained.load(tmp_path / name)
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=f"{name}: no such file"):
        pretrained.load(tmp_path / name)


class Touch:
    """What a pickle can do to whoever reads it carelessly."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".ckpt", ".safetensors"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"epoch: 1\n",
        b"hello world",
        b"\x80",
        b"{}",
        b"PK\x03\x04",
        b"<html>",
        "é".encode(),
        bytes(range(256)),
        b"\x89PNG\r\n",
    ],
)
def test_a_file_that_holds_no_weights_is_refused_in_words(content, suffix, tmp_path, capsys):
    file = tmp_path / f"x{suffix}"
    file.write_bytes(content)
    kind = (
        "a file of safetensors"
        if suffix == ".safetensors"
        else "a file that torch.save wrote of tensors only"
    )
    with pytest.raises(ValueError) as error:
        pretrained.load(file)
    assert (
        str(error.value) == f"{file}: not a readable weight file; by its suffix it must be {kind}"
    )
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "content", [lambda f: Touch(f), lambda f: [1], lambda f: {"pytorch-lightning_version": "2"}]
)
def test_nothing_in_a_file_is_executed(content, tmp_path):
    torch.save(content(tmp_path / "executed"), tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match=r"x\.ckpt: not a readable weight file"):
        pretrained.load(tmp_path / "x.ckpt")
    assert not (tmp_path / "executed").exists()
