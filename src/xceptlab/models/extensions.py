"""Modules that a function of the user's makes: model families and activations."""

import weakref
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from xceptlab import register
from xceptlab.errors import Refused

_made: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()
"""The modules that registered functions have made and that are still in use."""


def new_module(entry: register.Entry, *arguments: Any) -> nn.Module:
    """Call a registered function and check that it makes a module, a new one with each call, whose
    weights can be drawn and saved.

    Raises:
        Refused: It gives something else, a module that it has given before, one with lazy layers,
            or one with state that is no tensor.
    """
    module = entry.make(*arguments)
    if not isinstance(module, nn.Module):
        raise entry.refusal(module, "an nn.Module")
    if module in _made:
        raise entry.refusal(module, "a new module with each call, and this is the same one again")
    _refuse_unsaveable(entry, module)
    _made.add(module)
    return module


def _refuse_unsaveable(entry: register.Entry, module: nn.Module) -> None:
    for name, submodule in module.named_modules():
        own = [*submodule.parameters(recurse=False), *submodule.buffers(recurse=False)]
        if any(map(is_lazy, own)):
            layer = f"{type(submodule).__name__} {name!r}" if name else type(submodule).__name__
            raise Refused(
                f"{entry.kind} {entry.name!r}: {layer} has no shape before its first batch; use the layer that is told its inputs"
            )
    for name, value in module.state_dict().items():
        if not isinstance(value, Tensor):
            raise Refused(
                f"{entry.kind} {entry.name!r}: its state has {name}, which is no tensor; weight files hold tensors only"
            )
