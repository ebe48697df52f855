"""Building the network that a configuration describes: Xception, a timm model as a baseline, or one
of a registered family.
"""

import difflib

import torch
from torch import nn

from xceptlab import register
from xceptlab.config.schema import ModelConfig
from xceptlab.errors import Refused
from xceptlab.models.conv import protected
from xceptlab.models.extensions import new_module
from xceptlab.models.initial import initialise_module, named_seed
from xceptlab.models.xception import Xception


def channels_last(network: nn.Module) -> nn.Module:
    """Lay out a network's parameters and buffers of four dimensions, such as the kernels of 2d
    convolutions, with channels last in memory, in place; returns the network.

    ``Module.to`` does so, too, but refuses networks that have weights of five dimensions.
    """
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.to(memory_format=torch.channels_last)
    return network


def build(config: ModelConfig, classes: int, seed: int = 0) -> nn.Module:
    """Build the network of a configuration, from images (N, 3, H, W) to logits (N, classes), with
    initial weights drawn from the seed. Weights to start from (``config.weights``) are not read.

    Under one seed and scheme (``config.init``), modules of equal name and shape start equal in
    every variant of Xception or of a registered family, and so do registered activations in layers
    of equal name. A timm model draws all weights by its own scheme from one generator: the same
    model starts equal under the same seed, but two models have nothing in common. torch's generator
    of the CPU is left as it was.

    Raises:
        Refused: There is no such network, or it cannot be built.
    """
    if config.timm:
        return _timm(config, classes, seed)
    if config.family == "xception":
        return Xception(config, classes, seed)
    return _registered(config, classes, seed)


def _timm(config: ModelConfig, classes: int, seed: int) -> nn.Module:
    """Build a timm model, with weights that timm draws from the seed. Inception V3 has no auxiliary
    classifier, as in the paper's comparison (section 4.3).

    Raises:
        Refused: timm has no such model, or cannot build it.
    """
    import timm

    if not timm.is_model(config.timm):
        similar = difflib.get_close_matches(config.timm, timm.list_models(), n=1)
        hint = f"; did you mean {similar[0]}?" if similar else ""
        raise Refused(f"model.timm: timm has no model {config.timm!r}{hint}")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        # A model that takes no dropout raises a TypeError; whatever else timm cannot build is a
        # RuntimeError of timm's.
        try:
            network = timm.create_model(
                config.timm, pretrained=False, num_classes=classes, drop_rate=config.dropout
            )
        except (RuntimeError, TypeError) as error:
            raise Refused(f"model.timm: timm cannot build {config.timm!r} ({error})") from None
    return protected(network)


def _registered(config: ModelConfig, classes: int, seed: int) -> nn.Module:
    """Build a network of a registered family, and draw its weights anew.

    Each module's parameters are drawn from random numbers that depend on the seed and on the
    module's name only, so that modules of equal name and shape start equal in every variant.

    Raises:
        Refused: No such family is registered, its function raises an error or does not give a new
            ``nn.Module`` whose state can be saved, or a parameter cannot be drawn.
    """
    entry = register.entry("model", config.family)
    schema = entry.about["options"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        options = schema(**config.options) if schema else None
        network = new_module(entry, options, classes)
        for name, module in network.named_modules():
            _draw_anew(module, name, config.init, seed)
    return protected(network)


def _draw_anew(module: nn.Module, name: str, scheme: str, seed: int) -> None:
    """Draw a module's own parameters, without those of its submodules, from random numbers that
    depend on the seed and on the module's name only. A module without own parameters is left as it
    is.

    torch's ``Conv2d`` and ``Linear`` are drawn as ``scheme`` says (``model.init``), all other
    modules, also subclasses of these, by their own ``reset_parameters`` or ``_reset_parameters``.

    Raises:
        Refused: A module of another kind has parameters, and neither of these methods.
    """
    if not list(module.parameters(recurse=False)):
        return
    if isinstance(module, nn.Conv2d | nn.Linear) and type(module) in (nn.Conv2d, nn.Linear):
        initialise_module(module, scheme, named_seed(seed, name))
        return
    reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
    if not callable(reset):
        place = f"{type(module).__name__} {name!r}" if name else type(module).__name__
        raise Refused(
            f"model.family: {place} has parameters of its own; it needs a method reset_parameters() that draws them"
        )
    torch.manual_seed(named_seed(seed, name))
    reset()
