"""Writes tensorrt_api.json: what TensorRT's published Python bindings have, of what this project uses, by version.

    pip download --no-deps -d wheels tensorrt-cu12-bindings==10.0.1     # and others; each unpacked into a folder
    python tests/models/data/tensorrt_api.py FOLDER [FOLDER ...]               # each with a tensorrt_bindings inside

The bindings alone do not load, as NVIDIA's libraries are not in them. Nine functions are all that they take of those:
a library in which these return nothing, made here by gcc, is enough to load them, and then they print their own
signatures, and say of a call's arguments whether they take them. No network is built and nothing computed.
"""

import json
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

FUNCTIONS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getNvOnnxParserVersion",
    "getBuilderPluginRegistry",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
OWNERS = {
    "ILogger": ("__init__", "log"),
    "ILogger.Severity": ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"),
    "Builder": (
        "__init__",
        "create_network",
        "create_builder_config",
        "create_optimization_profile",
        "build_serialized_network",
        "platform_has_fast_fp16",
    ),
    "NetworkDefinitionCreationFlag": ("STRONGLY_TYPED",),
    "MemoryPoolType": ("WORKSPACE",),
    "BuilderFlag": ("TF32", "FP16"),
    "IBuilderConfig": (
        "set_memory_pool_limit",
        "clear_flag",
        "add_optimization_profile",
        "create_timing_cache",
        "set_timing_cache",
        "get_timing_cache",
    ),
    "ITimingCache": ("serialize",),
    "IOptimizationProfile": ("set_shape",),
    "OnnxParser": ("__init__", "parse", "num_errors", "get_error"),
    "ParserError": ("desc", "node_name", "node_operator"),
    "Runtime": ("__init__", "deserialize_cuda_engine"),
    "ICudaEngine": (
        "create_execution_context",
        "num_io_tensors",
        "get_tensor_name",
        "get_tensor_mode",
        "get_tensor_dtype",
        "get_tensor_shape",
        "get_tensor_profile_shape",
    ),
    "TensorIOMode": ("INPUT", "OUTPUT"),
    "IExecutionContext": ("set_input_shape", "get_tensor_shape", "set_tensor_address", "execute_async_v3"),
    "DataType": ("FLOAT", "HALF", "BF16", "INT32", "INT64", "INT8", "UINT8", "BOOL", "FLOAT.name"),
}
MEMBERS = ["init_libnvinfer_plugins", "__version__"]
MEMBERS += [f"{owner}.{name}" for owner, names in OWNERS.items() for name in names]
NEW = "T.{0}.__new__(T.{0})"
CALLS = {  # what each class is to take, in the types that our code has, and what it must not
    "set_shape('images', (1, 3, 32, 32), (1, 3, 64, 64), (8, 3, 96, 96))": "IOptimizationProfile",
    "set_shape('images', 'sizes', (1, 3, 64, 64), (8, 3, 96, 96))": "IOptimizationProfile",
    "deserialize_cuda_engine(memoryview(b'some bytes')[2:])": "Runtime",
    "deserialize_cuda_engine('a text')": "Runtime",
    "create_timing_cache(b'')": "IBuilderConfig",
    "create_timing_cache(None)": "IBuilderConfig",
    "set_memory_pool_limit(T.MemoryPoolType.WORKSPACE, 4 << 30)": "IBuilderConfig",
    "clear_flag(T.BuilderFlag.TF32)": "IBuilderConfig",
    "create_network(1 << int(T.NetworkDefinitionCreationFlag.STRONGLY_TYPED))": "Builder",
    "parse(b'some bytes')": "OnnxParser",
    "set_input_shape('images', (1, 3, 32, 32))": "IExecutionContext",
    "set_tensor_address('images', 140000000000000)": "IExecutionContext",
    "set_tensor_address('images', b'some bytes')": "IExecutionContext",
    "execute_async_v3(140000000000000)": "IExecutionContext",
}
LOOK = """
import json, sys
sys.path.insert(0, sys.argv[1])
import tensorrt_bindings
found = {}
for name in sys.argv[2:]:
    owner = tensorrt_bindings
    for part in name.split("."):
        owner = getattr(owner, part, None)
    if owner is not None:
        is_property = isinstance(owner, property)
        found[name] = ["property" if is_property else "call" if callable(owner) else "value", owner.__doc__ or ""]
print(json.dumps([tensorrt_bindings.__version__, found]))
"""


def signatures(name: str, kind: str, text: str) -> list[str]:
    """`network, config` and the like of each form of a call, without types; `value` or `property` of what is none."""
    if kind != "call":
        return [kind]
    found = re.findall(rf"^(?:\d+\. )?{name.rpartition('.')[2]}\((.*)\) -> ", text, re.MULTILINE)
    forms = []
    for arguments in found:
        names = re.findall(r"(?:^|, )(\w+): [^=,(]*?(?:\[[^]]*\])?[^=,]*?( = |(?=, \w+: |$))", arguments)
        forms.append(", ".join(word + ("=" if default.strip() else "") for word, default in names if word != "self"))
    return forms


def is_taken(folder: Path, libraries: str, call: str) -> bool:
    """Whether the bindings convert the arguments of a call, on an object with nothing in it.

    Where they do not they raise TypeError; where they do they go on to the empty object, and the process crashes there.
    """
    code = (
        f"import sys; sys.path.insert(0, sys.argv[1]); import tensorrt_bindings as T\n{NEW.format(CALLS[call])}.{call}"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], env={"LD_LIBRARY_PATH": libraries}, check=False)
    assert done.returncode in (1, -signal.SIGSEGV)
    return done.returncode != 1


def look(folder: Path) -> tuple[str, dict[str, list[str]], list[str]]:
    """The version of the bindings in a folder, the signatures of those MEMBERS that they have, CALLS that they take."""
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "empty.c"
        source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in FUNCTIONS))
        for library in ("nvinfer", "nvonnxparser", "nvinfer_plugin"):
            for major in (10, 11):
                name = f"lib{library}.so.{major}"
                command = [
                    "gcc",
                    "-shared",
                    "-fPIC",
                    f"-Wl,-soname,{name}",
                    "-o",
                    str(Path(scratch) / name),
                    str(source),
                ]
                subprocess.run(command, check=True)
        command = [sys.executable, "-c", LOOK, str(folder), *MEMBERS]
        done = subprocess.run(command, env={"LD_LIBRARY_PATH": scratch}, capture_output=True, text=True, check=True)
        taken = [call for call in CALLS if is_taken(folder, scratch, call)]
    version, found = json.loads(done.stdout)
    return version, {name: signatures(name, *value) for name, value in found.items()}, taken


def main(folders: list[str]) -> None:
    """Writes the file: for each member, its forms and the versions that have them so."""
    looks = [look(Path(folder)) for folder in folders]
    seen = {version: found for version, found, _ in looks}
    members = {}
    for name in MEMBERS:
        forms: dict[str, list[str]] = {}
        for version, found in seen.items():
            if name in found:
                forms.setdefault(" | ".join(found[name]), []).append(version)
        members[name] = {form: " ".join(versions) for form, versions in forms.items()}
    source = (
        "tensorrt-cu12-bindings of PyPI, read by tests/models/data/tensorrt_api.py; "
        "`a, b=` is a call of a and, if given, b"
    )
    content = {"source": source, "versions": list(seen), "members": members}
    content["taken"] = {call: " ".join(version for version, _, taken in looks if call in taken) for call in CALLS}
    Path(__file__).with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
