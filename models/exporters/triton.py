"""A folder of NVIDIA Triton's kind for an ONNX file: the network, and config.pbtxt with what the file says of itself.

https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_configuration.html
"""

import shutil
from pathlib import Path

from models.runtimes.onnx_header import FLOAT, FLOAT16, Port, read_onnx_header

TYPES = {FLOAT: "TYPE_FP32", FLOAT16: "TYPE_FP16", 6: "TYPE_INT32", 7: "TYPE_INT64"}  # by ONNX's element type
BACKEND = "onnxruntime"
VERSION = "1"  # of the network, the name of a folder


def write_triton(onnx: Path, folder: Path) -> None:
    """Fills an empty folder, whose name is the network's: config.pbtxt and 1/model.onnx.

    The server gives the texts in the configuration to whoever asks, models/runtimes/kserve.py does. Batches are as the
    file has them: max_batch_size 0 says that their axis is among the dims. ValueError where the file is no ONNX file.
    """
    (folder / VERSION).mkdir()
    shutil.copyfile(onnx, folder / VERSION / "model.onnx")
    (folder / "config.pbtxt").write_bytes(triton_config(onnx, folder.name))


def triton_config(onnx: Path, name: str) -> bytes:
    """The configuration of an ONNX file's network, in protobuf's text format."""
    header = read_onnx_header(onnx)
    ports = [_port("input", port) for port in header.inputs] + [_port("output", port) for port in header.outputs]
    texts = [
        f"parameters {{ key: {_quoted(key)} value {{ string_value: {_quoted(text)} }} }}"
        for key, text in header.texts.items()
    ]
    first = [f"name: {_quoted(name)}", f'backend: "{BACKEND}"', "max_batch_size: 0"]
    return "".join(f"{line}\n" for line in (*first, *ports, *texts)).encode()


def _port(kind: str, port: Port) -> str:
    if port.kind not in TYPES or port.shape is None:
        raise ValueError(f"its {kind} {port.name!r} has no type or shape that Triton takes")
    dims = ", ".join(str(-1 if size is None else size) for size in port.shape)
    return f"{kind} {{ name: {_quoted(port.name)} data_type: {TYPES[port.kind]} dims: [ {dims} ] }}"


def _quoted(text: str) -> str:
    """A string of the text format: bytes beyond printable ASCII, quotes and backslashes as three octal digits."""
    plain = (chr(byte) if 32 <= byte < 127 and byte not in b"\"\\'" else f"\\{byte:03o}" for byte in text.encode())
    return f'"{"".join(plain)}"'
