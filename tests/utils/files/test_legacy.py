"""YOLOv5's pickles: the released file, files in its form that the tests make, and files made to do harm."""

import os
import pathlib
import random
import subprocess
import sys
import types
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from utils.files.checkpoint import load_checkpoint
from utils.files.legacy import InertModule, stand_ins

ANCHORS_PX = torch.tensor([[[10.0, 13.0], [16.0, 30.0]], [[30.0, 61.0], [62.0, 45.0]]])  # (2, 2, 2)
STRIDE = torch.tensor([2.0, 4.0])
YAML = {
    "nc": 2,
    "depth_multiple": 1.0,
    "width_multiple": 1.0,
    "anchors": [[1, 2, 3, 4], [5, 6, 7, 8]],
    "ch": 3,
    "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [8, 3, 2]]],
    "head": [[[0, 1], 1, "Detect", ["nc", "anchors"]]],
}


class Posing(types.ModuleType):
    """A module that stands in for one of YOLOv5's while a file is written."""


def pose_as(monkeypatch, name, base=nn.Module):
    """A class that is pickled under this name, as if YOLOv5's code were here; undone with monkeypatch."""
    module_name, _, class_name = name.rpartition(".")
    if not isinstance(sys.modules.get(module_name), Posing):
        monkeypatch.setitem(sys.modules, module_name, Posing(module_name))
    made = type(class_name, (base,), {"__module__": module_name})
    return vars(sys.modules[module_name]).setdefault(class_name, made)


def network(monkeypatch, kind="models.yolo.Model", **attributes):
    """A little detector as YOLOv5 pickles it."""
    torch.manual_seed(0)
    conv_class, detect_class, model_class = (
        pose_as(monkeypatch, name) for name in ("models.common.Conv", "models.yolo.Detect", kind)
    )
    layers, shared_act = [], nn.SiLU()
    for channels in (3, 8):
        conv = conv_class()
        conv.conv, conv.bn, conv.act = nn.Conv2d(channels, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), shared_act
        conv.bn.running_mean.uniform_()
        layers.append(conv)
    detect = detect_class()
    detect.register_buffer("anchors", ANCHORS_PX / STRIDE.view(-1, 1, 1))
    detect.register_buffer("anchor_grid", ANCHORS_PX.view(2, 1, 2, 1, 1, 2).clone())  # as before v6.0
    detect.register_buffer("unsaved", torch.zeros(2), persistent=False)
    detect.m = nn.ModuleList(nn.Conv2d(8, 14, 1) for _ in range(2))
    detect.grid, detect.stride = [torch.zeros(1)] * 2, STRIDE
    model = model_class()
    model.model = nn.Sequential(*layers, detect)
    vars(model).update({"yaml": YAML, "names": ["cat", "dog"], "nc": 2, "stride": STRIDE, "save": [0, 1], **attributes})
    return model


def content(model, **values):
    return {"epoch": -1, "best_fitness": None, "model": model, "ema": None, "optimizer": None, "date": "2022", **values}


def expected_state(model):
    return {n: v for n, v in model.state_dict().items() if not n.endswith("anchor_grid")}


@pytest.fixture
def write(tmp_path):
    """Writes an object as torch does, and takes the posing classes away; the file's path."""

    def write_to_file(value, monkeypatch=None):
        torch.save(value, tmp_path / "old.pt")
        if monkeypatch:
            monkeypatch.undo()
        return tmp_path / "old.pt"

    return write_to_file


def rezip(path, change):
    """Writes the file anew with another data.pkl, and with the checksums that then fit."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, change(data) if name.endswith("/data.pkl") else data)


# Files that are right ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["models.yolo.Model", "models.yolo.DetectionModel"])
@pytest.mark.parametrize("half", [False, True])
def test_a_file_in_yolov5s_form(write, monkeypatch, kind, half):
    model = network(monkeypatch, kind)
    model = model.half() if half else model
    state = expected_state(model)
    found = load_checkpoint(write(content(model, date="2022-02-22"), monkeypatch))
    assert list(found.state) == list(state)
    for name, value in found.state.items():
        assert torch.equal(value, state[name].float() if state[name].is_floating_point() else state[name]), name
    assert {value.dtype for value in found.state.values()} == {torch.float32, torch.int64}
    assert found.yaml == {**YAML, "anchors": [[10, 13, 16, 30], [30, 61, 62, 45]]}  # those that the model has
    assert (found.names, found.epoch, found.best_fitness, found.date) == (("cat", "dog"), -1, None, "2022-02-22")
    assert found.training is None
    assert found.origin == f"YOLOv5 ({kind})"


@pytest.mark.parametrize(
    ("options", "size"),
    [({"imgsz": 320}, 320), ({"imgsz": True}, None), ({"imgsz": 0}, None), ({}, None), (None, None)],
)
def test_size_of_the_training(write, monkeypatch, options, size):
    """v7.0 keeps a training's options, v6.1 does not."""
    values = {} if options is None else {"opt": options | {"save_dir": pathlib.PurePosixPath("runs").as_posix()}}
    assert load_checkpoint(write(content(network(monkeypatch), **values), monkeypatch)).imgsz == size


def test_moving_average_before_model(write, monkeypatch):
    model, ema = network(monkeypatch), network(monkeypatch)
    ema.model[0].conv.weight = nn.Parameter(torch.full((8, 3, 3, 3), 7.0))
    found = load_checkpoint(write(content(model, ema=ema, epoch=12, updates=40), monkeypatch))
    assert torch.equal(found.state["model.0.conv.weight"], torch.full((8, 3, 3, 3), 7.0))
    assert found.epoch == 12


@pytest.mark.parametrize("fitness", [0.625, np.float64(0.625), np.float32(0.625), np.array([0.625])], ids=type)
@pytest.mark.parametrize("core", [b"numpy._core", b"numpy.core"])
def test_a_file_in_mid_training(write, monkeypatch, fitness, core):
    model = network(monkeypatch, hyp={"lr0": 0.01}, run=pathlib.Path("runs/exp"))
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1, momentum=0.9)
    optimizer.param_groups[0]["lr"] = np.float64(0.05)
    values = {"best_fitness": fitness, "optimizer": optimizer.state_dict(), "epoch": 3}
    path = write(content(model, **values), monkeypatch)
    rezip(path, lambda data: data.replace(b"numpy._core", core).replace(b"pathlib\nPosixPath", b"pathlib\nWindowsPath"))
    found = load_checkpoint(path)
    assert found.best_fitness == 0.625
    assert found.training is None


@pytest.mark.parametrize("names", [{0: "cat", 1: "dog"}, {1: "dog", 0: "cat"}, ("cat", "dog")], ids=str)
def test_forms_of_names(write, monkeypatch, names):
    model = network(monkeypatch, names=names)
    assert load_checkpoint(write(content(model), monkeypatch)).names == ("cat", "dog")


def test_keys_of_v7_that_change_nothing(write, monkeypatch):
    model = network(monkeypatch, yaml={**YAML, "activation": None, "channel_multiple": 8, "inplace": True, "more": [1]})
    found = load_checkpoint(write(content(model), monkeypatch))
    assert set(found.yaml) == set(YAML)


def test_released_file_and_one_of_the_newest_line(shared):
    found = load_checkpoint(shared / "weights" / "yolov5n.pt")
    assert len(found.state) == 349
    trained = ("weight", "bias")
    assert sum(v.numel() for name, v in found.state.items() if name.rpartition(".")[2] in trained) == 1_872_157
    assert found.yaml["anchors"][0] == [10, 13, 16, 30, 33, 23]
    assert (found.names[0], len(found.names), found.date[:10]) == ("person", 80, "2022-02-08")
    newer = load_checkpoint(shared / "weights" / "yolov5n-bccd.pt")
    assert list(newer.state) == list(found.state)
    assert (newer.names, newer.origin) == (("RBC", "WBC", "Platelets"), "YOLOv5 (models.yolo.DetectionModel)")


# Files that are wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"names": ["cat"]}, "1 class names for 2 classes"),
        ({"names": 5}, "class names"),
        ({"names": {"a": "cat", "b": "dog"}}, "class names"),
        ({"nc": torch.ones(3)}, "number of classes"),
        ({"yaml": {"nc": 2}}, "its yaml has no depth_multiple"),
        ({"yaml": 7}, "no mapping"),
        ({"yaml": {**YAML, "activation": "nn.ReLU()"}}, r"activation 'nn.ReLU\(\)'"),
        ({"yaml": {**YAML, "channel_multiple": 4}}, "channel_multiple 4"),
        ({"yaml": {**YAML, "head": [[-1, 1, torch.ones(2), []]]}}, "numbers and texts"),
        ({"yaml": {**YAML, "backbone": "none"}}, "backbone"),
        ({"stride": torch.ones(3)}, "do not fit strides"),
        ({"stride": None}, "no stride"),
        ({"_parameters": {"w": 3}}, "is no tensor"),
        ({"_modules": {"w": 3}}, "is no module"),
        ({"_modules": None}, "no mapping"),
        ({"_modules": {}}, "no anchors"),
    ],
)
def test_a_network_that_is_no_detector(write, monkeypatch, attributes, message):
    path = write(content(network(monkeypatch, **attributes)), monkeypatch)
    with pytest.raises(ValueError, match=message) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "values", [{"model": None}, {"model": {"a": 1}}, {"model": torch.ones(2), "ema": [1]}], ids=str
)
def test_no_network(write, monkeypatch, values):
    other = network(monkeypatch)
    with pytest.raises(ValueError, match="no network"):
        load_checkpoint(write({**content(other), "other": other, **values}, monkeypatch))


@pytest.mark.parametrize("is_endless", [True, False])
def test_modules_without_end(write, monkeypatch, is_endless):
    model = network(monkeypatch)
    if is_endless:
        model._modules["inner"] = model
    else:
        for _ in range(20):
            model.laughs = nn.Sequential(*[getattr(model, "laughs", nn.Identity())] * 2)
    with pytest.raises(ValueError, match="without end"):
        load_checkpoint(write(content(model), monkeypatch))


def test_a_weight_that_claims_more_than_the_file_has(write, monkeypatch):
    model = network(monkeypatch)
    model.model[0].conv.weight = nn.Parameter(torch.zeros(1).expand(10**12))
    with pytest.raises(ValueError, match=r"model\.0\.conv\.weight claims 1000000000000 numbers"):
        load_checkpoint(write(content(model), monkeypatch))


# Files made to do harm -----------------------------------------------------------------------------------------------


class Call:
    """Is pickled as a call of a function, or of a class."""

    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


HARM = "touch harmed"
HARMFUL = {
    "posix.system": (os.system, (HARM,)),
    "builtins.eval": (eval, ("open('harmed', 'w')",)),
    "builtins.getattr": (getattr, ("text", "upper")),
    "commands.Popen": (  # subprocess, as Python 2 called it
        subprocess.Popen,
        (["touch", "harmed"],),
    ),
    "torch.hub.load": (torch.hub.load, ("a/b", "c")),
    "torch.jit._serialization.load": (torch.jit.load, ("harmed",)),
    "numpy.load": (np.load, ("harmed",)),
    "torch.nn.modules.module.register_module_forward_hook": (nn.modules.module.register_module_forward_hook, (print,)),
    "torch.nn.modules.utils._ntuple": (nn.modules.utils._ntuple, (3, "x")),
}


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("name", HARMFUL)
def test_harm_is_refused_by_its_name(write, monkeypatch, tmp_path, name, nested):
    function, arguments = HARMFUL[name]
    harm = Call(function, arguments)
    if nested:  # as if it made the tensor of a tensor subclass
        harm = Call(torch._tensor._rebuild_from_type_v2, (function, torch.Tensor, arguments, {}))
    model = network(monkeypatch)
    model.model[0].hidden = {"deep": [harm]}
    for value in (content(model), {"weights": harm}):
        path = write(value)
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ValueError, match=rf"refused, for it names (.*, )?{name}") as caught:
            load_checkpoint(path)
        assert str(path) in str(caught.value)
        assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    "name",
    [
        "models",
        "modelsx.yolo.Model",
        "torch.nn.modules.module.OrderedDict",
        "torch.nn.modules.conv.init",
        "torch.nn.modules.none.Conv2d",
        "torch.nn.functional.relu",
        "os.path.join",
        "numpy.core.multiarray.load",
        "",
    ],
)
def test_names_that_are_refused(name):
    with pytest.raises(ValueError, match=f"refused, for it names {name}, which"):
        stand_ins(["models.yolo.Model", name])


def test_names_that_are_allowed_get_nothing_of_their_own():
    names = [
        "models.yolo.Model",
        "models.a.b.C",
        "torch.nn.modules.conv.Conv2d",
        "torch.nn.modules.linear._LinearWithBias",
    ]
    made = stand_ins(names)
    assert sorted(name for _, name in made) == sorted(names)
    assert all(issubclass(kind, InertModule) and kind.origin == name for kind, name in made)
    assert not any(issubclass(kind, nn.Module) for kind, _ in made)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda kind: Call(kind, (1, 2)), r"models\.common\.Odd is made with arguments"),
        (lambda kind: Call(kind, (), (1, 2)), "no module's"),
        (lambda kind: Call(kind, (), {1: 2}), "no module's"),
        (lambda kind: Call(kind, (), "__class__"), "no module's"),
        (lambda kind: Call(np.dtype, ("O",)), "numpy type 'O' holds more than numbers"),
        (lambda kind: Call(np.dtype, (3,)), "holds more than numbers"),
        (lambda kind: Call(np.dtype, ("f8",), (3, "x")), "byte order"),
        (lambda kind: Call(np._core.multiarray.scalar, ("f8", "x")), "in a form that is not known"),
    ],
)
def test_allowed_names_used_oddly(write, monkeypatch, make, message):
    model = network(monkeypatch)
    odd = pose_as(monkeypatch, "models.common.Odd", object)
    path = write({**content(model), "odd": make(odd)}, monkeypatch)
    with pytest.raises(ValueError, match=message) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_attributes_of_a_stand_in_are_data(write, monkeypatch):
    model = network(monkeypatch)
    for name in ("state_dict", "__class__", "__setstate__", "fields", "_state_dict_hooks", "forward"):
        vars(model)[name] = {"planted": 1}
    state = expected_state(network(monkeypatch))
    found = load_checkpoint(write(content(model), monkeypatch))
    assert list(found.state) == list(state)


def test_what_was_allowed_for_a_file_is_not_for_the_next(write, monkeypatch):
    before = set(torch.serialization.get_safe_globals())
    load_checkpoint(write(content(network(monkeypatch)), monkeypatch))
    assert set(torch.serialization.get_safe_globals()) == before


# A pickle of protocol 0 and one of protocol 4, which call posix.system.
BARE = (b"cposix\nsystem\n(S'touch harmed'\ntR.", b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x0ctouch harmed\x85R.")


@pytest.mark.parametrize("data", BARE, ids=["protocol 0", "protocol 4"])
def test_other_pickles_are_refused_by_name(tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    bare, packed = tmp_path / "bare.pt", tmp_path / "packed.pt"
    bare.write_bytes(data)
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3\n")
    for path in (bare, packed):
        with pytest.raises(ValueError, match=r"posix\.system"):
            load_checkpoint(path)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("data", [b"", b"\x80", b"hello", b"\x89PNG", os.urandom(3000), b"PK\x03\x04" + bytes(300)])
def test_no_checkpoint_at_all(tmp_path, data):
    (tmp_path / "a.pt").write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.pt: "):
        load_checkpoint(tmp_path / "a.pt")


def test_truncated_anywhere(write, monkeypatch):
    path = write(content(network(monkeypatch)), monkeypatch)
    data = path.read_bytes()
    for size in {*range(1, len(data), 101), len(data) - 1, len(data) - 22}:
        path.write_bytes(data[:size])
        with pytest.raises(ValueError, match=r"old\.pt: (not a checkpoint|truncated|refused)"):
            load_checkpoint(path)


def test_changed_anywhere(write, monkeypatch):
    path = write(content(network(monkeypatch)), monkeypatch)
    data, random_number = bytearray(path.read_bytes()), random.Random(0)
    for _ in range(60):
        place = random_number.randrange(len(data))
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])
        try:
            found = load_checkpoint(path)
        except ValueError as error:
            assert "old.pt: " in str(error)  # noqa: PT017
        else:  # a byte that says nothing, such as padding
            assert len(found.state) == 17


def test_content_changed_anywhere(write, monkeypatch):
    """With checksums that fit, so that the reader sees it: it gives a checkpoint or a ValueError, nothing else."""
    path = write(content(network(monkeypatch)), monkeypatch)
    whole, random_number, outcomes = path.read_bytes(), random.Random(0), set()

    def change(data):
        changed = bytearray(data)
        for _ in range(random_number.randrange(1, 4)):
            changed[random_number.randrange(len(changed))] = random_number.randrange(256)
        return bytes(changed)

    for _ in range(150):
        path.write_bytes(whole)
        rezip(path, change)
        try:
            load_checkpoint(path)
            outcomes.add("read")
        except ValueError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}
