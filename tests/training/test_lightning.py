"""What training relies on in Lightning is there, or the first run says what is not."""

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest
import pytorch_lightning as pl
from pytorch_lightning.callbacks import WeightAveraging

import xceptlab
from xceptlab.errors import Refused
from xceptlab.training import lightning
from xceptlab.training.train import train


def modules():
    """The modules of this package that import Lightning, and all of ``training``, which may build
    on these.
    """
    for found in pkgutil.walk_packages(xceptlab.__path__, "xceptlab."):
        source = Path(found.module_finder.find_spec(found.name).origin).read_text()
        imports_lightning = re.search(r"^\s*(import|from) (pytorch_)?lightning\b", source, re.M)
        if imports_lightning or found.name.startswith("xceptlab.training."):
            yield importlib.import_module(found.name)


def ours():
    """The classes of this package that Lightning calls."""
    kinds = {
        kind for module in modules() for _, kind in inspect.getmembers(module, inspect.isclass)
    }
    found = [kind for kind in kinds if kind.__module__.startswith("xceptlab") and lightnings(kind)]
    return sorted(found, key=lambda kind: kind.__name__)


def lightnings(kind):
    """The parents of a class that Lightning defines."""
    return [
        parent
        for parent in kind.__mro__
        if parent.__module__.startswith(("pytorch_lightning", "lightning_fabric"))
    ]


@pytest.mark.parametrize("kind", ours(), ids=lambda kind: kind.__name__)
def test_each_method_that_ours_replaces_is_one_that_is_checked(kind):
    defined = [name for name in vars(kind) if not name.startswith(("__", "_abc_"))]
    replaced = {
        name for name in defined if any(hasattr(parent, name) for parent in lightnings(kind))
    }
    checked = {
        name
        for base, names in lightning.REPLACED.items()
        if issubclass(kind, base)
        for name in names
    }
    assert replaced <= checked


def test_the_classes_that_lightning_calls_are_found_wherever_they_stand():
    places = {kind.__module__ for kind in ours()}
    assert places >= {
        "xceptlab.data.module",
        "xceptlab.training.task",
        "xceptlab.training.lightning",
    }


def test_nothing_is_checked_that_nothing_replaces():
    for base, names in lightning.REPLACED.items():
        kinds = [kind for kind in ours() if issubclass(kind, base)]
        assert [name for name in names if not any(name in vars(kind) for kind in kinds)] == []


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (pl.LightningModule, "backward"),
        # every callback has one; what matters is that this class does its work there
        (WeightAveraging, "on_train_end"),
        (lightning.callbacks.RichProgressBar, "_get_train_description"),
    ],
)
def test_a_method_that_lightning_has_no_more_is_named_with_lightnings_version(
    tiny, monkeypatch, owner, name
):
    monkeypatch.delattr(owner, name)
    with pytest.raises(
        Refused,
        match=f"pytorch-lightning {pl.__version__} does not fit .* {owner.__name__} has no {name} any more",
    ):
        train(tiny(), progress=False)


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (
            lightning.pl.trainer.connectors.signal_connector._SignalConnector,
            "register_signal_handlers",
        ),
        (lightning.pl.loops.training_epoch_loop._TrainingEpochLoop, "_broadcast_sigterm_tensor"),
    ],
)
def test_a_private_method_that_would_be_replaced_in_vain_is_named_too(
    tiny, monkeypatch, owner, name
):
    monkeypatch.delattr(owner, name)
    with pytest.raises(Refused, match=f"{owner.__name__} has no {name} any more"):
        train(tiny(), progress=False)


def test_an_average_that_lightning_keeps_elsewhere_is_named_too(tiny, monkeypatch):
    monkeypatch.setattr(WeightAveraging, "__init__", lambda self, **options: None)
    with pytest.raises(Refused, match="AverageWeights has no _average_model any more"):
        train(tiny("--train.ema=0.9"), progress=False)
