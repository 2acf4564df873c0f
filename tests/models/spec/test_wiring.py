"""Every wrong wiring that users make is named, and nothing is said of the right ones."""

import copy
import logging
import random
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import yaml

from models.edit.insertion import Block, Insertion, parse_block
from models.edit.insertion import insert as insert_rightly
from models.spec.repair import advise, suggest
from models.spec.rows import read_rows
from models.spec.wiring import check_wiring
from models.yolo import Model
from tools.insert import main as insert_main
from tools.insert import parse_opt as insert_options
from utils.files.yamls import read_yaml
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
    command = "python -m tools.insert yolov5n.yaml --module NAMAttention --after"
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
    assert "tools.insert yolov5n.yaml --module NAMAttention --after 17 20 23 --out" in advice


def test_arguments_are_part_of_the_advice() -> None:
    settings = insert(9, renumber=False)
    settings["head"][10] = [-1, 1, "C3", [1024, False]]
    assert '--module "C3[1024, False]" --after 9 --out' in check_wiring(build(settings))[-1]


def test_a_yaml_of_the_users_own_is_told_to_lose_the_row_first() -> None:
    settings = insert(23, renumber=False)
    settings["width_multiple"] = 0.125  # of no shipped yaml
    advice = check_wiring(build(settings))[-1]
    assert (
        "take row 24 (NAMAttention) out again, and let this do it: python -m tools.insert model yaml --module" in advice
    )


def test_no_advice_where_no_row_explains_it() -> None:
    settings = base()
    settings["head"][-1][0] = [16, 19, 22]  # Detect on the concatenations
    assert not any("let this do it" in warning for warning in check_wiring(build(settings)))


# Every place, and numbers of which only some were corrected -----------------------------------------------------------

NAM = [-1, 1, "NAMAttention", []]
S = "yolov5s.yaml"


def shipped(name: str) -> dict:
    """A yaml of models/ as a mapping."""
    return read_yaml(next((ROOT / "models").rglob(name)))


def all_rows(content: dict) -> list[list]:
    """A copy of the rows of backbone and head."""
    return copy.deepcopy([*content["backbone"], *content["head"]])


def pasted(content: dict, places: Sequence[int], row: list = NAM) -> dict:
    """The yaml with the row after each of the places, in its own numbers, which all stay; -1 is in front of all."""
    rows = all_rows(content)
    for place in sorted(places, reverse=True):
        rows.insert(place + 1, list(row))
    end = len(content["backbone"]) + sum(place < len(content["backbone"]) for place in places)
    return {**content, "backbone": rows[:end], "head": rows[end:]}


def rightly(content: dict, places: Sequence[int], block: str = "NAMAttention") -> dict:
    """What models/edit/insertion.py makes of it."""
    words = [Insertion(Block(block), str(max(place, 0)), is_before=place < 0) for place in places]
    return insert_rightly(content, words).content


def graph(content: dict) -> list[str]:
    """What each row computes, told by what it reads in place of numbers; sorted, each once."""
    found: list[int] = []
    for row in read_rows(content):
        found.append(hash((str(row.content[1:4]), tuple(found[i] if i >= 0 else None for i in row.sources))))
    return [found[-1], *sorted(found)]


def commanded(text: str) -> dict:
    """What the command in an advice makes."""
    words = shlex.split(re.search(r"python -m tools\.insert (.*?\.yaml .*?--out \S+?\.yaml)", text)[1])
    opt = insert_options(words)
    block = parse_block(opt.module)
    places = [Insertion(block, place) for place in opt.after]
    places += [Insertion(block, place, is_before=True) for place in opt.before]
    return insert_rightly(shipped(opt.cfg), places).content


def numbered(text: str, content: dict) -> dict:
    """The yaml with the numbers that an advice says are the right ones."""
    rows = all_rows(content)
    for index, source in re.findall(r"row (\d+) (\[[^]]*\]|-?\d+)", text.partition("right numbers are: ")[2]):
        rows[int(index)][0] = yaml.safe_load(source)
    return {**content, "backbone": rows[: len(content["backbone"])], "head": rows[len(content["backbone"]) :]}


def assert_mends(text: str, content: dict, right: dict) -> None:
    """The advice's command, and its numbers, make the right graph of a yaml that has another."""
    assert graph(content) != graph(right)
    assert graph(commanded(text)) == graph(right)
    assert graph(numbered(text, content)) == graph(right)


@pytest.mark.parametrize("place", range(-1, 24))
def test_each_place_of_yolov5s_is_told_with_what_mends_it(place: int) -> None:
    content = pasted(shipped(S), [place])
    *_, advice = check_wiring(build(content))
    assert f"row {place + 1} (NAMAttention) came in and the numbers behind stayed" in advice
    assert_mends(advice, content, rightly(shipped(S), [place]))
    assert check_wiring(build(commanded(advice))) == []


def test_a_row_behind_detect_is_an_error_with_advice() -> None:
    """The 26th place."""
    with pytest.raises(ValueError, match="Detect must be the last row, and only that") as caught:
        build(pasted(shipped(S), [24]))
    text = str(caught.value)
    assert "row 24 [[17, 20, 23], 1, Detect" in text
    assert "row 25 (NAMAttention) cannot read Detect; to let Detect read through it: python" in text
    assert [row[2] for row in all_rows(commanded(text))][-4:] == [*["NAMAttention"] * 3, "Detect"]
    own = pasted({**shipped(S), "width_multiple": 0.3}, [24])
    assert "take row 25 out again, and to let Detect" in advise(own, "mine.yaml")
    assert "tools.insert mine.yaml --module NAMAttention --before detect" in advise(own, "mine.yaml")


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_places_of_all_yamls(path: Path) -> None:
    content = read_yaml(path)
    last = len(all_rows(content)) - 2
    chosen = random.Random(path.stem)
    for places in ([chosen.randint(-1, last)], [last], sorted(chosen.sample(range(-1, last + 1), 2))):
        wrong = pasted(content, places)
        assert_mends(suggest(read_rows(wrong), wrong), wrong, rightly(content, places))
        right = rightly(content, places)
        assert suggest(read_rows(right), right) == ""


def partly(place: int, only: Sequence[int] = (), but: Sequence[int] = ()) -> tuple[dict, dict]:
    """yolov5s with NAM after a place, the numbers of `only` some rows, or all `but` some, corrected; the right one."""
    wrong, right = pasted(shipped(S), [place]), rightly(shipped(S), [place])
    rows = [
        [b[0] if i in only or (but and i not in but) else a[0], *a[1:]]
        for i, (a, b) in enumerate(zip(all_rows(wrong), all_rows(right), strict=True))
    ]
    return {**wrong, "backbone": [], "head": rows}, right


@pytest.mark.parametrize(
    ("place", "only", "but"),
    [
        *((place, [25], []) for place in (2, 4, 6, 9, 13)),  # Detect alone
        *((place, [], [25]) for place in (2, 9, 17, 20)),  # all but Detect
        *((place, [], [row]) for place in (2, 5) for row in (13, 20, 23)),  # all but a Concat
    ],
)
def test_some_numbers_corrected(place: int, only: list[int], but: list[int]) -> None:
    content, right = partly(place, only, but)
    advice = suggest(read_rows(content), content)
    assert "came in and some of the numbers behind stayed" in advice or place >= 17
    assert_mends(advice, content, right)


def test_a_wrong_number_that_builds_without_another_sign_is_warned_of() -> None:
    """A Concat that reads the convolution in front of the C3 that it should read: its maps have the right size."""
    content, right = partly(2, but=[13])
    (warning,) = check_wiring(build(content))
    assert warning.startswith("model yaml: it looks as if row 3 (NAMAttention) came in and some of the numbers")
    assert_mends(warning, content, right)


def test_a_reader_in_front_of_the_block_is_named() -> None:
    """Detect's 17 left as it is, as it is not behind the row put in; 20 and 23 corrected."""
    content = rightly(shipped(S), [17])
    content["head"][-1][0][0] = 17
    (warning,) = check_wiring(build(content))
    assert "row 25 reads past row 18 (NAMAttention), which others read; if that is not meant, let this do" in warning
    assert_mends(warning, content, rightly(shipped(S), [17]))


def test_the_second_of_two_pastes_is_left() -> None:
    first = rightly(shipped(S), [9])
    content = pasted(first, [18])  # 17 as it was
    advice = check_wiring(build(content))[-1]
    assert "rows 10, 19 (NAMAttention) came in and some of the numbers behind stayed" in advice
    assert_mends(advice, content, rightly(shipped(S), [9, 17]))


def test_several_modules_are_told_by_their_numbers() -> None:
    content = pasted(pasted(shipped(S), [17]), [21], [-1, 1, "SE", []])
    advice = check_wiring(build(content))[-1]
    assert "rows 18, 22 (NAMAttention, SE) came in" in advice
    assert "tools.insert" not in advice
    right = rightly(rightly(shipped(S), [17]), [21], "SE")
    assert graph(numbered(advice, content)) == graph(right)
    assert check_wiring(build(numbered(advice, content))) == []


def test_two_in_a_row_are_told_by_their_numbers() -> None:
    content = pasted(shipped(S), [17, 17])
    advice = suggest(read_rows(content), content)
    assert "tools.insert" not in advice
    assert numbered(advice, content)["head"][-1][0] == [19, 22, 25]


def test_numbers_of_other_gains_are_known_too() -> None:
    content, right = partly(9, [25])
    own = {**content, "width_multiple": 0.3}
    advice = suggest(read_rows(own), own)
    assert "tools.insert" not in advice  # no yaml to start from, and some numbers are corrected already
    assert graph(numbered(advice, own)) == graph(right)
    untouched = {**pasted(shipped(S), [9]), "width_multiple": 0.3}
    advice = suggest(read_rows(untouched, "mine.yaml"), untouched)
    assert "take row 10 (NAMAttention) out again, and let this do it: python -m tools.insert mine.yaml" in advice


@pytest.mark.parametrize("places", [(0, 1), (2, 4)])
def test_a_network_that_does_not_build_is_told_what_mends_it(places: tuple[int, int]) -> None:
    """Two pastes move a level away: a Concat gets maps of two sizes."""
    content = pasted(shipped(S), places)
    with pytest.raises(
        ValueError, match=r"row \d\d \[\[-1, \d\], 1, Concat, \[1\]\]: does not fit its input"
    ) as caught:
        build(content)
    assert_mends(str(caught.value), content, rightly(shipped(S), places))


def test_an_error_in_a_row_has_the_advice_too_and_its_cause() -> None:
    nam = shipped("yolov5s-NAM.yaml")  # its NAM, row 24, states 1024 channels
    content = pasted(nam, [9])
    content["head"][-2][0] = 20
    with pytest.raises(ValueError, match=r"row 25 \[20, 1, NAMAttention, .*states 1024 channels") as caught:
        build(content)
    assert isinstance(caught.value.__cause__, ValueError)


def test_errors_that_have_another_reason_have_no_advice() -> None:
    content = rightly(shipped(S), [9])
    content["head"][1][3] = [512, "one"]
    with pytest.raises(ValueError, match="could not convert string to float") as caught:
        build(content)
    assert "came in" not in str(caught.value)


def test_of_yamls_alike_the_plain_one_is_named() -> None:
    """yolov5-panet.yaml holds yolov5l's rows and gains."""
    content = pasted(shipped("yolov5l.yaml"), [9])
    assert "tools.insert yolov5l.yaml --module" in suggest(read_rows(content), content)


def test_broken_rows_are_no_reason_to_stumble() -> None:
    for head in (3, None, [3], [[-1, 1]], [[-1, 1, "Detect", []], 3]):
        assert advise({**shipped(S), "head": head}, "x.yaml") == ""


def test_the_command_is_one_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    advice = check_wiring(build(pasted(shipped(S), [9], [-1, 1, "NAMAttention", [1024, {"gain_out": 2}]])))[-1]
    monkeypatch.chdir(tmp_path)
    words = shlex.split(re.search(r"tools\.insert (.*?); or by hand", advice)[1])
    insert_main(insert_options(words))
    written = read_yaml(tmp_path / words[-1])
    assert written["backbone"][10] == [-1, 1, "NAMAttention", [1024, {"gain_out": 2}]]
    assert written["head"][-1][0] == [18, 21, 24]
