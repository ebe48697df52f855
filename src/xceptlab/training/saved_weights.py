"""The weights that a run leaves behind, and the check that its network has no other state."""

import pytorch_lightning as pl
import safetensors.torch
import torch
from torch import Tensor, nn

from xceptlab.config.schema import RunConfig
from xceptlab.errors import Refused
from xceptlab.models.build import build, channels_last
from xceptlab.models.state import State

TOLERANCE = 1e-3
"""Largest difference of two logits that is taken for rounding, in standard deviations of all
logits.
"""


def serialised(network: nn.Module) -> bytes:
    """Return the bytes of a safetensors file with a network's parameters and buffers.

    A tensor that has two names is copied and written under both, since safetensors refuses tensors
    that share memory.
    """
    weights = {}
    for name, tensor in network.state_dict().items():
        weights[name] = tensor.clone(memory_format=torch.contiguous_format)
    return safetensors.torch.save(weights)


def refuse_lost_state(
    config: RunConfig, network: nn.Module, images: Tensor, trainer: pl.Trainer
) -> None:
    """Check that a new network with the weights of a trained one computes the same logits.

    Only a user's own modules can keep state that the weights do not hold: a tensor that is a plain
    attribute, a buffer that is not persistent, a counter in Python. Nothing is checked for a run
    that uses no registered component.

    Args:
        config: The run.
        network: The trained network.
        images: Images (B, 3, size, size) of the test split, on the run's device.
        trainer: The run's Trainer, whose precision is that of the evaluation.

    Raises:
        Refused: The logits differ by more than rounding, or the new network cannot compute them.
    """
    registered = config.registered_versions()
    if not registered:
        return
    trained = _logits(network, images, trainer)
    # Another seed draws other numbers, so that a drawn tensor that is not among the weights shows.
    other = build(config.model, config.data.classes, config.seed + 1)
    try:
        restored = _logits(_with(other, network.state_dict()), images, trainer)
    # Any error tells, such as the TypeError of an attribute that only training sets.
    except Exception as error:
        raise _lost_state(registered) from error
    spread = float(trained[trained.isfinite()].std())
    if not torch.allclose(restored, trained, rtol=0, atol=TOLERANCE * spread, equal_nan=True):
        raise _lost_state(registered)


def _with(network: nn.Module, state: State) -> nn.Module:
    """Load weights into a network, and return it with channels last in memory, as in a run."""
    network.load_state_dict(state)
    return channels_last(network)


@torch.no_grad()
def _logits(network: nn.Module, images: Tensor, trainer: pl.Trainer) -> Tensor:
    """Compute the logits (B, classes) of images (B, 3, size, size) as an evaluation does, but
    without compilation, and return them in 64 bits on the CPU. A network that draws random numbers
    gets the same ones in each call. The network is left in eval mode on the images' device.
    """
    precision = trainer.precision_plugin
    network = precision.convert_module(network.to(images.device)).eval()
    with (
        torch.random.fork_rng(),
        torch.compiler.set_stance("force_eager"),
        precision.forward_context(),
    ):
        torch.manual_seed(0)
        return network(images).double().cpu()


def _lost_state(registered: dict[str, int]) -> Refused:
    """Return the error for a network that keeps state which its weights do not hold.

    Args:
        registered: Versions of the registered components that the run uses, by kind and name, such
            as ``activation squash``.
    """
    return Refused(
        f"{', '.join(registered)}: the network keeps state outside of its parameters and buffers, which model.safetensors does "
        "not hold: a new network with its weights gives other logits; keep the state by register_buffer(NAME, TENSOR)"
    )
