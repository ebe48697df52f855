"""The initial weights: each module's are drawn by the seed and the module's name, whatever other
modules there are.
"""

import contextlib
import hashlib
from collections.abc import Iterator

import torch
from torch import nn


def initialise(network: nn.Module, scheme: str, seed: int) -> None:
    """Draw the weights and biases of every 2d convolution and linear layer, each layer's from a
    generator of its own that is seeded by (seed, module name).

    Modules of equal name and shape so start equal in two variants, whatever else these have.

    Args:
        network: The network, whose weights are replaced.
        scheme: ``keras`` for Keras's defaults, which the paper's own code used: Glorot uniform
            (Glorot and Bengio 2010), zero biases. ``timm`` for those of timm's legacy_xception:
            convolutions normal with variance 2 / fan out (He et al. 2015), linear layers and biases
            uniform within 1 / sqrt(fan in).
        seed: The run's seed.
    """
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            initialise_module(module, scheme, named_seed(seed, name))


def named_seed(seed: int, name: str) -> int:
    """Return the seed of a module's initial weights, from the run's seed and the module's name."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


@contextlib.contextmanager
def seeded(seed: int, name: str) -> Iterator[None]:
    """Seed torch's generator of the CPU by a number made of a seed and a name, inside a ``with``;
    afterwards the generator is as it was before.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(named_seed(seed, name))
        yield


def initialise_module(module: nn.Conv2d | nn.Linear, scheme: str, module_seed: int) -> None:
    """Draw the weights and biases of a module from a seed of its own.

    Args:
        module: The layer, whose weights are replaced.
        scheme: ``keras`` for Keras's defaults (Glorot uniform, zero biases); else those of timm's
            legacy_xception (He normal by fan out for convolutions, uniform for the rest).
        module_seed: The module's seed, which ``named_seed`` makes of the run's seed and the
            module's name.
    """
    generator = torch.Generator().manual_seed(module_seed)
    if scheme == "keras":
        _initialise_as_keras(module, generator)
    else:
        _initialise_as_timm(module, generator)


def _initialise_as_keras(module: nn.Conv2d | nn.Linear, generator: torch.Generator) -> None:
    """Draw Glorot uniform weights and set biases to zero."""
    nn.init.xavier_uniform_(module.weight, generator=generator)
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def _initialise_as_timm(module: nn.Conv2d | nn.Linear, generator: torch.Generator) -> None:
    """Draw weights as timm's legacy_xception does: He normal by fan out for convolutions, uniform
    within 1 / sqrt(fan in) for linear layers and biases.
    """
    fan_in = module.weight[0].numel()
    bound = fan_in**-0.5
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(
            module.weight, mode="fan_out", nonlinearity="relu", generator=generator
        )
    else:
        nn.init.uniform_(module.weight, -bound, bound, generator=generator)
    if module.bias is not None:
        nn.init.uniform_(module.bias, -bound, bound, generator=generator)
