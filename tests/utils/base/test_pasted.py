"""utils/base/pasted.py: functions that are pasted into a module, with the names that they use."""

import sys
from types import FunctionType, ModuleType

import pytest

from utils.base.pasted import pasted_function


def uses_far(x):
    return far(x) + len(x)  # noqa: F821 the module's


@pytest.fixture
def module(monkeypatch):
    """A module with a function `own` that uses `far`, which only its `__getattr__` has."""
    module = ModuleType("somewhere")
    lookups = []

    def far(x):
        return 10 * len(x)

    def get(name):
        lookups.append(name)
        if name == "far":
            return far
        raise AttributeError(name)

    module.__getattr__ = get
    module.own = FunctionType(uses_far.__code__, vars(module), "own")
    module.own.__module__ = "somewhere"
    module.other = far  # another module's
    module.number = 3
    module.lookups = lookups
    monkeypatch.setitem(sys.modules, "somewhere", module)
    return module


def test_a_function_finds_what_is_behind_the_door(module):
    assert pasted_function("somewhere", "own")([1, 2]) == 22
    assert module.lookups == ["far"], "builtins are not asked for"


@pytest.mark.parametrize("name", ["other", "number", "absent"])
def test_what_is_not_a_function_of_the_module(module, name):
    assert pasted_function("somewhere", name) is None
