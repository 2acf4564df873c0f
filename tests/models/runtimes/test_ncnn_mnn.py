"""ncnn and MNN: what comes out, what they say of themselves, and what is wrong with them."""

import json
import shutil
import sys

import pytest
import torch

import export
from models.experimental import attempt_load
from models.exporters.ncnn_mnn import write_ncnn
from models.runtimes.load import find_kind, load_backend
from models.runtimes.ncnn_mnn import NCNN_BIN, NCNN_PARAM, MnnRuntime, NcnnRuntime
from tests.models.files import check

pytest.importorskip("ncnn")
pytest.importorskip("MNN")
FILES = {"ncnn": "_ncnn_model", "mnn": ".mnn"}


@pytest.fixture(scope="module")
def folder(small_weights, tmp_path_factory):
    """A small network as a.pt, and exported for 64 x 96 pixels; open.mnn takes any size, half.* are of FP16."""
    folder = tmp_path_factory.mktemp("mobile")
    for name in ("a.pt", "open.pt", "half.pt"):
        shutil.copy(small_weights, folder / name)
    export.run(folder / "a.pt", imgsz=[64, 96], include=list(FILES), batch_size=2)
    export.run(folder / "open.pt", imgsz=[64, 96], include="mnn", dynamic=True)
    export.run(folder / "half.pt", imgsz=[64, 96], include=list(FILES), half=True)
    return folder


@pytest.fixture(scope="module")
def network(folder):
    return attempt_load(folder / "a.pt")


@pytest.mark.parametrize(("kind", "runtime", "batch"), [("ncnn", NcnnRuntime, None), ("mnn", MnnRuntime, 2)])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_gives_what_the_network_gives(folder, network, kind, runtime, batch, count):
    model = load_backend(folder / f"a{FILES[kind]}", threads=1)
    assert (type(model), model.fixed_batch, model.fixed_hw) == (runtime, batch, (64, 96))
    assert (model.names, int(model.stride)) == (["ant", "bee", "cat"], 32)
    images = torch.rand(count, 3, 64, 96)
    check(model(images)[0], network(images)[0])
    with pytest.raises(ValueError, match=r"images of 96x64 pixels, but this file takes 64x96"):
        model(torch.rand(1, 3, 96, 64))


@pytest.mark.parametrize("shape", [(1, 64, 96), (3, 128, 64)])
def test_mnn_with_open_axes(folder, network, shape):
    images = torch.rand(shape[0], 3, *shape[1:])
    check(load_backend(folder / "open.mnn")(images)[0], network(images)[0])


@pytest.mark.parametrize("kind", FILES)
def test_half_is_half_the_size(folder, network, kind):
    half, whole = (folder / f"{name}{FILES[kind]}" for name in ("half", "a"))
    images = torch.rand(1, 3, 64, 96)
    model = load_backend(half)
    assert model.metadata.details["precision"] == "fp16"
    check(model(images)[0], network(images)[0], boxes=2, scores=0.02)
    assert export.megabytes(half) < 0.75 * export.megabytes(whole)


def test_nam_is_four_operators_of_ncnn(folder):
    """The only sigmoid behind a sum of products is NAM's; those of SiLU are blocks of their own."""
    rows = [line.split() for line in (folder / f"a{FILES['ncnn']}" / NCNN_PARAM).read_text().splitlines()[2:]]
    kinds = [row[0] for row in rows]
    gates = [i for i, kind in enumerate(kinds) if kind == "Sigmoid"]
    assert len(gates) == 2  # NAM's, and the head's
    assert kinds[gates[0] + 1] == "BinaryOp"
    assert not {"Softmax", "Exp", "UnaryOp"} & set(kinds)


@pytest.mark.parametrize("name", [NCNN_PARAM, NCNN_BIN, "metadata.json"])
def test_an_ncnn_folder_that_is_not_whole(folder, tmp_path, name):
    copy = shutil.copytree(folder / "a_ncnn_model", tmp_path / "x_ncnn_model")
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[: len(content) // 2] if name != NCNN_PARAM else b"no such thing")
    with pytest.raises(ValueError, match=r"x_ncnn_model.*: \S"):
        load_backend(copy)
    (copy / name).unlink()
    with pytest.raises(ValueError, match="x_ncnn_model"):
        load_backend(copy)


def test_an_mnn_file_that_is_damaged(folder, tmp_path):
    content = (folder / "a.mnn").read_bytes()
    for part in (b"", b"no such thing", content[: len(content) // 2]):
        (tmp_path / "x.mnn").write_bytes(part)
        with pytest.raises(ValueError, match=r"x\.mnn: not an MNN file of export\.py, or a damaged one"):
            load_backend(tmp_path / "x.mnn")


def test_kinds(folder):
    assert {find_kind(folder / f"a{suffix}") for suffix in FILES.values()} == set(FILES)
    assert find_kind(folder / "a_ncnn_model" / NCNN_PARAM) == "ncnn"
    assert isinstance(load_backend(folder / "a_ncnn_model" / NCNN_PARAM), NcnnRuntime)


@pytest.mark.parametrize(("package", "file"), [("ncnn", "a_ncnn_model"), ("MNN", "a.mnn")])
def test_packages_that_are_missing(folder, monkeypatch, package, file):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=f"needs {package}: pip install {package}"):
        load_backend(folder / file)


def test_pnnx_says_why_it_fails(network, tmp_path, monkeypatch):
    import pnnx

    from models.exporters.onnx import ExportModel
    from models.runtimes.metadata import Metadata

    monkeypatch.setattr(pnnx, "EXEC_PATH", "false")
    metadata = Metadata(("a", "b", "c"), 32, 1, (64, 96), (), {"precision": "fp32"})
    with pytest.raises(ValueError, match="pnnx cannot convert it: exit 1"):
        write_ncnn(ExportModel(network), torch.zeros(1, 3, 64, 96), metadata, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_metadata_lies_beside_an_ncnn_network(folder):
    content = json.loads((folder / "a_ncnn_model" / "metadata.json").read_text())
    assert content["names"] == ["ant", "bee", "cat"]
    assert content["shape"] == [1, 3, 64, 96]
