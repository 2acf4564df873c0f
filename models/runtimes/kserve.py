"""A network that a server has, by KServe's version 2 of the protocol, which Triton and OpenVINO's server speak as well.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol, and Triton's extensions of it for
binary tensors and for a model's configuration. Nobody is asked but the server whose address the user names.
"""

import base64
import json
import math
import time
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.runtimes.base import Names, Runtime, describe
from models.runtimes.onnx_header import Shape
from utils.files.addresses import ModelAddress
from utils.files.reading import parse_json

TYPES = {  # the protocol's element types: what they are in bytes
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
    "INT32": "<i4",
    "INT64": "<i8",
}
BINARY, CONFIG = "binary_tensor_data", "model_configuration"  # extensions, as a server lists them
LENGTH_OF_JSON = "Inference-Header-Content-Length"  # of what stands before the binary tensors
TIMEOUT_S = 60.0  # to connect, and for the whole of an answer
MAX_ANSWER = 1 << 30  # bytes
MAX_DIMENSIONS = 8
PART = 1 << 20  # bytes read at a time


class RemotePort(NamedTuple):
    """An input or output of a network: its name, element type as in TYPES, and shape, None where any size will do."""

    name: str
    kind: str
    shape: Shape


class ModelServer:
    """The server of a network: asks, and gives what is answered; ValueError, with the address, says what went wrong."""

    def __init__(self, address: ModelAddress, timeout_s: float = TIMEOUT_S) -> None:
        self.address, self.timeout_s = address, timeout_s
        self.connection: HTTPConnection | None = None
        self.headers = {"User-Agent": "yolov5-nam"}
        if address.credentials:
            token = base64.b64encode(address.credentials.encode()).decode()
            self.headers["Authorization"] = f"Basic {token}"

    @property
    def model_path(self) -> str:
        """Of the network, below the server's prefix."""
        version = f"/versions/{self.address.version}" if self.address.version else ""
        return f"/v2/models/{self.address.name}{version}"

    def get(self, path: str) -> dict[str, Any]:
        """The JSON object that lies there."""
        return self.parsed(self.ask("GET", path, None, {})[0])

    def parsed(self, body: bytes | memoryview) -> dict[str, Any]:
        """The JSON object in an answer."""
        try:
            found = parse_json(bytes(body), MAX_ANSWER)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise ValueError(f"{self.address}: the answer is no JSON object; is this a server of KServe's protocol?")
        return found

    def ask(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[memoryview, Mapping[str, str]]:
        """The body and headers of an answer that has status 200."""
        is_reused = self.connection is not None
        try:
            answer = self._send(method, path, body, headers)
        except (OSError, HTTPException) as error:
            self.close()
            if is_reused and isinstance(error, ConnectionError):  # it was closed while nobody used it
                return self.ask(method, path, body, headers)
            raise ValueError(f"{self.address}: cannot be reached: {_words(error)}") from error
        try:
            content = self._read(answer)
        except (OSError, HTTPException) as error:
            self.close()
            raise ValueError(f"{self.address}: the answer breaks off: {_words(error)}") from error
        if answer.status != 200:
            raise ValueError(f"{self.address}: {answer.status} {answer.reason}{_told(content)}")
        return memoryview(content), answer.headers

    def close(self) -> None:
        """Ends the connection; the next question makes another."""
        if self.connection is not None:
            self.connection.close()
        self.connection = None

    def _send(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> HTTPResponse:
        if self.connection is None:
            kind = HTTPSConnection if self.address.scheme == "https" else HTTPConnection
            self.connection = kind(self.address.host, self.address.port, timeout=self.timeout_s)
        self.connection.request(method, self.address.prefix + path, body, {**self.headers, **headers})
        return self.connection.getresponse()

    def _read(self, answer: HTTPResponse) -> bytes:
        """The whole body; TimeoutError where it comes too slowly, though it comes."""
        end, content = time.monotonic() + self.timeout_s, bytearray()
        while part := answer.read1(PART):
            content += part
            if len(content) > MAX_ANSWER:
                raise OSError(f"it is longer than {MAX_ANSWER >> 20} MiB")
            if time.monotonic() > end:
                raise TimeoutError("it takes too long")
        if answer.length:
            raise OSError(f"{answer.length} bytes are missing")
        answer.close()  # so that the connection can be used again
        return bytes(content)


class RemoteRuntime(Runtime):
    """A network on a server, with tensors as bytes where the server offers that, else as JSON.

    Class names, stride and what else export.py says stand in the parameters of the model's configuration or metadata;
    without them names are those of --data.
    """

    def __init__(
        self, address: ModelAddress, device: torch.device, names: Names, threads: int = 0, timeout_s: float = TIMEOUT_S
    ) -> None:
        del threads  # which are the server's
        server = ModelServer(address, timeout_s)
        listed = server.get("/v2").get("extensions")
        extensions = listed if isinstance(listed, list) else []
        model = server.get(server.model_path)
        config = server.get(f"{server.model_path}/config") if CONFIG in extensions else {}
        inputs, outputs = (_ports(model.get(key)) for key in ("inputs", "outputs"))
        if len(inputs) != 1 or not outputs or inputs[0].kind not in ("FP16", "FP32"):
            raise ValueError(f"{address}: the server does not say that it takes images as one tensor of FP32 or FP16")
        super().__init__(describe(address, _texts(model) | _texts(config), inputs[0].shape, names), device)
        self.server, self.input = server, inputs[0]
        self.output_names = [port.name for port in outputs]
        self.is_binary = BINARY in extensions
        most = config.get("max_batch_size")
        self.most = most if _is_size(most) and most else None  # images that the server takes at a time

    def compute(self, images: Tensor) -> list[Tensor]:
        """See Runtime."""
        array = images.cpu().numpy().astype(TYPES[self.input.kind])
        size = self.most or len(array)
        parts = [self._infer(array[start : start + size]) for start in range(0, len(array), size)]
        return [torch.from_numpy(np.concatenate(outputs)) for outputs in zip(*parts, strict=True)]

    def _infer(self, array: np.ndarray) -> list[np.ndarray]:
        """The outputs, in the order of the model's metadata, for images (B, 3, H, W)."""
        data = array.tobytes()
        sent: dict[str, Any] = {"name": self.input.name, "shape": array.shape, "datatype": self.input.kind}
        wanted: list[dict[str, Any]] = [{"name": name} for name in self.output_names]
        headers = {"Content-Type": "application/octet-stream" if self.is_binary else "application/json"}
        if self.is_binary:
            sent["parameters"] = {"binary_data_size": len(data)}
            for output in wanted:
                output["parameters"] = {"binary_data": True}
        else:
            sent["data"] = array.ravel().tolist()
        text = json.dumps({"inputs": [sent], "outputs": wanted}).encode()
        if self.is_binary:
            headers[LENGTH_OF_JSON] = str(len(text))
        body, answered = self.server.ask(
            "POST", f"{self.server.model_path}/infer", text + data if self.is_binary else text, headers
        )
        length = answered.get(LENGTH_OF_JSON, str(len(body)))
        end = int(length) if length.isdecimal() and len(length) < 12 else len(body)
        try:
            found = read_outputs(self.server.parsed(body[:end]), body[end:])
            return [found[name] for name in self.output_names]
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(
                f"{self.server.address}: the answer is not as the protocol has it: {error!r:.100}"
            ) from error
        except ValueError as error:
            raise ValueError(f"{self.server.address}: the answer is not as the protocol has it: {error}") from error


def read_outputs(answer: Mapping[str, Any], binary: memoryview) -> dict[str, np.ndarray]:
    """The tensors of an answer by name, out of its JSON or out of the bytes behind it.

    ValueError, LookupError, TypeError or AttributeError where they are not as the protocol has them.
    """
    found, place = {}, 0
    for output in answer["outputs"]:
        name, kind, shape = output["name"], np.dtype(TYPES[output["datatype"]]), output["shape"]
        if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or not all(_is_size(size) for size in shape):
            raise ValueError(f"{name!r:.40} has the shape {shape!r:.60}")
        count = math.prod(shape)
        size = (output.get("parameters") or {}).get("binary_data_size")
        if size is None:
            array = np.asarray(output["data"], dtype=kind).ravel()
        elif _is_size(size) and place + size <= len(binary) and size == count * kind.itemsize:
            array = np.frombuffer(binary[place : place + size], kind)
            place += size
        else:
            raise ValueError(f"{name!r:.40} has {size!r:.20} bytes, where {count * kind.itemsize} are wanted")
        if array.size != count:
            raise ValueError(f"{name!r:.40} has {array.size} numbers, where its shape {shape} wants {count}")
        found[name] = array.reshape(shape).astype(kind.newbyteorder("="))
    return found


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 40


def _ports(value: object) -> list[RemotePort]:
    """The inputs or outputs in a model's metadata; empty where they are not as they should be."""
    if not isinstance(value, list):
        return []
    ports = []
    for port in value:
        name, kind, shape = (port.get(key) if isinstance(port, dict) else None for key in ("name", "datatype", "shape"))
        if not isinstance(name, str) or not isinstance(kind, str) or not isinstance(shape, list):
            return []
        ports.append(RemotePort(name, kind, tuple(size if _is_size(size) and size else None for size in shape)))
    return ports


def _texts(model: Mapping[str, Any]) -> dict[str, str]:
    """The parameters of a model's metadata or configuration, which in Triton's are `{"string_value": text}` each."""
    parameters = model.get("parameters")
    if not isinstance(parameters, dict):
        return {}
    pairs = parameters.items()
    plain = {key: value.get("string_value") if isinstance(value, dict) else value for key, value in pairs}
    return {key: value for key, value in plain.items() if isinstance(value, str)}


def _told(content: bytes) -> str:
    """What an answer says of an error, for the end of a line."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return ""
    told = found.get("error") if isinstance(found, dict) else None
    return f": {' '.join(told.split())[:200]}" if isinstance(told, str) else ""


def _words(error: Exception) -> str:
    """What an error of the connection says, in one line."""
    return " ".join(str(getattr(error, "strerror", None) or error).split())[:200] or type(error).__name__
