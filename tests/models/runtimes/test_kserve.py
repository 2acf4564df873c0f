"""The client of KServe's protocol against a server of it: what the file gives, and what goes wrong in one line."""

import base64
import json
import logging
import shutil
import time

import numpy as np
import onnx
import pytest
import torch

import detect
import export
import hubconf
import val
from models.exporters.triton import triton_config
from models.runtimes import kserve as backend_remote
from models.runtimes.kserve import ModelServer, RemoteRuntime, read_outputs
from models.runtimes.load import load_backend
from tests.models.runtimes.kserve import serving
from utils.data.config import names_of
from utils.files.addresses import ModelAddress
from utils.files.images import write_image
from utils.files.weights import find_weights
from utils.general import ROOT

SHAPES_YAML = str(ROOT / "data" / "shapes.yaml")


@pytest.fixture(scope="module")
def files(small_weights, tmp_path_factory):
    """ONNX files of a small network: fixed, dynamic, of two images, with NMS, in FP16."""
    folder, files = tmp_path_factory.mktemp("remote"), {}
    settings = {
        "fixed": {},
        "dynamic": {"dynamic": True},
        "two": {"batch_size": 2},
        "nms": {"nms": True, "conf_thres": 0.1},
    }
    for name, options in (settings | {"half": {"half": True}}).items():
        shutil.copy(small_weights, folder / f"{name}.pt")
        (files[name],) = export.run(folder / f"{name}.pt", imgsz=[64, 96], include=["onnx"], **options)
    return files


def images(count, h=64, w=96):
    return torch.rand(count, 3, h, w, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("name", ["fixed", "dynamic", "two", "nms", "half"])
def test_gives_what_the_file_gives(files, name, binary):
    local = load_backend(files[name], threads=1)
    with serving(files[name], binary=binary) as server:
        model = load_backend(server.url)
        assert isinstance(model, RemoteRuntime)
        assert (model.names, model.fixed_hw, model.fixed_batch) == (local.names, local.fixed_hw, local.fixed_batch)
        assert model.metadata == local.metadata
        for count in (1, 3):
            assert torch.equal(model(images(count))[0], local(images(count))[0])
        kinds = {headers.get("Content-Type") for method, _, headers in server.asked if method == "POST"}
    assert kinds == {"application/octet-stream" if binary else "application/json"}


def test_any_size_of_a_dynamic_file(files):
    local = load_backend(files["dynamic"], threads=1)
    with serving(files["dynamic"]) as server:
        model = load_backend(server.url)
        assert torch.equal(model(images(2, 96, 32))[0], local(images(2, 96, 32))[0])
        assert server.batches == [2]


def test_the_servers_largest_batch(files):
    with serving(files["dynamic"], max_batch_size=2) as server:
        found = load_backend(server.url)(images(5))[0]
        assert server.batches == [2, 2, 1]
    assert torch.equal(found, load_backend(files["dynamic"], threads=1)(images(5))[0])


def test_parameters_in_the_metadata(files):
    with serving(files["fixed"], config=False, in_metadata=True) as server:
        assert load_backend(server.url).names == ["ant", "bee", "cat"]
        assert [path for _, path, _ in server.asked] == ["/v2", "/v2/models/net"]


def test_a_server_without_names_takes_those_of_data(files, caplog):
    with serving(files["fixed"], config=False) as server:
        with pytest.raises(ValueError, match=r"/net: brings no class names; name the data yaml .* --data"):
            load_backend(server.url)
        model = load_backend(server.url, names=names_of("data/bccd.yaml"))
        assert model.names == ["RBC", "WBC", "Platelets"]
        assert model(images(1))[0].shape[2] == 8
        with pytest.raises(ValueError, match=r"where \(1, boxes, 15\) is wanted"):
            load_backend(server.url, names=names_of(SHAPES_YAML))(images(1))
    assert "those of --data are used" in caplog.text


def test_a_version_and_a_prefix(files):
    with serving(files["fixed"], config=False, in_metadata=True) as server:
        model = load_backend(f"{server.url}/versions/1")
        model(images(1))
        assert server.asked[-1][1] == "/v2/models/net/versions/1/infer"
        with pytest.raises(ValueError, match=r"/a/net: 404 Not Found"):
            load_backend(server.url.replace("/net", "/a/v2/models/net"))
        assert server.asked[-1][1] == "/a/v2"


# What goes wrong ------------------------------------------------------------------------------------------------------


def test_a_user_and_password_go_to_the_server_only(files, caplog, tmp_path):
    caplog.set_level(logging.DEBUG)
    token = base64.b64encode(b"me:se/cret").decode()
    with serving(files["fixed"], credentials=f"Basic {token}") as server:
        with pytest.raises(ValueError, match="401 Unauthorized: who are you"):
            load_backend(server.url)
        url = server.url.replace("//", "//me:se%2Fcret@")
        write_image(tmp_path / "a.png", np.zeros((64, 96, 3), np.uint8))
        folder = detect.run(url, tmp_path / "a.png", project=str(tmp_path), save_json=True, nosave=True)
        with pytest.raises(ValueError, match=r"127\.0\.0\.1:\d+/other: 404 Not Found: .* unknown model") as caught:
            load_backend(url.replace("/net", "/other"))
        with pytest.raises(
            ValueError, match=r"127\.0\.0\.1:\d+/net: is the address .* a file is wanted here"
        ) as refused:
            export.run(url)
    written = "".join(path.read_text() for path in folder.rglob("*") if path.is_file())
    assert "cret" not in caplog.text + written + str(caught.value) + str(refused.value)


def test_a_server_that_is_not_there(files):
    with serving(files["fixed"]) as server:
        url = server.url
    with pytest.raises(ValueError, match=r"http://127\.0\.0\.1:\d+/net: cannot be reached: Connection refused"):
        load_backend(url)
    with serving(files["fixed"]) as server, pytest.raises(ValueError, match=r"cannot be reached: .*SSL"):
        load_backend(server.url.replace("http:", "https:"))


WRONG = [
    ("/v2", (200, b"<html>hello</html>"), "the answer is no JSON object; is this a server of KServe's protocol"),
    ("/v2", (200, b"[" * 100_000), "no JSON object"),
    ("/v2", (200, b"[]"), "no JSON object"),
    ("/v2", (302, b""), "302 Found"),
    ("/v2/models/net", (404, {"error": "no\nsuch model"}), "404 Not Found: no such model"),
    ("/v2/models/net", (500, b"oops"), "500 Internal Server Error$"),
    ("/v2/models/net", (200, {"inputs": 3}), "does not say that it takes images"),
    ("/v2/models/net", (200, {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1]}]}), "does not say that"),
    ("/v2/models/net/config", (500, {"error": 7}), "500 Internal Server Error$"),
    ("/v2/models/net/config", (200, {"parameters": {"names": {"string_value": "[7]"}, "stride": "1"}}), "names is"),
]


@pytest.mark.parametrize(("path", "reply", "message"), WRONG)
def test_answers_that_are_wrong(files, path, reply, message):
    with serving(files["fixed"]) as server:
        server.replies[path] = reply
        with pytest.raises(ValueError, match=message) as caught:
            load_backend(server.url)
    assert str(caught.value).startswith(f"{server.url}: ")
    assert "\n" not in str(caught.value)


def port(shape, kind="FP32"):
    return {"name": "x", "datatype": kind, "shape": shape}


@pytest.mark.parametrize("shape", [[-1, 1, 64, 64], [3, 64, 64], [], [1, 3, -1, 64]])
def test_a_network_that_takes_no_images(files, shape):
    with serving(files["fixed"]) as server:
        server.replies["/v2/models/net"] = (200, {"inputs": [port(shape)], "outputs": [port([1, 4, 8])]})
        with pytest.raises(ValueError, match=r"/net: takes \(.* wanted is a detector of images \(B, 3, H, W\)"):
            load_backend(server.url)


BAD_TENSORS = [
    ({}, b"", KeyError),
    ({"outputs": [{"name": "x"}]}, b"", KeyError),
    ({"outputs": [port([2], "BYTES") | {"data": ["a", "b"]}]}, b"", KeyError),
    ({"outputs": [port([2]) | {"data": [1.0]}]}, b"", ValueError),
    ({"outputs": [port([2]) | {"data": ["a", "b"]}]}, b"", ValueError),
    ({"outputs": [port([2]) | {"data": [[1.0], [1.0, 2.0]]}]}, b"", ValueError),
    ({"outputs": [port(2) | {"data": [1.0, 2.0]}]}, b"", ValueError),
    ({"outputs": [port([-2, -1]) | {"data": [1.0, 2.0]}]}, b"", ValueError),
    ({"outputs": [port([1] * 40) | {"data": [1.0]}]}, b"", ValueError),
    ({"outputs": [port([2]) | {"parameters": {"binary_data_size": 8}}]}, b"\0" * 7, ValueError),
    ({"outputs": [port([2]) | {"parameters": {"binary_data_size": 7}}]}, b"\0" * 8, ValueError),
    ({"outputs": [port([2]) | {"parameters": {"binary_data_size": -8}}]}, b"\0" * 8, ValueError),
    ({"outputs": [port([1 << 30, 1 << 30]) | {"parameters": {"binary_data_size": 8}}]}, b"\0" * 8, ValueError),
    ({"outputs": 3}, b"", TypeError),
    ({"outputs": ["x"]}, b"", TypeError),
    ({"outputs": [port([2]) | {"parameters": [8]}]}, b"", AttributeError),
]


@pytest.mark.parametrize(("answer", "binary", "kind"), BAD_TENSORS)
def test_tensors_that_are_not_as_the_protocol_has_them(files, answer, binary, kind):
    with pytest.raises(kind):
        read_outputs(answer, memoryview(binary))
    with serving(files["fixed"]) as server:
        model = load_backend(server.url)
        server.replies["/v2/models/net/infer"] = lambda handler: handler.send(200, answer, binary)
        with pytest.raises(ValueError, match=r"RemoteRuntime cannot compute .* not as the protocol has it"):
            model(images(1))


def test_tensors_of_both_kinds_in_one_answer():
    bits = np.arange(2, dtype="<f4").tobytes()
    outputs = [
        port([2, 1]) | {"parameters": {"binary_data_size": 8}},
        port([1, 2], "INT64") | {"name": "y", "data": [[3, 4]]},
    ]
    found = read_outputs({"outputs": outputs}, memoryview(bits))
    assert (found["x"].tolist(), found["y"].tolist()) == ([[0.0], [1.0]], [[3, 4]])


def test_the_servers_error_is_told(files):
    with serving(files["fixed"]) as server:
        model = load_backend(server.url)
        server.replies["/v2/models/net/infer"] = (400, {"error": "out of memory on device 3"})
        with pytest.raises(ValueError, match=r"RemoteRuntime cannot .*400 Bad Request: out of memory on device 3"):
            model(images(1))
        with pytest.raises(ValueError, match="images of 96x64 pixels"):
            model(images(1, 96, 64))
        with pytest.raises(ValueError, match="--augment"):
            model(images(1), augment=True)


def test_a_connection_that_was_closed_meanwhile(files):
    def answer_and_close(handler):
        handler.send(200, handler.server.metadata())
        handler.close_connection = True  # as a server does whose patience is over

    def close(handler):
        handler.close_connection = True

    with serving(files["fixed"]) as server:
        server.replies["/v2/models/net"] = answer_and_close
        model = load_backend(server.url)
        assert [path for _, path, _ in server.asked] == ["/v2", "/v2/models/net", "/v2/models/net/config"]
        server.replies["/v2/models/net/infer"] = close
        with pytest.raises(ValueError, match="cannot be reached: Remote end closed connection without response"):
            model(images(1))
        assert len(server.asked) == 5  # tried again once


def test_an_answer_that_breaks_off_or_takes_too_long(files, monkeypatch):
    def short(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "100")
        handler.end_headers()
        handler.wfile.write(b"{")
        handler.close_connection = True

    def silent(handler):
        time.sleep(1)
        handler.close_connection = True

    def slow(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        try:
            for _ in range(1000):
                handler.wfile.write(b" ")
                time.sleep(0.02)
        except OSError:
            handler.close_connection = True

    with serving(files["fixed"]) as server:
        client = ModelServer(ModelAddress.parse(server.url), timeout_s=0.3)
        for reply, message in ((short, "breaks off"), (silent, "timed out"), (slow, "it takes too long")):
            server.replies["/v2"] = reply
            start = time.monotonic()
            with pytest.raises(ValueError, match=message):
                client.get("/v2")
            assert time.monotonic() - start < 0.9
        monkeypatch.setattr(backend_remote, "MAX_ANSWER", 10)
        server.replies["/v2"] = (200, b" " * 100)
        with pytest.raises(ValueError, match="breaks off: it is longer than"):
            client.get("/v2")
        client.close()


# As weights -----------------------------------------------------------------------------------------------------------


def test_detect_val_and_hub_take_an_address(files, data, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    source = ROOT / "docs" / "detections.jpg"
    found, told = [], []
    with serving(files["fixed"]) as server:
        for weights in (str(files["fixed"]), server.url.replace("//", "//me:secret@")):
            options = {"save_txt": True, "save_conf": True, "nosave": True, "conf_thres": 0.01}
            folder = detect.run(weights, source, project=tmp_path, **options)
            found.append((folder / "labels" / "detections.txt").read_text())
            results = hubconf.custom(weights, verbose=False, device="cpu")(str(source), size=96)
            found[-1] += str(results.xyxy[0].tolist())
            options = {"imgsz": 96, "single_cls": True, "save_json": True, "noplots": "http" not in weights}
            told.append(val.run(data=data, weights=weights, project=tmp_path, **options).map)
        assert found[0] == found[1]
        assert told[0] == told[1]
        assert len(list(tmp_path.glob("*/net_predictions.json"))) == 1
        (report,) = tmp_path.glob("*/report.html")
        assert server.url in report.read_text(encoding="utf-8")
        assert "run by RemoteRuntime" in report.read_text(encoding="utf-8")
        assert "secret" not in caplog.text
        assert not any(b"secret" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
        with pytest.raises(ValueError, match="name it alone"):
            detect.run([server.url, str(files["fixed"])], source)
        with pytest.raises(ValueError, match="a file is wanted here"):
            detect.run(server.url, source, update=True)
        with pytest.raises(ValueError, match="--visualize shows the layers"):
            detect.run(server.url, source, visualize=True, project=str(tmp_path))
        with pytest.raises(ValueError, match="only checkpoints"):
            load_backend([server.url, str(files["fixed"])])
        with pytest.raises(ValueError, match="--dnn reads one ONNX file"):
            load_backend(server.url, dnn=True)


def test_nobody_is_asked_before_the_network_is_wanted(files):
    with serving(files["fixed"]) as server:
        (address,) = find_weights([server.url], takes_addresses=True)
        assert (str(address), address.stem) == (server.url, "net")
        assert server.asked == []


# A folder for Triton --------------------------------------------------------------------------------------------------


def parsed(text):
    """The values of a flat config.pbtxt by key, and the parameters."""
    values, parameters = {}, {}
    for line in text.splitlines():
        key, _, rest = line.partition(" ")
        if key == "parameters":
            name, value = rest.removeprefix("{ key: ").removesuffix(" } }").split(" value { string_value: ")
            parameters[unquoted(name)] = unquoted(value)
        else:
            values[key.removesuffix(":")] = rest
    return values, parameters


def unquoted(text):
    return text[1:-1].encode().decode("unicode_escape").encode("latin-1").decode()


def test_export_makes_a_model_for_triton(small_weights, tmp_path):
    shutil.copy(small_weights, tmp_path / "net.pt")
    repository = tmp_path / "models"
    (file,) = export.run(tmp_path / "net.pt", imgsz=[64, 96], include=["onnx"], triton=str(repository))
    folder = repository / "net"
    assert sorted(path.relative_to(repository).as_posix() for path in repository.rglob("*")) == [
        "net",
        "net/1",
        "net/1/model.onnx",
        "net/config.pbtxt",
    ]
    assert (folder / "1" / "model.onnx").read_bytes() == file.read_bytes()
    values, parameters = parsed((folder / "config.pbtxt").read_text(encoding="ascii"))
    assert values == {
        "name": '"net"',
        "backend": '"onnxruntime"',
        "max_batch_size": "0",
        "input": '{ name: "images" data_type: TYPE_FP32 dims: [ 1, 3, 64, 96 ] }',
        "output": '{ name: "output" data_type: TYPE_FP32 dims: [ 1, 252, 8 ] }',
    }
    assert parameters == load_backend(file).metadata.to_text()
    assert json.loads(parameters["names"]) == ["ant", "bee", "cat"]
    file.unlink()
    with pytest.raises(ValueError, match=r"--triton: .*models/net is there already; remove it, or name another"):
        export.run(tmp_path / "net.pt", imgsz=[64, 96], include=["onnx"], triton=str(repository))
    assert not file.exists()
    assert [path.name for path in repository.iterdir()] == ["net"]
    for options in ({"include": ["torchscript"]}, {"include": ["onnx"], "train": True}):
        with pytest.raises(ValueError, match="--triton is for ONNX files of boxes"):
            export.run(tmp_path / "net.pt", triton=str(repository), **options)


def test_all_texts_can_stand_in_the_configuration(files, tmp_path):
    model = onnx.load(str(files["dynamic"]))
    text = "a \"quote\" 'x' \\ b\u00e4ume\n\t\x00 {"
    model.metadata_props.add(key="odd", value=text)
    onnx.save(model, str(tmp_path / "x.onnx"))
    config = triton_config(tmp_path / "x.onnx", "x").decode("ascii")
    values, parameters = parsed(config)
    assert parameters["odd"] == text
    assert "dims: [ -1, 3, -1, -1 ]" in values["input"]
