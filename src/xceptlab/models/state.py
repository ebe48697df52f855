"""Weights by name: read from a file of tensors, and checked against the network that they are for."""

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
    """Read tensors by name from safetensors or a torch file; a Lightning checkpoint gives its
    network. Nothing is executed.

    Raises:
        Refused: The file is none of these.
    """
    import safetensors.torch

    is_safetensors = path.suffix == ".safetensors"
    try:
        # torch warns of odd bytes before it refuses them
        with warnings.catch_warnings(action="ignore"):
            if is_safetensors:
                state: Any = safetensors.torch.load_file(path)
            else:
                state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise Refused(f"{path}: no such file") from None
    except (IsADirectoryError, PermissionError):
        raise
    except Exception:  # of any type, as the bytes have it; the unpickler's own texts advise to execute what the file holds
        kind = (
            "a file of safetensors"
            if is_safetensors
            else "a file that torch.save wrote of tensors only"
        )
        raise Refused(
            f"{path}: not a readable weight file; by its suffix it must be {kind}"
        ) from None
    state = _weights_in(state)
    named_tensors = all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    )
    if not state or not named_tensors:
        raise Refused(
            f"{path}: not a readable weight file; it holds something other than tensors by name"
        )
    return state


def _weights_in(content: Any) -> dict[Any, Any]:
    """The part of a file's content that is a network's state; empty where there is none."""
    if not isinstance(content, dict):
        return {}
    state = content.get("state_dict", content)
    if not isinstance(state, dict):
        return {}
    if "pytorch-lightning_version" not in content:
        return state
    prefix = "network."  # of the LightningModule's attribute
    return {
        name.removeprefix(prefix): value
        for name, value in state.items()
        if str(name).startswith(prefix)
    }


def fit(network: nn.Module, state: State, where: str) -> None:
    """Load weights into a network, to which they must fit to the last key.

    Raises:
        Refused: Keys are missing, unexpected or of another shape; the message names them.
    """
    network.load_state_dict(fitted(network.state_dict(), state, where))


def fitted(wanted: State, state: State, where: str) -> State:
    """Check that weights have exactly the keys and shapes that a network wants, and return them.

    BatchNorm's counts of batches may be absent; the network's own are taken then.

    Args:
        wanted: The network's present state.
        state: The weights to be loaded.
        where: The weights' source, for the error.

    Raises:
        Refused: Keys are missing, unexpected or of another shape; the message names them.
    """
    counts = {name: value for name, value in wanted.items() if name.endswith("num_batches_tracked")}
    state = counts | dict(state)
    problems = [f"{name} is missing" for name in wanted if name not in state]
    problems += [f"{name} is unexpected" for name in state if name not in wanted]
    for name, value in wanted.items():
        if name in state and state[name].shape != value.shape:
            problems.append(
                f"{name} has shape {tuple(state[name].shape)}, not {tuple(value.shape)}"
            )
    refuse_any(problems, where)
    return state


def refuse_any(problems: Sequence[str], where: str) -> None:
    """Refuse weights that have problems.

    Raises:
        Refused: There are problems; the message names the first few.
    """
    if problems:
        hidden = len(problems) - SHOWN_PROBLEMS
        more = f" and {hidden} more" if hidden > 0 else ""
        raise Refused(
            f"{where}: does not fit the network: {'; '.join(problems[:SHOWN_PROBLEMS])}{more}"
        )
