"""Pickles made to do harm: each is one line, in little memory and time, and nothing of it has run."""

import io
import os
import struct
import subprocess
import sys
import zipfile

import pytest
import torch

from utils.files.checkpoint import load_checkpoint
from utils.files.pickled import Machine, check_parts, names_in
from utils.general import ROOT

MIB = 1 << 20


def text(value):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def whole(value):
    return b"J" + struct.pack("<i", value)


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def repeated(depth, width=10):
    """A tuple of lists, each of which holds the one before it several times: written out, width ** depth parts."""
    made = b"(]q\x00(" + b"K\x01" * width + b"e"
    for i in range(1, depth):
        made += b"]r" + struct.pack("<I", i) + b"(" + (b"j" + struct.pack("<I", i - 1)) * width + b"e"
    return made + b"t"


def tensor(size, stride, kind="FloatStorage", offset=0):
    place = b"(" + text("storage") + name("torch", kind) + text("0") + text("cpu") + whole(4) + b"tQ"
    numbers = [b"(" + b"".join(map(whole, values)) + b"t" for values in (size, stride)]
    hooks = name("collections", "OrderedDict") + b")R"
    view = b"(" + place + whole(offset) + numbers[0] + numbers[1] + b"\x89" + hooks + b"tR"
    return name("torch._utils", "_rebuild_tensor_v2") + view


def ours(yaml=b"}", state=b"}"):
    """A checkpoint of this project with this yaml and these weights."""
    number = b"G" + struct.pack(">d", 1)
    filled = b"(" + text("nc") + whole(1) + text("ch") + whole(3) + text("depth_multiple") + number
    filled += text("width_multiple") + number + text("anchors") + whole(3) + text("head") + b"]u"
    parts = {"format": text("yolov5-nam checkpoint"), "version": whole(1), "date": text(""), "origin": text("")}
    parts |= {"yaml": yaml + filled, "names": b"]" + text("a") + b"a", "epoch": whole(-1), "best_fitness": b"N"}
    parts |= {"state": state, "training": b"N"}
    return b"\x80\x02}(" + b"".join(text(key) + value for key, value in parts.items()) + b"u."


START = b"\x80\x02"
BOMBS = {
    "bytes by number": START + name("builtins", "bytearray") + whole(2**31 - 1) + b"\x85R.",
    "bytes by number, as Python 2 has it": START + name("__builtin__", "bytearray") + whole(2**31 - 1) + b"\x85R.",
    "a tensor by number": START + name("torch", "FloatTensor") + whole(2**31 - 1) + b"\x85R.",
    "a storage by number": START + name("torch.storage", "UntypedStorage") + whole(2**31 - 1) + b"\x85R.",
    "a yaml that repeats itself": ours(b"}" + text("backbone") + repeated(40) + b"s"),
    "a key that repeats itself": START + b"}" + repeated(40) + b"K\x01s.",
    "a set that repeats itself": START + name("builtins", "set") + b"]" + repeated(40) + b"a\x85R.",
    "a path that repeats itself": START + name("pathlib", "PosixPath") + repeated(40) + b"R.",
    "a list that holds itself": START + b"]q\x00h\x00a.",
    "a text encoded again and again": START
    + b"(" + text("x" * MIB) + b"q\x00" + name("_codecs", "encode") + b"q\x01"
    + (b"h\x01h\x00" + text("latin1") + b"\x86R") * 3000 + b"t.",
    "an encoding that unpacks": START + name("_codecs", "encode") + text("x") + text("zip") + b"\x86R.",
    "a weight beyond its numbers": ours(state=b"}" + text("w") + tensor([10**6, 1000], [1000, 1]) + b"s"),
    "a weight before its numbers": ours(state=b"}" + text("w") + tensor([4], [-1]) + b"s"),
    "one number as many weights": ours(
        state=b"}(" + b"".join(text(f"w{i}") + tensor([10**5], [0], "HalfStorage") for i in range(3000)) + b"u"
    ),
    "lists within lists": START + b"]" * 200_000 + b"a" * 199_999 + b".",
    "operations without end": START + b"N" * 700_000 + b".",
    "an operation that torch does not write": START + b"K\x01" + b"2" * 100 + b".",
    "a text without end": START + b"X\xff\xff\xff\x7f.",
    "nothing on the stack": START + b"R.",
    "a program": START + name("posix", "system") + text("touch harmed") + b"\x85R.",
    "a program, as newer Pythons write it": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x0ctouch harmed\x85R.",
}  # fmt: skip
LIMITED = """
import resource, sys
from utils.files.checkpoint import load_checkpoint
used = next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmData:"))
resource.setrlimit(resource.RLIMIT_DATA, (used + (1 << 30),) * 2)
for path in sys.argv[1:]:
    resource.setrlimit(resource.RLIMIT_CPU, (int(resource.getrusage(resource.RUSAGE_SELF).ru_utime) + 20, -1))
    try:
        load_checkpoint(path)
    except ValueError as error:
        assert str(error).startswith(path) and "\\n" not in str(error), error
        print("refused", flush=True)
"""


def written(path, data, numbers=bytes(16)):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", data)
        archive.writestr("a/data/0", numbers)
        archive.writestr("a/byteorder", "little")
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_bombs_take_little_memory_and_time(tmp_path):
    paths = [written(tmp_path / f"{i}.pt", data, bytes(2 * MIB)) for i, data in enumerate(BOMBS.values())]
    command = [sys.executable, "-c", LIMITED, *map(str, paths)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.stdout.split() == ["refused"] * len(paths), done.stderr[-2000:]
    assert done.returncode == 0
    assert not [file for place in (tmp_path, ROOT) for file in place.glob("harmed")]


@pytest.mark.parametrize("data", [data for label, data in BOMBS.items() if "program" in label])
def test_a_program_is_refused_by_its_name(tmp_path, data):
    with pytest.raises(
        ValueError, match=r"x\.pt: refused, for it names posix\.system; nothing|posix\.system, which no"
    ):
        load_checkpoint(written(tmp_path / "x.pt", data))


def test_everything_that_torch_saves_of_plain_data_comes_back():
    content = {
        "a": [1, -(2**40), 2.5, None, True, "größe", (1, 2, 3, 4), {}],
        "b": {
            "w": torch.arange(12.0).view(3, 4).t()[1:],
            "e": torch.zeros(0, 3),
            "n": torch.tensor([1], dtype=torch.int64),
        },
        "s": {"x"},
        1: b"\x00\xff",
    }
    file = io.BytesIO()
    torch.save(content, file)
    with zipfile.ZipFile(file) as archive:
        entries = {entry.partition("/")[2]: archive.read(entry) for entry in archive.namelist()}

    def storage(key, dtype):
        data = bytearray(entries[f"data/{key}"])
        return torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)

    data = entries["data.pkl"]
    assert names_in(data) == set()
    found = Machine({}, storage).run(data)
    assert (found["a"], found["s"], found[1]) == (content["a"], content["s"], content[1])
    for key, value in content["b"].items():
        assert found["b"][key].dtype == value.dtype
        assert torch.equal(found["b"][key], value)


def test_parts_are_counted_written_out():
    shared = [1, 2, 3]
    check_parts([shared] * 1000)
    for _ in range(8):
        shared = [shared] * 10
    with pytest.raises(ValueError, match="repeated without end"):
        check_parts({"a": shared})
    deep = []
    for _ in range(1000):
        deep = [deep]
    with pytest.raises(ValueError, match="nested without end"):
        check_parts(deep)


@pytest.mark.skipif(os.name != "posix", reason="has pipes as POSIX has")
def test_pipes_are_no_checkpoints(tmp_path):
    os.mkfifo(tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"x\.pt: .*a pipe or a device"):
        load_checkpoint(tmp_path / "x.pt")
