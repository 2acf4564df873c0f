"""A server of KServe's protocol, version 2, with ONNX Runtime behind it, to be asked by the tests of the client.

Written from the protocol's pages: metadata of server and model, inference as JSON, and Triton's extensions for binary
tensors and for a model's configuration. What it was asked is kept.
"""

import json
import math
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import onnxruntime

DATATYPES = {"tensor(float)": "FP32", "tensor(float16)": "FP16", "tensor(int32)": "INT32", "tensor(int64)": "INT64"}
DTYPES = {"FP32": np.float32, "FP16": np.float16, "INT32": np.int32, "INT64": np.int64}
LENGTH = "Inference-Header-Content-Length"


class KServe(ThreadingHTTPServer):
    """Serves one ONNX file as `net`. binary, config, parameters: what it offers. replies: answers in place of its own.

    replies: by path, (status, body) or a function that writes to the handler as it likes.
    """

    daemon_threads = True

    def __init__(self, onnx, binary=True, config=True, in_metadata=False, max_batch_size=0, credentials=None):
        super().__init__(("127.0.0.1", 0), Handler)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(onnx), options, providers=["CPUExecutionProvider"])
        self.texts = self.session.get_modelmeta().custom_metadata_map
        self.binary, self.config, self.in_metadata = binary, config, in_metadata
        self.max_batch_size, self.credentials = max_batch_size, credentials
        self.replies, self.asked, self.batches = {}, [], []

    def handle_error(self, request, client_address):
        """Says nothing of clients that went away, as the tests want them to."""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/net"

    def extensions(self):
        return ["classification", *["binary_tensor_data"] * self.binary, *["model_configuration"] * self.config]

    def metadata(self):
        ports = [
            [
                {
                    "name": port.name,
                    "datatype": DATATYPES[port.type],
                    "shape": [size if isinstance(size, int) else -1 for size in port.shape],
                }
                for port in part
            ]
            for part in (self.session.get_inputs(), self.session.get_outputs())
        ]
        found = {"name": "net", "versions": ["1"], "platform": "onnxruntime_onnx", "inputs": ports[0]}
        return found | {"outputs": ports[1]} | ({"parameters": self.texts} if self.in_metadata else {})

    def configuration(self):
        parameters = {key: {"string_value": text} for key, text in self.texts.items()}
        return {"name": "net", "max_batch_size": self.max_batch_size, "parameters": parameters}

    def infer(self, body, length):
        """JSON and bytes of the answer to a request, of which `length` bytes are JSON."""
        request = json.loads(body[:length])
        (given,) = request["inputs"]
        dtype, shape = np.dtype(DTYPES[given["datatype"]]), given["shape"]
        if "data" in given:
            array = np.array(given["data"], dtype).reshape(shape)
        else:
            assert given["parameters"]["binary_data_size"] == len(body) - length == math.prod(shape) * dtype.itemsize
            array = np.frombuffer(body[length:], dtype).reshape(shape)
        self.batches.append(len(array))
        names = [output["name"] for output in request["outputs"]]
        found = self.session.run(names, {given["name"]: array})
        outputs, binary = [], b""
        for wanted, value in zip(request["outputs"], found, strict=True):
            kind = next(name for name, dtype in DTYPES.items() if value.dtype == dtype)
            output = {"name": wanted["name"], "datatype": kind, "shape": list(value.shape)}
            if wanted.get("parameters", {}).get("binary_data"):
                output["parameters"] = {"binary_data_size": value.nbytes}
                binary += value.tobytes()
            else:
                output["data"] = value.ravel().tolist()
            outputs.append(output)
        return {"model_name": "net", "outputs": outputs[::-1] if not binary else outputs}, binary


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(b"")

    def do_POST(self):
        self.answer(self.rfile.read(int(self.headers["Content-Length"])))

    def answer(self, body):
        server = self.server
        server.asked.append((self.command, self.path, dict(self.headers)))
        reply = server.replies.get(self.path)
        if callable(reply):
            reply(self)
        elif reply is not None:
            self.send(*reply)
        elif server.credentials and self.headers.get("Authorization") != server.credentials:
            self.send(401, {"error": "who are you?"})
        elif self.path == "/v2":
            self.send(200, {"name": "test", "version": "1", "extensions": server.extensions()})
        elif self.path in ("/v2/models/net", "/v2/models/net/versions/1"):
            self.send(200, server.metadata())
        elif self.path == "/v2/models/net/config" and server.config:
            self.send(200, server.configuration())
        elif self.path in ("/v2/models/net/infer", "/v2/models/net/versions/1/infer"):
            length = int(self.headers.get(LENGTH, len(body)))
            assert server.binary or length == len(body)
            try:
                text, binary = server.infer(body, length)
            except Exception as error:  # whatever the runtime raises is the client's mistake here
                self.send(400, {"error": str(error)})
                return
            self.send(200, text, binary)
        else:
            self.send(404, {"error": f"Request for unknown model: '{self.path}' is not found"})

    def send(self, status, content, binary=b""):
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text) + len(binary)))
        if binary:
            self.send_header(LENGTH, str(len(text)))
        self.end_headers()
        self.wfile.write(text + binary)

    def log_message(self, *_):
        """Says nothing."""


@contextmanager
def serving(onnx, **options):
    """A server of the file, running."""
    server = KServe(onnx, **options)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
