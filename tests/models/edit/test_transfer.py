"""Where each tensor of a checkpoint goes when the yaml is another: every position, against maps made by hand."""

import copy

import pytest
import torch

from models.edit.transfer import transfer_weights
from models.yolo import Model
from utils.files.checkpoint import Checkpoint, load_checkpoint
from utils.files.yamls import read_yaml
from utils.general import ROOT

DETECT = 24
NAM = [-1, 1, "NAMAttention", []]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Networks this small are built faster by one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def yaml():
    """yolov5n's, which has 349 tensors."""
    return read_yaml(ROOT / "models" / "yolov5n.yaml")


@pytest.fixture(scope="module")
def checkpoint(yaml):
    """yolov5n with a number of its own in every tensor."""
    model = Model(yaml, verbose=False)
    for i, value in enumerate(model.state_dict().values()):
        value.fill_(i + 1)
    return Checkpoint(model.yaml, tuple(model.names), model.state_dict())


def rows_of(yaml):
    return copy.deepcopy([*yaml["backbone"], *yaml["head"]])


def with_rows(yaml, rows, **changes):
    return {**copy.deepcopy(yaml), "backbone": rows[:-1], "head": rows[-1:], **changes}


def inserted(yaml, places, row=NAM, renumber=True):
    """The yaml with the row after each of these places, its readers reading it, and each old row's new number."""
    moved = {i: i + sum(place < i for place in places) for i in range(DETECT + 1)}
    rows = []
    for i, old in enumerate(rows_of(yaml)):
        if renumber:
            sources = old[0] if isinstance(old[0], list) else [old[0]]
            new = [j if j < 0 else moved[j] + (j in places) for j in sources]
            old[0] = new if isinstance(old[0], list) else new[0]
        rows.append(old)
        rows += [copy.deepcopy(row)] * (i in places)
    return with_rows(yaml, rows), moved


def without(yaml, place):
    """The yaml without this row, which reads the one before it, and each other row's new number."""
    moved = {i: i - (i > place) for i in range(DETECT + 1) if i != place} | {place: place - 1}
    rows = rows_of(yaml)
    for row in rows:
        sources = row[0] if isinstance(row[0], list) else [row[0]]
        row[0] = [j if j < 0 else moved[j] for j in sources] if isinstance(row[0], list) else row[0]
    del rows[place]
    return with_rows(yaml, rows), {i: j for i, j in moved.items() if i != place}


def renamed(name, moved):
    _, index, rest = name.split(".", 2)
    return f"model.{moved[int(index)]}.{rest}" if int(index) in moved else None


def check_copied(checkpoint, model, report, moved):
    """Each tensor that was copied is in its layer and holds its numbers; all others of the model are as they were."""
    state = model.state_dict()
    for entry in report.matched:
        assert entry.target == renamed(entry.source, moved), entry
        assert torch.equal(state[entry.target], checkpoint.state[entry.source].to(state[entry.target])), entry
    assert len(report.matched) + len(report.refused) == len(checkpoint.state)
    assert {entry.source for entry in report.matched + report.refused} == set(checkpoint.state)
    here = [entry.target for entry in report.matched + report.refused + report.new if entry.target]
    assert sorted(here) == sorted(state)


def transferred(checkpoint, cfg, **options):
    torch.manual_seed(0)
    model = Model(cfg, verbose=False, nc=options.pop("nc", None))
    before = copy.deepcopy(model.state_dict())
    report = transfer_weights(checkpoint, model, **options)
    copied = {entry.target for entry in report.matched}
    for name, value in model.state_dict().items():
        assert name in copied or torch.equal(value, before[name]), name
    return model, report


@pytest.mark.parametrize("is_back", [False, True])
def test_c3_and_c3nam_have_each_others_weights(yaml, checkpoint, is_back):
    """All 349 of the plain network's; NAM's own are new, or refused where there is none."""
    model = Model("yolov5n-C3NAM.yaml", verbose=False)
    if is_back:
        for i, value in enumerate(model.state_dict().values()):
            value.fill_(i + 1)
        source, target = Checkpoint(model.yaml, tuple(model.names), model.state_dict()), Model(yaml, verbose=False)
    else:
        source, target = checkpoint, model
    report = transfer_weights(source, target)
    assert report.items == 349
    others = report.refused if is_back else report.new
    assert len(others) == 5 * 11
    assert all(".nam.Channel_Att.bn2." in (entry.source or entry.target) for entry in others)
    there, here = source.state, target.state_dict()
    assert all(torch.equal(here[name], there[name]) for name in there.keys() & here.keys())


def test_same_yaml(checkpoint, yaml):
    model, report = transferred(checkpoint, yaml)
    check_copied(checkpoint, model, report, {i: i for i in range(25)})
    assert [entry.source for entry in report.matched] == list(checkpoint.state) == list(model.state_dict())
    assert (report.items, report.total, report.new) == (349, 349, [])


@pytest.mark.parametrize("place", range(24))
def test_nam_after_each_layer(checkpoint, yaml, place):
    cfg, moved = inserted(yaml, [place])
    model, report = transferred(checkpoint, cfg)
    check_copied(checkpoint, model, report, moved)
    assert (report.items, report.total) == (349, 349)
    assert len(report.new) == 5
    assert all(entry.target.startswith(f"model.{place + 1}.Channel_Att.") for entry in report.new)


@pytest.mark.parametrize(
    "places", [(0, 1), (2, 4, 6, 9), (17, 20, 23), (11, 12, 15, 16, 19), tuple(range(24))], ids=str
)
@pytest.mark.parametrize(
    "row", [NAM, [-1, 1, "nn.Identity", []], [-1, 1, "nn.BatchNorm2d", []]], ids=lambda row: row[2]
)
def test_several_at_once(checkpoint, yaml, places, row):
    cfg, moved = inserted(yaml, places, row)
    model, report = transferred(checkpoint, cfg)
    check_copied(checkpoint, model, report, moved)
    assert report.items == 349


@pytest.mark.parametrize(("place", "row"), [(2, [-1, 3, "C3", [128]]), (8, [-1, 3, "C3", [1024]])])
def test_a_second_block_of_the_same_kind(checkpoint, yaml, place, row):
    cfg, moved = inserted(yaml, [place], row)
    model, report = transferred(checkpoint, cfg)
    check_copied(checkpoint, model, report, moved)  # the first of the two has the old one's weights
    assert report.items == 349
    assert {entry.layers for entry in report.new} == {(None, place + 1)}


def test_a_branch_of_the_same_kind_that_reads_another_row(checkpoint, yaml):
    """In front of the old row, with its arguments and shapes: what they read tells them apart."""
    cfg, moved = inserted(yaml, [4], [3, 1, "Conv", [512, 3, 2]])
    rows = rows_of(cfg)
    rows[moved[5]][0] = 4
    rows[moved[DETECT - 8]][0] = [-1, 4]
    model, report = transferred(checkpoint, with_rows(cfg, rows))
    check_copied(checkpoint, model, report, moved)
    assert report.items == 349
    assert {entry.layers for entry in report.new} == {(None, 5)}


def test_a_level_that_is_mixed_with_another_row(checkpoint, yaml):
    cfg, moved = inserted(yaml, [17], [[-1, 2], 1, "Sum", []])
    rows = rows_of(cfg)
    rows[18][0] = [-1, 17]
    model, report = transferred(checkpoint, with_rows(cfg, rows))
    check_copied(checkpoint, model, report, moved)
    assert [entry.source for entry in report.refused] == ["model.24.m.0.weight", "model.24.m.0.bias"]


@pytest.mark.parametrize("place", [2, 4, 6, 8, 9, 20, 23])
def test_a_layer_taken_out(checkpoint, yaml, place):
    cfg, moved = without(yaml, place)
    model, report = transferred(checkpoint, cfg)
    check_copied(checkpoint, model, report, moved)
    assert {entry.layers for entry in report.refused} == {(place, None)}
    assert "no such layer" in report.refused[0].reason
    assert report.new == []


@pytest.mark.parametrize("place", [8, 23])
def test_a_layer_replaced(checkpoint, yaml, place):
    rows = rows_of(yaml)
    rows[place][2:] = ["C3TR", [1024]]
    model, report = transferred(checkpoint, with_rows(yaml, rows))
    check_copied(checkpoint, model, report, {i: i for i in range(25)})
    assert {entry.layers for entry in report.refused} == {(place, None)}
    assert {entry.layers for entry in report.new} == {(None, place)}


def test_other_number_of_classes(checkpoint, yaml):
    model, report = transferred(checkpoint, yaml, nc=3)
    check_copied(checkpoint, model, report, {i: i for i in range(25)})
    assert report.items == 343
    assert {entry.source for entry in report.refused} == {
        f"model.24.m.{i}.{p}" for i in range(3) for p in ("weight", "bias")
    }
    assert "(255, 64, 1, 1) in the checkpoint, (24, 64, 1, 1) here (80 classes" in report.refused[0].reason


def test_other_width(checkpoint, yaml):
    model, report = transferred(checkpoint, {**yaml, "width_multiple": 0.5})
    check_copied(checkpoint, model, report, {i: i for i in range(25)})
    assert [entry.source for entry in report.matched] == ["model.24.anchors"]
    assert all(entry.layers[0] == entry.layers[1] for entry in report.refused)


def test_other_depth(checkpoint, yaml):
    model, report = transferred(checkpoint, {**yaml, "depth_multiple": 0.67})
    check_copied(checkpoint, model, report, {i: i for i in range(25)})
    assert report.items == 349
    assert all(".m." in entry.target for entry in report.new)


def test_from_three_levels_to_four(checkpoint):
    model, report = transferred(checkpoint, "yolov5n6.yaml")
    backbone = {i: i for i in range(7)} | {7: 9, 8: 10, 9: 11}
    head = {i: i + 6 for i in (10, 13, 14, 17, 18, 20, 21)} | {23: 32}
    copied = {entry.layers for entry in report.matched}
    assert copied == {(s, t) for s, t in (backbone | head | {24: 33}).items()}
    levels = {entry.source: entry.target for entry in report.matched if entry.layers[0] == 24}
    assert levels["model.24.m.0.weight"] == "model.33.m.0.weight"
    assert levels["model.24.m.2.bias"] == "model.33.m.3.bias"
    assert "model.24.anchors" not in levels
    assert model.head.anchors.shape == (4, 3, 2)


@pytest.mark.parametrize("place", range(24))
def test_nam_put_in_without_renumbering(checkpoint, yaml, place):
    cfg, moved = inserted(yaml, [place], renumber=False)
    model, report = transferred(checkpoint, cfg)
    check_copied(checkpoint, model, report, moved)
    # A level of the head is copied only where Detect reads, perhaps through NAM, what it read before.
    fed = {level for level, i in enumerate((17, 20, 23)) if i in (moved[i], place + 1)}
    copied = {int(e.source.split(".")[3]) for e in report.matched if e.source.startswith("model.24.m.")}
    assert copied <= fed


def test_levels_that_swap_places(checkpoint, yaml):
    rows = rows_of(yaml)
    rows[DETECT][0] = [20, 17, 23]
    _, report = transferred(checkpoint, with_rows(yaml, rows))
    levels = {entry.source: entry.target for entry in report.matched if entry.layers[0] == DETECT}
    assert levels["model.24.m.0.weight"] == "model.24.m.1.weight"
    assert levels["model.24.m.1.weight"] == "model.24.m.0.weight"
    assert levels["model.24.m.2.weight"] == "model.24.m.2.weight"
    assert [entry.source for entry in report.refused] == ["model.24.anchors"]


def test_excluded_words(checkpoint, yaml):
    _, report = transferred(checkpoint, yaml, exclude=["anchors"])
    assert [(entry.source, entry.reason) for entry in report.refused] == [
        ("model.24.anchors", "left as the model has it")
    ]
    _, report = transferred(checkpoint, yaml, exclude=["anchor", "odel", "m.0"])  # no words of any name
    assert report.items == 349


def test_excluded_and_equal_anyway(checkpoint, yaml):
    anchors = Model(yaml, verbose=False).head.anchors
    same = Checkpoint(checkpoint.yaml, checkpoint.names, {**checkpoint.state, "model.24.anchors": anchors.clone()})
    _, report = transferred(same, yaml, exclude=["anchors"])
    assert report.items == 349


def test_a_part_is_copied_whole_or_not_at_all(checkpoint, yaml):
    state = {name: value for name, value in checkpoint.state.items() if name != "model.0.bn.running_var"}
    model = Model(yaml, verbose=False)
    report = transfer_weights(Checkpoint(checkpoint.yaml, checkpoint.names, state), model)
    assert {entry.source for entry in report.refused} == {n for n in state if n.startswith("model.0.bn.")}
    assert [entry.target for entry in report.new] == ["model.0.bn.running_var"]
    assert report.items == 349 - 5


def test_tensors_of_no_row(checkpoint, yaml):
    state = {**checkpoint.state, "model.77.weight": torch.ones(3), "stray": torch.ones(3)}
    report = transfer_weights(Checkpoint(checkpoint.yaml, checkpoint.names, state), Model(yaml, verbose=False))
    assert [entry.source for entry in report.refused] == ["model.77.weight", "stray"]
    assert str(report).count("belongs to no row") == 1


def test_table(checkpoint, yaml):
    cfg, _ = inserted(yaml, [23])
    lines = str(transferred(checkpoint, cfg, nc=3)[1]).splitlines()
    assert lines[0] == "transferred 343/349 tensors, 5 tensors are new"
    assert len(lines) == 2 + 18 + 2  # a head line, the columns' names, layers with tensors, NAM and Detect
    assert lines[2].split() == ["0", "0", "Conv", "6", "-", "-"]
    assert lines[-2].split() == ["-", "24", "NAMAttention", "-", "-", "5"]
    assert lines[-1].split()[:6] == ["24", "25", "Detect", "1", "6", "-"]


def test_released_weights(shared):
    source = load_checkpoint(shared / "weights" / "yolov5n.pt")
    model = Model("yolov5n-NAM.yaml", verbose=False)
    report = transfer_weights(source, model, ["anchors"])
    assert (report.items, report.total) == (349, 349)
    check_copied(source, model, report, {i: i + (i == 24) for i in range(25)})
