"""Features of images: the activations that a network's classifier gets as its input."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from xceptlab.errors import Refused


@torch.no_grad()
def features(network: nn.Module, images: Tensor) -> Tensor:
    """Compute the inputs of a network's classifier, flattened to (N, D), for images (N, 3, H, W).

    The images are copied to the network's device, where the result stays, and the network computes
    in eval mode. Afterwards it is in the mode in which it was.

    Raises:
        Refused: The network does not tell which of its modules is the classifier, or does not call
            it.
    """
    seen: list[Tensor] = []
    handle = classifier(network).register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0])
    )
    device = next(network.parameters()).device
    try:
        with _eval_mode(network):
            network(images.to(device))
    finally:
        handle.remove()
    if not seen:
        raise Refused(f"{type(network).__name__} does not call its classifier")
    return seen[-1].flatten(1)


@contextlib.contextmanager
def _eval_mode(network: nn.Module) -> Iterator[None]:
    """Put a network into eval mode inside a ``with``, and afterwards each of its modules into its
    former mode, which may be another one than the network's.
    """
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def classifier(network: nn.Module) -> nn.Module:
    """Return the last layer of a network: its module ``classifier``, or else what its method
    ``get_classifier()`` returns, which timm's networks have.

    Raises:
        Refused: The network has neither of the two.
    """
    found = getattr(network, "classifier", None)
    get_classifier = getattr(network, "get_classifier", None)
    if not isinstance(found, nn.Module) and callable(get_classifier):
        found = get_classifier()
    if not isinstance(found, nn.Module):
        raise Refused(
            f"{type(network).__name__} has neither a module `classifier` nor a method `get_classifier()`"
        )
    return found
