"""The two kinds of yaml: what is taken, where data sets are looked for, and what each mistake is answered with."""

import logging
import math
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest
import yaml

from utils.data import config
from utils.data.config import DataConfig, Hyp, parse_names
from utils.files.yamls import read_yaml
from utils.general import ROOT

HYPS = sorted((ROOT / "data" / "hyps").glob("*.yaml"))
DATA = sorted((ROOT / "data").glob("*.yaml"))
LOW = read_yaml(ROOT / "data/hyps/hyp.scratch-low.yaml")


BOMB = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


# Reading --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty; it must hold `key: value` rows"),
        ("- a\n- b\n", "must hold `key: value` rows, not list"),
        ("lr0", "must hold `key: value` rows, not str"),
        ("a: 1\nb: [1, 2\nc: 3\n", ":3:2: not valid YAML: "),
        ("a: b\n\tc: d\n", ":2:1: not valid YAML: "),
        ("a: 1\nb: 2\na: 3\n", ":3:1: not valid YAML: 'a' is given twice, first in line 1"),
        ("a: {b: 1, b: 2}\n", ":1:11: not valid YAML: 'b' is given twice"),
        ("a: !!python/object/apply:os.getcwd []\n", ":1:4: not valid YAML: could not determine a constructor"),
        ("a: 2022-02-30\n", "not valid YAML: day"),
        ("a: \x00\n", "not valid YAML: "),
        ("a: " + "[" * 1500, "not valid YAML: nested too deeply"),
        ("a: &a [*a]\n", ":1:8: not valid YAML: aliases (*a) are not allowed"),
        ("a: &a {x: 1}\nb: {<<: *a, y: 3}\n", ":2:9: not valid YAML: aliases (*a) are not allowed"),
        (BOMB, ":2:8: not valid YAML: aliases (*a) are not allowed"),
        ("{<<: {x: 1}, <<: {y: 1}}\n", ":1:14: not valid YAML: '<<' is given twice, first in line 1"),
    ],
)
def test_text_that_is_no_mapping(tmp_path, content, message):
    path = write(tmp_path / "a.yaml", content)
    with pytest.raises(ValueError) as error:  # noqa: PT011, the message is compared below
        read_yaml(path)
    assert str(error.value).startswith(f"{path}:")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_other_encodings(tmp_path):
    (tmp_path / "a.yaml").write_bytes("names: [été]".encode("latin-1"))
    with pytest.raises(ValueError, match=r"a\.yaml: not valid YAML: 'utf-8' codec"):
        read_yaml(tmp_path / "a.yaml")
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfname: \xc3\xa9t\xc3\xa9\r\n")  # as Windows' Notepad writes
    assert read_yaml(tmp_path / "a.yaml") == {"name": "été"}


def test_names_without_aliases_and_keys_of_two_kinds(tmp_path):
    path = write(tmp_path / "a.yaml", "a: &a {x: 1, y: 2}\nb: '*a'\nc: {1: x, '2': y}\n")
    assert read_yaml(path) == {"a": {"x": 1, "y": 2}, "b": "*a", "c": {1: "x", "2": "y"}}


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_yaml(tmp_path / "none.yaml")


# Hyper-parameters -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", HYPS, ids=lambda path: path.name)
def test_shipped_hyperparameters(path):
    hyp = Hyp.from_yaml(path.name)
    assert hyp.to_dict() == read_yaml(path)
    assert Hyp.from_dict(hyp.to_dict(), "again") == hyp


def test_numbers_that_yaml_takes_for_text(tmp_path):
    """YAML 1.1 wants a point and a sign: 1e-3 is text."""
    text = "\n".join(f"{key}: {value}" for key, value in LOW.items() if key not in {"lr0", "weight_decay", "anchor_t"})
    path = write(tmp_path / "hyp.yaml", f"{text}\nlr0: 1e-3\nweight_decay: 5E-4\nanchor_t: '4'\n")
    assert read_yaml(path)["lr0"] == "1e-3"
    hyp = Hyp.from_yaml(path)
    assert (hyp.lr0, hyp.weight_decay, hyp.anchor_t) == (0.001, 0.0005, 4.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.1}, "hyp.yaml: unknown hyper-parameter lr$"),
        ({1: 2, "x": 3}, "unknown hyper-parameter 1, x$"),
        ({"box": None}, "hyp.yaml: box has no value"),
        ({"box": None, "anchors": 3}, "hyp.yaml: box has no value"),
        ({"box": None, "cls": None, "anchors": None}, "hyp.yaml: box, cls has no value"),
        ({"lr0": "fast"}, "hyp.yaml: lr0: 'fast' is not a number"),
        ({"lr0": True}, "lr0: True is not a number"),
        ({"lr0": [0.1]}, r"lr0: \[0.1\] is not a number"),
        ({"lr0": ""}, "lr0: '' is not a number"),
        ({"lr0": 10**400}, "lr0: 1000*0 is not a number"),
        ({"lr0": math.inf}, "lr0: inf is not finite"),
        ({"lr0": math.nan}, "lr0: nan is not finite"),
        ({"lr0": "nan"}, "lr0: 'nan' is not finite"),
        ({"lr0": -0.1}, "hyp.yaml: lr0 -0.1: must not be negative"),
        ({"anchors": -1}, "anchors -1.0: must not be negative"),
        ({"mosaic": 1.5}, "hyp.yaml: mosaic 1.5: must lie between 0 and 1"),
        ({"fliplr": -0.5}, "fliplr -0.5: must lie between 0 and 1"),
        ({"momentum": 2}, "momentum 2.0: must lie between 0 and 1"),
        ({"anchor_t": 1}, "anchor_t 1.0: a ratio of sides, must be above 1"),
    ],
)
def test_hyperparameters_that_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        Hyp.from_dict(LOW | changes, "hyp.yaml")


def test_missing_hyperparameters_are_named():
    with pytest.raises(ValueError, match=r"hyp.yaml: hyper-parameter lr0, copy_paste is missing"):
        Hyp.from_dict({key: value for key, value in LOW.items() if key not in {"lr0", "copy_paste"}}, "hyp.yaml")


def test_anchors_may_be_absent_or_empty():
    assert Hyp.from_dict(LOW, "").anchors is Hyp.from_dict(LOW | {"anchors": None}, "").anchors is None
    assert Hyp.from_dict(LOW | {"anchors": 3}, "").to_dict()["anchors"] == 3.0
    assert "anchors" not in Hyp.from_dict(LOW, "").to_dict()


@pytest.mark.parametrize(("levels", "nc", "imgsz"), [(3, 80, 640), (4, 80, 1280), (3, 1, 320), (2, 20, 640)])
def test_gains_are_scaled_as_in_v61(levels, nc, imgsz):
    hyp = Hyp.from_dict(LOW, "")
    scaled = hyp.scaled(levels, nc, imgsz)
    assert scaled.box == pytest.approx(0.05 * 3 / levels)
    assert scaled.cls == pytest.approx(0.5 * nc / 80 * 3 / levels)
    assert scaled.obj == pytest.approx((imgsz / 640) ** 2 * 3 / levels)
    changed = {field.name for field in fields(Hyp) if getattr(hyp, field.name) != getattr(scaled, field.name)}
    assert changed <= {"box", "cls", "obj"}
    assert hyp == Hyp.from_dict(LOW, "")
    with pytest.raises(FrozenInstanceError):
        hyp.lr0 = 1.0


# Class names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "nc", "expected"),
    [
        (["a", "b"], 2, ("a", "b")),
        (["a", "b"], None, ("a", "b")),
        ({0: "a", 1: "b"}, None, ("a", "b")),
        ({1: "b", 0: "a"}, 2, ("a", "b")),
        (None, 3, ("class0", "class1", "class2")),
        ([1, 2.5, "x"], None, ("1", "2.5", "x")),
        ({i: str(i) for i in range(12)}, 12, tuple(map(str, range(12)))),
        (["same", "same"], 2, ("same", "same")),
    ],
)
def test_names(names, nc, expected):
    assert parse_names(names, nc, "a.yaml") == expected


@pytest.mark.parametrize(
    ("names", "nc", "message"),
    [
        (None, None, "neither `names` nor `nc`"),
        (["a", "b"], 3, "nc is 3, but there are 2 names"),
        (["a"], 0, "nc: 0 is not a number of classes"),
        (["a"], -1, "nc: -1 is not"),
        (["a"], True, "nc: True is not"),
        (["a"], "1", "nc: '1' is not"),
        (["a"], 1.0, "nc: 1.0 is not"),
        ([], None, "a list of class names is wanted"),
        ({}, None, "a list of class names is wanted"),
        ("cat", None, "a list of class names is wanted"),
        ({1: "a", 2: "b"}, None, "a mapping must number its classes from 0 to 1"),
        ({"0": "a"}, None, "must number its classes from 0 to 0"),
        ({"cat": 0}, None, "must number its classes"),
        (["yes", True], None, "entry 1 is read as True by YAML: put yes, no, on, off in quotes"),
        (["a", None], None, "entry 1 is None, not a name"),
        (["a", ["b"]], None, r"entry 1 is \['b'\], not a name"),
    ],
)
def test_names_that_are_refused(names, nc, message):
    with pytest.raises(ValueError, match=f"^a.yaml: .*{message}"):
        parse_names(names, nc, "a.yaml")


TEXTS = ("02146", "1.10", "1:30", "0x1F", "yes", "NO", "on", "null", "~", "1e3", "1_000", "2024-01-15", "0o17", ".5")


@pytest.mark.parametrize(
    "form", ["[{}]", "\n- {}\n- {}", "{{0: {}, 1: {}}}", "\n  00: {}\n  01: {}", "\n  0: {}\n  1: '{}'"]
)
@pytest.mark.parametrize("name", TEXTS)
def test_names_are_the_texts_that_are_written(tmp_path, name, form):
    path = write(tmp_path / "a.yaml", f"train: x\nnames: {form.format(name, name + 'b')}\n")
    assert DataConfig.from_yaml(path).names == (name, f"{name}b")[: form.count("{}")]


def test_names_survive_being_written(tmp_path):
    path = write(tmp_path / "a.yaml", {"train": "x", "names": [*TEXTS, "$a_$", "_x", "a: b", "#c", " d "]})
    assert DataConfig.from_yaml(path).names == (*TEXTS, "$a_$", "_x", "a: b", "#c", " d ")


def test_an_empty_name_is_refused(tmp_path):
    with pytest.raises(ValueError, match="entry 1 is None"):
        DataConfig.from_yaml(write(tmp_path / "a.yaml", "train: x\nnames:\n- a\n-\n"))


def test_keys_are_counted_in_tens(tmp_path):
    rows = "".join(f"  {i:02}: c{i}\n" for i in range(12))
    assert DataConfig.from_yaml(write(tmp_path / "a.yaml", f"train: x\nnames:\n{rows}")).names[8:] == (
        "c8",
        "c9",
        "c10",
        "c11",
    )


def test_folders_are_texts(tmp_path, repository):
    for folder in ("2024/007", "2024/yes"):
        (tmp_path / folder).mkdir(parents=True)
    path = write(tmp_path / "a.yaml", "path: 2024\ntrain: 007\nval: yes\ntest: null\nnames: [a]\n")
    data = DataConfig.from_yaml(path)
    assert [data.train, data.val, data.test] == [(tmp_path / "2024/007",), (tmp_path / "2024/yes",), ()]


def test_equal_names_are_kept_and_warned_of(tmp_path, caplog):
    data = DataConfig.from_yaml(write(tmp_path / "a.yaml", "train: x\nnames: [cell, dot, cell]\n"))
    assert data.names == ("cell", "dot", "cell")
    assert ["a.yaml" in line and "'cell'" in line and "several classes (0, 2)" in line for line in caplog.messages] == [
        True
    ]


# Data sets -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """An empty repository; the current folder is another one."""
    monkeypatch.setattr(config, "ROOT", tmp_path / "repo")
    for name in ("repo/data", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "repo"


def load(file, /, **content):
    return DataConfig.from_yaml(write(file, {"names": ["a"], **content}))


@pytest.mark.parametrize("path", DATA, ids=lambda path: path.name)
def test_shipped_data_yamls(path, caplog):
    data = DataConfig.from_yaml(path.name)
    assert data.file == path
    assert data.nc == len(data.names) == read_yaml(path)["nc"]
    assert data.train
    assert data.val
    assert all(source.is_absolute() for source in (*data.train, *data.val, *data.test))
    assert not caplog.records


@pytest.mark.parametrize(
    ("file", "path", "train", "made", "expected"),
    [
        # a relative path lies below the repository, whatever the current folder
        ("repo/data/a.yaml", "../sets/a", "images/train", "sets/a/images/train", "sets/a/images/train"),
        ("repo/data/a.yaml", "sets/a", "images", "repo/sets/a/images", "repo/sets/a/images"),
        ("other/a.yaml", "sets/a", "images", "repo/sets/a/images", "repo/sets/a/images"),
        # or beside the yaml, if it is only there
        ("other/a.yaml", ".", "images", "repo/x", "repo/images"),
        ("other/a.yaml", ".", "images", "other/images", "other/images"),
        ("other/a.yaml", "set", "images", "other/set/images", "other/set/images"),
        ("other/a.yaml", "../set", "images", "set/images", "set/images"),
        # without path beside the yaml, or else below the repository
        ("other/a.yaml", None, "images/train", "other/images/train", "other/images/train"),
        ("other/a.yaml", "", "images/train", "other/images/train", "other/images/train"),
        ("repo/data/a.yaml", None, "../sets/images", "sets/images", "sets/images"),
        ("repo/data/a.yaml", None, "sets/train.txt", "repo/sets/train.txt", "repo/sets/train.txt"),
        # as tools export: the yaml lies in the set's folder, the paths start one above
        ("other/data.yaml", None, "../train/images", "other/train/images", "other/train/images"),
        ("other/data.yaml", "", "../train/images", "other/train/images", "other/train/images"),
        ("other/data.yaml", None, "../train/images", "train/images", "train/images"),
        ("repo/data/a.yaml", "../sets/a", "../train/images", "sets/a/train/images", "sets/a/train/images"),
        # as Roboflow exports: the paths begin with the name of the yaml's own folder, which may have been renamed
        ("mine-1/data.yaml", None, "mine-1/train/images", "mine-1/train/images", "mine-1/train/images"),
        ("mine/data.yaml", None, "mine-1/train/images", "mine/train/images", "mine/train/images"),
        ("mine/data.yaml", None, "/content/mine-1/train/images", "mine/train/images", "mine/train/images"),
        ("mine/data.yaml", ".", "mine-1/train/images", "mine/train/images", "mine/train/images"),
        # or below the current folder, as in v6.1
        ("other/data.yaml", None, "sets/a/images", "elsewhere/sets/a/images", "elsewhere/sets/a/images"),
        # a last part alone is no place
        ("mine/data.yaml", None, "mine-1/images", "mine/images", "mine/mine-1/images"),
        # nowhere: the first place is named
        ("other/a.yaml", "set", "images", "repo/x", "repo/set/images"),
        ("other/a.yaml", None, "images", "repo/x", "other/images"),
    ],
)
def test_roots(tmp_path, repository, file, path, train, made, expected):
    (tmp_path / made).mkdir(parents=True)
    data = load(tmp_path / file, train=train, **({} if path is None else {"path": path}))
    assert [Path(source).resolve() for source in data.train] == [tmp_path / expected]
    assert data.root.is_absolute()


def test_absolute_and_home_paths(tmp_path, repository, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    data = load(repository / "data/a.yaml", path="~/set", train="images", val=str(tmp_path / "b"), test="~/c.txt")
    assert data.root == tmp_path / "home/set"
    assert data.train == (tmp_path / "home/set/images",)
    assert data.val == (tmp_path / "b",)
    assert data.test == (tmp_path / "home/c.txt",)
    assert load(repository / "data/a.yaml", path="~nobody-here/set").root == repository / "~nobody-here/set"


def test_splits_may_be_lists(tmp_path, repository):
    (tmp_path / "set/b").mkdir(parents=True)
    data = load(tmp_path / "set/a.yaml", train=["a", "b"], val="b", test=None)
    assert data.train == (tmp_path / "set/a", tmp_path / "set/b")
    assert data.split("val") == (tmp_path / "set/b",)
    with pytest.raises(FileNotFoundError, match=r"a\.yaml: train: .*/set/a does not exist; correct `path` or `train`"):
        data.split("train")
    with pytest.raises(ValueError, match=r"a\.yaml: has no `test`"):
        data.split("test")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"path": ["a"]}, r"a.yaml: path: \['a'\] is not a folder's name"),
        ({"train": [["a"]]}, r"a.yaml: train: \['a'\] is not a path"),
        ({"train": ["a", ""]}, "a.yaml: train: '' is not a path"),
        ({"val": ""}, "a.yaml: val: '' is not a path"),
        ({"test": {"a": "b"}}, r"a.yaml: test: \{'a': 'b'\} is not a path"),
        ({"generate": "stars"}, "a.yaml: generate: 'stars' is unknown; the one generator is 'shapes'"),
        ({"generate": True}, "generate: True is unknown"),
        ({"names": ["a"], "nc": 2}, "a.yaml: nc is 2, but there are 1 names"),
        ({"names": None}, "a.yaml: neither `names` nor `nc`"),
    ],
)
def test_data_yamls_that_are_refused(tmp_path, repository, content, message):
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "a.yaml", **content)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "set.zip").touch()
    with pytest.raises(ValueError, match=r"ends with \.yaml or \.yml"):
        DataConfig.from_yaml(tmp_path / "set.zip")
    with pytest.raises(FileNotFoundError, match=r"absent\.yaml"):
        DataConfig.from_yaml("absent.yaml")


def test_unknown_keys_and_downloads_are_said_and_not_run(tmp_path, repository, caplog):
    caplog.set_level(logging.INFO, "yolov5")
    unknown = {"roboflow": {"license": "MIT"}, "colour": 1, "nmaes": 2}
    load(tmp_path / "a.yaml", download=f"touch {tmp_path}/ran", **unknown)
    assert "its `download` is not run" in caplog.text
    said = {record.getMessage().partition(": ")[2]: record.levelname for record in caplog.records}
    assert said["unknown keys roboflow, colour are not used"] == "INFO"
    assert said["unknown key nmaes is not used; is names meant?"] == "WARNING"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(("names", "expected"), [(["a", "b"], ("item",)), (["a"], ("a",))])
def test_all_classes_as_one(tmp_path, names, expected):
    one = DataConfig.from_yaml(write(tmp_path / "a.yaml", {"names": names, "train": "x"})).as_one_class()
    assert (one.names, one.nc) == (expected, 1)
    assert one.train == (tmp_path / "x",)


def test_prepare_draws_only_what_is_generated(tmp_path, repository, monkeypatch):
    drawn = []
    monkeypatch.setattr(config, "generate", drawn.append)
    load(tmp_path / "a.yaml", path="set").prepare()
    assert drawn == []
    load(tmp_path / "a.yaml", path="set", generate="shapes").prepare()
    assert drawn == [repository / "set"]


def test_reading_makes_nothing(tmp_path, repository):
    load(tmp_path / "only" / "a.yaml", path="set", train="images", generate="shapes")
    assert [path.name for path in (tmp_path / "only").iterdir()] == ["a.yaml"]
    assert not (repository / "set").exists()
