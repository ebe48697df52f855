"""What a network's classifier sees: the activations before its last layer."""

import torch
from torch import Tensor, nn

from xceptlab.errors import Refused


@torch.no_grad()
def features(network: nn.Module, images: Tensor) -> Tensor:
    """Compute the inputs (N, D) of the network's classifier for images (N, 3, H, W), on the
    network's device.

    Raises:
        Refused: The network does not tell which of its modules is the classifier.
    """
    seen: list[Tensor] = []
    handle = classifier(network).register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0])
    )
    device = next(network.parameters()).device
    try:
        network(images.to(device))
    finally:
        handle.remove()
    return seen[-1].flatten(1)


def classifier(network: nn.Module) -> nn.Module:
    """The last layer: the module ``classifier``, or what ``get_classifier()`` returns, as timm's
    networks have it.

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
