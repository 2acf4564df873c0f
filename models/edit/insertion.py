"""Insert blocks into a model yaml's rows; every `from` after them is renumbered.

Rows that read the target row read the block inserted after it. A block inserted before a row goes into each of its
inputs; other readers of those inputs are unchanged. Positions refer to the given yaml, however many blocks are
inserted.
"""

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from pathlib import Path

import torch
import yaml
from torch import Tensor, nn

from models.spec.rows import HEAD, IMAGE, Row, is_whole, load_model_yaml, read_rows
from models.spec.wiring import check_wiring
from models.yolo import DRY_RUN_SIZE, Model, states_width
from utils.general import LOGGER, plural

WIDTH = "c"  # among a block's arguments: the channels of what it reads, before scaling
BLOCK = re.compile(r"\s*([A-Za-z_][\w.]*)\s*(\[.*\])?\s*", re.DOTALL)
LEVEL = re.compile(r"[pP](\d)")
PICK = re.compile(r"(.+)\[(-?\d+)\]")
SECTIONS = ("backbone", "head")
PLACES = (
    "a row's number, its name, p3 (the row of stride 8 that Detect reads; backbone.p3: the backbone's last one), "
    "C3 or backbone.C3 (each such row, backbone.C3[-1] the last), backbone (its last row) or detect"
)


@dataclass(frozen=True)
class Block:
    """A block to insert: its module's name and its arguments as in a row."""

    module: str
    args: tuple = ()


@dataclass(frozen=True)
class Insertion:
    """A block and its position, see `PLACES`: after or before it."""

    block: Block
    place: str
    is_before: bool = False


@dataclass(eq=False)
class Node:
    """A row in a graph whose edges are rows; `old` is its index in the yaml, None for a new one."""

    section: str
    old: int | None
    row: list  # as written, its `from` not yet numbered anew
    items: list[int | str]  # of its `from`: whether each is told backwards, by number or by name
    sources: list["Node | None"]  # None is the image
    name: str = ""
    written: list = field(default_factory=list)  # as it stands in the new yaml


@dataclass(frozen=True)
class Inserted:
    """The result: the yaml's new content, and all rows in order."""

    content: dict
    nodes: list[Node]

    @property
    def moved(self) -> dict[int, int]:
        """The new index of each old row."""
        return {node.old: i for i, node in enumerate(self.nodes) if node.old is not None}


# What is asked for ----------------------------------------------------------------------------------------------------


def parse_block(text: str) -> Block:
    """Parse `NAMAttention` or `SE[c, 16]`; ValueError if it is malformed."""
    match = BLOCK.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} is no block: NAMAttention, or with arguments, NAMAttention[...], is wanted")
    try:
        args = yaml.safe_load(match[2]) if match[2] else []
    except yaml.YAMLError:
        raise ValueError(f"{text}: the arguments are not a YAML list such as [c, 3, True]") from None
    if match[1] == HEAD:
        raise ValueError(f"{HEAD} is the last row, and only that; it cannot be put in")
    return Block(match[1], tuple(args))


def parse_insertions(texts: Sequence[str]) -> list[Insertion]:
    """Parse --insert: `NAMAttention@p5`, comma-separated; a position without a block repeats the block before it.

    `NAMAttention@before:p5` inserts into the inputs of that row, as `NAMAttention@detect` does into Detect's.
    """
    found: list[Insertion] = []
    for text in texts:
        block = None
        for piece in _split(text):
            name, at, place = piece.rpartition("@")
            block = parse_block(name) if at else block
            if block is None or not place.strip():
                raise ValueError(f"--insert {text}: a block and its place, NAMAttention@p5, are wanted")
            side, colon, rest = place.strip().partition(":")
            if colon and side not in ("before", "after"):
                raise ValueError(f"--insert {text}: {side}: must be before: or after:")
            place = rest.strip() if colon else side
            found.append(Insertion(block, place, side == "before" or place.lower() == HEAD.lower()))
    return found


def _split(text: str) -> list[str]:
    """Split a text at commas outside brackets."""
    depth, pieces = 0, [""]
    for letter in text:
        depth += (letter == "[") - (letter == "]")
        if letter == "," and not depth:
            pieces.append("")
        else:
            pieces[-1] += letter
    return pieces


# Places ---------------------------------------------------------------------------------------------------------------


class PlaceKind(Enum):
    """The kind of row that a position names."""

    ROW = auto()  # a row by its number
    LEVEL = auto()  # p3..p6, within a section or not
    SECTION = auto()  # backbone or head: its last row
    MODULE = auto()  # rows of a module, within a section or not
    NAME = auto()  # a row by its own name
    DETECT = auto()  # the detection head, within a section or not


@dataclass(frozen=True)
class Place:
    """A parsed position: its kind and the fields of that kind."""

    kind: PlaceKind
    text: str  # as given, without its picks
    index: int = 0  # ROW, NAME: the row's number
    stride: int = 0  # LEVEL: in pixels
    section: str = ""  # LEVEL, SECTION, MODULE, DETECT: backbone or head; empty for all rows
    module: str = ""  # MODULE, DETECT: as written
    picks: tuple[int, ...] = ()  # of `[i]` behind it, in their order: which of the rows found are meant


def parse_place(text: str, names: Mapping[str, int]) -> Place:
    """Parse a position. `names` maps the names of rows to their indices."""
    if text in names:
        return Place(PlaceKind.NAME, text, index=names[text])
    if re.fullmatch(r"-?\d+", text):
        return Place(PlaceKind.ROW, text, index=int(text))
    if match := PICK.fullmatch(text):
        place = parse_place(match[1], names)
        return replace(place, picks=(*place.picks, int(match[2])))
    section, dot, rest = text.partition(".")
    if section not in SECTIONS:
        section, rest = "", text
    elif not dot:
        return Place(PlaceKind.SECTION, text, section=section)
    if match := LEVEL.fullmatch(rest):
        return Place(PlaceKind.LEVEL, text, section=section, stride=2 ** int(match[1]))
    kind = PlaceKind.DETECT if rest.lower() == HEAD.lower() else PlaceKind.MODULE
    return Place(kind, text, section=section, module=rest)


def match_place(place: Place, rows: Sequence[Row], backbone: int, strides: Callable[[], list[float]]) -> list[int]:
    """Return the indices of the rows that a position names; the first `backbone` rows are the backbone's.

    `strides` returns the rows' strides in pixels and is called only for levels.

    Raises:
        ValueError: if no row matches.
    """
    found = _match_unpicked(place, rows, backbone, strides)
    text = place.text
    for pick in place.picks:
        picked_text = f"{text}[{pick}]"
        if not -len(found) <= pick < len(found):
            raise ValueError(f"place {picked_text}: {text} means {len(found)} rows; [0] to [{len(found) - 1}] pick one")
        found = [found[pick]]
        text = picked_text
    return found


def _match_unpicked(place: Place, rows: Sequence[Row], backbone: int, strides: Callable[[], list[float]]) -> list[int]:
    """Return the indices of the rows that a position names, before its picks are applied."""
    if place.kind is PlaceKind.NAME:
        return [place.index]
    if place.kind is PlaceKind.ROW:
        if not 0 <= place.index < len(rows):
            raise ValueError(f"place {place.text}: {rows[0].file} has rows 0 to {len(rows) - 1}")
        return [place.index]
    section_rows = {"backbone": rows[:backbone], "head": rows[backbone:-1], "": rows}[place.section]
    if place.kind is PlaceKind.SECTION:
        found = [row.index for row in section_rows[-1:]]
    elif place.kind is PlaceKind.LEVEL:
        found = _match_level(place, section_rows, rows[-1], strides())
    else:
        found = [row.index for row in section_rows if _is_of_module(row, place) or _is_head(row, place, rows)]
    if not found:
        modules = ", ".join(dict.fromkeys(row.content[2] for row in section_rows))
        raise ValueError(
            f"place {place.text}: {rows[0].file} has no such row; there are {modules}. A place is {PLACES}"
        )
    return found


def _is_of_module(row: Row, place: Place) -> bool:
    """Return True if a row's module is the position's; Detect may be written in any case."""
    module = row.content[2]
    if place.kind is PlaceKind.DETECT:
        return module.lower() == HEAD.lower()
    return module == place.module


def _is_head(row: Row, place: Place, rows: Sequence[Row]) -> bool:
    """Return True if the position is detect and the row is the last one, which is the head whatever its class."""
    return place.kind is PlaceKind.DETECT and row is rows[-1]


def _match_level(place: Place, section_rows: Sequence[Row], detect: Row, strides: list[float]) -> list[int]:
    """Return the section's last row of the position's stride; without a section the row that Detect reads."""
    if place.section:
        return [row.index for row in section_rows if strides[row.index] == place.stride][-1:]
    found = [source for source in dict.fromkeys(detect.sources) if source >= 0 and strides[source] == place.stride]
    if len(found) != 1:
        read = ", ".join(f"row {source} of stride {strides[source]:g}" for source in detect.sources)
        raise ValueError(f"{detect.file}: {HEAD} reads {read}; {len(found)} of them have stride {place.stride}")
    return found


def row_strides(content: dict, file: str) -> list[float]:
    """Return the stride in pixels of each row's output; infinite if it is not a feature map."""
    with torch.device("meta"):
        model = quiet_model(content, file).eval()
        strides = [float("inf")] * len(model.rows)

        def note(layer: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and output.ndim == 4:
                strides[layer.i] = DRY_RUN_SIZE / output.shape[2]

        for layer in model.model:
            layer.register_forward_hook(note)
        model(torch.zeros(1, model.yaml["ch"], DRY_RUN_SIZE, DRY_RUN_SIZE))
    return strides


def quiet_model(content: dict, file: str) -> Model:
    """Build a model from a yaml's content without logging; errors name the file."""
    try:
        return Model(content, verbose=False, warn=False)
    except ValueError as error:
        raise ValueError(str(error).replace("model yaml", file, 1)) from None


# Insertion ------------------------------------------------------------------------------------------------------------


def insert(content: dict, insertions: Sequence[Insertion], file: str = "model yaml") -> Inserted:
    """Insert blocks into a copy of a model yaml's content; ValueError if a position is invalid.

    Blocks at one position follow each other in the given order. A block without arguments that needs its channels gets
    those of its input.
    """
    if content.get("pruned"):
        raise ValueError(f"{file}: is of a pruned network, whose rows are settled; put blocks in before pruning it")
    rows = read_rows(content, file)
    nodes = _graph(content, rows)
    known: list[float] = []

    def strides() -> list[float]:
        known[:] = known or row_strides(content, file)
        return known

    backbone = len(content["backbone"])
    names = {row.name: row.index for row in rows if row.name}
    steps: list[tuple[int, Insertion]] = []
    for insertion in insertions:
        for index in match_place(parse_place(insertion.place, names), rows, backbone, strides):
            for other, before in steps:
                if (other, before.block, before.is_before) == (index, insertion.block, insertion.is_before):
                    where = " and ".join(dict.fromkeys((before.place, insertion.place)))
                    raise ValueError(f"{insertion.block.module} at {where}: row {index} twice; name it once")
            if rows[index] is rows[-1] and not insertion.is_before:
                raise ValueError(f"{HEAD} is the last row: nothing can be put in after it, but before it")
            steps.append((index, insertion))
    old, tails = list(nodes), {}
    channels = content.get("ch", 3)
    for index, insertion in steps:
        if insertion.is_before:
            _put_before(nodes, old[index], insertion.block, channels)
        else:
            tails[index] = _put_after(nodes, tails.get(index, old[index]), insertion.block, channels)
    _number(nodes)
    new = copy.deepcopy({key: value for key, value in content.items() if key not in SECTIONS})
    lists = {key: [copy.deepcopy(node.written) for node in nodes if node.section == key] for key in SECTIONS}
    return Inserted({key: lists.get(key, new.get(key)) for key in content}, nodes)


def with_insertions(cfg: str | Path | dict, texts: Sequence[str], file: str = "") -> dict:
    """Apply --insert to a model yaml's content and log the change; `file` names a mapping in it."""
    content, found = load_model_yaml(cfg)
    inserted = insert(content, parse_insertions(texts), file or found)
    LOGGER.info(difference(content, inserted, file or found, "with --insert"))
    return inserted.content


def _graph(content: dict, rows: Sequence[Row]) -> list[Node]:
    nodes: list[Node] = []
    for row, written in zip(rows, [*content["backbone"], *content["head"]], strict=True):
        section = "backbone" if row.index < len(content["backbone"]) else "head"
        items = written[0] if isinstance(written[0], list) else [written[0]]
        sources = [nodes[source] if source != IMAGE else None for source in row.sources]
        nodes.append(Node(section, row.index, written, list(items), sources, row.name))
    return nodes


def _put_after(nodes: list[Node], target: Node, block: Block, channels: int) -> Node:
    """Insert a row after `target`; all readers of the target read it."""
    new = _new(nodes, target.section, block, target, -1, channels)
    for node in nodes:
        node.sources = [new if source is target else source for source in node.sources]
    nodes.insert(nodes.index(target) + 1, new)
    return new


def _put_before(nodes: list[Node], target: Node, block: Block, channels: int) -> None:
    """Insert a row into each input of `target`, which alone reads it."""
    for source in dict.fromkeys(target.sources):
        item = target.items[target.sources.index(source)]
        new = _new(nodes, target.section, block, source, item, channels)
        target.sources = [new if other is source else other for other in target.sources]
        nodes.insert(nodes.index(target), new)


def _new(
    nodes: Sequence[Node], section: str, block: Block, source: Node | None, item: int | str, channels: int
) -> Node:
    """Make a row with the block. It is named if its input is, so that a `from` can refer to it by name."""
    args = list(block.args)
    if not args and states_width(block.module):
        args = [WIDTH]
    args = [_width(source, channels) if arg == WIDTH else arg for arg in args]
    row, name = [item, 1, block.module, args], ""
    if source is not None and source.name:
        taken = {node.name for node in nodes}
        stem = f"{source.name}-{block.module.rpartition('.')[2]}"
        name = next(name for i in range(len(nodes) + 1) if (name := f"{stem}{i or ''}") not in taken)
        row.append(name)
    return Node(section, None, row, [item], [source], name)


def _width(node: Node | None, channels: int) -> int:
    """Return the output channels of a row before scaling, as the yaml states them; `channels` are the image's."""
    if node is None:
        return channels
    module, args = node.row[2:4]
    if states_width(module) and args and is_whole(args[0]):
        return args[0]
    widths = [_width(source, channels) for source in node.sources]
    if module in ("Contract", "Expand"):
        gain = (args[0] if args else 2) ** 2
        return widths[0] * gain if module == "Contract" else widths[0] // gain
    return sum(widths) if module == "Concat" else widths[0]


def _number(nodes: Sequence[Node]) -> None:
    """Rewrite each row's `from` for the new indices, in its given form: relative, absolute or by name."""
    places = {node: i for i, node in enumerate(nodes)}
    for i, node in enumerate(nodes):
        items: list[int | str] = []
        for item, source in zip(node.items, node.sources, strict=True):
            if source is None:
                items.append(-1)
            elif isinstance(item, str) and source.name:
                items.append(source.name)
            else:
                place = places[source]
                items.append(place - i if is_whole(item) and item < 0 else place)
        node.written = [items if isinstance(node.row[0], list) else items[0], *node.row[1:]]


# What changed --------------------------------------------------------------------------------------------------------


def difference(content: dict, inserted: Inserted, file: str, out: str) -> str:
    """Describe the insertion: a line for each row that is new, reads another row or has another index.

    Builds both networks on the meta device to count parameters; ValueError if the new one cannot be built.
    """
    with torch.device("meta"):
        old, new = quiet_model(content, file), quiet_model(inserted.content, out)
    rows, moved = read_rows(inserted.content, out), inserted.moved
    lines = [f"{'old':>5}{'new':>5}"]
    for i, node in enumerate(inserted.nodes):
        row = rows[i]
        if node.old is None:
            lines.append(f"{'-':>5}{i:>5}  + {row.text}  reads {_named(rows, row.sources)}")
            continue
        before = old.rows[node.old]
        is_rewired = row.sources != tuple(moved.get(source, source) for source in before.sources)
        what = f"  reads {_named(rows, row.sources)}" if is_rewired else ""
        if is_rewired or row.text != before.text:
            text = row.text if row.text == before.text else f"{before.text} -> {row.text}"
            lines.append(f"{node.old:>5}{i:>5}  {'~' if is_rewired else ' '} {text}{what}")
    counts = [sum(parameter.numel() for parameter in model.parameters()) for model in (old, new)]
    put_in = plural(sum(node.old is None for node in inserted.nodes), "row")
    head = f"{file} -> {out}: {put_in} put in, {counts[0]:,} -> {counts[1]:,} parameters (+ new, ~ reads another row)"
    return "\n".join([head, *lines, *(f"warning: {warning}" for warning in check_wiring(new))])


def _named(rows: Sequence[Row], sources: Sequence[int]) -> str:
    return ", ".join(f"{source} {rows[source].content[2]}" if source >= 0 else "the image" for source in sources)
