"""The C++ example, compiled here: it finds what detect.py finds, and says in one line what is wrong with a file."""

import json
import random
import shutil
import subprocess
from dataclasses import replace

import cv2
import numpy as np
import onnx
import pytest

import detect
import export
from utils.files.checkpoint import load_checkpoint, save_checkpoint
from utils.general import ROOT

SOURCE = ROOT / "examples" / "cpp"
HW = (64, 96)
SHAPES_HW = [(64, 96), (96, 64), (65, 97), (200, 150), (31, 300), (1, 40), (480, 640)]
DAMAGED = "not an ONNX file, or a damaged one"


def run(*command):
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, timeout=240)


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    """The program, as the README of the example builds it."""
    missing = [name for name in ("cmake", "g++") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"needs {' and '.join(missing)}: apt-get install cmake g++ libopencv-dev")
    folder = tmp_path_factory.mktemp("cpp")
    configured = run("cmake", "-S", SOURCE, "-B", folder)
    if configured.returncode and "OpenCV" in configured.stderr:
        pytest.skip("needs OpenCV's headers: apt-get install libopencv-dev")
    assert configured.returncode == 0, configured.stderr
    built = run("cmake", "--build", folder)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "detect"


@pytest.fixture(scope="module")
def network(small_weights, tmp_path_factory):
    """A network that is sure of some boxes and not of others, as a trained one is."""
    folder = tmp_path_factory.mktemp("network")
    checkpoint = load_checkpoint(small_weights)
    head = f"model.{len(checkpoint.yaml['backbone'] + checkpoint.yaml['head']) - 1}.m."
    gains = {name: 10 if name.endswith("weight") else 0 for name in checkpoint.state if name.startswith(head)}
    state = {name: value * gains.get(name, 1) for name, value in checkpoint.state.items()}
    save_checkpoint(folder / "net.pt", replace(checkpoint, state=state))
    export.run(folder / "net.pt", imgsz=list(HW), include=["onnx"], simplify=True)
    return folder / "net.onnx"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Pictures with smooth blobs, of many shapes, without loss."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for i, (h, w) in enumerate(SHAPES_HW):
        noise = rng.integers(0, 256, (max(h // 8, 1), max(w // 8, 1), 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{i}.png"), cv2.resize(noise, (w, h), interpolation=cv2.INTER_CUBIC))
    return folder


def labels(folder, stem, hw):
    """class, box xyxy in pixels and confidence of each row of a label file, sorted; none where there is no file."""
    path = folder / "labels" / f"{stem}.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = np.array([line.split() for line in lines], float).reshape(-1, 6)
    centre, half = rows[:, 1:3] * hw[::-1], rows[:, 3:5] * hw[::-1] / 2
    return np.column_stack((rows[:, :1], centre - half, centre + half, rows[:, 5:]))


def check_same(ours, theirs):
    """Each row has its like in the other: class, box within 1 px, confidence within 0.01."""
    assert len(ours) == len(theirs)
    left = list(theirs)
    for row in ours:
        likes = [
            i
            for i, other in enumerate(left)
            if row[0] == other[0] and abs(row - other)[1:5].max() < 1.01 and abs(row - other)[5] < 0.01
        ]
        assert likes, f"{row} has no like"
        left.pop(likes[0])


def check_folders(ours, theirs, pictures):
    """The same label files for all pictures; the number of boxes."""
    total = 0
    for path in sorted(pictures.iterdir()):
        found = [labels(folder, path.stem, cv2.imread(str(path)).shape[:2]) for folder in (ours, theirs)]
        check_same(*found)
        total += len(found[0])
    return total


@pytest.mark.parametrize("dnn", [True, False], ids=["opencv", "onnxruntime"])
def test_finds_what_detect_finds(program, network, pictures, tmp_path, dnn):
    done = run(program, network, tmp_path / "cpp", pictures)
    assert (done.returncode, done.stderr) == (0, "")
    theirs = detect.run(network, pictures, dnn=dnn, save_txt=True, save_conf=True, nosave=True, project=tmp_path)
    total = check_folders(tmp_path / "cpp", theirs, pictures)
    assert total > 50
    counts = [int(line.split()[-2]) for line in done.stdout.splitlines()]
    assert (len(counts), sum(counts)) == (len(SHAPES_HW), total)
    for i, (h, w) in enumerate(SHAPES_HW):
        assert cv2.imread(str(tmp_path / "cpp" / f"{i}.jpg")).shape == (h, w, 3)
    plain, drawn = cv2.imread(str(pictures / "6.png")), cv2.imread(str(tmp_path / "cpp" / "6.jpg"))
    assert abs(plain.astype(int) - drawn).max() > 100  # boxes are on it


def test_pictures_of_one_name_and_one_that_is_none(program, network, pictures, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    again = tmp_path / "0.png"
    shutil.copy(pictures / "0.png", again)
    done = run(program, network, tmp_path / "out", pictures / "0.png", tmp_path / "bad.png", again)
    assert (done.returncode, done.stderr) == (1, f"detect: {tmp_path / 'bad.png'}: not a readable picture\n")
    assert (tmp_path / "out/labels/0.txt").read_text() == (tmp_path / "out/labels/02.txt").read_text()
    assert {path.name for path in (tmp_path / "out").glob("*.jpg")} == {"0.jpg", "02.jpg"}


def test_a_folder_that_is_there_is_left_alone(program, network, pictures, tmp_path):
    (tmp_path / "0.jpg").write_text("mine")
    done = run(program, network, tmp_path, pictures)
    assert (done.returncode, done.stderr) == (
        1,
        f"detect: {network}: {tmp_path} is there already; name a new folder\n",
    )
    assert [path.name for path in tmp_path.iterdir()] == ["0.jpg"]
    assert run(program).returncode == 2
    (tmp_path / "empty").mkdir()
    done = run(program, network, tmp_path / "new", tmp_path / "empty")
    assert (done.returncode, done.stderr) == (1, f"detect: {network}: {tmp_path / 'empty'}: no picture lies there\n")
    assert run(program, network, f"{tmp_path}/deep/new/", pictures / "0.png").returncode == 0


def with_texts(network, path, **changes):
    """A copy of the network with other texts; None leaves one out."""
    model = onnx.load(str(network))
    texts = {entry.key: entry.value for entry in model.metadata_props} | changes
    del model.metadata_props[:]
    for key, text in texts.items():
        if text is not None:
            model.metadata_props.add(key=key, value=text)
    onnx.save(model, str(path))
    return path


WRONG = [
    ({"names": None}, "its metadata has no names; export it with export.py"),
    ({"stride": None}, "its metadata has no stride; export it with export.py"),
    ({"dynamic": '["batch", "height", "width"]'}, "wanted is one of a fixed size: export it without --dynamic"),
    ({"batch": "2"}, "wanted is one of a fixed size"),
    ({"precision": "fp16"}, "wanted is one of a fixed size"),
    ({"names": "[]"}, "its metadata is damaged"),
    ({"names": '["ant'}, "its metadata is damaged: names"),
    ({"names": '["ant\\'}, "its metadata is damaged: names"),
    ({"names": '["a\\u0041"]'}, "its metadata is damaged: names"),
    ({"names": '{"0": "ant"}'}, "its metadata is damaged: names"),
    ({"names": '["ant", "bee"]'}, r"the network does not give (1, boxes, 5 + classes)"),
    ({"imgsz": "[64]"}, "its metadata is damaged"),
    ({"imgsz": "[64, 99999]"}, "its metadata is damaged: imgsz"),
    ({"imgsz": "[64, 90]"}, "its metadata is damaged: imgsz is no multiple of stride"),
    ({"imgsz": "[64, 99999999999999999999999]"}, "its metadata is damaged: imgsz"),
    ({"imgsz": "[32, 32]"}, "cannot run it"),
    ({"stride": "0"}, "its metadata is damaged: stride"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_texts_that_cannot_be_true(program, network, pictures, tmp_path, changes, message):
    path = with_texts(network, tmp_path / "x.onnx", **changes)
    done = run(program, path, tmp_path / "out", pictures / "0.png")
    assert done.returncode == 1
    assert done.stderr.startswith(f"detect: {path}: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_names_are_read_as_python_writes_them(program, network, pictures, tmp_path):
    names = ['a "quoted" ant', "bäume/\\", ""]
    path = with_texts(network, tmp_path / "x.onnx", names=json.dumps(names, ensure_ascii=False))
    assert run(program, path, tmp_path / "out", pictures / "0.png").returncode == 0


@pytest.mark.parametrize("size", [0, 1, 100, -1, -50])
def test_a_file_that_is_cut_off(program, network, pictures, tmp_path, size):
    (tmp_path / "x.onnx").write_bytes(network.read_bytes()[:size])
    done = run(program, tmp_path / "x.onnx", tmp_path / "out", pictures / "0.png")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert DAMAGED in done.stderr or "is empty" in done.stderr
    assert not (tmp_path / "out").exists()


def test_mutated_files_never_crash(program, network, pictures, tmp_path):
    content, rng = network.read_bytes(), random.Random(0)
    codes = set()
    for i in range(12):
        mutated = bytearray(content)
        for _ in range(rng.randrange(1, 30)):
            mutated[rng.randrange(len(mutated))] = rng.randrange(256)
        (tmp_path / "x.onnx").write_bytes(mutated)
        done = run(program, tmp_path / "x.onnx", tmp_path / f"out{i}", pictures / "0.png")
        assert done.returncode in (0, 1), (i, done)
        assert done.stderr.count("\n") == done.returncode
        codes.add(done.returncode)
    assert 1 in codes


def test_blood_cells(program, shared, tmp_path):
    """Pictures of BCCD with a trained network."""
    weights, pictures = tmp_path / "bccd.pt", tmp_path / "pictures"
    pictures.mkdir()
    for path in sorted((shared / "datasets" / "bccd" / "images" / "val").iterdir())[:16]:
        shutil.copy(path, pictures)
    shutil.copy(shared / "weights" / "yolov5n-bccd.pt", weights)
    (network,) = export.run(weights, imgsz=320, include=["onnx"], simplify=True)
    assert run(program, network, tmp_path / "cpp", pictures).returncode == 0
    theirs = detect.run(network, pictures, dnn=True, save_txt=True, save_conf=True, nosave=True, project=tmp_path)
    assert check_folders(tmp_path / "cpp", theirs, pictures) > 200
