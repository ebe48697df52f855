"""The network against its references, with the same random weights and BatchNorm statistics in both."""

import os

import numpy as np
import pytest
import torch

os.environ["KERAS_BACKEND"] = "torch"
keras = pytest.importorskip("keras")
timm = pytest.importorskip("timm")

from xceptlab.models import pretrained  # noqa: E402
from xceptlab.models.xception import Xception  # noqa: E402
from xceptlab.schema import ModelConfig  # noqa: E402

SIZES = [299, 224, 96, 71, 64]


def images(size, n=2, dtype=torch.float32):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(size), dtype=dtype)


def close(ours, theirs, tolerance=1e-4):
    """max |difference| below tolerance x the reference's deviation, which is itself no accident of tiny numbers."""
    assert theirs.std() > 0.1
    assert (ours - theirs).abs().max() / theirs.std() < tolerance


@pytest.fixture(scope="module")
def keras_model():
    """Keras's Xception with random BatchNorm statistics; its last layer gives logits."""
    keras.utils.set_random_seed(0)
    model = keras.applications.Xception(weights=None, classifier_activation=None)
    generator = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            gamma, beta, mean, variance = layer.get_weights()
            layer.set_weights([
                generator.uniform(0.8, 1.2, gamma.shape), generator.normal(0, 0.1, beta.shape),
                generator.normal(0, 0.1, mean.shape), generator.uniform(0.5, 1.5, variance.shape),
            ])  # fmt: skip
    head = model.get_layer("predictions")
    kernel, bias = head.get_weights()
    head.set_weights([kernel, generator.normal(0, 0.5, bias.shape)])
    return model


@pytest.fixture(scope="module", params=["x.weights.h5", "x.h5", "x.keras"])
def from_keras(request, keras_model, tmp_path_factory):
    file = tmp_path_factory.mktemp("keras") / request.param
    (keras_model.save_weights if "weights" in request.param else keras_model.save)(file)
    return pretrained.load(file)


@torch.no_grad()
def test_every_keras_file_gives_the_same_network(from_keras, keras_model):
    x = images(96)
    resized = keras.applications.Xception(weights=None, include_top=False, pooling="avg", input_shape=(96, 96, 3))
    resized.set_weights(keras_model.get_weights()[:-2])
    features = torch.as_tensor(resized(x.permute(0, 2, 3, 1), training=False))
    ours = from_keras.features(x)
    assert (ours - features).abs().max() / features.std() < 1e-4
    kernel, bias = (torch.as_tensor(w) for w in keras_model.get_layer("predictions").get_weights())
    close(from_keras(x), features @ kernel + bias)


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES)
def test_logits_and_features_are_keras(size, keras_model, tmp_path_factory):
    file = tmp_path_factory.mktemp("keras") / "x.weights.h5"
    keras_model.save_weights(file)
    ours = pretrained.load(file)
    x = images(size, n=1)
    headless = keras.Model(keras_model.input, keras_model.get_layer("avg_pool").output)
    tensors = {id(headless.inputs[0]): x.permute(0, 2, 3, 1)}  # layer by layer, since Keras's application refuses other sizes
    for layer in headless.layers[1:]:
        node = layer._inbound_nodes[0]
        inputs = [tensors[id(tensor)] for tensor in node.input_tensors]
        tensors[id(node.outputs[0])] = layer(inputs if len(inputs) > 1 else inputs[0])
    features = torch.as_tensor(tensors[id(headless.outputs[0])])
    kernel, bias = (torch.as_tensor(w) for w in keras_model.get_layer("predictions").get_weights())
    close(ours(x), features @ kernel + bias)


@pytest.fixture(scope="module")
def timm_model():
    torch.manual_seed(0)
    model = timm.create_model("legacy_xception", pretrained=False)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.8, 1.2)
            torch.nn.init.normal_(module.bias, 0, 0.1)
            torch.nn.init.normal_(module.running_mean, 0, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    torch.nn.init.normal_(model.fc.bias, 0, 0.5)
    return model


@pytest.fixture
def from_timm(timm_model, tmp_path):
    torch.save(timm_model.state_dict(), tmp_path / "legacy_xception.pth")
    return pretrained.load(tmp_path / "legacy_xception.pth")


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES)
def test_logits_and_features_are_timms(size, timm_model, from_timm):
    x = images(size)
    timm_model.eval()
    close(from_timm(x), timm_model(x))
    features = timm_model.forward_head(timm_model.forward_features(x), pre_logits=True)
    assert (from_timm.features(x) - features).abs().max() / features.std() < 1e-4


def test_training_and_gradients_are_timms(timm_model, from_timm):
    x, labels = images(96, n=4, dtype=torch.float64), torch.tensor([1, 5, 7, 900])
    theirs, ours = timm_model.double().train(), from_timm.double().train()
    logits = [model(x) for model in (ours, theirs)]
    close(logits[0], logits[1])
    for one in logits:
        torch.nn.functional.cross_entropy(one, labels).backward()
    mine = dict(ours.named_parameters())
    names = {f"{a}.{kind}": f"{b}.{kind}" for a, b in pretrained.timm_names().items() for kind in ("weight", "bias")}
    reference = dict(theirs.named_parameters())
    assert len(mine) == len(reference)
    for name, parameter in mine.items():
        other = reference[names[name]].grad
        assert (parameter.grad - other).norm() <= 1e-4 * other.norm() + 1e-12, name
    for name, buffer in ours.named_buffers():
        module, _, kind = name.rpartition(".")
        assert torch.allclose(buffer, theirs.get_buffer(f"{pretrained.timm_names()[module]}.{kind}"), rtol=1e-6), name
    timm_model.float()


def test_timms_layout_goes_out_and_in_bit_exactly(timm_model):
    state = timm_model.float().state_dict()
    back = pretrained.to_timm(pretrained.from_timm(state, "x"))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_initialisations_have_the_sources_distributions():
    ours = Xception(ModelConfig(init="timm"), seed=0)
    torch.manual_seed(0)
    theirs = timm.create_model("legacy_xception", pretrained=False)
    for a, b in pretrained.timm_names().items():
        mine, other = ours.get_submodule(a), theirs.get_submodule(b)
        if mine.weight.numel() > 10_000:
            assert mine.weight.std().item() == pytest.approx(other.weight.std().item(), rel=0.05), a
            assert mine.weight.abs().max().item() == pytest.approx(other.weight.abs().max().item(), rel=0.35), a


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
    (tmp_path / "cut.h5").write_bytes(b"\x89HDF\r\n")
    with pytest.raises(ValueError, match="not a readable Keras file"):
        pretrained.load(tmp_path / "cut.h5")
    (tmp_path / "cut.keras").write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match="not a readable Keras file"):
        pretrained.load(tmp_path / "cut.keras")
    with pytest.raises(ValueError, match="no such file"):
        pretrained.load(tmp_path / "absent.safetensors")
    with pytest.raises(ValueError, match="did you mean"):
        pretrained.load("legacy_xceptoin")
