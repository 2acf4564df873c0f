"""Texts of anyone's making: whatever they are, a value comes out, or a ValueError of one line."""

import csv
import io
import json
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from models.runtimes.metadata import Metadata
from utils.data.label_cache import Entry, load_cache, save_cache
from utils.data.label_files import parse_labels
from utils.draw.html_page import escaped
from utils.files.names import plain_cell, safe_name
from utils.files.reading import parse_json
from utils.files.yamls import parse_yaml

QUICK = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SCALARS = st.sampled_from(
    [
        *("!!int ''", "!!bool foo", "!!timestamp x", "!!float .", "!!binary '='", "!!omap x", "!!set [1]", "!!null x"),
        *("0x", "1:59:59", "1:59.5", "2022-02-30", ".inf", "-0x8000000000000000", "0b", "08", "1e999", "no", "'", "&a"),
        *(
            '"\\UFFFFFFFF"',
            '"\\U00110000"',
            '"\\uD800"',
            "!!python/name:os.system",
            "!<x>",
            "<<",
            "? ",
            "%YAML 9",
            "*a",
        ),
    ]
) | st.text(max_size=20)
YAMLS = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda items: f"[{', '.join(items)}]")
        | st.lists(st.tuples(SCALARS, inner), max_size=4).map(
            lambda items: f"{{{', '.join(f'{a}: {b}' for a, b in items)}}}"
        )
    ),
    max_leaves=12,
)
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


def check_error(error, source=""):
    assert str(error).startswith(source)
    assert "\n" not in str(error)


@QUICK
@given(YAMLS)
@example("!!int ''")
@example("!!bool foo")
@example("!!timestamp x")
@example("1" + ":59" * 100_000)
@example("0x" + "f" * 100_000)
@example("9" * 10_000)
@example("[" * 5000)
@example("&a [*a]")
@example('"\\UFFFFFFFF"')
def test_yaml(text):
    data = f"key: {text}\n".encode("utf-8", "surrogatepass")
    try:
        found = parse_yaml(data, "x.yaml", ("names",))
    except ValueError as error:
        check_error(error, "x.yaml")
        return
    assert isinstance(found, dict)
    repr(found).encode()  # no half of a character, no number of more digits than Python shows


@QUICK
@given(st.binary(max_size=200))
def test_yaml_of_bytes(data):
    with suppress(ValueError):
        assert isinstance(parse_yaml(data, "x.yaml"), dict)


@QUICK
@given(
    st.binary(max_size=300)
    | st.lists(st.text("0123456789.-e naif", max_size=40), max_size=6).map("\n".join).map(str.encode)
)
def test_labels(data):
    try:
        found = parse_labels(data, "x.txt", 5)
    except ValueError as error:
        check_error(error, "x.txt")
        return
    assert found.boxes.shape[1] == 5
    assert ((found.boxes[:, 1:] >= 0) & (found.boxes[:, 1:] <= 1)).all()
    assert ((found.boxes[:, 0] >= 0) & (found.boxes[:, 0] < 5)).all()


@QUICK
@given(
    st.dictionaries(
        st.sampled_from(["names", "nc", "stride", "shape", "imgsz", "dynamic", "x"]), JSONS | JSONS.map(repr)
    )
)
@example({"names": ["a"], "stride": 32, "shape": [10**6, 3, 65_536, 65_536]})
@example({"names": "[" * 100_000, "stride": "32", "shape": "[1, 3, 64, 64]"})
def test_metadata(texts):
    try:
        found = Metadata.from_text(texts, None)
    except ValueError as error:
        check_error(error, "its metadata is damaged")
        return
    assert found is None or (found.nc == len(found.names) > 0 and found.imgsz[0] * found.imgsz[1] <= 1 << 26)


@QUICK
@given(JSONS.map(json.dumps) | st.text(max_size=50) | st.sampled_from(["[" * 10**5, '{"a":' * 10**5, "9" * 10**5]))
def test_json(text):
    try:
        parse_json(text)
    except ValueError as error:
        check_error(error, "damaged: ")


@QUICK
@given(st.text(max_size=60))
@example("=cmd|' /C calc'!A0")
@example("-2+3")
@example("  @SUM(1)")
@example("\u202egpj.exe")
@example("<script>")
@example("\x1b[2J\x00")
def test_names(text):
    cell = plain_cell(text)
    if not cell.lstrip(" ").startswith(("'", '"')):
        assert not cell.lstrip(" ").startswith(("=", "@", "\t", "\r")) or float(cell) is not None
    rows = io.StringIO()
    csv.writer(rows).writerow([cell])
    name = safe_name(text)
    assert 0 < len(name.encode(errors="surrogatepass")) <= 200
    assert "/" not in name
    assert name not in {".", ".."}
    markup = escaped(text)
    assert not {"<", ">", '"', "\u202e", "\x1b", "\x00"} & set(markup)


# Label caches ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache of two images: its path, its bytes, its entries."""
    path = tmp_path_factory.mktemp("cache") / "a.cache.npz"
    boxes = np.array([[1, 0.5, 0.5, 0.2, 0.2]], np.float32)
    polygon = np.array([[0.1, 0.1], [0.5, 0.1], [0.5, 0.5]], np.float32)
    entries = [
        Entry((5, 100), b"0123456789abcdef", (480, 640), boxes, (polygon,), ("a.txt:1: odd",), ""),
        Entry((6, 101), b"", (10, 20), np.zeros((0, 5), np.float32), (), (), "damaged"),
    ]
    save_cache(path, ["a.jpg", "b.jpg"], entries)
    return path, path.read_bytes(), load_cache(path)


def same(a, b):
    return a.keys() == b.keys() and all(repr(a[key]) == repr(b[key]) for key in a)


@QUICK
@given(st.data())
def test_a_cache_that_is_damaged_is_dropped_or_as_it_was(cache, data):
    path, content, known = cache
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(changed[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else changed)
    found = load_cache(path)
    assert found == {} or same(found, known)


@QUICK
@given(
    st.sampled_from(["stamps", "hw", "box_counts", "boxes", "point_counts", "points", "texts", "images", "has_labels"]),
    st.sampled_from([-1, 0, 2**31, 2**62, float("nan"), float("inf"), 0.5, 7]),
    st.sampled_from(["fill", "more", "none", "flat", "text"]),
)
def test_a_cache_with_other_numbers_is_dropped(cache, name, value, how):
    """Written anew by a program that does not know its hash: sizes, counts and texts of all kinds."""
    path, content, known = cache
    path.write_bytes(content)
    with np.load(path) as file:
        arrays = dict(file)
    array = arrays[name]
    with np.errstate(all="ignore"), suppress(OverflowError, ValueError):
        arrays[name] = {
            "fill": lambda: np.full_like(array, value),
            "more": lambda: np.concatenate([array, array]),
            "none": lambda: array[:0],
            "flat": lambda: array.ravel(),
            "text": lambda: np.frombuffer(b"[" * 100_000, np.uint8),
        }[how]()
    np.savez(path, **arrays)
    found = load_cache(path)
    assert found == {} or same(found, known)
