"""Reading Keras's weight files of Xception: ``.weights.h5``, ``.keras`` and the older ``.h5``.

This is a converter, of which no network, training or export knows: its one user is
``pretrained.read``, which calls ``read`` for a file with one of the suffixes ``FILES``.

Reading needs h5py, but not Keras. There are two layouts: the newer one (``.weights.h5``,
``.keras``) names layers by their class and a number, the older one by the names that the model
gives them.
Where a name does not tell which layer it is, its place among the layers of its kind does.
"""

import io
import re
import zipfile
import zlib
from collections import defaultdict, deque
from collections.abc import Iterable
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
"""Our names of the arrays of a layer, by the kind of layer, in the order in which Keras stores
them.
"""
SHORTCUTS = {
    "conv2d": re.compile(r"(conv2d|convolution2d)(_\d+)?"),
    "batch_normalization": re.compile(r"batch_?normalization(_\d+)?"),
}
"""Patterns of the names that Keras itself gives to the layers of the shortcuts in an ``.h5`` file,
by kind.
"""

Arrays = dict[str, list[np.ndarray]]
"""Arrays of each layer, by our name of the layer. A layer that is not Xception's stands under its
name in the file, without arrays.
"""


def read(path: Path) -> State:
    """Read Xception's weights from a Keras file, and return them by our names, with torch's order
    of axes. A file without top has none of the classifier's.

    Raises:
        Refused: There is no such file, it cannot be read, its layers are not Xception's, or h5py is
            not installed.
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
    # A Refused says already what is wrong. It is a ValueError, which the last clause would catch.
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
    """Return the arrays of each layer that has any in an open ``.weights.h5`` or ``.keras`` file,
    by our name of the layer. In the file a layer's name is its kind and a number, counted in the
    order of the model. A layer that is not Xception's is returned under its name in the file, with
    an empty list.
    """
    unread: defaultdict[str, deque[str]] = defaultdict(deque)
    for name in _by_number(file["layers"]):
        if len(file["layers"][name].get("vars", ())):
            kind = re.sub(r"_\d+$", "", name)
            unread[kind].append(name)
    found: Arrays = {}
    for layer in layers():
        if not unread[layer.kind]:
            continue
        name = unread[layer.kind].popleft()
        variables = file["layers"][name]["vars"]
        found[layer.ours] = [np.asarray(variables[str(i)]) for i in range(len(variables))]
    for unexpected in unread.values():
        found |= {name: [] for name in unexpected}
    return found


def _by_name(file: Any) -> Arrays:
    """Return the arrays of each layer that has any in an open ``.h5`` file of the older layout, by
    our name of the layer. In the file a layer has the name that Keras's model gives it or, on a
    shortcut, its kind and a number, counted in the order of the model. A layer that is not
    Xception's is returned under its name in the file, with an empty list.
    """
    root = file.get("model_weights", file)
    names = [_as_text(name) for name in root.attrs["layer_names"]]
    unread = dict.fromkeys(name for name in names if len(root[name].attrs["weight_names"]))
    shortcuts: dict[str, deque[str]] = {}
    for kind, pattern in SHORTCUTS.items():
        of_kind = filter(pattern.fullmatch, unread)
        shortcuts[kind] = deque(_by_number(of_kind))
    found: Arrays = {}
    for layer in layers():
        name = layer.keras
        if not name and shortcuts[layer.kind]:
            name = shortcuts[layer.kind].popleft()
        if name in unread:
            group = root[name]
            weights = group.attrs["weight_names"]
            found[layer.ours] = [np.asarray(group[weight]) for weight in weights]
            del unread[name]
    return found | {name: [] for name in unread}


def _as_text(name: str | bytes) -> str:
    """Return a name as text; h5py gives bytes for some files."""
    return name.decode() if isinstance(name, bytes) else name


def _by_number(names: Iterable[str]) -> list[str]:
    """Sort names by the number that Keras has added: ``conv2d``, ``conv2d_1``, ``conv2d_2``."""

    def number(name: str) -> int:
        found = re.search(r"_(\d+)$", name)
        return int(found[1]) if found else 0

    return sorted(names, key=number)


def _as_tensors(arrays: Arrays, where: str) -> State:
    """Convert Keras's arrays to torch's tensors, by the names of our weights.

    Args:
        arrays: The arrays of each layer of a file, by our name of the layer.
        where: The file, for errors.

    Raises:
        Refused: Layers other than the classifier are missing, layers are not Xception's, or a layer
            has another number of arrays.
    """
    described = {}
    for layer in layers():
        described[layer.ours] = layer.keras or f"{layer.kind} of the shortcut {layer.ours}"
    missing = [name for name in described if name not in arrays and name != "classifier"]
    problems = [f"{described[name]} is missing" for name in missing]
    problems += [f"{name} is unexpected" for name in arrays if name not in described]
    refuse_any(problems, where)
    state: dict[str, Tensor] = {}
    for layer in layers():
        # Keras can save a network without its top, which is the classifier. Of all other layers it
        # was checked above that the file has them.
        if layer.ours not in arrays:
            continue
        found = arrays[layer.ours]
        names = ARRAYS[layer.kind]
        if len(found) != len(names):
            raise Refused(
                f"{where}: {layer.keras or layer.ours} has {len(found)} arrays, not {len(names)}"
            )
        for name, array in zip(names, found, strict=True):
            values = np.ascontiguousarray(_in_torchs_axes(name, array))
            state[f"{layer.ours}.{name}"] = torch.from_numpy(values)
    return state


def _in_torchs_axes(name: str, array: np.ndarray) -> np.ndarray:
    """Return one of Keras's arrays with its axes in torch's order.

    Kernels (H, W, in, out) become (out, in, H, W), depthwise kernels (H, W, in, 1) become
    (in, 1, H, W), and matrices (in, out) become (out, in). Vectors stay as they are. A depthwise
    kernel is known by ``name``, our name of the array within its layer: ``depthwise.weight``.
    """
    if array.ndim == 4 and name.startswith("depthwise"):
        return array.transpose(2, 3, 0, 1)
    if array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    return array.T if array.ndim == 2 else array
