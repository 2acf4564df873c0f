"""What torch.save pickles, as plain data, by an interpreter of its own: nothing in a file is imported or called.

A pickle is a program for a small machine with a stack. This one knows the operations that torch.save uses, and makes of
each name in the file what its caller gives for it. So a file can ask for nothing that is not here, and what a few bytes
of it can make is counted.
"""

import math
import pickletools
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn, TypeVar

import torch
from torch import Tensor

MOST_BYTES = 64 << 20  # of a pickle, without the weights' numbers; yolov5x6's has 1 MB
MOST_STEPS = 600_000  # operations; yolov5n.pt of v6.1 has 34 thousand, a last.pt of yolov5x6 some ten times as many
MOST_NESTED = 400  # parts within parts
MOST_WORK = 50_000_000  # characters and items that are copied; a real file needs few
MOST_PARTS = 5_000_000  # of the content where it is written out, with what stands in it several times
STORAGES = {
    f"torch.{name}Storage": dtype
    for name, dtype in {
        **{"Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16},
        **{"Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8},
        **{"Bool": torch.bool, "ComplexDouble": torch.complex128, "ComplexFloat": torch.complex64},
    }.items()
}
DTYPE = re.compile(r"torch\.(b?float|u?int|complex|q|bool|half|double)\w*")  # which may be named, and stand for nothing
RENAMED = {"__builtin__": "builtins"}  # as Python 2 has it, whose names the protocol uses
Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Name:
    """A class or function that a file names."""

    text: str


@dataclass(frozen=True)
class Storage:
    """The numbers that tensors are views of: a flat tensor."""

    flat: Tensor


class Machine:
    """Runs a pickle: `make` has for each name what makes its objects, `storage` reads numbers by their key.

    ValueError where the pickle is none, or asks for anything else.
    """

    def __init__(
        self, make: Mapping[str, Callable[..., object]], storage: Callable[[str, torch.dtype], Tensor]
    ) -> None:
        self.make, self.storage = make, storage
        self.stack: list[object] = []
        self.marks: list[list[object]] = []
        self.memo: dict[int, object] = {}
        self.work = 0

    def run(self, data: bytes) -> object:
        """The object that the pickle makes."""
        try:
            for operation, value, _ in pickletools.genops(data):
                if operation.name == "STOP":
                    return self.stack[-1]
                self.step(operation.name, value)
        except (LookupError, TypeError, OverflowError, RuntimeError, RecursionError) as error:
            raise ValueError(f"its content is damaged: {' '.join(str(error).split())[:200]}") from None
        raise ValueError("its content breaks off")

    def step(self, name: str, value: object) -> None:
        """Does an operation."""
        stack = self.stack
        if name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in VALUES:
            stack.append(value)
        elif name in EMPTY:
            stack.append(EMPTY[name]())
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self.memo[_whole(value)])
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memo[_whole(value)] = stack[-1]
        elif name == "MARK":
            self.marks.append(stack)
            self.stack = []
        elif name == "TUPLE":
            self.since_mark(tuple(stack))
        elif name in TUPLES:
            count = TUPLES[name]
            stack[-count:] = [tuple(stack[-count:])]
        elif name in ("APPEND", "APPENDS"):
            items = self.items(1 if name == "APPEND" else None)
            _of_type(list, self.stack[-1]).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self.items(2 if name == "SETITEM" else None)
            self.set_items(items)
        elif name == "GLOBAL":
            module, _, attribute = str(value).partition(" ")
            stack.append(Name(f"{RENAMED.get(module, module)}.{attribute}"))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments = _of_type(tuple, stack.pop())
            stack.append(self.call(stack.pop(), arguments))
        elif name == "BUILD":
            self.build(stack[-2], stack.pop())
        elif name == "BINPERSID":
            stack.append(self.load_storage(stack.pop()))
        elif name != "PROTO":
            raise ValueError(f"it has the operation {name}, which torch.save does not use")

    def since_mark(self, made: object) -> None:
        """Puts what was made of all since the mark upon what was before it."""
        self.stack = self.marks.pop()
        self.stack.append(made)

    def items(self, count: int | None) -> list[object]:
        """Takes the last so many from the stack, or all since the mark."""
        if count is None:
            found, self.stack = self.stack, self.marks.pop()
            return found
        found = self.stack[-count:]
        del self.stack[-count:]
        return found

    def set_items(self, items: list[object]) -> None:
        """Puts keys and values in turn into the mapping upon the stack."""
        target = _of_type(dict, self.stack[-1])
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, int):
                raise ValueError(f"its content is damaged: a key is a {type(key).__name__}")
            target[key] = value

    def spend(self, work: int) -> None:
        """Counts what a few bytes of the file cost."""
        self.work += work
        if self.work > MOST_WORK:
            raise ValueError("a small part of it is repeated without end, which is made to do harm")

    def call(self, what: object, arguments: tuple) -> object:
        """What stands for the result of calling a name."""
        name = _of_type(Name, what).text
        self.spend(
            1 + sum(len(part) for part in arguments if isinstance(part, str | bytes | list | tuple | dict | set))
        )
        known = OWN.get(name)
        if known is not None:
            return known(*arguments)
        if name not in self.make:
            refuse([name])
        return self.make[name](*arguments)

    def build(self, target: object, state: object) -> None:
        """Gives an object its attributes; those of mappings and tensors are left out."""
        if hasattr(target, "__setstate__") and not isinstance(target, dict | Tensor):
            target.__setstate__(state)
        elif not isinstance(target, OrderedDict):
            raise ValueError(f"its content is damaged: a {type(target).__name__} with attributes")

    def load_storage(self, key: object) -> Storage:
        """The numbers that a key of torch.save stands for."""
        if type(key) is not tuple or len(key) != 5 or key[0] != "storage" or not isinstance(key[2], str):
            raise ValueError("its content is damaged: numbers without a place")
        kind = _of_type(Name, key[1]).text
        if kind not in STORAGES:
            raise ValueError(f"it has numbers of the kind {kind}, which no detector has")
        return Storage(self.storage(key[2], STORAGES[kind]))


def refuse(names: list[str]) -> NoReturn:
    """Raises the ValueError for a file that names what has no place in it."""
    raise ValueError(
        f"refused, for it names {', '.join(names[:5])}, which no YOLOv5 checkpoint needs; nothing in it was run"
    )


def names_in(data: bytes) -> set[str]:
    """The classes and functions that a pickle names besides those that are known here.

    ValueError where it is none, or names any in a way that torch.save does not use.
    """
    found = set()
    for step, (operation, value, _) in enumerate(pickletools.genops(data)):
        if step > MOST_STEPS:
            raise ValueError("it has more operations than any checkpoint needs")
        if operation.name in OTHER_NAMES:
            raise ValueError(f"it has the operation {operation.name}, which torch.save does not use")
        if operation.name == "GLOBAL":
            module, _, attribute = str(value).partition(" ")
            found.add(f"{RENAMED.get(module, module)}.{attribute}")
    return {name for name in found if name not in OWN and name not in STORAGES and not DTYPE.fullmatch(name)}


# What names stand for -------------------------------------------------------------------------------------------------


def view(storage: object, offset: object, size: object, stride: object, *_: object) -> Tensor:
    """A tensor of these numbers, without a byte beyond them."""
    flat = _of_type(Storage, storage).flat
    size, stride = ([_whole(part) for part in _of_type(tuple, parts)] for parts in (size, stride))
    if len(size) != len(stride) or len(size) > 16:
        raise ValueError(f"damaged: a tensor of size {size} and strides {stride}")
    last = _whole(offset) + sum((count - 1) * step for count, step in zip(size, stride, strict=True))
    if 0 not in size and last >= flat.numel():
        raise ValueError(f"damaged: a weight claims {math.prod(size)} numbers, the file has fewer")
    return flat.as_strided(size, stride, _whole(offset)) if 0 not in size else flat.new_empty(size)


def ordered(pairs: object = ()) -> OrderedDict:
    """A mapping of pairs."""
    found: OrderedDict = OrderedDict()
    for key, value in _of_type(list, list(pairs) if isinstance(pairs, tuple) else pairs):
        if type(key) not in (str, int):
            raise ValueError(f"its content is damaged: a key is a {type(key).__name__}")
        found[key] = value
    return found


def texts(items: object = ()) -> set[str]:
    """A set of texts."""
    found = list(items) if isinstance(items, list | tuple) else []
    return {_of_type(str, item) for item in found}


def encoded(text: object, encoding: object) -> bytes:
    """Bytes that were written as a text."""
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"its content is damaged: bytes written as {encoding!r:.20}")
    return _of_type(str, text).encode("latin-1")


def parameter(data: object, *_: object) -> Tensor:
    """The tensor of a parameter."""
    return _of_type(Tensor, data)


def bare(_dtype: object, size: object, *_: object) -> Tensor:
    """A tensor without numbers."""
    return torch.empty(size_of(size), device="meta")


def nothing(*_: object) -> None:
    """What is not needed, or refused later on for not being a tensor."""


def size_of(sizes: object = ()) -> tuple:
    """Sizes as they are."""
    return tuple(_whole(size) for size in _of_type(tuple, sizes))


OWN: dict[str, Callable[..., object]] = {
    "collections.OrderedDict": ordered,
    "builtins.set": texts,
    "_codecs.encode": encoded,
    "torch.Size": size_of,
    "torch.device": nothing,
    "torch._utils._rebuild_tensor": view,
    "torch._utils._rebuild_tensor_v2": view,
    "torch._utils._rebuild_meta_tensor_no_storage": bare,
    "torch._utils._rebuild_sparse_tensor": nothing,
    "torch.serialization._get_layout": nothing,
    "torch._utils._rebuild_parameter": parameter,
    "torch._utils._rebuild_parameter_with_state": parameter,
}
OTHER_NAMES = {"STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4"}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
EMPTY: dict[str, Callable[[], object]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
VALUES = {"BININT", "BININT1", "BININT2", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "LONG1"}


def _whole(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**62:
        raise ValueError(f"its content is damaged: {value!r:.40} where a count is wanted")
    return value


def _of_type(kind: type[Kind], value: object) -> Kind:
    if not isinstance(value, kind):
        raise ValueError(f"its content is damaged: a {type(value).__name__}, where a {kind.__name__} is wanted")
    return value


# Size -----------------------------------------------------------------------------------------------------------------


def check_parts(content: object) -> None:
    """ValueError where the content, written out, would have no end: a list within itself, or in one again and again.

    What looks at it afterwards may go through all of it, and show it in an error.
    """
    counts: dict[int, int] = {}  # of all parts of what was counted, by identity
    waiting = [content]
    open_now: set[int] = set()
    while waiting:
        value = waiting[-1]
        parts = _parts(value)
        if id(value) not in counts and id(value) not in open_now and parts:
            open_now.add(id(value))
            if len(open_now) > MOST_NESTED:
                raise ValueError("its parts are nested without end")
            waiting += [part for part in parts if _parts(part) and id(part) not in counts]
            if any(id(part) in open_now for part in parts):
                raise ValueError("a part of it holds itself, and so on without end")
            continue
        waiting.pop()
        open_now.discard(id(value))
        if id(value) not in counts:
            counts[id(value)] = 1 + sum(counts.get(id(part), 1) for part in parts)
            if counts[id(value)] > MOST_PARTS:
                raise ValueError(f"its parts are repeated without end: more than {MOST_PARTS}, written out")


def _parts(value: object) -> list[object]:
    fields = getattr(value, "fields", value)
    if isinstance(fields, dict):
        return list(fields.values())
    return list(fields) if isinstance(fields, list | tuple | set) else []
