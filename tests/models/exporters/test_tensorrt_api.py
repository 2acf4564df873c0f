"""What can be known without TensorRT: that the calls are the published ones, and the ONNX files of published operators.

data/tensorrt_api.json has what the bindings of seven versions have, data/tensorrt_operators.json what onnx-tensorrt
lists for TensorRT 10.15 and how NVIDIA describes EfficientNMS_TRT.
"""

import ast
import shlex
from pathlib import Path

import numpy as np
import pytest
from torch import nn

import export
from models.exporters.compare import check_images
from models.exporters.tensorrt import EngineSettings, Profile, profile_of, trtexec_command
from models.runtimes.metadata import AXES, Metadata
from models.runtimes.onnx_header import read_onnx_header
from models.runtimes.tensorrt import TORCH_TYPES
from models.yolo import Model
from tests.models.tensorrt_standin import API, OPERATORS, forms_of, takes
from utils.files.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from utils.general import ROOT

onnx = pytest.importorskip("onnx")
SOURCES = [ROOT / "models" / name for name in ("exporters/tensorrt.py", "runtimes/tensorrt.py")]
CLASSES = {  # what a variable of this name is, in those files
    "trt": "",
    "builder": "Builder",
    "config": "IBuilderConfig",
    "parser": "OnnxParser",
    "problem": "ParserError",
    "profile": "IOptimizationProfile",
    "cache": "ITimingCache",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "severity": "ILogger.Severity",
    "kind": "DataType.FLOAT",
}
VARIABLES = {"network", "plan", "log", "is_started"}  # handed on, and no member of theirs is used
TYPES = {1: "FP32", 10: "FP16", 6: "INT32", 7: "INT64", 9: "BOOL"}  # ONNX's numbers, as the list calls them


def chain(node):
    """["trt", "BuilderFlag", "TF32"] of such an expression, [] of any other."""
    if isinstance(node, ast.Attribute):
        inner = chain(node.value)
        return [*inner, node.attr] if inner else []
    return [node.id] if isinstance(node, ast.Name) else []


def used():
    """Each member that the sources use, with the calls' numbers of arguments and keywords (None where not called)."""
    found = []
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
        for node in ast.walk(tree):
            names = chain(node)
            if len(names) < 2 or names[0] not in CLASSES:
                continue
            call = calls.get(id(node))
            given = None if call is None else (call.args, {word.arg: None for word in call.keywords})
            if given and names[-1] == "__init__":
                given = (call.args[1:], given[1])  # called by its class, with self
            found.append((".".join(filter(None, (CLASSES[names[0]], *names[1:]))), given, f"{path.name}:{node.lineno}"))
    return found


@pytest.mark.parametrize("version", API["versions"])
def test_every_member_that_is_used_is_published(version):
    """Of classes themselves there is no entry, but for their making: `Builder` is there by `Builder.__init__`."""
    owners = {name.rpartition(".")[0] for name in API["members"]}
    seen = used()
    assert len(seen) > 50
    for name, given, where in seen:
        forms = forms_of(version, f"{name}.__init__" if name in owners and given is not None else name)
        assert forms or (name in owners and given is None), f"{where}: TensorRT {version} has no {name}"
        if given is not None:
            assert any(takes(form, *given) for form in forms), f"{where}: {name} takes {forms}"


def test_all_that_is_listed_is_used():
    """But for what the stand-in needs, and what is asked for by its name as only some versions have it."""
    names = {name.removesuffix(".__init__") for name in API["members"]}
    texts = "".join(path.read_text(encoding="utf-8") for path in SOURCES)
    others = {"BuilderFlag.FP16", "ILogger.log", "ILogger.Severity.INFO", "ILogger.Severity.VERBOSE"}
    others |= {"Builder.platform_has_fast_fp16", "TensorIOMode.OUTPUT"}
    missing = names - {name for name, *_ in used()} - others - {f"DataType.{name}" for name in TORCH_TYPES}
    assert not missing
    assert 'getattr(builder, "platform_has_fast_fp16", True)' in texts


def test_the_names_of_variables_tell_their_class():
    """Whatever comes out of a call of TensorRT's has a name that the test above knows."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
                names = chain(node.value.func)
                if names and names[0] in CLASSES and isinstance(node.targets[0], ast.Name):
                    assert node.targets[0].id in CLASSES.keys() | VARIABLES, f"{path.name}:{node.lineno}"


@pytest.mark.parametrize("version", API["versions"])
def test_types(version):
    assert all(forms_of(version, f"DataType.{name}") for name in TORCH_TYPES)


def test_arguments_of_the_types_that_we_give_were_taken():
    """By the bindings themselves, when data/tensorrt_api.json was written; they refused those of other types."""
    refused = {"'sizes'", "('a text')", "(None)", "'images', b'some bytes'"}
    for call, versions in API["taken"].items():
        assert versions.split() == ([] if any(word in call for word in refused) else API["versions"]), call
    taken = {call.partition("(")[0] for call, versions in API["taken"].items() if versions}
    assert taken <= {name.rpartition(".")[2] for name, *_ in used()}


# Profiles -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "imgsz", "stride", "wanted"),
    [
        (1, (640, 640), 32, Profile((1, 3, 32, 32), (1, 3, 640, 640), (8, 3, 672, 672))),
        (16, (384, 640), 32, Profile((1, 3, 32, 32), (16, 3, 384, 640), (16, 3, 416, 672))),
        (2, (64, 128), 64, Profile((1, 3, 64, 64), (2, 3, 64, 128), (8, 3, 128, 192))),
    ],
)
def test_profile(batch, imgsz, stride, wanted):
    metadata = Metadata(("a",), stride, batch, imgsz, AXES)
    assert profile_of(metadata) == wanted
    for images in check_images(metadata):  # each is computed at once, or in parts of as many as are allowed
        for low, size, high in zip(wanted.low[1:], images.shape[1:], wanted.high[1:], strict=True):
            assert low <= size <= high
    assert profile_of(Metadata(("a",), stride, batch, imgsz)) is None


# ONNX files -----------------------------------------------------------------------------------------------------------

BLOCKS = {  # in place of layer 7
    "NAM": [-1, 1, "NAMAttention", [16]],
    "NAM with places": [-1, 1, "NAMAttention", [16, {"no_spatial": False, "grid": 3}]],
    "C3NAM": [-1, 2, "C3NAM", [16]],
    "none": [-1, 1, "nn.Identity", []],
}
VARIANTS = [
    ("NAM", {}),
    ("NAM", {"dynamic": True}),
    ("NAM", {"half": True, "dynamic": True}),
    ("NAM", {"nms": True}),
    ("NAM", {"nms": True, "dynamic": True, "half": True, "opset": 20}),
    ("NAM", {"train": True}),
    ("NAM", {"simplify": True, "dynamic": True, "opset": 17}),
    ("NAM with places", {"dynamic": True}),
    ("C3NAM", {}),
    ("none", {"dynamic": True}),
]


@pytest.fixture(scope="module")
def weights(small_weights, tmp_path_factory):
    """Makes a checkpoint with one of BLOCKS, alone in its folder."""

    def make(block):
        yaml = load_checkpoint(small_weights).yaml
        head = [BLOCKS[block] if row[2] == "NAMAttention" else row for row in yaml["head"]]
        model = Model({**yaml, "head": head}, verbose=False)
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase):  # equal ones would become one in a file
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.2)
        file = tmp_path_factory.mktemp("net") / "net.pt"
        save_checkpoint(file, Checkpoint(model.yaml, ("a", "b", "c"), model.state_dict()))
        return file

    return make


@pytest.fixture(scope="module")
def graph_of(weights):
    """The ONNX file that an engine is built of, for two images of 64 x 96 pixels; each is written once."""
    known = {}

    def write(block, options):
        if str((block, options)) not in known:
            common = {"include": "engine", "trtexec": True, "imgsz": [64, 96], "batch_size": 2}
            (file,) = export.run(weights(block), **common, **options)
            known[str((block, options))] = onnx.load(file)
        return known[str((block, options))]

    return write


def constants_of(graph):
    """All whole numbers of 64 bits in a graph, by the name of the tensor that they are."""
    found = {item.name: item for item in graph.graph.initializer}
    for node in graph.graph.node:
        for item in node.attribute:
            if item.HasField("t"):
                found[node.output[0]] = item.t
    return {name: onnx.numpy_helper.to_array(item) for name, item in found.items() if item.data_type == 7}


def kinds_of(graph):
    """The element types of all tensors in a graph, by name."""
    ports = [*graph.graph.value_info, *graph.graph.input, *graph.graph.output]
    found = {port.name: port.type.tensor_type.elem_type for port in ports}
    return found | {item.name: item.data_type for item in graph.graph.initializer}


@pytest.mark.parametrize(("block", "options"), VARIANTS, ids=str)
def test_operators_are_published_ones_and_take_these_types(graph_of, block, options):
    graph = onnx.shape_inference.infer_shapes(graph_of(block, options))
    opsets = {item.domain: item.version for item in graph.opset_import}
    assert OPERATORS["opsets"][0] <= opsets[""] <= OPERATORS["opsets"][1]
    assert opsets[""] >= 13
    kinds, plugins = kinds_of(graph), 0
    for node in graph.graph.node:
        values = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
        taken = {kinds[name] for name in node.input if name}
        if node.op_type == OPERATORS["plugin"]["name"]:
            plugins += 1
            assert taken == {1}
            continue
        assert node.domain == ""
        types = OPERATORS["operators"][node.op_type].split()
        assert {TYPES[kind] for kind in taken} <= set(types), node.name
        if node.op_type == "Cast":
            assert TYPES[values["to"]] in types
        if node.op_type == "Resize":
            limits = OPERATORS["restrictions"]["Resize"]
            assert values["mode"].decode() in limits["modes"]
            assert values["coordinate_transformation_mode"].decode() in limits["coordinates"]
            assert values["nearest_mode"].decode() in limits["nearest"]
        if node.op_type == "MaxPool":
            assert (len(node.output), set(values.get("dilations", [1]))) == (1, {1})
        if node.op_type.startswith("Reduce") and len(node.input) == 2:
            assert node.input[1] in constants_of(graph) or node.input[1] in {i.name for i in graph.graph.initializer}
    assert plugins == options.get("nms", False)


@pytest.mark.parametrize("nms", [False, True])
def test_shapes_are_fixed_where_no_axis_is_open(graph_of, nms):
    graph = onnx.shape_inference.infer_shapes(graph_of("NAM", {"nms": nms}), strict_mode=True, data_prop=True)
    ports = {port.name: port for port in (*graph.graph.value_info, *graph.graph.output)}
    for node in graph.graph.node:
        for name in node.output:
            sizes = ports[name].type.tensor_type.shape.dim
            assert all(size.HasField("dim_value") and size.dim_value > 0 for size in sizes), f"{node.name}: {sizes}"
    shapes = [tuple(size.dim_value for size in port.type.tensor_type.shape.dim) for port in graph.graph.output]
    assert shapes == ([(2, 1), (2, 100, 4), (2, 100), (2, 100)] if nms else [(2, 252, 8)])


def check_range(graph):
    """All whole numbers fit into 32 bits; what torch ends a slice with, 2^63 - 1, has become the largest of these."""
    found = [values for values in constants_of(graph).values() if values.size]
    limits = np.iinfo(np.int32)
    assert all(limits.min <= values.min() and values.max() <= limits.max for values in found)
    return max((int(values.max()) for values in found), default=0) == limits.max


@pytest.mark.parametrize(("block", "options"), VARIANTS, ids=str)
def test_whole_numbers_for_engines_are_of_32_bits(graph_of, block, options):
    has_slices = check_range(graph_of(block, options))
    assert has_slices or "train" in options


@pytest.mark.parametrize("options", [{"dynamic": True}, {"half": True}, {"nms": True, "opset": 17}], ids=str)
def test_whole_numbers_of_onnx_files_are_of_32_bits(weights, options):
    """OpenVINO and MNN files are made of such."""
    (file,) = export.run(weights("NAM"), include="onnx", imgsz=64, **options)
    assert check_range(onnx.load(file))


def test_the_plugin_is_as_published(graph_of):
    plugin = OPERATORS["plugin"]
    options = {"conf_thres": 0.125, "iou_thres": 0.375, "topk_all": 7, "agnostic_nms": True, "dynamic": True}
    graph = graph_of("NAM", {"nms": True, **options})
    node = graph.graph.node[-1]
    assert (node.op_type, node.domain) == (plugin["name"], "TRT")
    assert {item.domain: item.version for item in graph.opset_import}["TRT"] == 1
    values = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    assert values.pop("plugin_version").decode() == plugin["version"]
    assert set(plugin["required"]) <= values.keys() <= plugin["attributes"].keys()
    for name, value in values.items():
        assert type(value) is (float if plugin["attributes"][name] == "float32" else int), name
    thresholds = {"score_threshold": 0.125, "iou_threshold": 0.375, "max_output_boxes": 7}
    assert values == thresholds | {"class_agnostic": 1, "background_class": -1, "score_activation": 0, "box_coding": 0}
    assert len(node.input) == len(plugin["inputs"])
    assert list(node.output) == [port.name for port in graph.graph.output] == ["num_dets", "boxes", "scores", "classes"]


def test_the_header_says_what_comes_out(weights):
    file = weights("NAM")
    export.run(file, include="engine", trtexec=True, imgsz=64, nms=True, topk_all=9, dynamic=True)
    header = read_onnx_header(file.with_name("net_tensorrt.onnx"))
    assert [(port.name, port.kind, port.shape) for port in header.outputs] == [
        ("num_dets", 6, (None, 1)),
        ("boxes", 1, (None, 9, 4)),
        ("scores", 1, (None, 9)),
        ("classes", 6, (None, 9)),
    ]
    assert Metadata.from_text(header.texts, header.inputs[0].shape).names == ("a", "b", "c")


def test_the_flags_of_trtexec_are_published_ones():
    settings = EngineSettings(4, True, False, profile_of(Metadata(("a",), 32, 1, (64, 96), AXES)), Path("a.timing"))
    command = shlex.split(trtexec_command(Path("a.onnx"), Path("a.engine"), settings))
    assert command[0] == "trtexec"
    flags = [word.partition("=")[0] for word in command[1:]]
    assert set(flags) == set(OPERATORS["trtexec"]["flags"])
    assert len(flags) == len(set(flags))
