"""Keras's files of Xception (``.weights.h5``, ``.keras`` and the older ``.h5``) to weights by our
names.

The files need h5py to be read, not Keras. Their two layouts differ in what they call a layer: the
newer one names layers by their class and a number, the older one by the names that the model gives
them.
"""

import io
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xceptlab.errors import Refused
from xceptlab.models.names import layers
from xceptlab.models.state import State, refuse_any

FILES = (".h5", ".keras")
"""Suffixes of Keras's files."""

ARRAYS = {
    "conv2d": ["weight"],
    "separable_conv2d": ["depthwise.weight", "pointwise.weight"],
    "batch_normalization": ["weight", "bias", "running_mean", "running_var"],
    "dense": ["weight", "bias"],
}
"""Our names of a layer's arrays, by the kind of layer, in the order in which Keras stores them."""

Arrays = dict[str, list[np.ndarray]]
"""Arrays of each layer, by our name of the layer. A layer that is not Xception's has Keras's name
and no arrays.
"""


def read(path: Path) -> State:
    """Read the weights of a file, by our names; without the classifier's where the file has no top.

    Raises:
        Refused: The file is not there or not readable, or holds another network.
    """
    try:
        import h5py
    except ImportError:
        raise Refused(
            f"{path}: reading Keras's files needs h5py (pip install 'xceptlab[keras]')"
        ) from None
    try:
        if path.suffix == ".keras":
            with (
                zipfile.ZipFile(path) as archive,
                h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file,
            ):
                arrays = _by_kind(file)
        else:
            with h5py.File(path) as file:
                arrays = _by_kind(file) if "layers" in file else _by_name(file)
        return _as_tensors(arrays, str(path))
    except Refused:
        raise
    except FileNotFoundError:
        raise Refused(f"{path}: no such file") from None
    except (
        OSError,
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        RuntimeError,
        zlib.error,
        zipfile.BadZipFile,
    ) as error:
        raise Refused(f"{path}: not a readable Keras file ({error})") from None


def _by_kind(file: Any) -> Arrays:
    """Read the layers of ``.weights.h5`` and ``.keras``, which are named by their class and counted
    in the order of the model.
    """
    names_of_kind: dict[str, list[str]] = {}
    for name in file["layers"]:
        if len(file["layers"][name].get("vars", ())):
            kind = re.sub(r"_\d+$", "", name)
            names_of_kind.setdefault(kind, []).append(name)
    remaining = {kind: _in_order(names) for kind, names in names_of_kind.items()}
    found: Arrays = {}
    for layer in layers():
        name = next(remaining.get(layer.kind, iter(())), None)
        if name is not None:
            variables = file["layers"][name]["vars"]
            found[layer.ours] = [np.asarray(variables[str(i)]) for i in range(len(variables))]
    for names in remaining.values():
        found |= {name: [] for name in names}
    return found


def _by_name(file: Any) -> Arrays:
    """Read the layers of ``.h5``, which have the model's names; only those of the shortcuts are
    counted.
    """
    root = file.get("model_weights", file)
    names = [
        name.decode() if isinstance(name, bytes) else name for name in root.attrs["layer_names"]
    ]
    weighted = dict.fromkeys(name for name in names if len(root[name].attrs["weight_names"]))
    shortcuts = {
        "conv2d": _in_order(
            name for name in weighted if re.fullmatch(r"(conv2d|convolution2d)(_\d+)?", name)
        ),
        "batch_normalization": _in_order(
            name for name in weighted if re.fullmatch(r"batch_?normalization(_\d+)?", name)
        ),
    }
    found: Arrays = {}
    for layer in layers():
        name = layer.keras or next(shortcuts[layer.kind], "")
        if name in weighted:
            group = root[name]
            found[layer.ours] = [
                np.asarray(group[weight]) for weight in group.attrs["weight_names"]
            ]
            del weighted[name]
    return found | {name: [] for name in weighted}


def _in_order(names: Iterable[str]) -> Iterator[str]:
    """Sort names that Keras has numbered, by number: ``conv2d``, ``conv2d_1``, ``conv2d_2``."""

    def number(name: str) -> int:
        found = re.search(r"_(\d+)$", name)
        return int(found[1]) if found else 0

    return iter(sorted(names, key=number))


def _as_tensors(arrays: Arrays, where: str) -> State:
    """Convert Keras's arrays to torch's tensors.

    Raises:
        Refused: Layers are missing or are not Xception's, or a layer has another number of arrays.
    """
    described = {
        layer.ours: layer.keras or f"{layer.kind} of the shortcut {layer.ours}"
        for layer in layers()
    }
    problems = [
        f"{text} is missing"
        for name, text in described.items()
        if name not in arrays and name != "classifier"
    ]
    problems += [f"{name} is unexpected" for name in arrays if name not in described]
    refuse_any(problems, where)
    state: dict[str, Tensor] = {}
    for layer in layers():
        if layer.ours not in arrays:  # the classifier of a file without top
            continue
        found, names = arrays[layer.ours], ARRAYS[layer.kind]
        if len(found) != len(names):
            raise Refused(
                f"{where}: {layer.keras or layer.ours} has {len(found)} arrays, not {len(names)}"
            )
        for name, array in zip(names, found, strict=True):
            state[f"{layer.ours}.{name}"] = torch.from_numpy(
                np.ascontiguousarray(_torchs_axes(name, array))
            )
    return state


def _torchs_axes(name: str, array: np.ndarray) -> np.ndarray:
    """Bring one of Keras's arrays into torch's order of axes.

    Kernels (H, W, in, out) become (out, in, H, W), depthwise ones (H, W, in, 1) become (in, 1, H,
    W), matrices (in, out) become (out, in).
    """
    if array.ndim == 4:
        return array.transpose((2, 3, 0, 1) if name.startswith("depthwise") else (3, 2, 0, 1))
    return array.T if array.ndim == 2 else array
