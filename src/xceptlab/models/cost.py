"""What a network costs: parameters and multiply-accumulates, counted on its structure, without memory for weights."""

import math
import re
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
    """One module of the network."""

    name: str
    kind: str
    shape: tuple[int, ...]
    """Of its output, (C, H, W) or (C,)."""
    parameters: int
    """Trainable, its submodules' included."""
    macs: int
    """Multiply-accumulates of one image's forward pass, its submodules' included."""
    own: tuple[str, ...]
    """What the module is without its submodules: class, constants, shapes of its own parameters."""
    regular: tuple[int, int] | None
    """Of a separable convolution: parameters and MACs of a regular 3x3 convolution in its place."""


def table(model: ModelConfig, classes: int, size: int) -> list[Row]:
    """Every module with its cost for one image (3, size, size), in the order of the network; the first row is the whole.

    Counts convolutions and linear layers, as papers do: torch's FlopCounterMode on the meta device, two operations to one MAC.

    Raises:
        Refused: The network does not take images of this size.
    """
    with torch.device("meta"):
        network = build(model, classes).eval()
    shapes: dict[str, tuple[int, ...]] = {}

    def remember(name: str) -> None:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if isinstance(output, Tensor):
                shapes[name] = tuple(output.shape[1:])

        network.get_submodule(name).register_forward_hook(hook)

    names = [name for name, _ in network.named_modules()]
    for name in names:
        remember(name)
    with FlopCounterMode(display=False) as counter:
        refusal = _refusal(network, size)
    if refusal:
        smallest = next((f"; the smallest that does is {side}" for side in range(1, 2049) if not _refusal(network, side)), "")
        raise Refused(f"data.size: {size} does not fit this network ({refusal}){smallest}")
    macs = {name: sum(counts.values()) // 2 for name, counts in counter.get_flop_counts().items()}
    root = type(network).__name__
    return [
        Row(
            name=name or root,
            kind=type(module).__name__,
            shape=shapes[name],
            parameters=sum(p.numel() for p in module.parameters()),
            macs=macs.get(f"{root}.{name}" if name else root, 0),
            regular=_regular(module, shapes[name]),
            own=_own(module),
        )
        for name, module in network.named_modules()
        if name in shapes
    ]


@torch.no_grad()
def _refusal(network: nn.Module, size: int) -> str:
    """Why a network on the meta device does not take images (3, size, size); empty if it does."""
    try:
        network(torch.empty(1, 3, size, size, device="meta"))
    except (RuntimeError, AssertionError) as error:
        return str(error)
    return ""


def _own(module: nn.Module) -> tuple[str, ...]:
    constants = re.split(r", (?![^(]*\))", module.extra_repr())
    return type(module).__name__, *constants, *("x".join(map(str, p.shape)) for p in module.parameters(recurse=False))


def _regular(module: nn.Module, shape: tuple[int, ...]) -> tuple[int, int] | None:
    if not isinstance(module, SeparableConv2d):
        return None
    parameters = 9 * module.pointwise.in_channels * module.pointwise.out_channels
    return parameters, parameters * math.prod(shape[1:])


def cost(model: ModelConfig, classes: int, size: int) -> tuple[int, int]:
    """Trainable parameters and multiply-accumulates for one image of (3, size, size)."""
    whole = table(model, classes, size)[0]
    return whole.parameters, whole.macs


def changes(a: list[Row], b: list[Row]) -> list[str]:
    """What of b's module tree differs from a's, one line each: ``+ name kind``, ``- name kind`` or ``~ name``.

    A module whose parent is wholly added or removed is left out, and so is one that differs only through its submodules.
    """
    before, after = ({row.name: row for row in rows[1:]} for rows in (a, b))
    lines = []
    for sign, rows, other in (("-", before, after), ("+", after, before)):
        gone = [name for name in rows if name not in other]
        lines += [f"{sign} {name} {rows[name].kind}" for name in gone if name.rpartition(".")[0] not in gone]
    for name, row in after.items():
        if name in before and row.own != before[name].own:
            own = before[name].own, row.own
            only = (" ".join(dict.fromkeys(word for word in x if word not in y)) for x, y in (own, own[::-1]))
            lines.append(f"~ {name} {' -> '.join(only)}")
    return lines
