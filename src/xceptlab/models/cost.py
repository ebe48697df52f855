"""Cost of a network, module by module: parameters and multiply-accumulates (MACs).

Everything is counted on torch's meta device, where a network has shapes but no memory for weights.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from xceptlab import register
from xceptlab.config.schema import ModelConfig
from xceptlab.errors import Refused
from xceptlab.models.build import build
from xceptlab.models.separable import SeparableConv2d


@dataclass(frozen=True, kw_only=True)
class Row:
    """One module of a network, with its cost."""

    name: str
    """Name in ``named_modules``, such as ``middle.3``; for the whole network the name of its class.
    """
    kind: str
    """Name of the module's class."""
    shape: tuple[int, ...]
    """Shape of the module's output for one image, such as (C, H, W) or (C,)."""
    parameters: int
    """Number of trainable parameters, including those of submodules."""
    macs: int
    """Multiply-accumulates of one image's forward pass, including those of submodules."""
    description: tuple[str, ...]
    """The module without its submodules, word by word: its class, its constants and the shapes of
    its parameters, such as ``64x3x3x3``.
    """
    regular: tuple[int, int] | None
    """Parameters and MACs that a regular 3x3 convolution would have in place of this separable one;
    None for other modules.
    """


def table(model: ModelConfig, classes: int, size: int) -> list[Row]:
    """Return a row for every module with its cost for one image (3, size, size), in the order of
    the network. The first row is the whole network.

    Only products are counted, as in papers: those of convolutions, matrix products (as of linear
    layers) and attention. torch's ``FlopCounterMode`` counts them; two of its operations are one
    MAC. A module has no row if its output is not a tensor, or if it is not called itself, as a
    ``ModuleList``.

    Errors of the network that have another cause than those below are passed on.

    Raises:
        Refused: The network cannot be built, does not take images of this size, does not give a
            logit for each class, or has a component of a user's whose code raises an error.
    """
    with torch.device("meta"):
        network = build(model, classes).eval()
    trained = {id(p) for p in network.parameters() if p.requires_grad}
    # The counter would look for gradients of parameters that are trained.
    network.requires_grad_(False)
    shapes = _record_output_shapes(network)
    try:
        with FlopCounterMode(display=False) as counter:
            _forward(network, size)
    except (Refused, OSError):
        raise
    except Exception as error:
        if isinstance(error, RuntimeError | AssertionError | ValueError):
            _refuse_size(size, network, error)
        culprit = register.that_raised(error, model.registered_entries())
        if culprit:
            raise culprit.failure(error) from error
        raise
    logits = shapes.get("", ())
    if logits != (classes,):
        raise Refused(f"model: gives {logits} for an image, and there are {classes} classes")
    macs = {name: sum(counts.values()) // 2 for name, counts in counter.get_flop_counts().items()}
    root = type(network).__name__
    rows = []
    for name, module in network.named_modules():
        # The module was not called, or its output is not a tensor.
        if name not in shapes:
            continue
        # The counter names modules by their path from the class of the whole network.
        counted_as = f"{root}.{name}" if name else root
        row = Row(
            name=name or root,
            kind=type(module).__name__,
            shape=shapes[name],
            parameters=sum(p.numel() for p in module.parameters() if id(p) in trained),
            macs=macs.get(counted_as, 0),
            regular=_regular(module, shapes[name]),
            description=_description(module),
        )
        rows.append(row)
    return rows


def _record_output_shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Let every module of a network record the shape of its output for one image, such as
    (C, H, W) or (C,), whenever the network is called.

    Returns:
        The shapes by module name, which is ``""`` for the whole network. The dictionary is empty
        until the network is called. A module whose output is not a tensor records none.
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def record_shape_of(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if isinstance(output, Tensor):
                shapes[name] = tuple(output.shape[1:])

        return hook

    for name, module in network.named_modules():
        module.register_forward_hook(record_shape_of(name))
    return shapes


@torch.no_grad()
def _forward(network: nn.Module, size: int) -> None:
    """Call a network on the meta device with one image (3, size, size). It raises an error of any
    type if the network does not take images of this size.
    """
    network(torch.empty(1, 3, size, size, device="meta"))


def _refuse_size(size: int, network: nn.Module, error: Exception) -> None:
    """Refuse the size of images if a network's error is due to it: if the network raises an error
    for this size again, and takes some other size up to 2048. Else return.

    Args:
        size: Height and width of the images, in pixels.
        network: The network, on the meta device.
        error: The error that it has raised for images of this size.

    Raises:
        Refused: The size is the cause; the message names the smallest size that the network takes.
    """
    if _takes(network, size):
        return
    for smallest in range(1, 2049):
        if _takes(network, smallest):
            raise Refused(
                f"data.size: {size} does not fit this network ({error}); the smallest that does is {smallest}"
            ) from error


def _takes(network: nn.Module, size: int) -> bool:
    """Whether a network on the meta device takes an image (3, size, size)."""
    try:
        _forward(network, size)
    except Exception:
        return False
    return True


def _description(module: nn.Module) -> tuple[str, ...]:
    """Describe a module without its submodules, word by word: its class, its constants and the
    shapes of its parameters, such as ``64x3x3x3``.
    """
    commas_outside_brackets = r", (?![^(]*\))"
    constants = re.split(commas_outside_brackets, module.extra_repr())
    shapes = ["x".join(map(str, parameter.shape)) for parameter in module.parameters(recurse=False)]
    return type(module).__name__, *constants, *shapes


def _regular(module: nn.Module, shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Return the numbers of parameters and of one image's MACs that a regular 3x3 convolution would
    have in place of a ``SeparableConv2d``, whose output for one image has the given shape
    (C, H, W); None for another module.
    """
    if not isinstance(module, SeparableConv2d):
        return None
    parameters = 3 * 3 * module.pointwise.in_channels * module.pointwise.out_channels
    pixels = math.prod(shape[1:])
    return parameters, parameters * pixels


def cost(model: ModelConfig, classes: int, size: int) -> tuple[int, int]:
    """Return the number of a network's trainable parameters, and its number of multiply-accumulates
    for one image (3, size, size).

    Raises:
        Refused: The network cannot be built, does not take images of this size, does not give a
            logit for each class, or has a component of a user's whose code raises an error.
    """
    whole = table(model, classes, size)[0]
    return whole.parameters, whole.macs


def changes(a: list[Row], b: list[Row]) -> list[str]:
    """Return the differences of module tree b from module tree a, a text each: ``- name kind``
    for a module that only a has, ``+ name kind`` for one that only b has, and
    ``~ name before -> after`` for one that both have, with the words of ``Row.description`` that
    differ.

    A module is left out if its parent is added or removed as a whole, or if it differs only in its
    submodules.

    Args:
        a: The rows of the first network, as ``table`` returns them: the whole network comes first,
            and is not compared.
        b: Those of the second network.
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
    """Return the rows of the modules that one network has and another one lacks. If a module is
    lacking together with the module that contains it, only the containing one is returned.

    Args:
        rows: The rows of the one network, by the module's dotted name, such as ``middle.3``.
        others: The rows of the other network, by name.
    """
    missing = [name for name in rows if name not in others]
    topmost = []
    for name in missing:
        parent = name.rpartition(".")[0]
        if parent not in missing:
            topmost.append(rows[name])
    return topmost


def _words_only_in(words: tuple[str, ...], others: tuple[str, ...]) -> str:
    """Join the words that are not among the others, each once, with blanks; empty if there are
    none.
    """
    return " ".join(dict.fromkeys(word for word in words if word not in others))
