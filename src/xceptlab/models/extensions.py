"""Calling the functions that users register for model families and activations, and checking the
modules that these give.
"""

import weakref
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from xceptlab import register
from xceptlab.errors import Refused

_made: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()
"""Modules that registered functions have given and that are still in use, to notice one that is
given twice.
"""


def new_module(entry: register.Entry, *arguments: Any) -> nn.Module:
    """Call a registered function, and return the new module that it gives.

    Args:
        entry: The registered component.
        arguments: Arguments of its function.

    Raises:
        Refused: The function raises an error, or gives something other than a module, a module that
            was given before, or one whose weights cannot be drawn or saved: with lazy layers, or
            with state that is not a tensor.
        OSError, MemoryError: The function raises this one, which is passed on, as are torch's
            errors about a GPU.
    """
    module = entry.call(*arguments)
    if not isinstance(module, nn.Module):
        raise entry.refusal(module, "an nn.Module")
    if module in _made:
        raise entry.refusal(module, "a new module with each call, and this is the same one again")
    _refuse_unsaveable(entry, module)
    _made.add(module)
    return module


def _refuse_unsaveable(entry: register.Entry, module: nn.Module) -> None:
    """Refuse a module with lazy layers, or with state that is not a tensor."""
    for name, submodule in module.named_modules():
        parameters = submodule.parameters(recurse=False)
        buffers = submodule.buffers(recurse=False)
        if any(map(is_lazy, [*parameters, *buffers])):
            layer = f"{type(submodule).__name__} {name!r}" if name else type(submodule).__name__
            raise Refused(
                f"{entry.kind} {entry.name!r}: {layer} has no shape before its first batch; use the layer that is told its inputs"
            )
    for name, value in module.state_dict().items():
        if not isinstance(value, Tensor):
            raise Refused(
                f"{entry.kind} {entry.name!r}: its state has {name}, which is no tensor; weight files hold tensors only"
            )
