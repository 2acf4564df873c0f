"""The text of a model yaml with rows put in: its remarks, its layout and all else stay as its author has them.

The remarks that count rows are counted on, and stay in their column.
"""

import json
import re
from collections.abc import Iterator, Sequence

import yaml

from models.edit.insertion import SECTIONS, Node
from models.spec.rows import read_rows

BEHIND = re.compile(r"(?P<closed>[ \t]*[,\]]*)(?P<gap>[ \t]*)(?P<remark>#[^\r\n]*)?")  # a row, up to its line's end
NEXT_LINE = re.compile(r"[ \t]*(?:#[^\r\n]*)?(?:\r?\n)")
PLAIN = re.compile(r"[A-Za-z_][\w.-]*")
GAP = 2  # spaces before a remark
Edit = tuple[int, int, str]  # what stands from here to there is replaced by this


def with_rows(text: str, nodes: Sequence[Node], file: str) -> str:
    """The yaml's text with the rows of `nodes`; ValueError where its layout is one that cannot be kept."""
    root = yaml.compose(text, yaml.SafeLoader)
    sections = {key.value: value for key, value in root.value if key.value in SECTIONS}
    marks = [row for name in SECTIONS for row in sections[name].value]
    edits: list[Edit] = []
    for i, node in enumerate(nodes):
        if node.old is not None:
            edits += _numbered(text, marks[node.old], node, i)
    for first, group in _groups(nodes):
        edits.append(_put_in(text, sections[group[0].section], marks, nodes, first, group))
    new = _apply(text, edits)
    try:
        content = yaml.safe_load(new)
        rows = [row.written or row.content for row in read_rows(content, file)]
    except (yaml.YAMLError, ValueError):
        rows = []
    if rows != [node.written for node in nodes]:
        raise ValueError(f"{file}: its layout cannot be kept; write each row as [from, number, module, args] in a line")
    return new


def _groups(nodes: Sequence[Node]) -> Iterator[tuple[int, list[Node]]]:
    """Rows to put in that follow each other in a section, with the number of the first."""
    i = 0
    while i < len(nodes):
        end = i
        while end < len(nodes) and nodes[end].old is None and nodes[end].section == nodes[i].section:
            end += 1
        if end > i:
            yield i, list(nodes[i:end])
        i = max(end, i + 1)


def _apply(text: str, edits: Sequence[Edit]) -> str:
    pieces, done = [], 0
    for start, end, replacement in sorted(edits, key=lambda edit: edit[:2]):
        pieces += [text[done:start], replacement]
        done = end
    return "".join([*pieces, text[done:]])


def _end(mark: yaml.Node) -> int:
    """Where what the node holds ends; a block's own mark lies behind the remarks after it."""
    is_block = isinstance(mark, yaml.CollectionNode) and not mark.flow_style and mark.value
    if not is_block:
        return mark.end_mark.index
    last = mark.value[-1]
    return _end(last[1] if isinstance(last, tuple) else last)


def _numbered(text: str, mark: yaml.Node, node: Node, index: int) -> list[Edit]:
    """The edits that give a row its new `from`, and its remark the new number."""
    source = mark.value[0]
    items = source.value if isinstance(source, yaml.SequenceNode) else [source]
    new = node.written[0] if isinstance(node.written[0], list) else [node.written[0]]
    edits = [
        (item.start_mark.index, item.end_mark.index, flow_text(value))
        for item, value, before in zip(items, new, node.items, strict=True)
        if value != before
    ]
    growth = sum(len(replacement) - (end - start) for start, end, replacement in edits)
    behind = BEHIND.match(text, _end(mark))
    if behind["remark"] is None:
        return edits
    if growth:
        least = min(GAP, len(behind["gap"]))
        edits.append((*behind.span("gap"), " " * max(least, len(behind["gap"]) - growth)))
    number = re.match(r"#\s*(\d+)(?!\d)", behind["remark"])
    if number and int(number[1]) == node.old != index:
        start = behind.start("remark")
        edits.append((start + number.start(1), start + number.end(1), str(index)))
    return edits


def _put_in(
    text: str, section: yaml.Node, marks: Sequence[yaml.Node], nodes: Sequence[Node], first: int, group: Sequence[Node]
) -> Edit:
    """The edit that puts in a group of rows, the first of them the `first`-th: behind the row before, or in front."""
    newline = "\r\n" if "\r\n" in text else "\n"
    is_front = first == 0 or nodes[first - 1].section != group[0].section
    beside = nodes[first + len(group)] if is_front else nodes[first - 1]
    assert beside.old is not None, "a group ends where an old row is"
    mark = marks[beside.old]
    start, end = mark.start_mark.index, _end(mark)
    line = text.rfind("\n", 0, start) + 1
    behind = BEHIND.match(text, end)
    counts = behind["remark"] is not None and re.match(rf"#\s*{beside.old}(?!\d)", behind["remark"])
    column = behind.start("remark") - line if counts and "\n" not in text[line:end] else 0
    indent = " " * mark.start_mark.column if section.flow_style else text[line:start]

    def row(node: Node, i: int, comma: str) -> str:
        bare = f"{indent}{flow_text(node.written)}{comma}"
        return bare if not counts else f"{bare}{' ' * max(GAP, column - len(bare))}# {first + i}"

    comma = "," if section.flow_style else ""
    lines = [row(node, i, comma) for i, node in enumerate(group)]
    if is_front:
        block = newline.join(lines) + newline
        return (line, line, block) if not comma else (start, start, block[len(indent) :] + indent)
    if not comma:
        stop = text.find("\n", end)
        return (len(text), len(text), newline + newline.join(lines)) if stop < 0 else _lines(stop + 1, lines, newline)
    if text[end : end + 1] == "," and (rest := NEXT_LINE.match(text, end + 1)):
        return _lines(rest.end(), lines, newline)
    plain = [f"{indent}{flow_text(node.written)}" for node in group]  # the section's last row: no comma follows it
    return end, end, f",{newline}" + f",{newline}".join(plain)


def _lines(place: int, lines: Sequence[str], newline: str) -> Edit:
    return place, place, "".join(line + newline for line in lines)


def flow_text(value: object) -> str:
    """A value as it stands in a row: `[-1, 1, NAMAttention, []]`."""
    if isinstance(value, list):
        return f"[{', '.join(map(flow_text, value))}]"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {flow_text(item)}" for key, item in value.items())
    if isinstance(value, str):
        return value if PLAIN.fullmatch(value) and yaml.safe_load(value) == value else json.dumps(value)
    if isinstance(value, bool):
        return str(value)
    return yaml.safe_dump(value, default_flow_style=True).partition("\n")[0]
