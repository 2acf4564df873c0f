"""The script: what it writes, shows and refuses."""

import logging

import pytest
import torch

from models.spec.rows import read_rows
from models.spec.wiring import check_wiring
from models.yolo import Model
from tools import insert
from utils.files.yamls import read_yaml
from utils.general import ROOT


def run(*arguments):
    return insert.main(insert.parse_opt(arguments))


def test_the_command_of_the_readme_makes_the_shipped_network(tmp_path, caplog):
    out = tmp_path / "yolov5s-mine.yaml"
    with caplog.at_level(logging.INFO, "yolov5"):
        text = run("yolov5s.yaml", "--module", "NAMAttention", "--args", "c", "--after", "23", "--out", str(out))
    assert out.read_text(encoding="utf-8") == text
    shipped = read_yaml(ROOT / "models" / "yolov5s-NAM.yaml")
    assert read_yaml(out) == shipped
    log = caplog.text
    assert "1 row put in, 7,235,389 -> 7,236,413 parameters" in log
    assert "-   24  + [-1, 1, NAMAttention, [1024]]  reads 23 C3" in log
    assert "24   25  ~ [[17, 20, 23], 1, Detect, [nc, anchors]] -> [[17, 20, 24], 1, Detect, [nc, anchors]]" in log


def test_three_levels_are_the_shipped_yamls(tmp_path):
    out = tmp_path / "new.yaml"
    run("yolov5s.yaml", "--module", "NAMAttention[c]", "--after", "p3", "p4", "p5", "--out", str(out))
    shipped = read_yaml(ROOT / "models" / "yolov5s-NAM-p3p5.yaml")
    assert read_yaml(out) == shipped


@pytest.mark.parametrize("cfg", ["yolov5-p7.yaml", "yolov5s6.yaml", "yolov5-p34.yaml", "yolov3-tiny.yaml"])
def test_before_detect_of_any_yaml(tmp_path, cfg):
    out = tmp_path / "new.yaml"
    run(cfg, "--module", "NAMAttention", "--before", "detect", "--out", str(out))
    rows = read_rows(read_yaml(out))
    assert {rows[source].content[2] for source in rows[-1].sources} == {"NAMAttention"}
    with torch.device("meta"):
        assert check_wiring(Model(out, verbose=False)) == []


def test_without_out_nothing_is_written(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.INFO, "yolov5"):
        run("yolov5n.yaml", "--module", "NAMAttention", "--after", "backbone")
    assert "nothing is written" in caplog.text
    assert [*tmp_path.iterdir()] == []


def test_what_the_new_block_upsets_is_said(caplog):
    with (
        caplog.at_level(logging.INFO, "yolov5"),
        pytest.raises(ValueError, match=r"row 1[23] .*does not fit its input"),
    ):
        run("yolov5n.yaml", "--module", "Conv[c, 3, 2]", "--after", "9")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--module", "NAMAttention"], "--after or --before: where to put it"),
        (["--module", "NAMAttention", "--after", "detect"], "nothing can be put in after it, but before it"),
        (["--module", "NAMAttention[c]", "--args", "c", "--after", "p5"], "has arguments already"),
        (["--module", "NAMAttention", "--args", "[", "--after", "p5"], r"--args \[: is not a YAML value"),
        (["--module", "NAMAttention", "--args", "7", "--after", "p5"], r"the new yaml: row 24 .*states 7 channels"),
        (["--module", "NAMAtention", "--after", "p5"], "did you mean NAMAttention"),
        (["--module", "Detect", "--after", "p5"], "Detect is the last row"),
        (["--module", "NAMAttention", "--after", "p5", "--out", "x.yml.txt"], r"ends with \.yaml"),
        (["--module", "NAMAttention", "--after", "p5", "--out", "absent/x.yaml"], "there is no folder absent"),
    ],
)
def test_user_errors(arguments, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run("yolov5n.yaml", *arguments)


def test_an_existing_file_is_kept_unless_told(tmp_path):
    out = tmp_path / "x.yaml"
    out.write_text("mine", encoding="utf-8")
    arguments = ["yolov5n.yaml", "--module", "NAMAttention", "--after", "p5", "--out", str(out)]
    with pytest.raises(ValueError, match="exists; name another, or add --exist-ok"):
        run(*arguments)
    assert out.read_text(encoding="utf-8") == "mine"
    run(*arguments, "--exist-ok")
    assert "NAMAttention" in out.read_text(encoding="utf-8")


def test_a_faulty_yaml_is_named(tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("nc: 1\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"bad\.yaml: a model yaml needs"):
        run(str(bad), "--module", "NAMAttention", "--after", "p5")
