"""The network that a configuration describes: ours, or one of timm's as a baseline."""

import difflib

import torch
from torch import nn

from xceptlab.config.schema import ModelConfig
from xceptlab.errors import Refused
from xceptlab.models.xception import Xception


def build(config: ModelConfig, classes: int, seed: int = 0) -> nn.Module:
    """Build the network, from images (N, 3, H, W) to logits (N, classes), with initial weights drawn from the seed.

    In ours, modules that two variants share by name and shape start equal. A timm model draws its weights by its own scheme from
    one generator: equal seeds give one model equal weights, two models nothing in common. Inception V3's auxiliary classifier is
    off, as in the paper's comparison (section 4.3).

    Raises:
        Refused: timm has no such model, or cannot build it.
    """
    if not config.timm:
        return Xception(config, classes, seed)
    import timm

    if not timm.is_model(config.timm):
        similar = difflib.get_close_matches(config.timm, timm.list_models(), n=1, cutoff=0.3)
        hint = f"; did you mean {similar[0]}?" if similar else ""
        raise Refused(f"model.timm: timm has no model {config.timm!r}{hint}")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            return timm.create_model(config.timm, pretrained=False, num_classes=classes, drop_rate=config.dropout)
        except (RuntimeError, TypeError) as error:  # an unknown tag of weights, a model without dropout
            raise Refused(f"model.timm: timm cannot build {config.timm!r} ({error})") from None
