"""A block put in anywhere: nothing else of the graph changes, and the network computes what it did."""

import itertools

import pytest
import torch
import yaml as pyyaml

from models.edit.insertion import Block, Insertion, insert, parse_block, parse_insertions, row_strides, with_insertions
from models.edit.text import with_rows
from models.edit.transfer import transfer_weights
from models.spec.rows import load_model_yaml, read_rows
from models.yolo import Model
from utils.files.checkpoint import Checkpoint, load_checkpoint
from utils.files.yamls import read_yaml
from utils.general import ROOT

YAMLS = sorted((ROOT / "models").rglob("yolo*.yaml"))
NINE = (0, 2, 4, 6, 9, 13, 17, 20, 23)  # users.md, section 0.2
TEXTS = [*{path.read_text(encoding="utf-8").partition("\nbackbone:")[2]: path for path in YAMLS}.values()]
IDENTITY = Block("nn.Identity")


@pytest.fixture
def yaml():
    return read_yaml(ROOT / "models" / "yolov5s.yaml")


def rows_of(content):
    return [(row.sources, *row.content[1:]) for row in read_rows(content)]


def froms(content):
    return [row[0] for row in [*content["backbone"], *content["head"]]]


def contracted(content, new):
    """The rows without those of the numbers `new`, what reads one of these its source; `moved` is not asked."""
    rows = rows_of(content)
    kept = [i for i in range(len(rows)) if i not in new]

    def resolve(source):
        while source in new:
            (source,) = rows[source][0]
        return -1 if source == -1 else kept.index(source)

    return [(tuple(map(resolve, rows[i][0])), *rows[i][1:]) for i in kept]


# Oracle: the graph. All positions, after and before, of all shipped yamls, P5, P6, P7, hub and NAM ones ---------------


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_without_the_new_rows_the_graph_is_the_old_one(path):
    content = read_yaml(path)
    old = rows_of(content)
    for place, is_before in itertools.product(range(len(old)), (False, True)):
        if place == len(old) - 1 and not is_before:
            continue
        result = insert(content, [Insertion(IDENTITY, str(place), is_before)])
        new = {i for i, node in enumerate(result.nodes) if node.old is None}
        rows = rows_of(result.content)
        assert len(new) == (len(set(old[place][0])) if is_before else 1)
        assert all(rows[i][1:] == (1, "nn.Identity", []) for i in new)
        assert contracted(result.content, new) == old
        if is_before:  # it alone reads them, and nothing else
            (reader,) = (row for i, row in enumerate(rows) if i not in new and set(row[0]) & new)
            assert set(reader[0]) == new
        else:  # nobody reads past it
            (i,) = new
            assert rows[i][0] == (place,)
            assert [j for j, row in enumerate(rows) if place in row[0]] == [i]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_the_text_holds_the_same_rows_and_all_else_is_as_it_was(path):
    """`with_rows` itself compares the rows that it wrote; here what is not a row."""
    text, content = path.read_text(encoding="utf-8"), read_yaml(path)
    count = len(rows_of(content))
    for place in range(count - 1):
        result = insert(content, [Insertion(IDENTITY, str(place))])
        new = with_rows(text, result.nodes, path.name)
        assert pyyaml.safe_load(new) == result.content
        lines, expected = new.splitlines(), text.splitlines()
        (added,) = (i for i, line in enumerate(lines) if line.strip().startswith("[-1, 1, nn.Identity, []],"))
        del lines[added]
        assert len(lines) == len(expected)
        columns = {line.find("#") for line in new[new.index("\nhead:") :].splitlines() if " [" in line}
        assert len(columns) == 1  # the head's remarks stay in line
        for line, before in zip(lines, expected, strict=True):
            assert line.partition("#")[2].lstrip(" 0123456789") == before.partition("#")[2].lstrip(" 0123456789")
        numbers = [int(line.partition("#")[2].split()[0]) for line in new.splitlines() if line.startswith("   [[")]
        detect = read_rows(result.content)[-1]
        assert numbers[-1] == detect.index


# Oracle: the numbers. Of P5 and P6 each row list once, a family's yamls differ in their gains alone ----------------


def tiny(name):
    return {**read_yaml(ROOT / "models" / name), "width_multiple": 0.02, "depth_multiple": 0.1, "nc": 1}


def fresh(content):
    torch.manual_seed(0)
    return Model(content, verbose=False)


def test_a_familys_yamls_have_the_same_rows():
    for names in (
        [f"yolov5{size}.yaml" for size in "nsmlx"],
        [f"hub/yolov5{size}6.yaml" for size in "nsmlx"] + ["hub/yolov5-p6.yaml"],
    ):
        assert len({str(rows_of(read_yaml(ROOT / "models" / name))) for name in names}) == 1


@pytest.mark.parametrize("name", ["yolov5n.yaml", "hub/yolov5n6.yaml"])
@pytest.mark.parametrize("is_before", [False, True], ids=["after", "before"])
def test_with_an_identity_anywhere_the_network_computes_what_it_did(name, is_before):
    content = tiny(name)
    model = fresh(content).eval()
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) + 0.5 if value.ndim < 2 else torch.randn_like(value) / value[0].numel())
    image = torch.rand(1, 3, 128, 128)
    with torch.inference_mode():
        expected = model(image)[0]
        assert expected.std() > 0
        for place in range(len(model.rows) - (not is_before)):
            result = insert(content, [Insertion(IDENTITY, str(place), is_before)])
            other = fresh(result.content).eval()
            state = {}
            for key, value in model.state_dict().items():
                _, index, rest = key.split(".", 2)
                state[f"model.{result.moved[int(index)]}.{rest}"] = value
            other.load_state_dict(state)
            assert torch.equal(other(image)[0], expected), place


# Places ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("specs", "new", "detect"),
    [
        (["NAMAttention@23"], [24], [17, 20, 24]),
        (["NAMAttention@p5"], [24], [17, 20, 24]),
        (["NAMAttention@P3,p4,p5"], [18, 22, 26], [18, 22, 26]),
        (["NAMAttention@p3", "NAMAttention@p4"], [18, 22], [18, 22, 25]),
        (["NAMAttention@p3,nn.Identity@p5"], [18, 25], [18, 21, 25]),
        (["NAMAttention@detect"], [24, 25, 26], [24, 25, 26]),
        (["NAMAttention@before:p5"], [23], [17, 20, 24]),
        (["NAMAttention@after:backbone"], [10], [18, 21, 24]),
        (["NAMAttention@backbone.C3"], [3, 6, 9, 12], [21, 24, 27]),
        (["NAMAttention@backbone.C3[-1]"], [9], [18, 21, 24]),
        (["NAMAttention@backbone.p3"], [5], [18, 21, 24]),
        (["NAMAttention@SPPF"], [10], [18, 21, 24]),
        (["NAMAttention@head"], [24], [17, 20, 24]),
        (["NAMAttention@0,before:0"], [0, 2], [19, 22, 25]),
        (["nn.Identity@17,NAMAttention@17"], [18, 19], [19, 22, 25]),
        (["nn.Dropout[0.1, True]@p5"], [24], [17, 20, 24]),
    ],
)
def test_places(yaml, specs, new, detect):
    result = insert(yaml, parse_insertions(specs))
    assert [i for i, node in enumerate(result.nodes) if node.old is None] == new
    assert froms(result.content)[-1] == detect
    assert {node.section for node in result.nodes[:5]} == {"backbone"}


def test_of_two_blocks_at_one_place_the_first_is_read_by_the_second(yaml):
    result = insert(yaml, parse_insertions(["nn.Identity@17,NAMAttention@17"]))
    assert [node.written[2] for node in result.nodes[18:20]] == ["nn.Identity", "NAMAttention"]
    result = insert(yaml, parse_insertions(["nn.Identity@before:17,NAMAttention@before:17"]))
    assert [node.written[2] for node in result.nodes[17:19]] == ["nn.Identity", "NAMAttention"]
    assert froms(result.content)[17:20] == [-1, -1, -1]


def test_before_a_concat_others_go_on_reading_as_they_did(yaml):
    result = insert(yaml, [Insertion(IDENTITY, "16", is_before=True)])
    assert froms(result.content)[16:19] == [-1, 4, [-2, 17]]
    assert froms(result.content)[5] == -1


@pytest.mark.parametrize(
    ("spec", "row"),
    [
        ("C3@23", [-1, 1, "C3", [1024]]),
        ("C3[c, False]@22", [-1, 1, "C3", [1024, False]]),  # of the concatenation of 512 and 512
        ("Conv[c,3]@11", [-1, 1, "Conv", [512, 3]]),
        ("Conv[128, 1]@23", [-1, 1, "Conv", [128, 1]]),
        ("Conv[c, [3, 1]]@23", [-1, 1, "Conv", [1024, [3, 1]]]),
        ("NAMAttention[c]@11", [-1, 1, "NAMAttention", [512]]),
    ],
)
def test_arguments(yaml, spec, row):
    result = insert(yaml, parse_insertions([spec]))
    assert [node.written for node in result.nodes if node.old is None] == [row]
    with torch.device("meta"):
        Model(result.content, verbose=False)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("NAMAttention", "a block and its place"),
        ("@p5", "'' is no block"),
        ("NAMAttention@", "a block and its place"),
        ("NAMAttention@beside:p5", "beside: must be before: or after:"),
        ("NAMAttention[1@p5", "no block|a block and its place"),
        ("NAMAttention[{]@p5", "not a YAML list"),
        ("Detect@p5", "Detect is the last row"),
        ("NAMAttention@24,after:24", "place 24: .* has rows 0 to 23|Detect is the last row"),
        ("NAMAttention@25", "place 25: .* has rows 0 to 24"),
        ("NAMAttention@-1", "place -1: .* has rows 0 to 24"),
        ("NAMAttention@p6", "Detect reads row 17 of stride 8, row 20 of stride 16, row 23 of stride 32; 0 of them"),
        ("NAMAttention@neck", "no such row; there are Conv, C3"),
        ("NAMAttention@backbone.Concat", "no such row; there are Conv, C3, SPPF"),
        ("NAMAttention@backbone.C3[4]", r"means 4 rows; \[0\] to \[3\] pick one"),
        ("NAMAttention@p5,23", "at p5 and 23: row 23 twice"),
    ],
)
def test_what_is_wrong_is_said(yaml, spec, message):
    with pytest.raises(ValueError, match=message):
        insert(yaml, parse_insertions([spec]))


def test_a_block_that_does_not_exist_or_fit_is_named(yaml):
    with pytest.raises(ValueError, match="did you mean NAMAttention"):
        with_insertions(yaml, ["NAMAtention@p5"])
    with pytest.raises(ValueError, match=r"mine\.pt.*"):
        insert({**yaml, "head": [*yaml["head"][:-1], [[99], 1, "Detect", []]]}, [], "mine.pt")
    assert parse_block(" C3 [1, 2] ") == Block("C3", (1, 2))


def test_strides_of_rows(yaml):
    assert [row_strides(yaml, "x")[i] for i in (0, 4, 9, 11, 17, 23)] == [2, 8, 32, 16, 8, 32]


def test_the_given_content_stays_as_it_is(yaml):
    before = str(yaml)
    insert(yaml, parse_insertions(["NAMAttention@2,p3,detect"]))
    assert str(yaml) == before


# Weights --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", NINE)
def test_all_349_released_tensors_arrive_in_the_nine_cases(shared, place):
    source = load_checkpoint(shared / "weights" / "yolov5n.pt")
    content, _ = load_model_yaml("yolov5n.yaml")
    result = insert(content, [Insertion(Block("NAMAttention"), str(place))])
    model = Model(result.content, verbose=False)
    report = transfer_weights(source, model)
    assert (report.items, report.total, len(report.new)) == (349, 349, 5)
    state = model.state_dict()
    for entry in report.matched:
        _, index, rest = entry.source.split(".", 2)
        assert entry.target == f"model.{result.moved[int(index)]}.{rest}"
        assert torch.equal(state[entry.target], source.state[entry.source].to(state[entry.target]))


@pytest.mark.parametrize("spec", ["NAMAttention@detect", "C3@backbone.C3", "NAMAttention@p3,p4,p5,p6"])
def test_all_tensors_of_p6_arrive(spec):
    content = tiny("hub/yolov5n6.yaml")
    model = fresh(content)
    result = insert(content, parse_insertions([spec]))
    source = Checkpoint(model.yaml, ("a",), model.state_dict())
    report = transfer_weights(source, fresh(result.content))
    assert report.items == report.total == len(source.state)
    assert all(result.moved[entry.layers[0]] == entry.layers[1] for entry in report.matched)


def test_too_small_a_share_ends_it(yaml):
    model = fresh(tiny("yolov5n.yaml"))
    source = Checkpoint(model.yaml, ("a",), model.state_dict())
    report = transfer_weights(source, fresh({**tiny("yolov5n.yaml"), "nc": 3}))
    total = report.total
    report.check("w.pt", "x.yaml", (total - 6) / total)
    with pytest.raises(
        ValueError, match=rf"w\.pt: {total - 6} of its {total} tensors fit.*--require-transfer asks for 1"
    ):
        report.check("w.pt", "x.yaml", 1.0)
