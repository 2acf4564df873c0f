"""The command lines of v6.1, flag by flag: what each takes, its default, its short forms, and that a test uses it."""

import argparse
import ast
import re
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest

from utils.general import ROOT

WEIGHTS, COCO128 = str(ROOT / "yolov5s.pt"), str(ROOT / "data" / "coco128.yaml")
SWITCH = bool  # the kind of a flag without value, off by default
SAMPLES = {int: "7", float: "0.125", str: "word"}


class Flag(NamedTuple):
    """A row: all spellings, the type of a value, the default; nargs as argparse has it; what it is without a value."""

    names: str
    kind: type
    default: object = False
    nargs: str = ""
    bare: object = None
    sample: str = ""  # a value, where not any will do

    @property
    def dest(self):
        return self.names.split()[0].lstrip("-").replace("-", "_")


# Written down from v6.1's behaviour, not from our parsers: change a row only where v6.1 was read wrongly.
V61 = {
    "train": [
        Flag("--weights", str, WEIGHTS),
        Flag("--cfg", str, ""),
        Flag("--data", str, COCO128),
        Flag("--hyp", str, str(ROOT / "data" / "hyps" / "hyp.scratch-low.yaml")),
        Flag("--epochs", int, 300),
        Flag("--batch-size", int, 16),
        Flag("--imgsz --img --img-size", int, 640),
        Flag("--rect", SWITCH),
        Flag("--resume", str, False, "?", True),
        Flag("--nosave", SWITCH),
        Flag("--noval", SWITCH),
        Flag("--noautoanchor", SWITCH),
        Flag("--evolve", int, None, "?", 300),
        Flag("--bucket", str, ""),
        Flag("--cache", str, None, "?", "ram"),
        Flag("--image-weights", SWITCH),
        Flag("--device", str, ""),
        Flag("--multi-scale", SWITCH),
        Flag("--single-cls", SWITCH),
        Flag("--optimizer", str, "SGD", sample="AdamW"),
        Flag("--compile", SWITCH),
        Flag("--sync-bn", SWITCH),
        Flag("--workers", int, 8),
        Flag("--project", str, str(ROOT / "runs" / "train")),
        Flag("--name", str, "exp"),
        Flag("--exist-ok", SWITCH),
        Flag("--quad", SWITCH),
        Flag("--cos-lr", SWITCH),
        Flag("--label-smoothing", float, 0.0),
        Flag("--patience", int, 100),
        Flag("--freeze", int, [0], "+"),
        Flag("--save-period", int, -1),
        Flag("--local_rank", int, -1),
        Flag("--entity", str, None),
        Flag("--upload_dataset", str, False, "?", True),
        Flag("--bbox_interval", int, -1),
        Flag("--artifact_alias", str, "latest"),
    ],
    "val": [
        Flag("--data", str, COCO128),
        Flag("--weights", str, [WEIGHTS], "+"),
        Flag("--batch-size", int, 32),
        Flag("--imgsz --img --img-size", int, 640),
        Flag("--conf-thres", float, 0.001),
        Flag("--iou-thres", float, 0.6),
        Flag("--task", str, "val", sample="study"),
        Flag("--device", str, ""),
        Flag("--workers", int, 8),
        Flag("--single-cls", SWITCH),
        Flag("--augment", SWITCH),
        Flag("--verbose", SWITCH),
        Flag("--save-txt", SWITCH),
        Flag("--save-hybrid", SWITCH),
        Flag("--save-conf", SWITCH),
        Flag("--save-json", SWITCH),
        Flag("--project", str, str(ROOT / "runs" / "val")),
        Flag("--name", str, "exp"),
        Flag("--exist-ok", SWITCH),
        Flag("--half", SWITCH),
        Flag("--dnn", SWITCH),
    ],
    "detect": [
        Flag("--weights", str, [WEIGHTS], "+"),
        Flag("--source", str, str(ROOT / "data" / "images")),
        Flag("--data", str, COCO128),
        Flag("--imgsz --img --img-size", int, [640], "+"),
        Flag("--conf-thres", float, 0.25),
        Flag("--iou-thres", float, 0.45),
        Flag("--max-det", int, 1000),
        Flag("--device", str, ""),
        Flag("--view-img", SWITCH),
        Flag("--save-txt", SWITCH),
        Flag("--save-conf", SWITCH),
        Flag("--save-crop", SWITCH),
        Flag("--nosave", SWITCH),
        Flag("--classes", int, None, "+"),
        Flag("--agnostic-nms", SWITCH),
        Flag("--augment", SWITCH),
        Flag("--visualize", SWITCH),
        Flag("--update", SWITCH),
        Flag("--project", str, str(ROOT / "runs" / "detect")),
        Flag("--name", str, "exp"),
        Flag("--exist-ok", SWITCH),
        Flag("--line-thickness", int, 3),
        Flag("--hide-labels", SWITCH),
        Flag("--hide-conf", SWITCH),
        Flag("--half", SWITCH),
        Flag("--dnn", SWITCH),
    ],
    "export": [
        Flag("--data", str, COCO128),
        Flag("--weights", str, [WEIGHTS], "+"),
        Flag("--imgsz --img --img-size", int, [640, 640], "+"),
        Flag("--batch-size", int, 1),
        Flag("--device", str, "cpu"),
        Flag("--half", SWITCH),
        Flag("--inplace", SWITCH),
        Flag("--train", SWITCH),
        Flag("--optimize", SWITCH),
        Flag("--int8", SWITCH),
        Flag("--dynamic", SWITCH),
        Flag("--simplify", SWITCH),
        Flag("--opset", int, 12),
        Flag("--verbose", SWITCH),
        Flag("--workspace", int, 4),
        Flag("--nms", SWITCH),
        Flag("--agnostic-nms", SWITCH),
        Flag("--topk-per-class", int, 100),
        Flag("--topk-all", int, 100),
        Flag("--iou-thres", float, 0.45),
        Flag("--conf-thres", float, 0.25),
        Flag("--include", str, ["torchscript", "onnx"], "+"),
    ],
}

SHAPES = str(ROOT / "data" / "shapes.yaml")
OTHER_DEFAULTS = {  # (script, flag): our default
    ("train", "data"): SHAPES,  # v6.1's would have to be downloaded, ours is drawn on first use
    ("val", "data"): SHAPES,
    **{(script, "imgsz"): None for script in ("val", "detect", "export")},  # the size that the weights were trained at
}
# Parsed, for old command lines, and no more.
WITHOUT_EFFECT = {("train", "local_rank"), ("export", "topk_per_class"), ("export", "inplace")}

SCRIPTS = {name: import_module(name) for name in V61 if (ROOT / f"{name}.py").exists()}
OURS = {
    name: import_module(f"tools.{name}.cli") for name in ("prune",)
}  # scripts that v6.1 has not: each flag of theirs is used too
SHORT = ("--img imgsz", "--batch batch_size", "--conf conf_thres", "--iou iou_thres")


class CaughtError(Exception):
    """Carries a parser out of `parse_opt`."""


def parser_of(script):
    """The argparse parser that a script's parse_opt makes."""

    def catch(parser, *args, **named):
        raise CaughtError(parser)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", catch)
        with pytest.raises(CaughtError) as caught:
            (SCRIPTS | OURS)[script].parse_opt([])
    return caught.value.args[0]


PARSERS = {script: parser_of(script) for script in SCRIPTS | OURS}
DESTS = [
    (script, action.dest)
    for script, parser in PARSERS.items()
    for action in parser._actions
    if action.option_strings and action.dest != "help"
]


def case(script, value, name):
    """A parameter set that is called as the flag is."""
    return pytest.param(script, value, id=f"{script}-{name}")


def values(script, *arguments):
    """What a script makes of a command line, by name."""
    return vars(SCRIPTS[script].parse_opt(arguments))


# Flags and defaults ---------------------------------------------------------------------------------------------------

ROWS = [case(script, flag, flag.dest) for script in SCRIPTS for flag in V61[script]]


@pytest.mark.parametrize(("script", "flag"), ROWS)
def test_default(script, flag):
    parsed = values(script)
    assert flag.dest in parsed
    found, expected = parsed[flag.dest], OTHER_DEFAULTS.get((script, flag.dest), flag.default)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(("script", "flag"), ROWS)
def test_values(script, flag):
    for name in flag.names.split():
        if flag.kind is SWITCH:
            assert values(script, name)[flag.dest] is True
            continue
        text = flag.sample or SAMPLES[flag.kind]
        if flag.nargs == "+":
            for count in (1, 2):
                assert values(script, name, *[text] * count)[flag.dest] == [flag.kind(text)] * count
        else:
            assert values(script, name, text)[flag.dest] == flag.kind(text)
            assert values(script, f"{name}={text}")[flag.dest] == flag.kind(text)
        if flag.nargs == "?":
            assert values(script, name)[flag.dest] == flag.bare
        if flag.kind is not str:
            with pytest.raises(SystemExit):
                SCRIPTS[script].parse_opt([name, "word"])


@pytest.mark.parametrize("script", SCRIPTS)
def test_short_forms_that_users_rely_on(script):
    options = {flag.dest: flag for flag in V61[script]}
    known = [(short, options[dest]) for short, dest in map(str.split, SHORT) if dest in options]
    assert known
    for short, flag in known:
        text = SAMPLES[flag.kind]
        changed = {name for name, value in values(script, short, text).items() if value != values(script)[name]}
        assert changed - {"given"} == {flag.dest}


@pytest.mark.parametrize(("script", "name"), OTHER_DEFAULTS)
def test_other_defaults_are_other(script, name):
    row = next(flag for flag in V61[script] if flag.dest == name)
    assert row.default != OTHER_DEFAULTS[script, name]


# Every flag is used ---------------------------------------------------------------------------------------------------


def used_words(tree):
    """Keywords of calls, keys of dictionaries and `--flags` in texts, but in no test of defaults; with _ for -."""
    found = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef) and "default" in node.name:
            continue
        if isinstance(node, ast.keyword) and node.arg:
            found.add(node.arg)
        if isinstance(node, ast.Dict):
            found |= {key.value for key in node.keys if isinstance(key, ast.Constant) and isinstance(key.value, str)}
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= {word.replace("-", "_") for word in re.findall(r"(?<![\w-])--([\w-]+)", node.value)}
        found |= used_words(node)
    return found


def words_of_tests(script):
    """The words that are used in the files of tests that import or start a script."""
    own, found = (
        re.compile(
            rf"^import {script}$|^from {script} import |\b{script}\.py\b|\b{script}_options\b|\btools\.{script}\b",
            re.MULTILINE,
        ),
        set(),
    )
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        if path != Path(__file__).resolve() and own.search(text):
            found |= used_words(ast.parse(text))
    return found


USED = {script: words_of_tests(script) for script in SCRIPTS | OURS}


@pytest.mark.parametrize(
    ("script", "name"),
    [case(script, name, name) for script, name in DESTS if (script, name) not in WITHOUT_EFFECT],
)
def test_some_test_uses_the_flag(script, name):
    """By each of its spellings: `--img 64` uses --imgsz."""
    action = next(action for action in PARSERS[script]._actions if action.dest == name)
    spellings = {name, *(option.lstrip("-").replace("-", "_") for option in action.option_strings)}
    assert spellings & USED[script], f"no test of {script}.py has {' or '.join(action.option_strings)}"
