"""pt2 and safetensors: what comes out, what they say of themselves, and that no file runs what it brings."""

import copy
import io
import json
import os
import shutil
import sys
import warnings
import zipfile

import pytest
import torch

import export
from models.experimental import attempt_load
from models.exporters.onnx import ExportModel
from models.exporters.torch_files import COMPILERS, nam_nodes, strip_gain, trace
from models.runtimes.load import load_backend
from models.runtimes.metadata import AXES, Metadata
from models.runtimes.torch_files import Pt2Runtime, SafetensorsRuntime
from models.yolo import Model
from utils.files.checkpoint import Checkpoint, load_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def folder(small_weights, tmp_path_factory):
    """A small network as a.pt, and exported with open axes; fixed.pt2 takes two images of 64 x 96."""
    folder = tmp_path_factory.mktemp("torch")
    for name in ("a.pt", "fixed.pt", "half.pt"):
        shutil.copy(small_weights, folder / name)
    export.run(folder / "a.pt", imgsz=[64, 96], include=["pt2", "safetensors"], dynamic=True)
    export.run(folder / "fixed.pt", imgsz=[64, 96], include="pt2", batch_size=2)
    export.run(folder / "half.pt", imgsz=[64, 96], include=["pt2", "safetensors"], half=True)
    return folder


@pytest.fixture(scope="module")
def network(folder):
    return attempt_load(folder / "a.pt")


@pytest.mark.parametrize(("file", "kind"), [("a.pt2", Pt2Runtime), ("a.safetensors", SafetensorsRuntime)])
@pytest.mark.parametrize("shape", [(1, 64, 96), (3, 96, 64), (2, 64, 64)])
def test_gives_what_the_network_gives(folder, network, file, kind, shape):
    images = torch.rand(shape[0], 3, *shape[1:])
    model = load_backend(folder / file, threads=1)
    assert type(model) is kind
    torch.testing.assert_close(model(images)[0], network(images)[0], rtol=1e-4, atol=1e-4)
    assert (model.names, model.nc, int(model.stride)) == (["ant", "bee", "cat"], 3, 32)
    assert (model.fixed_hw, model.fixed_batch, set(model.metadata.dynamic)) == (None, None, set(AXES))
    assert json.loads(model.metadata.details["nam"])["layers"] == ["model.7"]


def test_a_fixed_batch_is_filled_up(folder, network):
    model = load_backend(folder / "fixed.pt2")
    assert (model.fixed_batch, model.fixed_hw) == (2, (64, 96))
    images = torch.rand(3, 3, 64, 96)
    torch.testing.assert_close(model(images)[0], network(images)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("suffix", [".pt2", ".safetensors"])
def test_half_is_half_the_size(folder, network, suffix):
    half, whole = (folder / f"{name}{suffix}" for name in ("half", "a"))
    images = torch.rand(1, 3, 64, 96)
    model = load_backend(half)
    assert model.metadata.details["precision"] == "fp16"
    assert model(images)[0].dtype == torch.float32
    assert (model(images)[0] - network(images)[0]).abs().max() < 2
    assert half.stat().st_size < (0.6 if suffix == ".safetensors" else 0.9) * whole.stat().st_size


@pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="needs a C++ compiler")
def test_machine_code_computes_the_same_and_says_what_it_is(tmp_path, caplog):
    rows = [[-1, 1, "Conv", [4, 6, 4, 1]], [-1, 1, "Conv", [8, 3, 2]], [-1, 1, "NAMAttention", [8]]]  # few to compile
    detect = [[2], 1, "Detect", ["nc", "anchors"]]
    yaml = {"nc": 3, "depth_multiple": 1.0, "width_multiple": 1.0, "anchors": [[10, 13, 16, 30]], "backbone": rows}
    model = Model({**yaml, "head": [detect]}, verbose=False)
    save_checkpoint(tmp_path / "code.pt", Checkpoint(model.yaml, ("a", "b", "c"), model.state_dict()))
    network = attempt_load(tmp_path / "code.pt")
    export.run(tmp_path / "code.pt", imgsz=[32, 32], include="pt2", aoti=True, dynamic=True)
    caplog.clear()
    model = load_backend(tmp_path / "code.pt2")
    assert "machine code" in caplog.text
    assert (model.fixed_hw, model.fixed_batch, set(model.metadata.dynamic)) == (None, None, set(AXES))
    for shape in ((1, 32, 32), (3, 32, 64), (2, 96, 32)):
        images = torch.rand(shape[0], 3, *shape[1:])
        torch.testing.assert_close(model(images)[0], network(images)[0], rtol=1e-4, atol=1e-3)


NAMS = ([{"gain_out": 2}], [16, {"no_spatial": False, "grid": 3}])  # starts as identity; channels and places


@pytest.mark.parametrize("arguments", NAMS, ids=str)
def test_nams_family_is_written(small_weights, tmp_path, arguments):
    yaml = load_checkpoint(small_weights).yaml
    head = [[*row[:3], arguments] if row[2] == "NAMAttention" else row for row in yaml["head"]]
    model = Model({**yaml, "head": head}, verbose=False)
    save_checkpoint(tmp_path / "net.pt", Checkpoint(model.yaml, ("a", "b", "c"), model.state_dict()))
    (file,) = export.run(tmp_path / "net.pt", imgsz=[64, 96], include="pt2")
    images = torch.rand(1, 3, 64, 96)
    wanted = attempt_load(tmp_path / "net.pt")(images)[0]
    torch.testing.assert_close(load_backend(file)(images)[0], wanted, rtol=1e-4, atol=1e-4)


def test_machine_code_of_half_is_for_a_gpu(small_weights, tmp_path, caplog):
    shutil.copy(small_weights, tmp_path / "code.pt")
    with pytest.raises(ValueError, match="not written"):
        export.run(tmp_path / "code.pt", imgsz=[32, 32], include="pt2", aoti=True, half=True)
    assert "--aoti with --half is for a GPU" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["code.pt"]


@pytest.mark.parametrize(("name", "batch", "dynamic"), [("a", 1, list(AXES)), ("fixed", 2, []), ("half", 1, [])])
def test_a_pt2_file_states_its_shapes(folder, name, batch, dynamic):
    with zipfile.ZipFile(folder / f"{name}.pt2") as archive:
        entry = next(entry for entry in archive.namelist() if entry.endswith("extra/metadata.json"))
        texts = json.loads(archive.read(entry))
    assert texts["shape"] == [batch, 3, 64, 96]
    assert json.loads(texts["dynamic"]) == dynamic
    shape = next(node for node in torch.export.load(folder / f"{name}.pt2").graph.nodes if node.name == "images")
    assert [isinstance(size, int) for size in shape.meta["val"].shape] == [not dynamic, True, not dynamic, not dynamic]


def test_half_is_computed_in_full_on_a_cpu(folder, network):
    """What comes out is what the weights give that were rounded, to the last digit but one."""
    model, images = load_backend(folder / "half.pt2"), torch.rand(1, 3, 64, 96)
    rounded = copy.deepcopy(network).half().float()
    assert next(model.network[0].parameters()).dtype == torch.float32
    torch.testing.assert_close(model(images)[0], rounded(images)[0], rtol=1e-5, atol=1e-5)


def test_machine_code_needs_a_compiler(small_weights, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    shutil.copy(small_weights, tmp_path / "code.pt")
    with pytest.raises(ValueError, match="not written"):
        export.run(tmp_path / "code.pt", imgsz=[32, 32], include="pt2", aoti=True)
    assert "--aoti: needs a C++ compiler" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["code.pt"]


def test_nam_is_four_operators(network):
    metadata = Metadata(("ant", "bee", "cat"), 32, 1, (64, 96), AXES)
    program = trace(ExportModel(network), torch.zeros(1, 3, 64, 96), metadata)
    assert nam_nodes(program, "network.model.7") == ["Mul", "Add", "Sigmoid", "Mul"]
    assert len(nam_nodes(program, "network.model.0")) > 0
    assert nam_nodes(program, "network.model.77") == []


@pytest.mark.parametrize("dynamic", [False, True])
def test_nam_with_a_factor_and_a_spatial_part_is_written(spatial_weights, tmp_path, dynamic):
    shutil.copy(spatial_weights, tmp_path / "net.pt")
    (written,) = export.run(tmp_path / "net.pt", imgsz=[64, 96], include="pt2", dynamic=dynamic)
    images, network = torch.rand(1, 3, 64, 96), attempt_load(tmp_path / "net.pt")
    torch.testing.assert_close(load_backend(written)(images)[0], network(images)[0], rtol=1e-4, atol=1e-4)
    program = trace(ExportModel(network), images, Metadata(("a", "b", "c"), 32, 1, (64, 96)))
    assert nam_nodes(program, "network.model.7.Channel_Att") == ["Mul", "Add", "Sigmoid", "Mul", "Mul"]
    assert "div.Tensor" in nam_nodes(program, "network.model.7.Spatial_Att")


def test_only_nams_factor_is_stripped():
    assert strip_gain(["Mul", "Add", "Sigmoid", "Mul", "Mul"]) == ["Mul", "Add", "Sigmoid", "Mul"]
    for other in (["Mul", "Add", "Sigmoid", "Mul"], ["Mul", "Add", "Sigmoid", "Mul", "Add"], [], ["Mul"] * 6):
        assert strip_gain(other) == other


def rewritten(source, target, change):
    """A copy of a zip archive; change(entry, content) gives the new content, None where the entry is left out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = change(name.partition("/")[2], old.read(name))
            if content is not None:
                new.writestr(name, content)
    return target


class Harm:
    """Makes a folder when it is unpickled."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (self.place,)


def test_a_program_of_anothers_making_needs_trust(folder, network, tmp_path):
    """It is loaded, harm and all, only where the user answers for it; nothing of it has run before."""
    harm = io.BytesIO()
    torch.save(Harm(str(tmp_path / "harm")), harm)

    def samples(entry, content):
        return harm.getvalue() if entry.startswith("data/sample_inputs") else content

    path = rewritten(folder / "a.pt2", tmp_path / "x.pt2", samples)
    with pytest.raises(ValueError, match=r"x\.pt2: is a pt2 file, which is a program, .* give --trust") as caught:
        load_backend(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "harm").exists()
    images = torch.rand(1, 3, 64, 96)
    same = rewritten(folder / "a.pt2", tmp_path / "same.pt2", lambda _, content: content)
    torch.testing.assert_close(load_backend(same, trust=True)(images)[0], network(images)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name", ["x/extra/metadata.json", "x/EXTRA/metadata.json", "x\\extra\\metadata.json", "y/a", "x//a"]
)
def test_an_archive_that_readers_could_take_in_two_ways(folder, tmp_path, name):
    copy = shutil.copy(folder / "a.pt2", tmp_path / "x.pt2")
    with zipfile.ZipFile(copy, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = archive.namelist()[0].partition("/")[0]
        archive.writestr(name.replace("x", root, 1), b"{}")
    for trust in (False, True):
        with pytest.raises(ValueError, match=r"x\.pt2: not a pt2 file .*: damaged or made to do harm"):
            load_backend(copy, trust=trust)


def test_metadata_that_unpacks_without_end(folder, tmp_path):
    path = tmp_path / "x.pt2"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/extra/metadata.json", b" " * (1 << 28))
    with pytest.raises(ValueError, match=r"x\.pt2: not a pt2 file .*larger than 16 MiB"):
        load_backend(path)


def test_files_without_metadata(folder, tmp_path):
    def change(entry, content):
        return b"{}" if entry.startswith("extra/") else content

    with pytest.raises(ValueError, match=r"x\.pt2: has no class names, stride and shape; export it again"):
        load_backend(rewritten(folder / "a.pt2", tmp_path / "x.pt2", change))
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, str(tmp_path / "x.safetensors"))
    with pytest.raises(ValueError, match=r"x\.safetensors: has weights only, no yaml of their network"):
        load_backend(tmp_path / "x.safetensors")


def test_safetensors_of_more_numbers_than_a_network_has(folder, tmp_path):
    """In 8 bits, which would take four times as much memory as the file has bytes."""
    size = 400_000_000
    header = json.dumps({"w": {"dtype": "F8_E4M3", "shape": [size], "data_offsets": [0, size]}}).encode()
    with (tmp_path / "x.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)  # takes no space
    with pytest.raises(ValueError, match=r"x\.safetensors: .* has 400000000 numbers"):
        load_backend(tmp_path / "x.safetensors")


@pytest.mark.parametrize("yaml", ["[1]", "null", '"x"', "{}"])
def test_safetensors_with_a_yaml_that_is_none(folder, tmp_path, yaml):
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(str(folder / "a.safetensors"), framework="pt") as file:
        header = file.metadata() | {"yaml": yaml}
    save_file({"a": torch.zeros(1)}, str(tmp_path / "x.safetensors"), metadata=header)
    with pytest.raises(ValueError, match=r"^\S*x\.safetensors: "):
        load_backend(tmp_path / "x.safetensors")


@pytest.mark.parametrize("suffix", [".pt2", ".safetensors"])
@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_files_that_are_cut_off(folder, tmp_path, suffix, share):
    content = (folder / f"a{suffix}").read_bytes()
    (tmp_path / f"x{suffix}").write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=rf"x\{suffix}: not a") as caught:
        load_backend(tmp_path / f"x{suffix}")
    assert "\n" not in str(caught.value)


def test_weights_of_another_network(folder, tmp_path):
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(str(folder / "a.safetensors"), framework="pt") as file:
        header, state = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    state["model.0.conv.weight"] = torch.zeros(1)
    save_file(state, str(tmp_path / "x.safetensors"), metadata=header)
    with pytest.raises(ValueError, match=r"x\.safetensors: its tensors do not fit its yaml: 1 are of other shapes"):
        load_backend(tmp_path / "x.safetensors")


def test_a_pt2_file_of_another_device(folder):
    with pytest.raises(ValueError, match="was exported for cpu; use --device cpu"):
        load_backend(folder / "a.pt2", "meta")


def test_safetensors_is_missing(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError, match="needs safetensors: pip install safetensors"):
        load_backend(folder / "a.safetensors")
