"""A stand-in for TensorRT, for machines without it. It is NOT TensorRT: it shows nothing of a real build or its speed.

What it shows: our code calls only what the published bindings of a version have, with arguments that they take
(data/tensorrt_api.json); it reads and writes memory at the addresses that it is given, of the shapes and types that the
network has. Its "plan" holds the ONNX file, which ONNX Runtime computes; EfficientNMS_TRT is computed here as NVIDIA
describes it. Operators beyond the published list (data/tensorrt_operators.json) are parse errors.
"""

import ctypes
import enum
import importlib.machinery
import inspect
import json
import sys
import types
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch

from models.exporters import writers as export_jobs
from models.runtimes import tensorrt as backend_tensorrt

DATA = Path(__file__).parent / "data"
API = json.loads((DATA / "tensorrt_api.json").read_text(encoding="utf-8"))
OPERATORS = json.loads((DATA / "tensorrt_operators.json").read_text(encoding="utf-8"))
MAGIC = b"ftrt"
KINDS = {1: "FLOAT", 10: "HALF", 6: "INT32", 7: "INT64"}  # ONNX's element types
NUMPY = {"FLOAT": np.float32, "HALF": np.float16, "INT32": np.int32, "INT64": np.int64}


def forms_of(version, name):
    """The forms that a member has in a version, () where it has none."""
    return next(
        (forms.split(" | ") for forms, found in API["members"].get(name, {}).items() if version in found.split()), ()
    )


def takes(form, args, named):
    """Whether a call fits one of the published forms, as `network, config` or `flags=`."""
    words = form.split(", ") if form else []
    parameters = [
        inspect.Parameter(word.rstrip("="), inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None)
        if word.endswith("=")
        else inspect.Parameter(word, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        for word in words
    ]
    try:
        inspect.Signature(parameters).bind(*args, **named)
    except TypeError:
        return False
    return True


class Published:
    """An object that has what the bindings have under its class's name, and takes the calls that they take."""

    _trt = None

    def __getattribute__(self, name):
        if name.startswith("_"):
            return object.__getattribute__(self, name)
        full = f"{type(self).__name__}.{name}"
        found, trt = object.__getattribute__(self, name), self._trt
        forms = forms_of(trt.__version__, full)
        if not forms:
            raise AttributeError(f"TensorRT {trt.__version__} has no {full}")
        if forms == ["property"]:
            return found

        def call(*args, **named):
            trt.note(full, forms, args, named)
            return found(*args, **named)

        return call


class Severity(enum.Enum):
    """As ILogger.Severity."""

    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class ILogger:
    """As tensorrt.ILogger, which a class derives from."""

    Severity = Severity

    def __init__(self):
        self.is_made = True


class Builder(Published):
    """Makes networks and plans."""

    def __init__(self, log):
        self._log = log

    def create_network(self, flags=0):
        network = self._trt.make("INetworkDefinition")
        network._is_strong = self._trt.major >= 11 or flags == 1 << int(
            self._trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
        )
        return network

    def create_builder_config(self):
        return self._trt.make("IBuilderConfig")

    def create_optimization_profile(self):
        return self._trt.make("IOptimizationProfile")

    @property
    def platform_has_fast_fp16(self):
        return self._trt.fast_fp16

    def build_serialized_network(self, network, config):
        sizes = [item.dim_value or -1 for item in network._graph.graph.input[0].type.tensor_type.shape.dim]
        profile = config._profiles[0]._shapes if config._profiles else None
        if -1 in sizes and profile is None:
            self._log.log(Severity.ERROR, "Network has dynamic inputs, but no optimization profile has been defined.")
            return None
        if self._trt.fails_with:
            self._log.log(Severity.ERROR, self._trt.fails_with)
            return None
        assert network._is_strong
        if profile:
            for low, size in zip(profile[0], sizes, strict=True):
                assert size in (-1, low), "3) of IOptimizationProfile.set_shape"
        config._cache._content = self._trt.timings + b" of one more build"
        head = {"version": self._trt.__version__, "profile": profile}
        return memoryview(MAGIC + json.dumps(head).encode() + b"\n" + network._graph.SerializeToString())


class INetworkDefinition(Published):
    """Filled by the parser."""

    _graph = None


class OnnxParser(Published):
    """Reads ONNX files with the published operators only."""

    def __init__(self, network, log):
        self._network, self._errors = network, []

    def parse(self, model, path=None):
        del path
        try:
            graph = onnx.load_model_from_string(bytes(model))
        except Exception as error:
            self._errors = [(str(error), "", "")]
            return False
        known = {*OPERATORS["operators"], OPERATORS["plugin"]["name"]}
        bad = [node for node in graph.graph.node if node.op_type not in known]
        self._errors = [("No importer registered for op", node.name, node.op_type) for node in bad]
        self._network._graph = graph
        return not bad

    @property
    def num_errors(self):
        return len(self._errors)

    def get_error(self, index):
        problem = self._trt.make("ParserError")
        problem._values = self._errors[index]
        return problem


class ParserError(Published):
    """One of the parser's."""

    def desc(self):
        return self._values[0]

    def node_name(self):
        return self._values[1]

    def node_operator(self):
        return self._values[2]


class IBuilderConfig(Published):
    """How a network is built."""

    def __init__(self):
        self._profiles, self._cache = [], None

    def set_memory_pool_limit(self, pool, pool_size):
        assert (pool, type(pool_size)) == (self._trt.MemoryPoolType.WORKSPACE, int)

    def clear_flag(self, flag):
        assert flag in self._trt.BuilderFlag

    def add_optimization_profile(self, profile):
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache):
        cache = self._trt.make("ITimingCache")
        cache._content = bytes(serialized_timing_cache)
        return cache

    def set_timing_cache(self, cache, ignore_mismatch):
        assert not ignore_mismatch
        if cache._content and not cache._content.startswith(self._trt.timings):
            return False
        self._cache = cache
        return True

    def get_timing_cache(self):
        return self._cache


class ITimingCache(Published):
    """What builds have measured."""

    def serialize(self):
        return memoryview(self._content)


class IOptimizationProfile(Published):
    """The shapes of an input."""

    def set_shape(self, input, min, opt, max):
        if not (input == "images" and all(0 <= a <= b <= c for a, b, c in zip(min, opt, max, strict=True))):
            raise ValueError("inconsistent")
        self._shapes = [list(min), list(opt), list(max)]


class Runtime(Published):
    """Loads plans."""

    def __init__(self, log):
        self._log = log

    def deserialize_cuda_engine(self, serialized_engine):
        content = bytes(serialized_engine)
        if not content.startswith(MAGIC) or b"\n" not in content:
            self._log.log(Severity.ERROR, "IRuntime::deserializeCudaEngine: Error Code 1: the plan is damaged")
            return None
        head, _, graph = content[len(MAGIC) :].partition(b"\n")
        head = json.loads(head)
        if head["version"] != self._trt.__version__:
            self._log.log(Severity.ERROR, f"The engine plan file is not compatible with {self._trt.__version__}")
            return None
        engine = self._trt.make("ICudaEngine")
        engine._graph, engine._profile = onnx.load_model_from_string(graph), head["profile"]
        engine._log = self._log
        return engine


class ICudaEngine(Published):
    """A network that is built."""

    @property
    def num_io_tensors(self):
        return len(self._ports())

    def _ports(self):
        return [*self._graph.graph.input, *self._graph.graph.output]

    def _port(self, name):
        return next(port for port in self._ports() if port.name == name).type.tensor_type

    def get_tensor_name(self, index):
        order = self._trt.order or range(self.num_io_tensors)
        return self._ports()[order[index]].name

    def get_tensor_mode(self, name):
        is_input = name in [port.name for port in self._graph.graph.input]
        return self._trt.TensorIOMode.INPUT if is_input else self._trt.TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        return self._trt.DataType[KINDS[self._port(name).elem_type]]

    def get_tensor_shape(self, name):
        return [item.dim_value or -1 for item in self._port(name).shape.dim]

    def get_tensor_profile_shape(self, name, profile_index):
        assert (name, profile_index) == ("images", 0)
        return self._profile

    def create_execution_context(self):
        context = self._trt.make("IExecutionContext")
        context._prepare(self)
        return None if self._trt.no_memory else context


class IExecutionContext(Published):
    """Computes a network: by ONNX Runtime up to the plug-in, on memory at the addresses that it is given."""

    def _prepare(self, engine):
        graph = onnx.ModelProto()
        graph.CopyFrom(engine._graph)
        last = graph.graph.node[-1]
        self._plugin = None
        if last.op_type == OPERATORS["plugin"]["name"]:
            self._plugin = {item.name: onnx.helper.get_attribute_value(item) for item in last.attribute}
            del graph.graph.node[-1], graph.graph.output[:]
            for name in last.input:
                port = next(port for port in graph.graph.value_info if port.name == name)
                graph.graph.output.append(port)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        self._session = onnxruntime.InferenceSession(graph.SerializeToString(), options)
        self._engine, self._shape, self._places = engine, None, {}

    def set_input_shape(self, name, shape):
        low, _, high = self._engine._profile or [self._engine.get_tensor_shape(name)] * 3
        if not all(a <= size <= b for a, size, b in zip(low, shape, high, strict=True)):
            self._engine._log.log(Severity.ERROR, "set dimension outside of the profile")
            return False
        self._shape = tuple(shape)
        return True

    def _compute(self, images):
        found = self._session.run(None, {"images": images})
        found = [array + array.dtype.type(self._trt.adds) for array in found]
        return efficient_nms(*found, **self._plugin) if self._plugin else found

    def _numbers(self, name):
        return NUMPY[KINDS[self._engine._port(name).elem_type]]

    def _outputs(self):
        return [port.name for port in self._engine._graph.graph.output]

    def get_tensor_shape(self, name):
        zeros = np.zeros(self._shape, self._numbers("images"))
        return list(self._compute(zeros)[self._outputs().index(name)].shape)

    def set_tensor_address(self, name, memory):
        assert type(memory) is int
        self._places[name] = memory
        return True

    def execute_async_v3(self, stream_handle):
        names = self._outputs()
        if self._shape is None or self._places.keys() != {"images", *names} or not stream_handle:
            self._engine._log.log(Severity.ERROR, "not all tensors have an address")
            return False
        kind = self._numbers("images")
        size = int(np.prod(self._shape)) * kind().itemsize
        images = np.frombuffer(ctypes.string_at(self._places["images"], size), kind).reshape(self._shape)
        for name, array in zip(names, self._compute(images), strict=True):
            assert array.dtype == self._numbers(name)
            content = np.ascontiguousarray(array).tobytes()
            ctypes.memmove(self._places[name], content, len(content))
        return True


def efficient_nms(boxes, scores, score_threshold, iou_threshold, max_output_boxes, class_agnostic, **others):
    """What the plug-in gives for boxes xyxy (B, N, 4) and scores (B, N, nc), as its README describes it."""
    expected = {"background_class": -1, "score_activation": 0, "box_coding": 0, "plugin_version": b"1"}
    assert others == expected
    b = len(boxes)
    num, kept = np.zeros((b, 1), np.int32), np.zeros((b, max_output_boxes, 4), np.float32)
    sure, category = np.zeros((b, max_output_boxes), np.float32), np.zeros((b, max_output_boxes), np.int32)
    for i in range(b):
        where = np.argwhere(scores[i] > score_threshold)  # rows of box and class
        order = where[np.argsort(-scores[i][tuple(where.T)], kind="stable")]
        chosen = []
        for n, c in order:
            rivals = [m for m, d in chosen if class_agnostic or d == c]
            if len(chosen) < max_output_boxes and all(iou(boxes[i, n], boxes[i, m]) <= iou_threshold for m in rivals):
                chosen.append((n, c))
        num[i] = len(chosen)
        for k, (n, c) in enumerate(chosen):
            kept[i, k], sure[i, k], category[i, k] = boxes[i, n], scores[i, n, c], c
    return num, kept, sure, category


def iou(a, b):
    """Intersection over union of two boxes xyxy."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    inside = float(np.prod(sides.clip(0)))
    return inside / (float(np.prod(a[2:] - a[:2])) + float(np.prod(b[2:] - b[:2])) - inside + 1e-9)


CLASSES = (
    Builder,
    INetworkDefinition,
    OnnxParser,
    ParserError,
    IBuilderConfig,
    ITimingCache,
    IOptimizationProfile,
    Runtime,
    ICudaEngine,
    IExecutionContext,
)


class StandIn(types.ModuleType):
    """The package `tensorrt` of one version. fails_with: what a failing build says. adds: to each number computed."""

    def __init__(self, version):
        super().__init__("tensorrt")
        assert version in API["versions"]
        self.__spec__ = importlib.machinery.ModuleSpec("tensorrt", None)  # torch looks whether it is there
        self.__version__, self.major = version, int(version.split(".")[0])
        self.calls, self.fails_with, self.no_memory, self.no_driver, self.order = [], "", False, False, None
        self.adds = 0.0
        self.fast_fp16, self.timings = True, f"timings of {version}".encode()
        self.ILogger = ILogger
        self.classes = {cls.__name__: type(cls.__name__, (cls,), {"_trt": self}) for cls in CLASSES}
        for owner in ("DataType", "TensorIOMode", "BuilderFlag", "MemoryPoolType", "NetworkDefinitionCreationFlag"):
            names = [name.partition(".") for name in API["members"] if forms_of(version, name)]
            own = [last for first, _, last in names if first == owner and "." not in last]
            start = 1 if owner == "NetworkDefinitionCreationFlag" and self.major < 11 else 0
            setattr(self, owner, enum.IntEnum(owner, own, start=start))

    def note(self, name, forms, args, named):
        """Keeps a call, if it is one that the bindings take."""
        assert any(takes(form, args, named) for form in forms), f"{name}{args}{named}: published is {forms}"
        self.calls.append((name, args))

    def called(self, name):
        """The arguments of each call of a member."""
        return [args for found, args in self.calls if found == name]

    def make(self, name, *args):
        """An object of a class that the bindings publish."""
        return self.classes[name](*args)

    def init_libnvinfer_plugins(self, *args, **named):
        self.note("init_libnvinfer_plugins", forms_of(self.__version__, "init_libnvinfer_plugins"), args, named)
        assert args[0].is_made
        return True

    def _new(self, name, args):
        self.note(f"{name}.__init__", forms_of(self.__version__, f"{name}.__init__"), args, {})
        assert args[-1].is_made
        if self.no_driver:
            args[-1].log(Severity.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return self.make(name, *args)

    def Builder(self, *args):
        return self._new("Builder", args)

    def OnnxParser(self, *args):
        return self._new("OnnxParser", args)

    def Runtime(self, *args):
        return self._new("Runtime", args)


def install(monkeypatch, version):
    """The stand-in as the package `tensorrt`, and the CPU as its GPU."""
    trt = StandIn(version)
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    for module in (backend_tensorrt, export_jobs):
        monkeypatch.setattr(module, "check_gpu", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 6))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a CPU")
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: None)
    return trt


class Stream:
    """In place of torch.cuda.Stream."""

    def __init__(self, device=None):
        self.cuda_stream, self.order = 77, []

    def wait_stream(self, other):
        self.order.append("waits")

    def synchronize(self):
        self.order.append("done")
