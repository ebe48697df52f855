"""Modules that a function of the user's makes: model families and activations."""

import weakref
from typing import Any

from torch import nn

from xceptlab import register

_made: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()
"""The modules that registered functions have made and that are still in use."""


def new_module(entry: register.Entry, *arguments: Any) -> nn.Module:
    """Call a registered function and check that it makes a module, a new one with each call.

    Raises:
        Refused: It gives something else, or a module that it has given before.
    """
    module = entry.make(*arguments)
    if not isinstance(module, nn.Module):
        raise entry.refusal(module, "an nn.Module")
    if module in _made:
        raise entry.refusal(module, "a new module with each call, and this is the same one again")
    _made.add(module)
    return module
