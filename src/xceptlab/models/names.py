"""Names of the layers of the paper's network in Keras and in timm, and renaming weights from timm's
names to ours and back.
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
"""Our names of the blocks between the stem and the last convolutions, in order."""


class Layer(NamedTuple):
    """One layer with weights of the paper's network, by its names here, in Keras and in timm."""

    ours: str
    """Our name of the layer, such as ``entry.stem.conv1``."""
    kind: str
    """Kind of the layer: conv2d, separable_conv2d, batch_normalization or dense."""
    keras: str
    """Name of the layer in Keras's model; empty for the layers of a shortcut, which have no name
    there but the one that Keras generates.
    """
    timm: str
    """Name of the layer in timm's legacy_xception."""


def layers() -> Iterator[Layer]:
    """Yield the layers with weights of the paper's network, in the order of Keras's
    ``model.layers``.
    """
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
    """Yield the layers of a block.

    Args:
        block: Our name of the block, one of ``BLOCKS``.
        number: Its place among them, from 1. timm counts likewise; Keras counts from 2, as the stem
            is its first block.
    """
    in_middle_flow = block.startswith("middle")
    units = 3 if in_middle_flow else 2
    # timm's `rep` holds ReLU, convolution and norm of each unit; its first block has no first ReLU.
    position_of_first_convolution = 0 if number == 1 else 1
    for unit in range(units):
        keras = f"block{number + 1}_sepconv{unit + 1}"
        position = 3 * unit + position_of_first_convolution
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
    """Return the name in timm's legacy_xception of each module with weights of the paper's network,
    by our name of the module. A separable convolution counts as two modules.
    """
    names = {}
    for layer in layers():
        if layer.kind == "separable_conv2d":
            names[f"{layer.ours}.depthwise"] = f"{layer.timm}.conv1"
            names[f"{layer.ours}.pointwise"] = f"{layer.timm}.pointwise"
        else:
            names[layer.ours] = layer.timm
    return names


def from_timm(state: State, where: str) -> State:
    """Rename the weights of timm's legacy_xception to our names.

    Args:
        state: The weights by timm's names.
        where: The weights' source, for errors.

    Raises:
        Refused: There is a key that legacy_xception does not have.
    """
    ours = {theirs: ours for ours, theirs in timm_names().items()}
    return _renamed(state, ours, f"{where}: {{}} is unexpected in a legacy_xception checkpoint")


def to_timm(state: State) -> State:
    """Rename the weights of the paper's network to the names in timm's legacy_xception.

    Raises:
        Refused: There is a layer that legacy_xception does not have, as in a variant of the
            network.
    """
    return _renamed(
        state,
        timm_names(),
        "{}: timm's legacy_xception has no such layer; only the paper's network fits its layout",
    )


def _renamed(state: State, names: Mapping[str, str], problem: str) -> State:
    """Rename the modules in the keys of weights.

    Args:
        state: The weights by name.
        names: New names of the modules, by present name.
        problem: Text of the error for a key whose module is not in ``names``, with ``{}`` for the
            key.

    Raises:
        Refused: There is such a key.
    """
    renamed = {}
    for name, value in state.items():
        module, _, kind = name.rpartition(".")
        if module not in names:
            raise Refused(problem.format(name))
        renamed[f"{names[module]}.{kind}"] = value
    return renamed
