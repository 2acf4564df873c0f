"""Every wrong wiring that users make is named, and nothing is said of the right ones."""

import copy
import logging
from pathlib import Path

import pytest
import torch

from models.wiring import check_wiring
from models.yolo import Model
from utils.config import read_yaml
from utils.general import ROOT

YAMLS = sorted((ROOT / "models").rglob("yolo*.yaml"))
PLACES = (0, 2, 4, 6, 9, 13, 17, 20, 23)


def base() -> dict:
    """yolov5n as a mapping."""
    return read_yaml(ROOT / "models" / "yolov5n.yaml")


def insert(place: int, renumber: bool) -> dict:
    """yolov5n with NAM after row `place`, read by all that read that row if `renumber`, else numbered as before."""
    settings = base()
    rows = [*settings["backbone"], *settings["head"]]
    if renumber:
        rows = [[renumbered(source, place), *rest] for source, *rest in rows]
    rows.insert(place + 1, [-1, 1, "NAMAttention", []])
    return {**settings, "backbone": [], "head": rows}


def renumbered(source: int | list[int], place: int) -> int | list[int]:
    """A `from` in which rows from `place` on are one further; what read row `place` reads the new one."""
    if isinstance(source, list):
        return [renumbered(number, place) for number in source]
    return source + 1 if source >= place else source


def build(settings: dict | Path) -> Model:
    """The model, without numbers."""
    with torch.device("meta"):
        return Model(settings, verbose=False)


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_shipped_yamls_give_no_warning(path: Path) -> None:
    assert check_wiring(build(path)) == []


@pytest.mark.parametrize("name", ["yolov5n-NAM.yaml", "yolov5-p34.yaml"])
def test_shipped_yamls_give_no_warning_with_real_anchors(name: str) -> None:
    assert check_wiring(Model(name, verbose=False)) == []


@pytest.mark.parametrize("place", PLACES)
def test_insertion_without_renumbering_warns(place: int) -> None:
    warnings = check_wiring(build(insert(place, renumber=False)))
    *wrong, advice = warnings
    assert wrong
    assert all("row " in warning and "grow by one" in warning for warning in wrong)
    command = "python -m models.insert yolov5n.yaml --module NAMAttention --after"
    assert f"row {place + 1} (NAMAttention) came in" in advice
    assert f"let this do it: {command} {place} --out yolov5n-NAMAttention.yaml" in advice


@pytest.mark.parametrize("place", PLACES)
def test_insertion_with_renumbering_does_not(place: int) -> None:
    assert check_wiring(build(insert(place, renumber=True))) == []


def test_detect_on_a_concat_names_both_rows() -> None:
    warnings = check_wiring(build(insert(17, renumber=False)))
    assert "row 24 [-1, 3, C3, [1024, False]]: nobody reads its output" in warnings[0]
    assert "row 25 [[17, 20, 23], 1, Detect, [nc, anchors]]: its input 20 is [[-1, 14], 1, Concat, [1]]" in warnings[1]
    assert "its input 23 is [[-1, 10], 1, Concat, [1]]" in warnings[2]


def test_unread_layer_is_named_with_its_reader() -> None:
    warning, _ = check_wiring(build(insert(23, renumber=False)))
    assert "row 24 [-1, 1, NAMAttention, []]: nobody reads its output" in warning
    assert "row 25 reads row 23 in front of it" in warning


def test_more_inputs_than_levels() -> None:
    settings = base()
    settings["head"][-1][0] = [17, 20, 23, 13]
    (warning,) = check_wiring(build(settings))
    assert "reads 4 rows, the anchors have 3 levels: 13 goes unread" in warning


def test_strides_out_of_order() -> None:
    settings = base()
    settings["head"][-1][0] = [20, 17, 23]
    (warning,) = check_wiring(Model(settings, verbose=False))
    assert "the strides of its inputs are 16, 8, 32" in warning


def test_anchors_that_do_not_grow() -> None:
    settings = base()
    settings["anchors"][1] = [1, 2, 3, 4, 5, 6]
    (warning,) = check_wiring(Model(settings, verbose=False))
    assert "strides 8, 16, 32 have anchors of" in warning


def test_falling_strides_are_fine_with_falling_anchors() -> None:
    settings = base()
    settings["head"][-1][0] = [23, 20, 17]
    settings["anchors"] = settings["anchors"][::-1]
    assert check_wiring(Model(settings, verbose=False)) == []


def test_the_model_logs_them(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "yolov5"):
        build(copy.deepcopy(insert(23, renumber=False)))
    assert "nobody reads its output" in caplog.text


def test_several_rows_put_in_without_renumbering_are_told_with_their_places() -> None:
    settings = base()
    rows = [*settings["backbone"], *settings["head"]]
    for place in (23, 20, 17):
        rows.insert(place + 1, [-1, 1, "NAMAttention", []])
    *_, advice = check_wiring(build({**settings, "backbone": [], "head": rows}))
    assert "rows 18, 22, 26 (NAMAttention) came in" in advice
    assert "models.insert yolov5n.yaml --module NAMAttention --after 17 20 23 --out" in advice


def test_arguments_are_part_of_the_advice() -> None:
    settings = insert(9, renumber=False)
    settings["head"][10] = [-1, 1, "C3", [1024, False]]
    assert '--module "C3[1024, False]" --after 9 --out' in check_wiring(build(settings))[-1]


def test_a_yaml_of_the_users_own_is_told_to_lose_the_row_first() -> None:
    settings = insert(23, renumber=False)
    settings["width_multiple"] = 0.125  # of no shipped yaml
    advice = check_wiring(build(settings))[-1]
    assert (
        "take row 24 (NAMAttention) out again, and let this do it: python -m models.insert model yaml --module"
        in advice
    )


def test_no_advice_where_no_row_explains_it() -> None:
    settings = base()
    settings["head"][-1][0] = [16, 19, 22]  # Detect on the concatenations
    assert not any("let this do it" in warning for warning in check_wiring(build(settings)))
