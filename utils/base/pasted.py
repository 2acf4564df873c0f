"""Functions of v6.1 that users paste into our modules."""

import builtins
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FunctionType


def pasted_function(module: str, name: str) -> Callable | None:
    """Return a function of this name that is defined in a module, or None.

    It may use names that v6.1 has in this module and ours has behind its `__getattr__`; they are added to the module,
    as a function looks its names up without it.
    """
    owner = sys.modules[module]
    names = vars(owner)
    function = names.get(name)
    if not isinstance(function, FunctionType) or function.__module__ != module:
        return None
    for used in function.__code__.co_names:
        if used not in names and not hasattr(builtins, used):
            with suppress(AttributeError):  # an attribute of something else
                names[used] = getattr(owner, used)
    return function
