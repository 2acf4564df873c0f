"""Resolve names and expressions in a row's arguments. No text is ever executed.

v6.1 evaluates the text of a row. Here its syntax tree is walked: names, dotted names, numbers, lists, + - * /, and
calls of a torch.nn or user class with such arguments, as `nn.LeakyReLU(0.1)`.
"""

import ast
import inspect
import operator
from collections.abc import Callable
from types import FunctionType, ModuleType

from torch import nn

OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}
PLAIN = (bool, int, float, list, tuple, type(None))  # besides text and classes, what a name may stand for
MAX_TEXT = 200  # letters of an argument that is looked at
LookUp = Callable[[str], object]  # a bare name to what it names; KeyError where nothing has the name


class UnknownNameError(LookupError):
    """A text does not name anything that a row may use."""


def find_dotted(text: str, look_up: LookUp) -> object:
    """Look up a bare or dotted name; UnknownNameError if nothing has it."""
    first, *others = text.split(".")
    if not all(part.isidentifier() and not part.startswith("_") for part in (first, *others)):
        raise UnknownNameError(text)
    try:
        found = look_up(first)
        for part in others:
            if not isinstance(found, ModuleType | type):
                raise UnknownNameError(text)
            found = getattr(found, part)
    except (KeyError, AttributeError):
        raise UnknownNameError(text) from None
    return found


def is_block(value: object) -> bool:
    """Return True if a value is a subclass of nn.Module."""
    return isinstance(value, type) and issubclass(value, nn.Module)


def read_argument(argument: object, look_up: LookUp, takes_text: bool) -> object:
    """Resolve an argument of a row: names and expressions to their value; other values are returned as they are.

    Raises:
        ValueError: if a text names nothing and the row's class takes no strings.
    """
    if not isinstance(argument, str):
        return argument
    try:
        if len(argument) > MAX_TEXT:
            raise UnknownNameError(argument)
        return _value(ast.parse(argument.strip(), mode="eval").body, look_up)
    except (UnknownNameError, SyntaxError, ArithmeticError):
        if takes_text:
            return argument
    raise ValueError(
        f"argument {argument!r} is none of the words nc, anchors, None, True and False, nor a class or a sum of "
        "numbers, and no text is expected here"
    )


def _value(node: ast.expr, look_up: LookUp) -> object:
    """Evaluate a syntax node; UnknownNameError if a row may not use it."""
    if isinstance(node, ast.Constant) and isinstance(node.value, (*PLAIN, str)):
        return node.value
    if isinstance(node, ast.Name | ast.Attribute):
        found = find_dotted(ast.unparse(node), look_up)
        if is_block(found) or isinstance(found, PLAIN):
            return found
    elif isinstance(node, ast.List | ast.Tuple):
        values = [_value(item, look_up) for item in node.elts]
        return tuple(values) if isinstance(node, ast.Tuple) else values
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_number(node.operand, look_up)
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](_number(node.left, look_up), _number(node.right, look_up))
    elif isinstance(node, ast.Call):
        return _called(node, look_up)
    raise UnknownNameError(ast.unparse(node))


def _number(node: ast.expr, look_up: LookUp) -> float:
    """Evaluate a syntax node that must be a number."""
    value = _value(node, look_up)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UnknownNameError(ast.unparse(node))
    return value


def _called(node: ast.Call, look_up: LookUp) -> nn.Module:
    """Build the module of a call such as `nn.LeakyReLU(0.1)`."""
    block = _value(node.func, look_up)
    if not is_block(block) or any(keyword.arg is None for keyword in node.keywords):
        raise UnknownNameError(ast.unparse(node))
    args = [_value(argument, look_up) for argument in node.args]
    named = {keyword.arg: _value(keyword.value, look_up) for keyword in node.keywords}
    return block(*args, **named)


def parameters_of(m: Callable) -> dict[str, inspect.Parameter]:
    """Return the parameters of a class or function by name; empty if it has no signature."""
    try:
        return dict(inspect.signature(m).parameters)
    except (TypeError, ValueError):
        return {}


def split_named(args: list, m: Callable, is_ours: bool) -> tuple[list, dict[str, object]]:
    """Split a row's arguments into positional ones and, if the last is a mapping, keywords.

    A mapping such as {gain_out: 2} holds keywords for our blocks, and for a user's block if it has parameters of all
    these names. Otherwise it is a positional argument, as in v6.1.
    """
    if not args or not isinstance(args[-1], dict):
        return args, {}
    named = args[-1]
    if is_ours or named.keys() <= parameters_of(m).keys():
        return args[:-1], dict(named)
    return args, {}


def is_function_of(value: object, packages: tuple[str, ...]) -> bool:
    """Return True if a value is a function from one of these modules or packages."""
    if not isinstance(value, FunctionType):
        return False
    return any(value.__module__ == package or value.__module__.startswith(f"{package}.") for package in packages)
