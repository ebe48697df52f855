"""What a network costs: parameters and multiply-accumulates, counted on its structure, without
memory for weights.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from xceptlab.config.schema import ModelConfig
from xceptlab.errors import Refused
from xceptlab.models.build import build
from xceptlab.models.separable import SeparableConv2d


@dataclass(frozen=True, kw_only=True)
class Row:
    """One module of the network, with its cost."""

    name: str
    kind: str
    shape: tuple[int, ...]
    """Shape of the module's output, (C, H, W) or (C,)."""
    parameters: int
    """Number of trainable parameters, including those of submodules."""
    macs: int
    """Multiply-accumulates of one image's forward pass, including those of submodules."""
    description: tuple[str, ...]
    """What the module is without its submodules: its class, its constants, the shapes of its
    parameters.
    """
    regular: tuple[int, int] | None
    """Parameters and MACs of a regular 3x3 convolution in place of a separable one; None for other
    modules.
    """


def table(model: ModelConfig, classes: int, size: int) -> list[Row]:
    """List every module with its cost for one image (3, size, size), in the order of the network;
    the first row is the whole.

    Counts convolutions and linear layers, as papers do: torch's FlopCounterMode on the meta device,
    two operations to one MAC.

    Raises:
        Refused: The network does not take images of this size.
    """
    with torch.device("meta"):
        network = build(model, classes).eval()
    shapes = _output_shapes(network)
    with FlopCounterMode(display=False) as counter:
        refusal = _refusal(network, size)
    if refusal:
        raise Refused(
            f"data.size: {size} does not fit this network ({refusal}){_hint_of_smallest_size(network)}"
        )
    logits = shapes.get("", ())
    if logits != (classes,):
        raise Refused(f"model: gives {logits} for an image, and there are {classes} classes")
    macs = {name: sum(counts.values()) // 2 for name, counts in counter.get_flop_counts().items()}
    root = type(network).__name__
    rows = []
    for name, module in network.named_modules():
        if name not in shapes:  # its output is no tensor, or it was not called
            continue
        counted_as = f"{root}.{name}" if name else root  # the counter's name of the module
        row = Row(
            name=name or root,
            kind=type(module).__name__,
            shape=shapes[name],
            parameters=sum(p.numel() for p in module.parameters()),
            macs=macs.get(counted_as, 0),
            regular=_regular(module, shapes[name]),
            description=_description(module),
        )
        rows.append(row)
    return rows


def _output_shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shapes of the modules' outputs for one image, by module name; filled in when the network
    is called.
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def note_shape_of(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if isinstance(output, Tensor):
                shapes[name] = tuple(output.shape[1:])

        return hook

    for name, module in network.named_modules():
        module.register_forward_hook(note_shape_of(name))
    return shapes


@torch.no_grad()
def _refusal(network: nn.Module, size: int) -> str:
    """Why a network on the meta device does not take images (3, size, size); empty if it does."""
    try:
        network(torch.empty(1, 3, size, size, device="meta"))
    except (RuntimeError, AssertionError) as error:
        return str(error)
    return ""


def _hint_of_smallest_size(network: nn.Module) -> str:
    for side in range(1, 2049):
        if not _refusal(network, side):
            return f"; the smallest that does is {side}"
    return ""


def _description(module: nn.Module) -> tuple[str, ...]:
    commas_outside_brackets = r", (?![^(]*\))"
    constants = re.split(commas_outside_brackets, module.extra_repr())
    shapes = ["x".join(map(str, parameter.shape)) for parameter in module.parameters(recurse=False)]
    return type(module).__name__, *constants, *shapes


def _regular(module: nn.Module, shape: tuple[int, ...]) -> tuple[int, int] | None:
    if not isinstance(module, SeparableConv2d):
        return None
    parameters = 3 * 3 * module.pointwise.in_channels * module.pointwise.out_channels
    pixels = math.prod(shape[1:])
    return parameters, parameters * pixels


def cost(model: ModelConfig, classes: int, size: int) -> tuple[int, int]:
    """Trainable parameters and multiply-accumulates for one image of (3, size, size)."""
    whole = table(model, classes, size)[0]
    return whole.parameters, whole.macs


def changes(a: list[Row], b: list[Row]) -> list[str]:
    """Differences of module tree b from tree a, a line each: ``- name kind``, ``+ name kind`` or
    ``~ name before -> after``.

    A module whose parent is wholly added or removed is left out, and so is one that differs only
    through its submodules.
    """
    before = {row.name: row for row in a[1:]}
    after = {row.name: row for row in b[1:]}
    lines = [f"- {row.name} {row.kind}" for row in _topmost_missing(before, after)]
    lines += [f"+ {row.name} {row.kind}" for row in _topmost_missing(after, before)]
    for name in after:
        if name not in before:
            continue
        old, new = before[name].description, after[name].description
        if old != new:
            lines.append(f"~ {name} {_words_only_in(old, new)} -> {_words_only_in(new, old)}")
    return lines


def _topmost_missing(rows: dict[str, Row], others: dict[str, Row]) -> list[Row]:
    """The rows whose names are not among the others, without those whose parent is such a row."""
    missing = [name for name in rows if name not in others]
    topmost = []
    for name in missing:
        parent = name.rpartition(".")[0]
        if parent not in missing:
            topmost.append(rows[name])
    return topmost


def _words_only_in(words: tuple[str, ...], others: tuple[str, ...]) -> str:
    return " ".join(dict.fromkeys(word for word in words if word not in others))
