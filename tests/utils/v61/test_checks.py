"""v6.1's checks: what they say, and that they neither install nor fetch anything."""

import socket
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from utils import general
from utils.general import (
    Profile,
    WorkingDirectory,
    check_dataset,
    check_git_status,
    check_online,
    check_python,
    check_requirements,
    check_version,
    check_yaml,
    clean_str,
    emojis,
    file_size,
    is_ascii,
    is_chinese,
    is_pip,
    is_writeable,
    methods,
    user_config_dir,
)
from utils.v61.checks import satisfies


@pytest.fixture(autouse=True)
def nothing_reaches_out(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a check must not start or ask anything")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize(
    ("installed", "sign", "wanted", "expected"),
    [
        ("2.10.0", ">=", "2.9", True),
        ("2.10", "==", "2.10.0", True),
        ("2.1.0+cpu", "==", "2.1", True),
        ("1.9", ">=", "1.10", False),
        ("1.9", "!=", "1.9.0", False),
        ("1.9", "<", "1.10", True),
        ("1.10", ">", "1.10", False),
        ("1.10.1", "<=", "1.10", False),
        ("3.1.4", "==", "3.1.*", True),
        ("3.2", "==", "3.1.*", False),
        ("3.2", "~=", "3.1", True),
    ],
)
def test_versions(installed, sign, wanted, expected):
    assert satisfies(installed, sign, wanted) is expected


@pytest.mark.parametrize(
    ("requirements", "missing"),
    [
        ("numpy", ""),
        ("numpy>=1.18.5,<99", ""),
        (["numpy>=1.18.5", "torch>=1.7.0,!=9.9"], ""),
        (("no-such-package>=1.0  # why", "numpy"), "no-such-package>=1.0"),
        (["numpy>=999"], "numpy>=999"),
        (["# a remark", "", "-r other.txt", "numpy[extra]>=1; python_version > '3'"], ""),
    ],
)
def test_requirements(requirements, missing, caplog):
    with caplog.at_level("INFO", "yolov5"):
        assert check_requirements(requirements) is (not missing)
    assert missing in caplog.text
    assert bool(caplog.records) == bool(missing)
    assert not missing or "pip install" in caplog.text


def test_requirements_of_a_file(tmp_path, caplog):
    file = tmp_path / "requirements.txt"
    file.write_text("numpy>=1.0\nno-such-package\n")
    assert not check_requirements(file)
    assert check_requirements(str(file), exclude=["no-such-package"])
    assert check_requirements(general.ROOT / "requirements.txt", exclude=("opencv-python",))
    assert check_requirements(tmp_path / "absent.txt")
    assert "absent.txt" in caplog.text


def test_version_checks(caplog):
    assert check_version("3.11.1", "3.7.0")
    assert not check_version("1.9.0", "1.10.0", name="torch ", verbose=True)
    assert "torch 1.10.0" in caplog.text
    assert not check_version("1.10.1", "1.10", pinned=True)
    with pytest.raises(AssertionError, match=r"Python 99\.0\.0"):
        check_python("99.0.0")
    check_python()


def test_the_network_is_not_asked():
    assert check_online() is False
    assert check_git_status() is None


def test_texts():
    assert (is_ascii("cat"), is_ascii(["cat", "кот"])) == (True, False)
    assert (is_chinese("猫"), is_chinese("cat")) == (True, False)
    assert clean_str("rtsp://host?a=1&b") == "rtsp_//host_a_1_b"
    assert emojis("✅ done").endswith("done")


def test_files(tmp_path):
    (tmp_path / "a.bin").write_bytes(bytes(1_500_000))
    assert file_size(tmp_path / "a.bin") == file_size(tmp_path) == 1.5
    assert file_size(tmp_path / "absent") == 0
    assert is_writeable(tmp_path, test=True)
    assert is_writeable(tmp_path)
    assert not is_writeable(tmp_path / "absent", test=True)
    assert not is_pip()
    assert user_config_dir().name == "Ultralytics"
    assert not list(tmp_path.glob(".*"))
    with WorkingDirectory(tmp_path):
        assert Path.cwd() == tmp_path
    assert Path.cwd() != tmp_path
    assert check_yaml("hyp.scratch-low.yaml").endswith("data/hyps/hyp.scratch-low.yaml")


@pytest.mark.parametrize("names", [["a", "b"], {0: "a", 1: "b"}])
def test_dataset(tmp_path, names):
    for split in ("train", "val"):
        (tmp_path / "images" / split).mkdir(parents=True)
    content = {"path": str(tmp_path), "train": ["images/train", "images/val"], "val": "images/val", "names": names}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(content))
    found = check_dataset(tmp_path / "data.yaml")
    assert found["train"] == [str(tmp_path / "images/train"), str(tmp_path / "images/val")]
    assert (found["val"], found["test"]) == (str(tmp_path / "images/val"), None)
    assert (found["nc"], found["names"], found["path"]) == (2, ["a", "b"], tmp_path)
    assert check_dataset(found) == found
    (tmp_path / "images/val").rmdir()
    with pytest.raises(FileNotFoundError, match="val"):
        check_dataset(str(tmp_path / "data.yaml"), autodownload=True)


def test_profile(capsys):
    watch = Profile()
    for _ in range(2):
        with watch as same:
            time.sleep(0.02)
    assert same is watch
    assert 0.02 <= watch.dt <= watch.t
    assert watch.t >= 0.04
    assert not capsys.readouterr().out

    @Profile()
    def work(value):
        return value

    assert work(3) == 3
    assert capsys.readouterr().out.startswith("Profile results: 0.0")


def test_methods():
    class Hooks:
        at = 1

        def on_start(self):
            pass

    assert methods(Hooks()) == ["on_start"]
