"""Files of every kind behind one call: what comes out, what they say of themselves, and what is wrong with them."""

import shutil
import zipfile
from contextlib import suppress

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

import export
import hubconf
from models import common
from models.experimental import Ensemble, attempt_load
from models.runtimes.base import from_nms
from models.runtimes.load import (
    OnnxRuntime,
    OpenVinoRuntime,
    TorchScriptRuntime,
    find_kind,
    load_backend,
    warn_of_pasted_backend,
)
from models.runtimes.metadata import AXES
from models.runtimes.onnx_header import read_onnx_header
from utils.data.config import names_of
from utils.general import non_max_suppression

FILES = {"pt": "a.pt", "torchscript": "a.torchscript", "onnx": "a.onnx", "openvino": "a_openvino_model"}
EXPORTED = [kind for kind in FILES if kind != "pt"]
RUNTIMES = {"torchscript": TorchScriptRuntime, "onnx": OnnxRuntime, "openvino": OpenVinoRuntime}


@pytest.fixture(scope="module")
def folder(small_weights, tmp_path_factory):
    """A small network as a.pt and exported with open axes, beside it a fixed one for batches of two."""
    folder = tmp_path_factory.mktemp("backend")
    shutil.copy(small_weights, folder / "a.pt")
    export.run(folder / "a.pt", imgsz=[64, 96], include=EXPORTED, dynamic=True)
    shutil.copy(folder / "a.pt", folder / "fixed.pt")
    export.run(folder / "fixed.pt", imgsz=[64, 96], include=["onnx", "openvino"], batch_size=2)
    return folder


@pytest.fixture(scope="module")
def network(folder):
    return attempt_load(folder / "a.pt")


def check(found, wanted, boxes=1e-3, scores=1e-4):
    assert found.shape == wanted.shape
    assert (found[..., :4] - wanted[..., :4]).abs().max() < boxes
    assert (found[..., 4:] - wanted[..., 4:]).abs().max() < scores


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("shape", [(1, 64, 96), (3, 96, 64)])
@pytest.mark.parametrize("options", [{}, {"threads": 1}])
def test_gives_what_the_network_gives(folder, network, kind, shape, options):
    images = torch.rand(shape[0], 3, *shape[1:], generator=torch.Generator().manual_seed(1))
    model = load_backend(folder / FILES[kind], **options)
    check(model(images)[0], network(images)[0], boxes=5e-3)
    assert (model.names, model.nc, int(model.stride.max())) == (network.names, 3, 32)
    assert next(model.parameters()).dtype == torch.float32
    assert kind == "pt" or (type(model), model.fixed_hw, model.fixed_batch) == (RUNTIMES[kind], None, None)


def test_opencv_gives_the_same(folder, network):
    model = load_backend(folder / "a.onnx", dnn=True, threads=1)
    for shape in ((1, 3, 64, 96), (2, 3, 96, 64)):
        images = torch.rand(shape)
        check(model(images)[0], network(images)[0], boxes=5e-3)


@pytest.mark.parametrize("file", ["fixed.onnx", "fixed_openvino_model"])
def test_a_fixed_batch_is_filled_up(folder, network, file):
    model = load_backend(folder / file)
    assert (model.fixed_batch, model.fixed_hw) == (2, (64, 96))
    for count in (1, 2, 5):
        images = torch.rand(count, 3, 64, 96)
        check(model(images)[0], network(images)[0], boxes=5e-3)
    with pytest.raises(ValueError, match=r"images of 96x64 pixels, but this file takes 64x96 \(height x width\) only"):
        model(torch.rand(1, 3, 96, 64))


def test_opencv_takes_a_fixed_file(folder, network):
    images = torch.rand(3, 3, 64, 96)
    check(load_backend(folder / "fixed.onnx", dnn=True)(images)[0], network(images)[0], boxes=5e-3)


def test_names_and_settings_stay_with_the_file(folder):
    model = load_backend(folder / "a.onnx", names=names_of("data/bccd.yaml"))  # brings its own names
    assert model.names == ["ant", "bee", "cat"]
    assert model.metadata.dynamic == AXES
    assert model.half().metadata.imgsz == (64, 96)
    assert model(torch.rand(1, 3, 64, 64).half())[0].dtype == torch.float32


def test_several_checkpoints_make_an_ensemble(folder):
    assert isinstance(load_backend([folder / "a.pt", folder / "fixed.pt"]), Ensemble)
    with pytest.raises(ValueError, match=r"a\.onnx: only checkpoints \(\.pt\) make an ensemble"):
        load_backend([folder / "a.pt", folder / "a.onnx"])


def test_a_torchscript_file_under_another_suffix(folder, tmp_path):
    shutil.copy(folder / "a.torchscript", tmp_path / "a.torchscript.pt")
    with pytest.raises(ValueError, match=r"a program \(TorchScript\), not a checkpoint; .* rename .* --trust"):
        load_backend(tmp_path / "a.torchscript.pt", trust=True)


def test_kinds_are_told_by_the_suffix_not_by_the_name(folder, tmp_path):
    assert {find_kind(folder / file) for file in FILES.values()} == set(FILES)
    place = tmp_path / "my.onnx.pt.folder"
    place.mkdir()
    (place / "x.engine.ONNX").touch()
    assert find_kind(place / "x.engine.ONNX") == "onnx"
    assert find_kind(folder / "a_openvino_model" / "a.xml") == "openvino"


def test_augment_is_for_checkpoints(folder):
    with pytest.raises(ValueError, match=r"--augment .* name the \.pt file"):
        load_backend(folder / "a.onnx")(torch.rand(1, 3, 64, 96), augment=True)


# Foreign files --------------------------------------------------------------------------------------------------------


def foreign(path, outputs=(1, 4, 8), inputs=("batch", 3, 64, 64), texts=()):
    """An ONNX file of another program: zeros of this shape for any image."""
    value = helper.make_tensor("zeros", TensorProto.FLOAT, outputs, np.zeros(outputs).ravel())
    graph = helper.make_graph(
        [helper.make_node("Constant", [], ["output"], value=value)],
        "foreign",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, inputs)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, outputs)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    for key, text in texts:
        model.metadata_props.add(key=key, value=text)
    onnx.save(model, str(path))
    return path


def test_a_file_without_names_takes_those_of_data(tmp_path, caplog):
    path = foreign(tmp_path / "x.onnx")
    with pytest.raises(ValueError, match=r"x\.onnx: brings no class names; name the data yaml .* --data"):
        load_backend(path)
    model = load_backend(path, names=names_of("data/bccd.yaml"))
    assert model.names == ["RBC", "WBC", "Platelets"]
    assert "those of --data are used" in caplog.text
    assert model(torch.rand(1, 3, 64, 64))[0].shape == (1, 4, 8)


def test_names_that_do_not_fit(tmp_path):
    path = foreign(tmp_path / "x.onnx", outputs=(1, 4, 85))
    with pytest.raises(ValueError, match=r"gives \(1, 4, 85\) where \(1, boxes, 8\) is wanted"):
        load_backend(path, names=names_of("data/bccd.yaml"))(torch.rand(1, 3, 64, 64))


def test_a_file_that_gives_other_images_than_it_takes(tmp_path):
    with pytest.raises(ValueError, match=r"gives \(1, 4, 8\) where \(3, boxes, 8\) is wanted"):
        load_backend(foreign(tmp_path / "x.onnx"), names=names_of("data/bccd.yaml"))(torch.rand(3, 3, 64, 64))


@pytest.mark.parametrize("dnn", [False, True])
def test_a_file_that_states_another_shape_than_it_computes(folder, tmp_path, dnn):
    graph = onnx.load(str(folder / "fixed.onnx"))
    for dim, size in zip(graph.graph.input[0].type.tensor_type.shape.dim, (2, 3, 32, 32), strict=True):
        dim.dim_value = size
    onnx.save(graph, str(tmp_path / "x.onnx"))
    with pytest.raises(ValueError, match=r"cannot compute this file for images \(2, 3, 32, 32\): "):
        load_backend(tmp_path / "x.onnx", dnn=dnn)(torch.rand(1, 3, 32, 32))


def rewritten(source, target, config=None, **flags):
    """A copy of a TorchScript file with another metadata text, or other numbers in its entry of the directory."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            is_config = entry.filename.endswith("config.txt")
            new.writestr(entry.filename, config if is_config and config is not None else old.read(entry))
    content = target.read_bytes()
    place = content.rindex(b"config.txt", content.index(b"PK\x01\x02"))
    start = content.rindex(b"PK\x01\x02", 0, place)
    for offset, value in flags.items():
        content = content[: start + int(offset[1:])] + bytes([value]) + content[start + int(offset[1:]) + 1 :]
    target.write_bytes(content)
    return target


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": b"[" * 100_000}, "damaged"),
        ({"config": b"\xff\xfe\x00"}, "codec"),
        ({"config": b" " * (17 << 20)}, "larger than 16 MiB"),
        ({"_8": 1}, "damaged"),  # encrypted
        ({"_10": 93}, "damaged"),  # a compression that Python does not know
    ],
    ids=["nested", "binary", "bomb", "encrypted", "compression"],
)
def test_torchscript_metadata_that_does_harm(folder, tmp_path, change, message):
    path = rewritten(folder / "a.torchscript", tmp_path / "x.torchscript", **change)
    with pytest.raises(ValueError, match=rf"x\.torchscript: .*{message}"):
        load_backend(path)


def test_names_of_the_newer_line(tmp_path):
    texts = (("names", "{0: 'x', 1: 'y', 2: 'z'}"), ("stride", "32"))
    model = load_backend(foreign(tmp_path / "x.onnx", texts=texts))
    assert (model.names, int(model.stride), model.fixed_hw, model.fixed_batch) == (["x", "y", "z"], 32, (64, 64), None)


@pytest.mark.parametrize("inputs", [(1, 1, 64, 64), (1, 3), (1, 3, 64, "width")])
def test_a_file_that_takes_no_images(tmp_path, inputs):
    with pytest.raises(ValueError, match=r"x\.onnx: takes .*; wanted is a detector of images"):
        load_backend(foreign(tmp_path / "x.onnx", inputs=inputs), names=names_of("data/bccd.yaml"))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_torchscript_file_without_metadata(tmp_path):
    torch.jit.script(torch.nn.ReLU()).save(str(tmp_path / "x.torchscript"))
    with pytest.raises(ValueError, match=r"x\.torchscript: has no class names, stride and shape"):
        load_backend(tmp_path / "x.torchscript")


def test_a_torchscript_file_of_another_device(folder):
    with pytest.raises(ValueError, match="was exported for cpu; use --device cpu"):
        TorchScriptRuntime(folder / "a.torchscript", torch.device("meta"))


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.mlmodel", "x.pb", "x", "x.pt.txt"])
def test_unknown_kinds(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ValueError, match=r"of no format that is read here; wanted is \.pt, \.torchscript"):
        load_backend(tmp_path / name)


@pytest.mark.parametrize("name", ["x.onnx", "x.torchscript", "x.pt", "x.xml"])
@pytest.mark.parametrize("content", [b"", b"no such thing", b"PK\x03\x04", b"\x08\x07\x3a\xff\xff\xff\xff\x0f"])
def test_damaged_files(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    (tmp_path / "x.bin").touch()
    with pytest.raises(ValueError, match=rf"^.*{name}: \S") as caught:
        load_backend(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", EXPORTED)
def test_files_that_are_cut_off(folder, tmp_path, kind):
    source = folder / FILES[kind]
    if source.is_dir():
        shutil.copytree(source, tmp_path / source.name)
        cut = tmp_path / source.name / "a.bin"
    else:
        cut = tmp_path / source.name
        shutil.copy(source, cut)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    with pytest.raises(ValueError, match=str(tmp_path / source.name)):
        load_backend(tmp_path / source.name)


def test_an_onnx_header_that_is_cut_off_or_changed(folder):
    """Whatever the bytes are, a header comes out or a ValueError."""
    data = (folder / "a.onnx").read_bytes()
    rng, path = np.random.default_rng(0), folder / "changed.onnx"
    for _ in range(200):
        changed = bytearray(data[-6000:] if rng.random() < 0.5 else data[:3000])
        for place in rng.integers(len(changed), size=rng.integers(1, 20)):
            changed[place] = rng.integers(256)
        path.write_bytes(changed)
        with suppress(ValueError):
            assert read_onnx_header(path).inputs
    path.unlink()


def test_missing_files(tmp_path):
    for name in ("x.pt", "x.onnx", "x_openvino_model"):
        with pytest.raises(FileNotFoundError, match=f"{name}: no such file"):
            load_backend(tmp_path / name)


def test_folders(folder, tmp_path):
    with pytest.raises(ValueError, match=r"a folder with 0 \.xml files"):
        load_backend(tmp_path)
    (tmp_path / "a.xml").touch()
    with pytest.raises(ValueError, match=r"a\.xml: its weights, a\.bin, do not lie beside it"):
        load_backend(tmp_path)


def test_dnn_is_for_onnx(folder):
    for names in (["a.pt"], ["a.torchscript"], ["a.onnx", "fixed.onnx"]):
        with pytest.raises(ValueError, match="--dnn reads one ONNX file"):
            load_backend([folder / name for name in names], dnn=True)


@pytest.mark.parametrize(("package", "file"), [("onnxruntime", "a.onnx"), ("openvino", "a_openvino_model")])
def test_packages_that_are_missing(folder, monkeypatch, package, file):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(ImportError, match=f"needs {package}: pip install {package}"):
        load_backend(folder / file)


def test_detections_of_a_file_with_nms_pass_through_nms_unchanged():
    boxes = torch.tensor([[[10.0, 10, 30, 40], [50, 50, 90, 70], [0, 0, 0, 0]]])
    scores, classes = torch.tensor([[0.9, 0.6, 0.5]]), torch.tensor([[1.0, 0, 0]])  # the third is behind `num`
    rows = from_nms([torch.tensor([[2]]), boxes, scores, classes], nc=2)
    found = non_max_suppression(rows, 0.25, 0.45)[0]
    torch.testing.assert_close(found, torch.tensor([[10.0, 10, 30, 40, 0.9, 1], [50, 50, 90, 70, 0.6, 0]]))


def test_a_zip_that_is_no_program(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.torchscript", "w") as archive:
        archive.writestr("x/data.pkl", b"")
    with pytest.raises(ValueError, match="not a TorchScript file"):
        load_backend(tmp_path / "x.torchscript")


@pytest.mark.parametrize("file", ["a.onnx", "fixed.onnx", "fixed_openvino_model"])
def test_torch_hub_takes_exported_files(folder, file):
    """Of a picture in the network's own size the boxes are those of the checkpoint."""
    picture = np.random.default_rng(0).integers(256, size=(64, 96, 3), dtype=np.uint8)
    found, wanted = (hubconf.custom(folder / name, verbose=False, device="cpu") for name in (file, "a.pt"))
    for model in (found, wanted):
        model.conf = 0.05
    a, b = (model([picture], size=96).xyxy[0] for model in (found, wanted))
    assert len(b) > 5
    assert a.shape == b.shape
    assert (a[:, 4] - b[:, 4]).abs().max() < 1e-3
    assert found(np.zeros((200, 100, 3), np.uint8), size=96).s[2:] == ((96, 64) if file == "a.onnx" else (64, 96))


def test_a_pasted_backend_is_warned_of_once(small_weights, monkeypatch, caplog):
    warn_of_pasted_backend.cache_clear()
    monkeypatch.setattr(common, "DetectMultiBackend", object, raising=False)
    for _ in range(2):
        load_backend(small_weights)
    assert [record.levelname for record in caplog.records if "DetectMultiBackend" in record.message] == ["WARNING"]
    warn_of_pasted_backend.cache_clear()
