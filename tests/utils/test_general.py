"""The log, starting and failing of scripts, files found by name, run folders and files that are whole or not there."""

import gc
import logging
import multiprocessing
import os
import random
import subprocess
import sys
import threading

import cv2
import numpy as np
import pytest
import torch
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader

from utils import general
from utils.general import (
    LOGGER,
    ROOT,
    atomic_write,
    check_file,
    check_img_size,
    colorstr,
    find_file,
    increment_path,
    init_seeds,
    make_divisible,
    one_line,
    plural,
    progress,
    remove_stale,
    run_script,
    scratch_folder,
    set_logging,
    size_text,
)

# Log ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def quiet_logger():
    """LOGGER as at import; what a test sets is undone."""
    handlers, level = LOGGER.handlers[:], LOGGER.level
    LOGGER.handlers = []
    yield LOGGER
    LOGGER.handlers = handlers
    LOGGER.setLevel(level)


def test_import_sets_no_handler_and_no_level():
    code = "from utils.general import LOGGER; import logging; assert (LOGGER.handlers, LOGGER.level) == ([], 0)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_set_logging_twice_writes_once(quiet_logger, capsys):
    set_logging()
    set_logging()
    LOGGER.info("as it is")
    LOGGER.warning("beware")
    assert capsys.readouterr().err == "as it is\nWARNING: beware\n"


def test_quiet_log(quiet_logger, capsys):
    set_logging(verbose=False)
    LOGGER.info("nobody hears")
    LOGGER.error("heard")
    assert capsys.readouterr().err == "ERROR: heard\n"


def test_log_does_not_tear_a_bar(quiet_logger, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    set_logging()
    for _ in progress(range(2), desc="bar"):
        LOGGER.info("line")
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    assert lines.count("line") == 2


@pytest.mark.parametrize(
    ("parts", "code"),
    [(("text",), "\033[34m\033[1mtext"), (("red", "text"), "\033[31mtext"), (("bright_white", "text"), "\033[97mtext")],
)
def test_colorstr(parts, code, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert colorstr(*parts) == f"{code}\033[0m"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    assert colorstr(*parts) == "text"


def test_progress_gives_the_items(capsys):
    assert list(progress([3, 1, 2], desc="count")) == [3, 1, 2]
    assert "count: 100%" in capsys.readouterr().err
    assert list(progress(iter([]), disable=True)) == []
    assert capsys.readouterr().err == ""


# Scripts --------------------------------------------------------------------------------------------------------------


def fail(error):
    raise error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("--imgsz -1: too small"), "ERROR: --imgsz -1: too small"),
        (FileNotFoundError("x.yaml: no such file"), "ERROR: x.yaml: no such file"),
        (ImportError("pip install onnx"), "ERROR: pip install onnx"),
        (ValueError("two\n\n   lines"), "ERROR: two lines"),
        (ValueError(), "ERROR: ValueError"),
        (PermissionError(13, "Permission denied", "best.pt"), "ERROR: best.pt: permission denied"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_1(error, line, quiet_logger, capsys):
    with pytest.raises(SystemExit) as exit_:
        run_script(fail, error)
    assert exit_.value.code == 1
    assert capsys.readouterr().err == f"{line}\n"


def test_a_full_disk_is_told_with_the_file_and_the_way_out(quiet_logger, capsys):
    with pytest.raises(SystemExit):
        run_script(fail, OSError(28, "No space left on device", "exp/best.pt"))
    line = capsys.readouterr().err
    assert line.startswith("ERROR: exp/best.pt: no space left on device; ")
    assert "--project" in line


@pytest.mark.parametrize(("written", "there"), [("my.yml", "my.yaml"), ("my.yaml", "my.yml")])
def test_the_other_suffix_of_a_yaml_is_suggested(tmp_path, written, there):
    (tmp_path / there).touch()
    with pytest.raises(FileNotFoundError, match=rf"{written}: no such file.*{there}"):
        check_file(tmp_path / written, (".yaml", ".yml"))


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PermissionError(13, "Permission denied", "/ro/exp"), "/ro/exp: permission denied"),
        (PermissionError(13, "Permission denied", b"/ro"), "/ro: permission denied"),
        (OSError(18, "Invalid cross-device link", "a", None, "b"), "a -> b: invalid cross-device link"),
        (OSError(28, "No space left on device"), "no space left on device"),
        (OSError("a.pt: cannot be written"), "a.pt: cannot be written"),
    ],
)
def test_an_error_of_the_system_names_its_path_first(error, line):
    assert one_line(error) == line


def test_a_failed_write_names_the_file_and_not_its_temporary_name(tmp_path):
    with pytest.raises(OSError, match="No space") as error, atomic_write(tmp_path / "a.csv"):
        raise OSError(28, "No space left on device")
    assert one_line(error.value) == f"{tmp_path / 'a.csv'}: no space left on device"
    with pytest.raises(FileNotFoundError) as error, atomic_write(tmp_path / "absent" / "a.csv"):
        pass
    assert one_line(error.value) == f"{tmp_path / 'absent' / 'a.csv'}: no such file or directory"


@pytest.mark.parametrize(
    ("noun", "expected"),
    [
        ("bus", "buses"),
        ("person", "persons"),
        ("box", "boxes"),
        ("wine glass", "wine glasses"),
        ("skis", "skis"),
        ("epoch", "epochs"),
    ],
)
def test_plural(noun, expected):
    assert [plural(count, noun) for count in (0, 1, 2)] == [f"0 {expected}", f"1 {noun}", f"2 {expected}"]


def test_a_file_where_the_results_are_to_go_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file: a file, where a folder"):
        increment_path(tmp_path / "file" / "exp", mkdir=True)
    assert (tmp_path / "file").is_file()


@pytest.mark.parametrize(
    ("file", "hint"),
    [
        ("yolov5q.yaml", "yolov5"),
        ("shape.yaml", "did you mean shapes.yaml or "),
        (str(ROOT / "data" / "shape.yaml"), "did you mean shapes.yaml?"),
    ],
)
def test_a_missing_files_nearest_names_are_said(file, hint):
    with pytest.raises(FileNotFoundError, match=r"no such file.*; did you mean") as error:
        find_file(file)
    assert hint in str(error.value).partition(";")[2]


def test_a_name_cannot_command_the_terminal(quiet_logger, capsys):
    with pytest.raises(SystemExit):
        run_script(fail, ValueError("\x1b]0;title\x07\x1b[2Jab \x1b[31mred\x1b[0m"))
    assert capsys.readouterr().err == "ERROR: \\x1b]0;title\\x07\\x1b[2Jab \x1b[31mred\x1b[0m\n"


def test_ctrl_c_is_exit_130(quiet_logger, capsys):
    with pytest.raises(SystemExit) as exit_:
        run_script(fail, KeyboardInterrupt())
    assert exit_.value.code == 130
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nGPU 0"), "--batch-size or --imgsz"),
        (MemoryError(), "--batch-size or --imgsz"),
        (RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory"), "--batch-size or --imgsz"),
        (
            cv2.error("OpenCV(5.0) alloc.cpp:73: error: (-4:Insufficient memory) ... in function 'OutOfMemoryError'"),
            "--imgsz",
        ),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "--workers"),
        (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), "--workers"),
    ],
    ids=["gpu", "python", "cpu", "opencv", "killed", "gone"],
)
def test_too_little_memory_is_one_line_with_advice(error, advice, quiet_logger, capsys):
    with pytest.raises(SystemExit) as exit_:
        run_script(fail, error)
    assert exit_.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"ERROR: {(str(error) or 'MemoryError')[:20]}")
    assert advice in line


@pytest.mark.parametrize("error", [AssertionError("ours"), RuntimeError("shape"), KeyError("key")])
def test_a_programmers_mistake_keeps_its_traceback(error, quiet_logger):
    with pytest.raises(type(error)):
        run_script(fail, error)


def test_a_good_end_is_no_exit(quiet_logger):
    seen = []
    run_script(seen.append, "options")
    assert seen == ["options"]


class Broken:
    """A data set whose every item is a mistake of the user's."""

    def __len__(self):
        return 1

    def __getitem__(self, index):
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ValueError("a.jpg: not a readable image") from error


def test_error_of_a_loaders_worker_is_one_line(quiet_logger, capfd):
    with pytest.raises(SystemExit):
        run_script(lambda _: list(DataLoader(Broken(), num_workers=1)), None)
    for worker in multiprocessing.active_children():
        worker.terminate()  # else torch waits five seconds
    gc.collect()  # the loader's iterator, lest the next test's workers inherit it
    assert capfd.readouterr().err == "ERROR: a.jpg: not a readable image\n"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("a.jpg: first line\n  second line: more"), "a.jpg: first line second line: more"),
        (FileNotFoundError(2, "No such file", "a.jpg"), "a.jpg: no such file"),
        (ValueError(), "ValueError"),
    ],
)
def test_one_line_of_what_torch_makes_of_a_workers_error(error, line):
    try:
        raise error
    except (ValueError, OSError):
        wrapped = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(type(error)) as again:
        wrapped.reraise()
    assert one_line(again.value) == line


def test_caught_in_a_message_is_no_worker():
    assert one_line(ValueError("Caught no image: in\nfolder")) == "Caught no image: in folder"


def draw():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_init_seeds_seeds_all_three():
    init_seeds(3)
    first = draw()
    init_seeds(3)
    assert draw() == first
    init_seeds(4)
    assert all(a != b for a, b in zip(draw(), first, strict=True))


def test_init_seeds_deterministic_is_undone_by_the_next_call():
    init_seeds(0, deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.benchmark
    init_seeds(0)
    assert not torch.are_deterministic_algorithms_enabled()


# Files ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with some yamls; the current folder is another one."""
    for name in ("data/hyps/a.yaml", "data/one.yaml", "models/two.yaml", "models/hub/two.yaml", "utils/b.py"):
        (tmp_path / "repo" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "repo" / name).touch()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(general, "ROOT", tmp_path / "repo")
    return tmp_path / "repo"


def test_file_of_a_name_is_found_below(repository):
    assert find_file("a.yaml") == repository / "data/hyps/a.yaml"
    assert find_file("b.py") == repository / "utils/b.py"


def test_check_file_gives_text(repository):
    assert check_file("a.yaml") == str(repository / "data/hyps/a.yaml")
    assert check_file("a.yaml", ".yaml") == check_file("a.yaml", suffix=(".yaml", ".yml"))
    assert check_file("") == ""
    with pytest.raises(ValueError, match=r"b\.py"):
        check_file("b.py", ".yaml")


def test_file_here_comes_first(repository, tmp_path):
    (tmp_path / "here/a.yaml").touch()
    assert find_file("a.yaml").resolve() == tmp_path / "here/a.yaml"


def test_file_in_the_users_folder(repository, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "repo"))
    assert find_file("~/data/one.yaml") == tmp_path / "repo/data/one.yaml"


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("two.yaml", ValueError, "hub/two.yaml.*name one with its folder"),
        ("none.yaml", FileNotFoundError, "none.yaml: no such file, nor one of this name below data, models, utils"),
        ("hyps/a.yaml", FileNotFoundError, "hyps/a.yaml: no such file$"),
        ("*.yaml", FileNotFoundError, "no such file"),
        ("[ao]*.yaml", FileNotFoundError, "no such file"),
        ("~nobody-here/a.yaml", FileNotFoundError, "no such file"),
        ("b.py", ValueError, "b.py: a file that ends with .yaml or .yml"),
        ("", ValueError, "ends with .yaml or .yml"),
        ("data", ValueError, "ends with .yaml or .yml"),
    ],
)
def test_files_that_are_not_found(repository, name, error, message):
    with pytest.raises(error, match=message):
        find_file(name, (".yaml", ".yml"))


def test_a_folder_is_no_file(repository, tmp_path):
    (tmp_path / "here/folder.yaml").mkdir()
    with pytest.raises(FileNotFoundError):
        find_file("folder.yaml")


@pytest.mark.parametrize(
    ("present", "name", "expected"),
    [
        ([], "exp", "exp"),
        (["exp"], "exp", "exp2"),
        (["exp", "exp2", "exp3"], "exp", "exp4"),
        (["exp", "exp7"], "exp", "exp8"),
        (["exp3"], "exp", "exp"),
        (["exp", "exp-9", "experiment5", "exp5x", "xexp6"], "exp", "exp2"),
        (["v1.2", "v1.22"], "v1.2", "v1.23"),
        (["a.b", "a.b3", "aXb9"], "a.b", "a.b4"),
        (["run[1]", "run[1]2"], "run[1]", "run[1]3"),
        (["a+b*", "a+b*4"], "a+b*", "a+b*5"),
        (["训练", "训练2"], "训练", "训练3"),
        (["with space", "with space2"], "with space", "with space3"),
        (["exp2", "exp22"], "exp2", "exp23"),
    ],
)
@pytest.mark.parametrize("mkdir", [False, True])
def test_increment_path(tmp_path, present, name, expected, mkdir):
    for folder in present:
        (tmp_path / folder).mkdir()
    assert increment_path(tmp_path / name, mkdir=mkdir) == tmp_path / expected
    assert (tmp_path / expected).is_dir() == mkdir


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        ([], "a.jpg"),
        (["a.jpg"], "a2.jpg"),
        (["a.jpg", "a2.jpg", "a9.png"], "a3.jpg"),
        (["a.jpg", "a.jpg7"], "a2.jpg"),
    ],
)
def test_increment_path_of_a_file(tmp_path, present, expected):
    for name in present:
        (tmp_path / name).touch()
    assert increment_path(tmp_path / "a.jpg") == tmp_path / expected


def test_increment_path_with_separator(tmp_path):
    for folder in ("exp", "exp5", "exp_3"):
        (tmp_path / folder).mkdir()
    assert increment_path(tmp_path / "exp", sep="_") == tmp_path / "exp_4"


def test_exist_ok_takes_the_folder_as_it_is(tmp_path):
    for _ in range(2):
        assert increment_path(tmp_path / "a/exp", exist_ok=True, mkdir=True) == tmp_path / "a/exp"
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        increment_path(tmp_path / "file", exist_ok=True, mkdir=True)


def test_broken_links_do_not_hang(tmp_path):
    (tmp_path / "exp").symlink_to("nowhere")
    assert increment_path(tmp_path / "exp", mkdir=True) == tmp_path / "exp2"
    with pytest.raises(FileExistsError):
        increment_path(tmp_path / "exp/inner", mkdir=True)


def test_no_two_threads_get_one_folder(tmp_path):
    folders, start = [], threading.Barrier(8)

    def work():
        start.wait()
        folders.extend(increment_path(tmp_path / "new" / "exp", mkdir=True) for _ in range(5))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(folders)) == len(folders) == 40
    assert all(folder.is_dir() for folder in folders)


def test_atomic_write_makes_and_replaces(tmp_path):
    for text in ("first", "second, longer"):
        with atomic_write(tmp_path / "file.txt") as temporary:
            assert temporary.parent == tmp_path
            temporary.write_text(text)
            assert not (tmp_path / "file.txt").exists() or (tmp_path / "file.txt").read_text() == "first"
        assert (tmp_path / "file.txt").read_text() == text
    assert os.listdir(tmp_path) == ["file.txt"]


@pytest.mark.parametrize("error", [ValueError("full"), KeyboardInterrupt()])
@pytest.mark.parametrize("before", [None, "old"])
def test_atomic_write_leaves_all_as_it_was(tmp_path, error, before):
    path = tmp_path / "file.txt"
    if before:
        path.write_text(before)
    with pytest.raises(type(error)), atomic_write(path) as temporary:
        fail(error if temporary.write_text("half") else None)
    assert [file.read_text() for file in tmp_path.iterdir()] == [before] * bool(before)


def test_permissions_of_a_new_file_are_the_usual_ones(tmp_path):
    (tmp_path / "usual").touch()
    with atomic_write(tmp_path / "ours") as temporary:
        temporary.write_text("x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("mode", [0o600, 0o444, 0o640])
def test_permissions_of_an_old_file_stay(tmp_path, mode):
    path = tmp_path / "file"
    path.touch()
    path.chmod(mode)
    with atomic_write(path) as temporary:
        temporary.write_text("new")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("new", mode)


def test_atomic_write_takes_the_longest_name(tmp_path):
    name = "é" * 127
    with atomic_write(tmp_path / name) as temporary:
        temporary.write_text("x")
    assert os.listdir(tmp_path) == [name]


def test_stale_files_go(tmp_path):
    """Those that no process writes to any more; a folder that nobody else writes to can do without waiting."""
    with atomic_write(tmp_path / "last.pt") as temporary, scratch_folder(tmp_path / "last.pt") as folder:
        (folder / "part").touch()
        stale = tmp_path / temporary.name.replace(temporary.name[-16:-4], "0123456789ab")
        stale_folder = tmp_path / temporary.name.replace(temporary.name[-16:-4], "0123456789ac")
        (stale_folder / "inner").mkdir(parents=True)
        for path in (stale, tmp_path / ".mine.tmp", tmp_path / "last-0123456789ab.tmp"):
            path.touch()
        for path in tmp_path.iterdir():
            os.utime(path, (1000, 1000))
        remove_stale(tmp_path, "other.pt")
        assert stale.exists()
        remove_stale(tmp_path, "last.pt")
        assert temporary.exists()
        assert (folder / "part").exists()
    assert sorted(os.listdir(tmp_path)) == [".mine.tmp", "last-0123456789ab.tmp", "last.pt"]
    stale.touch()
    remove_stale(tmp_path)
    assert stale.exists()  # somebody may be about to write to it
    remove_stale(tmp_path, is_ours=True)
    assert not stale.exists()
    remove_stale(tmp_path / "none")


def test_atomic_write_into_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "none" / "file"):
        pytest.fail("the block must not run")


# Sizes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "divisor", "y"), [(0, 8, 0), (1, 8, 8), (8, 8, 8), (9, 8, 16), (25.6, 8, 32), (40.0, 8, 40)]
)
def test_make_divisible(x, divisor, y):
    assert make_divisible(x, divisor) == y


@pytest.mark.parametrize(
    ("imgsz", "stride", "floor", "size"),
    [(640, 32, 0, 640), (641, 32, 0, 672), (1, 32, 0, 32), (32, 32, 64, 64), (100, 64, 0, 128), (320, 32, 64, 320)],
)
def test_check_img_size(imgsz, stride, floor, size, caplog):
    caplog.set_level(logging.WARNING, logger="yolov5")
    assert check_img_size(imgsz, stride, floor) == size
    assert bool(caplog.records) == (size != imgsz)
    assert all(f"{size} is used" in record.getMessage() for record in caplog.records)


def test_stride_may_be_a_tensor():
    assert check_img_size(100, torch.tensor([8.0, 16.0, 32.0]).max()) == 128


@pytest.mark.parametrize("imgsz", [(640, 321), [640, 321]])
def test_height_and_width(imgsz):
    assert check_img_size(imgsz, s=32) == [640, 352]


@pytest.mark.parametrize("imgsz", [0, -32])
def test_no_size(imgsz):
    for given in (imgsz, [640, imgsz]):
        with pytest.raises(ValueError, match=f"--imgsz {imgsz}: "):
            check_img_size(given)


def test_strides_may_be_tensors():
    stride = torch.tensor([8.0, 16.0, 32.0])
    assert make_divisible(100, stride) == make_divisible(100, 32) == 128
    assert check_img_size(100, s=stride.max()) == 128
    assert check_img_size([100, 64], s=32) == [128, 64]


def test_sizes_of_files():
    assert [size_text(value) for value in (1, 512, 3400, 14_100_000)] == ["1 byte", "512 bytes", "3.4 KB", "14.1 MB"]
