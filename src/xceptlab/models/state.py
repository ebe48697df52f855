"""Weights by name: reading them from a file of tensors, and fitting them to a network."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xceptlab.errors import Refused

State = Mapping[str, Tensor]
"""A network's weights and buffers, by the names of ``state_dict``."""

TENSOR_FILES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
"""Suffixes of the files that ``read_tensors`` reads."""

SHOWN_PROBLEMS = 3
"""Largest number of keys that an error names when weights do not fit; it counts the others."""


def read_tensors(path: Path) -> State:
    """Read the weights in a safetensors file, a torch file or a Lightning checkpoint, by name.

    Of a Lightning checkpoint only the network's weights are returned, and of another torch file
    with a ``state_dict`` only that. Nothing in a file is executed.

    Raises:
        Refused: There is no such file, it is none of these, or it holds something other than
            tensors by name, or no tensors.
        IsADirectoryError, PermissionError: The file cannot be opened.
    """
    import safetensors.torch

    is_safetensors = path.suffix == ".safetensors"
    try:
        # torch warns of bytes that it does not know before it refuses them.
        with warnings.catch_warnings(action="ignore"):
            if is_safetensors:
                state: Any = safetensors.torch.load_file(path)
            else:
                state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise Refused(f"{path}: no such file") from None
    except (IsADirectoryError, PermissionError):
        raise
    # Damaged bytes raise errors of any type. torch's own messages advise to execute the file.
    except Exception:
        kind = (
            "a file of safetensors"
            if is_safetensors
            else "a file that torch.save wrote of tensors only"
        )
        raise Refused(
            f"{path}: not a readable weight file; by its suffix it must be {kind}"
        ) from None
    state = _weights_in(state)
    have_names = all(isinstance(name, str) for name in state)
    are_tensors = all(isinstance(value, Tensor) for value in state.values())
    if not (state and have_names and are_tensors):
        raise Refused(
            f"{path}: not a readable weight file; it holds something other than tensors by name"
        )
    return state


def _weights_in(content: Any) -> dict[Any, Any]:
    """Return the part of a file's content that is the state of a network: its ``state_dict`` or, if
    it has none, all of it. Of a Lightning checkpoint return the weights of the module's attribute
    ``network``, without this prefix. Empty where there is no such part.
    """
    if not isinstance(content, dict):
        return {}
    state = content.get("state_dict", content)
    if not isinstance(state, dict):
        return {}
    if "pytorch-lightning_version" not in content:
        return state
    # The network is the attribute `network` of the LightningModule.
    prefix = "network."
    return {
        name.removeprefix(prefix): value
        for name, value in state.items()
        if str(name).startswith(prefix)
    }


def fit(network: nn.Module, state: State, where: str) -> None:
    """Load weights into a network, which must have exactly the same keys and shapes.

    Args:
        network: The network.
        state: The weights to be loaded; BatchNorm's counts of batches may be absent.
        where: The weights' source, for errors.

    Raises:
        Refused: Keys are missing, unexpected, or of another shape or kind of number, or values are
            not finite; the message names the keys.
    """
    network.load_state_dict(fitted(network.state_dict(), state, where))


def fitted(wanted: State, state: State, where: str) -> State:
    """Check that weights have exactly the keys and shapes of a network, and return them.

    BatchNorm's counts of batches may be absent; they are added with the network's values.

    Args:
        wanted: The network's present state.
        state: The weights to be loaded.
        where: The weights' source, for errors.

    Raises:
        Refused: Keys are missing, unexpected, or of another shape or kind of number, or values are
            not finite; the message names the keys.
    """
    counts = {name: value for name, value in wanted.items() if name.endswith("num_batches_tracked")}
    state = counts | dict(state)
    problems = [f"{name} is missing" for name in wanted if name not in state]
    problems += [f"{name} is unexpected" for name in state if name not in wanted]
    for name, value in wanted.items():
        if name in state:
            problems += _misfits(name, state[name], value)
    refuse_any(problems, where)
    return state


def _misfits(name: str, given: Tensor, wanted: Tensor) -> list[str]:
    """Return why a tensor cannot stand in the place of a network's, in a list of one text that
    begins with the tensor's ``name``; an empty list if it can. Values are not looked at on the meta
    device.
    """
    if given.shape != wanted.shape:
        return [f"{name} has shape {tuple(given.shape)}, not {tuple(wanted.shape)}"]
    # BatchNorm's counts of batches are whole numbers, which a file may hold as others.
    if wanted.is_floating_point() and not given.is_floating_point():
        return [f"{name} is of {given.dtype}, not {wanted.dtype}".replace("torch.", "")]
    # On the meta device, where a network is built to see whether weights fit, there are no values.
    if not given.is_meta and not given.isfinite().all():
        return [f"{name} has values that are not finite"]
    return []


def refuse_any(problems: Sequence[str], where: str) -> None:
    """Refuse weights if they have problems.

    Args:
        problems: What does not fit, in words; empty if all fits.
        where: The weights' source, for the error.

    Raises:
        Refused: There are problems; the message names the first ``SHOWN_PROBLEMS``.
    """
    if problems:
        hidden = len(problems) - SHOWN_PROBLEMS
        more = f" and {hidden} more" if hidden > 0 else ""
        raise Refused(
            f"{where}: does not fit the network: {'; '.join(problems[:SHOWN_PROBLEMS])}{more}"
        )
