"""What a network's classifier sees: the activations before its last layer."""

import torch
from torch import Tensor, nn

from xceptlab.errors import Refused


@torch.no_grad()
def features(network: nn.Module, images: Tensor) -> Tensor:
    """What goes into the classifier for images (N, 3, H, W), on the network's device: (N, D).

    Raises:
        Refused: Nobody says which of the network's modules the classifier is.
    """
    seen: list[Tensor] = []
    handle = classifier(network).register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    device = next(network.parameters()).device
    try:
        network(images.to(device))
    finally:
        handle.remove()
    return seen[-1].flatten(1)


def classifier(network: nn.Module) -> nn.Module:
    """The last layer: the module ``classifier``, or what ``get_classifier()`` returns, as timm's networks have it.

    Raises:
        Refused: The network has neither.
    """
    found = getattr(network, "classifier", None)
    get_classifier = getattr(network, "get_classifier", None)
    if not isinstance(found, nn.Module) and callable(get_classifier):
        found = get_classifier()
    if not isinstance(found, nn.Module):
        raise Refused(f"{type(network).__name__} has neither a module `classifier` nor a method `get_classifier()`")
    return found
