"""The paper's network with weights from elsewhere: a run of ours, Keras's Xception files or timm's
``legacy_xception``.

Keras and timm differ in what a checkpoint does not hold: Keras pads max poolings as TensorFlow does
and has BatchNorm constants of 1e-3 and 0.99, timm pads symmetrically with torch's 1e-5 and 0.1.
``load`` chooses by the source and says so.

Verified with files that Keras 3.15 and timm 1.0.31 wrote from random weights
(tests/models/test_parity.py); never with the published ones.
"""

import dataclasses
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from torch import nn

from xceptlab.config.loading import load_file
from xceptlab.config.schema import DataConfig, ModelConfig, RunConfig
from xceptlab.errors import Refused
from xceptlab.models import keras
from xceptlab.models.build import build
from xceptlab.models.names import from_timm
from xceptlab.models.state import TENSOR_FILES, State, fit, read_tensors
from xceptlab.models.xception import Xception
from xceptlab.runs.directory import RunDirectory

CONSTANTS: dict[str, dict[str, Any]] = {
    "Keras": {"padding": "same", "bn_eps": 1e-3, "bn_momentum": 0.01},
    "timm": {"padding": "symmetric", "bn_eps": 1e-5, "bn_momentum": 0.1},
    "xceptlab": {},
}
"""Fields of ``ModelConfig`` that checkpoints do not state, with their values for each source."""

TIMM_NAMES = ("legacy_xception", "xception")
"""timm's present and former name of the paper's network; its xception41, 65 and 71 are other
networks.
"""

TIMMS_KEY = "conv1.weight"
"""A key of timm's checkpoints that ours do not have."""


def load(path_or_name: str | Path, **overrides: Any) -> Xception:
    """Load the network with weights from a file or from timm, in eval mode.

    Args:
        path_or_name: A Keras ``.weights.h5``, ``.h5`` or ``.keras`` file of Xception, with or
            without top; a checkpoint of timm's ``legacy_xception`` or one of ours
            (``.safetensors``, ``.pth``); a run's folder, for its weights; or the name of a timm
            model, which timm downloads. The network of one of ours is what the run's config.yaml
            beside it says.
        overrides: Fields of ``ModelConfig`` that differ from the source's, and ``classes`` for a
            file without top (default 1000).

    Raises:
        Refused: The file cannot be read, or its keys do not fit: which are missing, unexpected or
            of another shape.
    """
    classes = overrides.pop("classes", None)
    unknown = set(overrides) - {field.name for field in dataclasses.fields(ModelConfig)}
    if unknown:
        raise Refused(f"{min(unknown)}: there is no such field of model")
    if Path(path_or_name).is_dir():
        path_or_name = Path(path_or_name) / "model.safetensors"
    source, state = read(path_or_name)
    trained = model_of_run(Path(path_or_name)) if source == "xceptlab" else None
    config = dataclasses.replace(trained or ModelConfig(), **CONSTANTS[source] | overrides)
    announce(path_or_name, source, config)
    if config.family != "xception":
        raise Refused(
            f"{path_or_name}: weights of the family {config.family}, whose network xceptlab.Run(FOLDER).network is"
        )
    if config.timm:
        raise Refused(
            f"{path_or_name}: weights of timm's {config.timm}, which timm.create_model(checkpoint_path=...) loads"
        )
    head = [value for name, value in state.items() if name.startswith("classifier.")]
    network = Xception(config, classes or (len(head[0]) if head else 1000))
    if not head:
        print(f"{path_or_name}: has no top, so the classifier is random", file=sys.stderr)
        state = {
            **state,
            **{
                f"classifier.{name}": value
                for name, value in network.classifier.state_dict().items()
            },
        }
    try:
        fit(network, state, str(path_or_name))
    except ValueError as error:
        hint = ""
        if source == "xceptlab" and not trained:
            hint = "; the run's config.yaml is not beside it: give the fields of its model, such as width=0.125"
        raise Refused(f"{error}{hint}") from None
    return network.eval()


def restore(
    config: ModelConfig, classes: int, weights: str | Path
) -> tuple[nn.Module, ModelConfig]:
    """Build the network with weights from any source that ``load`` reads; returns its
    configuration, too, in which foreign weights set their constants.

    Raises:
        Refused: The weights cannot be read or do not fit the network.
    """
    config = _without_start(config)
    source, state = (
        read(weights) if config.is_xception else ("xceptlab", read_tensors(Path(weights)))
    )
    if source != "xceptlab":
        config = dataclasses.replace(config, **CONSTANTS[source])
        announce(weights, source, config)
    network = build(config, classes)
    fit(network, state, str(weights))
    return network, config


def read(path_or_name: str | Path) -> tuple[str, State]:
    """Read weights; returns their source (Keras, timm or xceptlab), and the weights by our names.

    Raises:
        Refused: There is no such file and timm has no such network, or the file holds something
            else.
    """
    path = Path(path_or_name)
    if path.suffix in keras.FILES:
        return "Keras", keras.read(path)
    if path.suffix in TENSOR_FILES:
        state = read_tensors(path)
        return ("timm", from_timm(state, str(path))) if TIMMS_KEY in state else ("xceptlab", state)
    return "timm", _download(str(path_or_name))


def _download(name: str) -> State:
    """Fetch the weights that timm has under a name, by our names.

    Raises:
        Refused: timm has no weights of the paper's network under this name, or they cannot be
            fetched here.
    """
    if name.split(".")[0] not in TIMM_NAMES:
        raise Refused(
            f"{name}: neither a weight file (.h5, .keras, .safetensors, .pth) nor timm's Xception; did you mean {TIMM_NAMES[0]}?"
        )
    import timm

    try:
        return from_timm(timm.create_model(name, pretrained=True).state_dict(), name)
    except (OSError, RuntimeError) as error:
        raise Refused(
            f"{name}: timm cannot load its weights here ({' '.join(str(error).split())[:200]})"
        ) from None


def model_of_run(file: Path) -> ModelConfig | None:
    """The network of a run's weights or checkpoint, by the run's configuration; None where that is
    not at hand.
    """
    run = RunDirectory.around(file)
    return (
        _without_start(load_file(ModelConfig, str(run.path / "config.yaml"), "model"))
        if run
        else None
    )


def _without_start(config: ModelConfig) -> ModelConfig:
    """The network's configuration without the weights that its training started from."""
    return dataclasses.replace(config, weights="", weights_digest="")


def announce(where: str | Path, source: str, config: ModelConfig) -> None:
    """Say on standard error where weights come from, and which constants their source has set."""
    constants = (
        f"padding {config.padding}, bn_eps {config.bn_eps:g}, bn_momentum {config.bn_momentum:g}"
    )
    print(f"{where}: weights from {source}; {constants}", file=sys.stderr)


def with_published_preprocessing(
    config: RunConfig, weights: str | Path, given: Collection[str] = ()
) -> RunConfig:
    """Let a run's evaluation prepare images as the source of its weights does, and say so on
    standard error.

    timm states it with the network; Keras states the range of pixels only, which is ours, and our
    own weights are evaluated as their run says.

    Args:
        config: The run that the weights are to be evaluated by.
        weights: A file, a run's folder or a name, as for ``load``.
        given: Keys that the user has set for this evaluation. These, and fields that are not at
            their default, stay as they are.
    """
    if not config.model.is_xception or config.data.in_memory or not _is_from_timm(weights):
        return config
    import timm

    published = timm.get_pretrained_cfg(TIMM_NAMES[0])
    assert published is not None
    assert {*published.mean, *published.std} == {0.5}, "pixels are expected in [-1, 1], as ours are"
    theirs = {"eval_crop": published.crop_pct, "eval_interpolation": published.interpolation}
    taken: dict[str, Any] = {}
    for name, value in theirs.items():
        is_default = getattr(config.data, name) == getattr(DataConfig, name)
        if is_default and f"data.{name}" not in given:
            taken[name] = value
    data = dataclasses.replace(config.data, **taken)
    used = ", ".join(
        f"data.{name} {getattr(data, name)}" + ("" if name in taken else " (as configured)")
        for name in theirs
    )
    print(f"{weights}: preprocessing of timm; {used}", file=sys.stderr)
    return dataclasses.replace(config, data=data)


def _is_from_timm(weights: str | Path) -> bool:
    """Whether weights are timm's, by the keys of a file or by the name."""
    path = Path(weights)
    if path.suffix in TENSOR_FILES:
        return TIMMS_KEY in read_tensors(path)
    return path.suffix not in keras.FILES and path.name.split(".")[0] in TIMM_NAMES
