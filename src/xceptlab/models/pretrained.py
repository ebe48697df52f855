"""Loading the paper's network with existing weights: from a run, from Keras's Xception files, or
from timm's ``legacy_xception``.

Keras and timm differ in settings that a checkpoint does not hold. Keras pads max poolings as
TensorFlow does, and its BatchNorm has an epsilon of 1e-3 and a momentum of 0.99 (0.01 in torch's
sense). timm pads symmetrically, with torch's 1e-5 and 0.1. ``load`` chooses these settings by the
source of the weights, and says so on standard error.

This is verified with files that Keras 3.15 and timm 1.0.31 wrote from random weights
(tests/models/test_parity.py); it was never tried with the published weights.
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
from xceptlab.runs.directory import RunDirectory, weights_in

CONSTANTS: dict[str, dict[str, Any]] = {
    "Keras": {"padding": "same", "bn_eps": 1e-3, "bn_momentum": 0.01},
    "timm": {"padding": "symmetric", "bn_eps": 1e-5, "bn_momentum": 0.1},
    "xceptlab": {},
}
"""Values of fields of ``ModelConfig`` that a checkpoint does not hold, by source of the weights.
Empty for xceptlab, as the configuration of the run holds them.
"""

TIMM_NAMES = ("legacy_xception", "xception")
"""timm's present and former name of the paper's network. timm's xception41, xception65 and
xception71 are other networks.
"""

TIMMS_KEY = "block1.rep.0.conv1.weight"
"""Key by which a checkpoint of timm's ``legacy_xception`` is told from those of other networks, ours
or not.
"""


def load(path_or_name: str | Path, **overrides: Any) -> Xception:
    """Load Xception with weights from a file or from timm, in eval mode, on the CPU.

    The source of the weights is printed on standard error. The classifier is drawn where the source
    has none.

    Args:
        path_or_name: One of: a Keras file of Xception (``.weights.h5``, ``.h5``, ``.keras``), with
            or without top; a checkpoint of timm's ``legacy_xception`` or of ours
            (any of ``TENSOR_FILES``, such as ``.safetensors`` or ``.pth``); a run's folder; or
            timm's name of the network, whose weights timm downloads. For our weights the
            config.yaml beside them, or in the folder above, says which network they belong to;
            without one it is the default network.
        overrides: Fields of ``ModelConfig`` that differ from those of the source, and ``classes``
            for a file without top (default 1000).

    Raises:
        Refused: ``ModelConfig`` has no such field or does not allow its value, the weights or the
            config.yaml beside them cannot be read, timm cannot download the weights here, they are
            not Xception's, or their keys do not fit; the message then names keys that are missing,
            unexpected, of another shape or not finite.
        IsADirectoryError, PermissionError: A file of tensors cannot be opened.
    """
    classes = overrides.pop("classes", None)
    unknown = set(overrides) - {field.name for field in dataclasses.fields(ModelConfig)}
    if unknown:
        raise Refused(f"{min(unknown)}: there is no such field of model")
    path_or_name = weights_in(path_or_name)
    source, state = read(path_or_name)
    trained = model_of_run(Path(path_or_name)) if source == "xceptlab" else None
    config = dataclasses.replace(trained or ModelConfig(), **CONSTANTS[source] | overrides)
    if config.family != "xception":
        raise Refused(
            f"{path_or_name}: weights of the family {config.family}, whose network xceptlab.Run(FOLDER).network is"
        )
    if config.timm:
        raise Refused(
            f"{path_or_name}: weights of timm's {config.timm}, which timm.create_model(checkpoint_path=...) loads"
        )
    announce(path_or_name, source, config)
    head = [value for name, value in state.items() if name.startswith("classifier.")]
    network = Xception(config, classes or (len(head[0]) if head else 1000))
    if not head:
        print(f"{path_or_name}: has no top, so the classifier is random", file=sys.stderr)
        drawn = network.classifier.state_dict(prefix="classifier.")
        state = {**state, **drawn}
    try:
        fit(network, state, str(path_or_name))
    except Refused as error:
        hint = ""
        if source == "xceptlab" and not trained:
            hint = "; the run's config.yaml is not beside it: give the fields of its model, such as width=0.125"
        raise Refused(f"{error}{hint}") from None
    return network.eval()


def restore(
    config: ModelConfig, classes: int, weights: str | Path
) -> tuple[nn.Module, ModelConfig]:
    """Build the network of a configuration with existing weights, in training mode, on the CPU.
    Weights of Keras's or timm's Xception are announced on standard error.

    Args:
        config: The network's configuration.
        classes: Number of classes.
        weights: For Xception any source that ``load`` reads; for another network a file of tensors
            or a run's folder.

    Returns:
        The network; and its configuration with the constants of the weights' source, and without
        the weights that its own training started from (``model.weights``).

    Raises:
        Refused: The weights cannot be read or do not fit the network, or there is no such network.
        IsADirectoryError, PermissionError: A file of tensors cannot be opened.
    """
    config = _without_start(config)
    weights = weights_in(weights)
    if config.is_xception:
        source, state = read(weights)
    else:
        source, state = "xceptlab", read_tensors(Path(weights))
    if source != "xceptlab":
        config = dataclasses.replace(config, **CONSTANTS[source])
        announce(weights, source, config)
    network = build(config, classes)
    fit(network, state, str(weights))
    return network, config


def read(path_or_name: str | Path) -> tuple[str, State]:
    """Read weights from a file, or download those that timm has under a name.

    Returns:
        The source of the weights, ``Keras``, ``timm`` or ``xceptlab``; and the weights by our
        names. A file of tensors that is not timm's is taken for ours, whatever its names are.

    Raises:
        Refused: There is no such file, it cannot be read or holds something else, h5py is not
            installed for a Keras file, the name is not timm's of the paper's network, or timm
            cannot download the weights here.
        IsADirectoryError, PermissionError: A file of tensors cannot be opened.
    """
    path = Path(path_or_name)
    if path.suffix in keras.FILES:
        return "Keras", keras.read(path)
    if path.suffix in TENSOR_FILES:
        state = read_tensors(path)
        if TIMMS_KEY in state:
            return "timm", from_timm(state, str(path))
        return "xceptlab", state
    return "timm", _download(str(path_or_name))


def _download(name: str) -> State:
    """Download timm's pretrained weights of the model ``name``, one of ``TIMM_NAMES``.

    A tag may follow the name, as in ``legacy_xception.tf_in1k``.

    Returns:
        The weights by our names.

    Raises:
        Refused: The name is not one of the paper's network, or timm cannot download its weights
            here.
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
    """Return the configuration of the network to which a run's weights or checkpoint belong, from
    the run's config.yaml, but without the weights that its training started from
    (``model.weights``). None for a file with no config.yaml beside it or in the folder above.

    Raises:
        Refused: The run's configuration cannot be read, or is not allowed.
    """
    run = RunDirectory.around(file)
    if run is None:
        return None
    return _without_start(load_file(ModelConfig, str(run.path / "config.yaml"), "model"))


def _without_start(config: ModelConfig) -> ModelConfig:
    """Return a network's configuration without the weights that its training started from, and
    without their digest.
    """
    return dataclasses.replace(config, weights="", weights_digest="")


def announce(where: str | Path, source: str, config: ModelConfig) -> None:
    """Print on standard error the source of weights, and the padding and BatchNorm's constants of
    the network that gets them.

    Args:
        where: The file or name of the weights.
        source: ``Keras``, ``timm`` or ``xceptlab``.
        config: The network's configuration.
    """
    constants = (
        f"padding {config.padding}, bn_eps {config.bn_eps:g}, bn_momentum {config.bn_momentum:g}"
    )
    print(f"{where}: weights from {source}; {constants}", file=sys.stderr)


def with_published_preprocessing(
    config: RunConfig, weights: str | Path, given: Collection[str] = ()
) -> RunConfig:
    """Return a run's configuration in which images are prepared for evaluation as the source of the
    weights does it.

    For timm's weights of Xception these are timm's crop and interpolation; those that are used are
    printed on standard error. With other weights, and for images in memory, the configuration is
    returned as it is: Keras publishes the range of pixels only, which is ours, too, and our weights
    are evaluated as their run says.

    Args:
        config: The run with which the weights are evaluated.
        weights: A file, a run's folder or a name, as for ``load``.
        given: Dotted keys that the user has set for this evaluation. These stay as they are, and so
            do fields whose value is not the default.

    Raises:
        Refused: The file of the weights cannot be read.
        IsADirectoryError, PermissionError: It cannot be opened.
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
    used = []
    for name in theirs:
        remark = "" if name in taken else " (as configured)"
        used.append(f"data.{name} {getattr(data, name)}{remark}")
    print(f"{weights}: preprocessing of timm; {', '.join(used)}", file=sys.stderr)
    return dataclasses.replace(config, data=data)


def _is_from_timm(weights: str | Path) -> bool:
    """Whether weights are those of timm's Xception: a file of tensors with timm's keys, or timm's
    name of the network.

    Raises:
        Refused: The file of tensors cannot be read.
        IsADirectoryError, PermissionError: It cannot be opened.
    """
    path = Path(weights_in(weights))
    if path.suffix in TENSOR_FILES:
        return TIMMS_KEY in read_tensors(path)
    return path.suffix not in keras.FILES and path.name.split(".")[0] in TIMM_NAMES
