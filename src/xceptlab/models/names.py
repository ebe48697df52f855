"""What Keras and timm call the layers of the paper's network, and timm's weights by our names and
back.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from xceptlab.errors import Refused
from xceptlab.models.state import State

BLOCKS = (
    *(f"entry.block{i}" for i in (1, 2, 3)),
    *(f"middle.{i}" for i in range(8)),
    "exit.block",
)
"""Our names of the blocks between stem and last convolutions, in order."""


class Layer(NamedTuple):
    """One layer with weights."""

    ours: str
    kind: str
    """Kind of the layer: conv2d, separable_conv2d, batch_normalization or dense."""
    keras: str
    """Keras's explicit name of the layer; empty for a shortcut's layers, which Keras names by
    itself.
    """
    timm: str
    """Name of the layer in timm's legacy_xception."""


def layers() -> Iterator[Layer]:
    """The layers of the paper's network, in the order of Keras's ``model.layers``."""
    for i in (1, 2):
        yield Layer(f"entry.stem.conv{i}", "conv2d", f"block1_conv{i}", f"conv{i}")
        yield Layer(f"entry.stem.norm{i}", "batch_normalization", f"block1_conv{i}_bn", f"bn{i}")
    for number, block in enumerate(BLOCKS, start=1):
        yield from _layers_of_block(block, number)
    for i in (1, 2):
        yield Layer(f"exit.separable{i}", "separable_conv2d", f"block14_sepconv{i}", f"conv{i + 2}")
        yield Layer(f"exit.norm{i}", "batch_normalization", f"block14_sepconv{i}_bn", f"bn{i + 2}")
    yield Layer("classifier", "dense", "predictions", "fc")


def _layers_of_block(block: str, number: int) -> Iterator[Layer]:
    """The layers of a block; timm counts blocks from 1 and Keras, to which the stem is a block,
    from 2.

    timm's ``rep`` is a sequence of ReLU, convolution and norm for each unit; the first block does
    not begin with a ReLU.
    """
    in_middle_flow = block.startswith("middle")
    for unit in range(3 if in_middle_flow else 2):
        keras = f"block{number + 1}_sepconv{unit + 1}"
        position = 3 * unit + (0 if number == 1 else 1)
        yield Layer(
            f"{block}.units.{unit}.separable",
            "separable_conv2d",
            keras,
            f"block{number}.rep.{position}",
        )
        yield Layer(
            f"{block}.units.{unit}.norm",
            "batch_normalization",
            f"{keras}_bn",
            f"block{number}.rep.{position + 1}",
        )
    if not in_middle_flow:
        yield Layer(f"{block}.skip.conv", "conv2d", "", f"block{number}.skip")
        yield Layer(f"{block}.skip.norm", "batch_normalization", "", f"block{number}.skipbn")


def timm_names() -> dict[str, str]:
    """Map our modules' names to those of timm's legacy_xception."""
    names = {}
    for layer in layers():
        if layer.kind == "separable_conv2d":
            names[f"{layer.ours}.depthwise"] = f"{layer.timm}.conv1"
            names[f"{layer.ours}.pointwise"] = f"{layer.timm}.pointwise"
        else:
            names[layer.ours] = layer.timm
    return names


def from_timm(state: State, where: str) -> State:
    """Rename legacy_xception's weights to our names.

    Raises:
        Refused: The weights have a key that the network does not have.
    """
    ours = {theirs: ours for ours, theirs in timm_names().items()}
    return _renamed(state, ours, f"{where}: {{}} is unexpected in a legacy_xception checkpoint")


def to_timm(state: State) -> State:
    """Rename the weights of the paper's network to legacy_xception's names.

    Raises:
        Refused: The weights are of a variant that timm's network does not have.
    """
    return _renamed(
        state,
        timm_names(),
        "{}: timm's legacy_xception has no such layer; only the paper's network fits its layout",
    )


def _renamed(state: State, names: Mapping[str, str], problem: str) -> State:
    """Rename the modules of a state; ``problem`` is the error's text, with ``{}`` for a key whose
    module has no name.
    """
    renamed = {}
    for name, value in state.items():
        module, _, kind = name.rpartition(".")
        if module not in names:
            raise Refused(problem.format(name))
        renamed[f"{names[module]}.{kind}"] = value
    return renamed
