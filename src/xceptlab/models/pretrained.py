"""Weights from elsewhere into our network, and back: Keras's Xception files and timm's ``legacy_xception``.

The two differ in what a checkpoint does not hold: Keras pads max poolings as TensorFlow does and has BatchNorm constants of 1e-3
and 0.99, timm pads symmetrically with torch's 1e-5 and 0.1. ``load`` chooses by the source and says so. Verified with files that
Keras 3.15 and timm 1.0.31 wrote from random weights (tests/models/test_parity.py); never with the published ones.
"""

import dataclasses
import io
import re
import sys
import warnings
import zipfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from xceptlab.config.loading import load_file
from xceptlab.config.schema import DataConfig, ModelConfig, RunConfig
from xceptlab.data.identity import weights_file
from xceptlab.errors import Refused
from xceptlab.models.build import build
from xceptlab.models.xception import Xception
from xceptlab.runs.directory import RunDirectory

CONSTANTS: dict[str, dict[str, Any]] = {
    "Keras": {"padding": "same", "bn_eps": 1e-3, "bn_momentum": 0.01},
    "timm": {"padding": "symmetric", "bn_eps": 1e-5, "bn_momentum": 0.1},
    "xceptlab": {},
}
"""What the sources have and their checkpoints do not say."""

FUNCTION = ("order", "intermediate", "intermediate_norm", "residual", "segments", "convolution", "stem")
"""Fields of ``ModelConfig`` that change what weights compute; not all of them show in the weights' names and shapes."""

TIMM_NAMES = ("legacy_xception", "xception")
"""What timm calls, and called, the paper's network; its xception41, 65 and 71 are other ones."""

TIMMS_OWN = "conv1.weight"
"""A key of timm's checkpoints that ours do not have."""
KERAS_FILES = (".h5", ".keras")
TENSOR_FILES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")

State = Mapping[str, Tensor]


def load(path_or_name: str | Path, **overrides: Any) -> Xception:
    """The network with weights from a file or from timm, in eval mode.

    Args:
        path_or_name: A Keras ``.weights.h5``, ``.h5`` or ``.keras`` file of Xception, with or without top; a checkpoint of timm's
            ``legacy_xception`` or one of ours (``.safetensors``, ``.pth``); a run's folder, for its weights; or the name of a
            timm model, which timm downloads. The network of one of ours is what the run's config.yaml beside it says.
        overrides: Fields of ``ModelConfig`` that differ from the source's, and ``classes`` for a file without top (default 1000).

    Raises:
        Refused: The file cannot be read, or its keys do not fit: which are missing, unexpected or of another shape.
    """
    classes = overrides.pop("classes", None)
    if unknown := set(overrides) - {f.name for f in dataclasses.fields(ModelConfig)}:
        raise Refused(f"{min(unknown)}: there is no such field of model")
    if Path(path_or_name).is_dir():
        path_or_name = Path(path_or_name) / "model.safetensors"
    source, state = read(path_or_name)
    beside = _beside(Path(path_or_name)) if source == "xceptlab" else None
    config = dataclasses.replace(beside or ModelConfig(), **CONSTANTS[source] | overrides)
    announce(path_or_name, source, config)
    if config.timm:
        raise Refused(f"{path_or_name}: weights of timm's {config.timm}, which timm.create_model(checkpoint_path=...) loads")
    head = [value for name, value in state.items() if name.startswith("classifier.")]
    network = Xception(config, classes or (len(head[0]) if head else 1000))
    if not head:
        print(f"{path_or_name}: has no top, so the classifier is random", file=sys.stderr)
        state = {**state, **{f"classifier.{name}": value for name, value in network.classifier.state_dict().items()}}
    try:
        fit(network, state, str(path_or_name))
    except ValueError as error:
        alone = source == "xceptlab" and not beside
        hint = "; the run's config.yaml is not beside it: give the fields of its model, such as width=0.125" if alone else ""
        raise Refused(f"{error}{hint}") from None
    return network.eval()


def _run_of(file: Path) -> Path | None:
    """The folder of the run that a file of weights or a checkpoint lies in; None for a lone file."""
    return next((folder for folder in file.parents[:2] if (folder / "config.yaml").exists()), None)


def _beside(file: Path) -> ModelConfig | None:
    """The network of a run's weights or checkpoint, by the run's configuration; None where that is not at hand."""
    folder = _run_of(file)
    return _without_start(load_file(ModelConfig, str(folder / "config.yaml"), "model")) if folder else None


def _without_start(config: ModelConfig) -> ModelConfig:
    """The network, whatever its training started from."""
    return dataclasses.replace(config, weights="", weights_digest="")


def restore(config: ModelConfig, classes: int, weights: str | Path) -> tuple[nn.Module, ModelConfig]:
    """The network with weights from wherever ``load`` finds them, and its configuration: foreign ones bring their constants.

    Raises:
        Refused: The weights cannot be read or do not fit the network.
    """
    config = _without_start(config)
    source, state = ("xceptlab", read_tensors(Path(weights))) if config.timm else read(weights)
    if source != "xceptlab":
        config = dataclasses.replace(config, **CONSTANTS[source])
        announce(weights, source, config)
    network = build(config, classes)
    fit(network, state, str(weights))
    return network, config


def with_published_preprocessing(config: RunConfig, weights: str | Path, given: Collection[str] = ()) -> RunConfig:
    """The run whose evaluation prepares images as where its weights come from, which is said on standard error.

    timm states it with the network; Keras states the range of pixels only, which is ours, and our own weights are evaluated as
    their run says.

    Args:
        config: The run that the weights are to be evaluated by.
        weights: Wherever ``load`` finds them.
        given: Keys that the user has set for this evaluation. These, and fields that are not at their default, stay as they are.
    """
    if config.model.timm or config.data.name in DataConfig.IN_MEMORY or not _is_from_timm(weights):
        return config
    import timm

    published = timm.get_pretrained_cfg(TIMM_NAMES[0])
    assert published is not None
    assert {*published.mean, *published.std} == {0.5}, "pixels are expected in [-1, 1], as ours are"
    theirs = {"eval_crop": published.crop_pct, "eval_interpolation": published.interpolation}
    taken: dict[str, Any] = {}
    for name, value in theirs.items():
        if f"data.{name}" not in given and getattr(config.data, name) == getattr(DataConfig, name):
            taken[name] = value
    data = dataclasses.replace(config.data, **taken)
    used = ", ".join(f"data.{name} {getattr(data, name)}" + ("" if name in taken else " (as configured)") for name in theirs)
    print(f"{weights}: preprocessing of timm; {used}", file=sys.stderr)
    return dataclasses.replace(config, data=data)


def _is_from_timm(weights: str | Path) -> bool:
    path = Path(weights)
    if path.suffix in TENSOR_FILES:
        return TIMMS_OWN in read_tensors(path)
    return path.suffix not in KERAS_FILES and path.name.split(".")[0] in TIMM_NAMES


def announce(where: str | Path, source: str, config: ModelConfig) -> None:
    """Say on standard error what was chosen by the source of weights."""
    constants = f"padding {config.padding}, bn_eps {config.bn_eps:g}, bn_momentum {config.bn_momentum:g}"
    print(f"{where}: weights from {source}; {constants}", file=sys.stderr)


def fit(network: nn.Module, state: State, where: str) -> None:
    """Load weights that fit to the last key.

    Raises:
        Refused: Which keys are missing, unexpected or of another shape.
    """
    network.load_state_dict(fitted(network.state_dict(), state, where))


def fitted(own: State, state: State, where: str) -> State:
    """Weights that fit a network's own to the last key; BatchNorm's counts of batches may be absent, and are its own then.

    Raises:
        Refused: Which keys are missing, unexpected or of another shape.
    """
    counts = {name: value for name, value in own.items() if name.endswith("num_batches_tracked")}
    state = counts | dict(state)
    problems = [f"{name} is missing" for name in own if name not in state]
    problems += [f"{name} is unexpected" for name in state if name not in own]
    for name in own:
        if name in state and state[name].shape != own[name].shape:
            problems.append(f"{name} has shape {tuple(state[name].shape)}, not {tuple(own[name].shape)}")
    _refuse(problems, where)
    return state


def _refuse(problems: list[str], where: str) -> None:
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise Refused(f"{where}: does not fit the network: {'; '.join(problems[:3])}{more}")


def read(path_or_name: str | Path) -> tuple[str, State]:
    """(Keras, timm or xceptlab; the weights by our names)."""
    path = Path(path_or_name)
    if path.suffix in KERAS_FILES:
        return "Keras", _read_keras(path)
    if path.suffix in TENSOR_FILES:
        state = read_tensors(path)
        return ("timm", from_timm(state, str(path))) if TIMMS_OWN in state else ("xceptlab", state)
    return "timm", _download(str(path_or_name))


def read_tensors(path: Path) -> State:
    """Tensors by name from safetensors or a torch file; a Lightning checkpoint gives its network. Nothing is executed.

    Raises:
        Refused: The file is neither.
    """
    import safetensors.torch

    safe = path.suffix == ".safetensors"
    try:
        with warnings.catch_warnings(action="ignore"):  # of how odd the bytes are
            state: Any = safetensors.torch.load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise Refused(f"{path}: no such file") from None
    except (IsADirectoryError, PermissionError):
        raise
    except Exception:  # whatever its bytes make of the unpickler, whose own texts advise to execute what the file holds
        kind = "a file of safetensors" if safe else "a file that torch.save wrote of tensors only"
        raise Refused(f"{path}: not a readable weight file; by its suffix it must be {kind}") from None
    if isinstance(state, dict) and "pytorch-lightning_version" in state:
        state = {k.removeprefix("network."): v for k, v in state.get("state_dict", {}).items() if k.startswith("network.")}
    state = state.get("state_dict", state) if isinstance(state, dict) else {}
    if not state or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()):
        raise Refused(f"{path}: not a readable weight file; it holds something other than tensors by name")
    return state


def _download(name: str) -> State:
    if name.split(".")[0] not in TIMM_NAMES:
        raise Refused(
            f"{name}: neither a weight file (.h5, .keras, .safetensors, .pth) nor timm's Xception; did you mean {TIMM_NAMES[0]}?"
        )
    import timm

    try:
        return from_timm(timm.create_model(name, pretrained=True).state_dict(), name)
    except (OSError, RuntimeError) as error:
        raise Refused(f"{name}: timm cannot load its weights here ({' '.join(str(error).split())[:200]})") from None


# ---- what a training starts from -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a training starts from in place of drawn weights: ``model.weights``."""

    state: State
    """All weights of the network."""
    source: str
    """Where they come from, as the record keeps it."""
    anew: str
    """What is drawn all the same, and why, in words; empty where every weight is the source's."""

    def __str__(self) -> str:
        return f"starts from {self.source}; {self.anew or 'every weight is theirs, also those of the classifier'}"


def start(config: ModelConfig, network: nn.Module) -> Start | None:
    """The weights of ``model.weights`` for a network with drawn ones, which is left as it is; None where there are none.

    Where the number of classes differs, the classifier is drawn, and so are optional fully connected layers that do not fit.

    Args:
        config: The network's; never changed to fit the weights.
        network: May be on the meta device, to see only whether the weights fit.

    Raises:
        Refused: The weights are not there, cannot be read or do not fit, or were trained with other constants.
    """
    if not config.weights:
        return None
    file = weights_file(config.weights)
    place, (source, state) = f"model.weights: {file}", read(file)
    trained = _beside(file) if source == "xceptlab" else ModelConfig(**CONSTANTS[source])
    if trained:
        _refuse_other_constants(config, trained, place)
    own = network.state_dict()
    theirs, ours = _classes(state), _classes(own)
    anew = ""
    if theirs != ours:
        fresh = _misfits_of_top(state, own)
        kept = {name: value for name, value in state.items() if _module(name) not in fresh}
        state = kept | {name: value for name, value in own.items() if _module(name) in fresh}
        drawn = [name for name in fresh if f"{name}.weight" in own]
        why = f"{theirs:,} classes there, {ours:,} here" if theirs else "there is none there"
        anew = f"{', '.join(drawn)} {'is' if len(drawn) == 1 else 'are'} drawn anew ({why})"
    return Start(state=fitted(own, state, place), source=_origin(file, source, config, trained), anew=anew)


def check(config: ModelConfig, classes: int) -> None:
    """Refuse weights that a training could not start from; those that are not at hand are left to the training.

    Raises:
        Refused: As of ``start``.
    """
    if not config.weights:
        return
    try:
        weights_file(config.weights)
    except ValueError:
        return
    with torch.device("meta"):
        network = build(config, classes)
    start(config, network)


def _refuse_other_constants(config: ModelConfig, trained: ModelConfig, place: str) -> None:
    """BatchNorm's momentum may differ: it says how fast running statistics follow, not what the weights compute."""
    other = [name for name in ("padding", "bn_eps") if getattr(config, name) != getattr(trained, name)]
    if other:
        here = ", ".join(f"model.{name} {getattr(config, name)}" for name in other)
        there = " ".join(f"--model.{name} {getattr(trained, name)}" for name in other)
        raise Refused(f"{place}: trained with other constants than {here}; set {there}")


def _classes(state: State) -> int:
    """Units of the classifier; 0 without one."""
    head = state.get("classifier.weight", state.get("classifier.bias"))
    return head.shape[0] if head is not None and head.ndim else 0


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _misfits_of_top(state: State, own: State) -> list[str]:
    """The classifier, and the fully connected layers before it that are in one of the two only, or have other shapes."""
    top = {_module(name): None for name in [*own, *state] if name.startswith(("fc.", "classifier."))}  # in order

    def fits(module: str) -> bool:
        names = (f"{module}.weight", f"{module}.bias")
        return all(name in state and name in own and state[name].shape == own[name].shape for name in names)

    return [module for module in top if module == "classifier" or not fits(module)]


def _origin(file: Path, source: str, config: ModelConfig, trained: ModelConfig | None) -> str:
    """In words where weights come from and, where it is known, in what their network computed otherwise."""
    folder = _run_of(file)
    record = RunDirectory(folder).record() if folder and source == "xceptlab" else None
    words = f"the run {record.run_id}" if record else f"{file.name} ({source})"
    if not trained:
        return f"{words}, whose padding and bn_eps are not known"
    other = [f"{name} {getattr(trained, name)}" for name in FUNCTION if getattr(trained, name) != getattr(config, name)]
    return f"{words}, trained with {', '.join(other)}" if other else words


# ---- what the layers are called --------------------------------------------------------------------------------------------


class _Layer(NamedTuple):
    """One layer with weights, in the order of Keras's ``model.layers``."""

    ours: str
    kind: str
    """conv2d, separable_conv2d, batch_normalization or dense."""
    keras: str
    """Keras's explicit name; empty for a shortcut's layers, which Keras names by itself."""
    timm: str
    """timm's legacy_xception's name."""


def _layers() -> Iterator[_Layer]:
    """The layers of the paper's network."""
    for i in (1, 2):
        yield _Layer(f"entry.stem.conv{i}", "conv2d", f"block1_conv{i}", f"conv{i}")
        yield _Layer(f"entry.stem.norm{i}", "batch_normalization", f"block1_conv{i}_bn", f"bn{i}")
    blocks = [*(f"entry.block{i}" for i in (1, 2, 3)), *(f"middle.{i}" for i in range(8)), "exit.block"]
    for number, block in enumerate(blocks, start=1):
        for unit in range(3 if block.startswith("middle") else 2):
            keras, at = f"block{number + 1}_sepconv{unit + 1}", 3 * unit + (number > 1)  # the first does not begin with a ReLU
            yield _Layer(f"{block}.units.{unit}.separable", "separable_conv2d", keras, f"block{number}.rep.{at}")
            yield _Layer(f"{block}.units.{unit}.norm", "batch_normalization", f"{keras}_bn", f"block{number}.rep.{at + 1}")
        if not block.startswith("middle"):
            yield _Layer(f"{block}.skip.conv", "conv2d", "", f"block{number}.skip")
            yield _Layer(f"{block}.skip.norm", "batch_normalization", "", f"block{number}.skipbn")
    for i in (1, 2):
        yield _Layer(f"exit.separable{i}", "separable_conv2d", f"block14_sepconv{i}", f"conv{i + 2}")
        yield _Layer(f"exit.norm{i}", "batch_normalization", f"block14_sepconv{i}_bn", f"bn{i + 2}")
    yield _Layer("classifier", "dense", "predictions", "fc")


# ---- timm -----------------------------------------------------------------------------------------------------------------


def timm_names() -> dict[str, str]:
    """Our modules' names to those of timm's legacy_xception, module by module."""
    names = {}
    for layer in _layers():
        if layer.kind == "separable_conv2d":
            names[f"{layer.ours}.depthwise"] = f"{layer.timm}.conv1"
            names[f"{layer.ours}.pointwise"] = f"{layer.timm}.pointwise"
        else:
            names[layer.ours] = layer.timm
    return names


def from_timm(state: State, where: str) -> State:
    """legacy_xception's weights by our names.

    Raises:
        Refused: A key that the network does not have.
    """
    ours = {theirs: ours for ours, theirs in timm_names().items()}
    return _renamed(state, ours, f"{where}: {{}} is unexpected in a legacy_xception checkpoint")


def to_timm(state: State) -> State:
    """The paper's network's weights by legacy_xception's names.

    Raises:
        Refused: A variant that timm's network does not have.
    """
    return _renamed(state, timm_names(), "{}: timm's legacy_xception has no such layer; only the paper's network fits its layout")


def _renamed(state: State, names: Mapping[str, str], problem: str) -> State:
    renamed = {}
    for name, value in state.items():
        module, _, kind = name.rpartition(".")
        if module not in names:
            raise Refused(problem.format(name))
        renamed[f"{names[module]}.{kind}"] = value
    return renamed


# ---- Keras ----------------------------------------------------------------------------------------------------------------


def _read_keras(path: Path) -> State:
    try:
        import h5py
    except ImportError:
        raise Refused(f"{path}: reading Keras's files needs h5py (pip install 'xceptlab[keras]')") from None
    try:
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive, h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file:
                layers = _by_kind(file)
        else:
            with h5py.File(path) as file:
                layers = _by_kind(file) if "layers" in file else _by_name(file)
        return _keras_state(layers, str(path))
    except Refused:
        raise
    except FileNotFoundError:
        raise Refused(f"{path}: no such file") from None
    except (OSError, KeyError, TypeError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise Refused(f"{path}: not a readable Keras file ({error})") from None


def _number(name: str) -> int:
    """What counts Keras's automatic names: 0 for ``conv2d``, 3 for ``conv2d_3``."""
    return int(found[1]) if (found := re.search(r"_(\d+)$", name)) else 0


def _by_kind(file: Any) -> dict[str, list[np.ndarray]]:
    """``.weights.h5`` and ``.keras``: layers are named by their class and counted in the order of the model."""
    found: dict[str, list[str]] = {}
    for name in file["layers"]:
        if len(file["layers"][name].get("vars", ())):
            found.setdefault(re.sub(r"_\d+$", "", name), []).append(name)
    queues = {kind: iter(sorted(names, key=_number)) for kind, names in found.items()}
    state = {}
    for layer in _layers():
        if name := next(queues.get(layer.kind, iter(())), None):
            variables = file["layers"][name]["vars"]
            state[layer.ours] = [np.asarray(variables[str(i)]) for i in range(len(variables))]
    return state | {name: [] for queue in queues.values() for name in queue}  # left over: not Xception's


def _by_name(file: Any) -> dict[str, list[np.ndarray]]:
    """``.h5``: layers have their names; only the shortcuts' are counted."""
    root = file.get("model_weights", file)
    names = [name.decode() if isinstance(name, bytes) else name for name in root.attrs["layer_names"]]
    weighted = dict.fromkeys(name for name in names if len(root[name].attrs["weight_names"]))
    automatic = {
        "conv2d": iter(sorted((n for n in weighted if re.fullmatch(r"(conv2d|convolution2d)(_\d+)?", n)), key=_number)),
        "batch_normalization": iter(
            sorted((n for n in weighted if re.fullmatch(r"batch_?normalization(_\d+)?", n)), key=_number)
        ),
    }
    state = {}
    for layer in _layers():
        name = layer.keras or next(automatic[layer.kind], "")
        if name in weighted:
            group = root[name]
            state[layer.ours] = [np.asarray(group[weight]) for weight in group.attrs["weight_names"]]
            del weighted[name]
    return state | {name: [] for name in weighted}  # left over: not Xception's


def _keras_state(layers: dict[str, list[np.ndarray]], where: str) -> State:
    """Keras's arrays as torch's tensors: kernels (H, W, in, out) to (out, in, H, W)."""
    ours = {layer.ours: layer.keras or f"{layer.kind} of the shortcut {layer.ours}" for layer in _layers()}
    problems = [f"{name} is missing" for key, name in ours.items() if key not in layers and key != "classifier"]
    _refuse(problems + [f"{name} is unexpected" for name in layers if name not in ours], where)
    state: dict[str, Tensor] = {}
    for layer in _layers():
        if layer.ours not in layers:
            continue  # the top
        arrays = layers[layer.ours]
        suffixes = {
            "conv2d": ["weight"],
            "separable_conv2d": ["depthwise.weight", "pointwise.weight"],
            "batch_normalization": ["weight", "bias", "running_mean", "running_var"],
            "dense": ["weight", "bias"],
        }[layer.kind]
        if len(arrays) != len(suffixes):
            raise Refused(f"{where}: {layer.keras or layer.ours} has {len(arrays)} arrays, not {len(suffixes)}")
        for suffix, array in zip(suffixes, arrays, strict=True):
            if array.ndim == 4:
                array = array.transpose((2, 3, 0, 1) if suffix.startswith("depthwise") else (3, 2, 0, 1))
            elif array.ndim == 2:
                array = array.T
            state[f"{layer.ours}.{suffix}"] = torch.from_numpy(np.ascontiguousarray(array))
    return state
