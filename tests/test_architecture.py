"""The rules of the house, read from the source: who imports whom, types, and what no file does."""

import ast
import graphlib
import re
import subprocess
import sys
from itertools import chain

import pytest

from utils.general import ROOT

ROOMS = ("models", "utils", "tools", "benchmarks")
FILES = sorted([*ROOT.glob("*.py"), *(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))])
FOR_MODELS = {"base", "general", "torch_utils", "dist", "ops", "files", "processes"}  # what models import of utils
# Who may import whom: a folder, or a file beside it, imports what stands in an earlier row, and its own folder.
UTILS = (
    {"base"},
    {"ops", "processes", "activations"},
    {"metrics"},
    {"general"},
    {"torch_utils", "dist", "files"},
    {"augmentations", "plots"},
    {"data", "draw"},
    {"datasets", "loss", "autoanchor", "config", "labels", "convert"},
    {"training", "evaluation", "predict"},
    {"autobatch"},
    {"loggers"},
    {"cli"},
    {"report", "evolve"},
    {"v61", "callbacks", "dataloaders", "downloads"},  # v6.1's names and the doors to them
)
MODELS = (
    {"blocks.nam"},
    {"common"},
    {"blocks", "spec", "tta"},
    {"yolo"},
    {"experimental", "edit", "pruning"},
    {"runtimes"},
    {"exporters"},
    {"v61", "attention"},
)
BELOW_THEIR_ROOM = {"models.blocks.nam"}  # files that stand in a row of their own, before that of their folder
MOST_ENTRIES = {"utils": 12, "models": 8}  # files beside the folders
LATE_IMPORTS = {
    "av",
    "optuna",
    "mss",
    "onnx",
    "onnxruntime",
    "onnxslim",
    "onnxscript",
    "MNN",
    "_tools",
    "ai_edge_litert",
    "ai_edge_quantizer",
    "coremltools",
    "executorch",
    "google.protobuf.message",  # of coremltools
    "litert_torch",
    "ncnn",
    "nncf",
    "pnnx",
    "safetensors",
    "safetensors.torch",
    "openvino",
    "pandas",
    "trackers",
    "torch._dynamo",  # torch's compiler, of --compile
    "torch._inductor.cpp_builder",
    "pycocotools",
    "scipy.cluster.vq",
    "scipy.special",
    "scipy.stats",
    "sqlalchemy",
    "supervision",
    "tensorboard",
    "tensorrt",
    "torchvision",
    "torch.utils.mobile_optimizer",
    "torch.utils.flop_counter",
    "torch.utils.tensorboard",
    "wandb",
    "mlflow",
    "matplotlib",
    "fastapi",
    "python_multipart",
    "starlette",
    "uvicorn",
}  # optional, or slow
FORBIDDEN_IMPORTS = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "requests", "socket", "torch.hub"}
REACHING = {  # all files that reach beyond this process, and why
    "network": {
        "benchmarks/serving.py",  # asks the server that the user names
        "models/runtimes/kserve.py",  # asks the server whose address the user's --weights are
        "tools/datasets/fetch.py",  # fetches published data sets for --download of tools/convert.py
        "utils/predict/remote.py",  # fetches the picture that the user's --source names
    },
    "os.environ": {
        "benchmarks/commands.py",  # hands it on to the programs it compares
        "benchmarks/throughput.py",  # hands it on to the program it compares with
        "models/runtimes/base.py",  # ONNX Runtime tells its makers of its use unless told not to before its import
        "models/exporters/int8.py",  # NNCF tells its makers of its use unless told not to before its import
        "utils/files/exported.py",  # XDG_STATE_HOME names the user's own folder
        "utils/dist.py",  # torchrun tells its processes who they are
        "utils/loggers/mlflow.py",  # MLflow tells its makers of its use unless told not to before its import
        "utils/predict/opencv.py",  # FFmpeg takes its log level from nowhere else
        "utils/processes/display.py",  # whether there is a display
        "utils/torch_utils.py",  # torch takes the place of its compiler's cache from nowhere else
    },
    "sys.path": {"models/yolo.py"},  # so that `python models/yolo.py` works, as tutorials have it
}
NETWORK = {"urllib.request", "http.client"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "breakpoint"}
FORBIDDEN_NAMES = {
    "os.system",
    "os.popen",
    "os.getenv",
    "yaml.unsafe_load",
    "yaml.full_load",
    "yaml.UnsafeLoader",
    "yaml.FullLoader",
    "yaml.Loader",
    "subprocess.getoutput",
    "torch.hub",
}
PACKAGES = {
    "cv2": "opencv-python",
    "MNN": "mnn",
    "_tools": "mnn",
    "PIL": "pillow",
    "yaml": "pyyaml",
    "ai_edge_litert": "ai-edge-litert",
    "ai_edge_quantizer": "ai-edge-quantizer",
    "litert_torch": "litert-torch",
    "google": "protobuf",
}  # where the import has another name
HEAVY = {"matplotlib", "pandas", "scipy", "seaborn", "torchvision", "av", "tensorboard", "pycocotools"} | {
    "wandb",
    "mlflow",
    "optuna",
    "onnx",
    "onnxruntime",
    "openvino",
    "fastapi",
    "uvicorn",
}
COMMANDS = {"train.py", "val.py", "detect.py", "export.py"}
NOT_FOR_OPTIONS = HEAVY | {"torch", "numpy", "cv2"}


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def is_command(path):
    """Whether --help of a script must not import what only the work needs."""
    return name_of(path) in COMMANDS


def module_of(path):
    return name_of(path).removesuffix(".py").replace("/", ".").removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
SCRIPTS = [path for path in FILES if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")]
each_file = pytest.mark.parametrize("path", FILES, ids=name_of)


def imports(tree):
    """Dotted names of all modules imported anywhere in a tree; `from models import yolo` is models.yolo."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inner & MODULES.keys()) or {node.module}
    return found


def functions(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def dotted(node):
    """`os.path` of the attribute path of os; '' where it is no such chain."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def within_any(names, packages):
    return {name for name in names if within(name, packages)}


def place_of(module):
    """Where a module of a room stands among the rows: its folder, or the file itself."""
    return module.partition(".")[2] if module in BELOW_THEIR_ROOM else module.split(".")[1]


def within(name, packages):
    return any(name == package or name.startswith(f"{package}.") for package in packages)


# Who imports whom -----------------------------------------------------------------------------------------------------


def test_all_files_are_seen():
    assert {"train", "val", "models.yolo", "models.runtimes.load", "utils.general", "utils.ops.boxes"} <= MODULES.keys()


def test_no_cycle():
    graph = {module: imports(TREES[path]) & MODULES.keys() for module, path in MODULES.items()}
    order = [*graphlib.TopologicalSorter(graph).static_order()]  # CycleError names the modules
    assert set(order) == MODULES.keys()


@each_file
def test_import_rule(path):
    ours = {name for name in imports(TREES[path]) if name in MODULES}
    room = name_of(path).removesuffix(".py").partition("/")[0]
    scripts = {module for module in MODULES if "." not in module} - {*ROOMS}
    if room not in {"benchmarks", "tools"}:  # which start the commands, and read their parse_opt
        assert not ours & scripts, "no file imports a script"
    if room != "benchmarks":
        assert not within_any(ours, {"benchmarks"})
    if room != "tools" and room != "benchmarks":
        assert not within_any(ours, {"tools"}), "nothing imports tools"
    if room == "utils":
        assert not within_any(ours, {"models"}), "utils never imports models"
    if room == "models":
        assert within_any(ours, {"utils"}) <= within_any(ours, {f"utils.{name}" for name in FOR_MODELS})


@pytest.mark.parametrize(("room", "rows"), [("utils", UTILS), ("models", MODELS)])
def test_rows_of_a_room(room, rows):
    """Every file of a room stands in a row, and imports only from earlier rows and from its own folder."""
    row = {name: number for number, names in enumerate(rows) for name in names}
    files = {module: path for module, path in MODULES.items() if module.startswith(f"{room}.")}
    assert {place_of(module) for module in files} == row.keys()
    for module, path in files.items():
        own = place_of(module)
        taken = {place_of(name) for name in imports(TREES[path]) if name in files} - {own}
        assert all(row[name] < row[own] for name in taken), f"{module} imports {sorted(taken)}"


@pytest.mark.parametrize("room", MOST_ENTRIES)
def test_a_room_stays_small(room):
    files = [path for path in (ROOT / room).glob("*.py") if path.name != "__init__.py"]
    assert len(files) <= MOST_ENTRIES[room]


@pytest.mark.parametrize(
    ("module", "packages"),
    [
        ("models.blocks.nam", {"torch"}),
        ("models.common", {"torch", "numpy", "models", "utils"}),
        ("utils.ops.boxes", {"torch", "numpy"}),
        ("utils.ops.iou", {"torch", "numpy"}),
    ],
)
def test_the_lowest_layer_stands_alone(module, packages):
    found = {name.partition(".")[0] for name in imports(TREES[MODULES[module]])}
    assert found - sys.stdlib_module_names <= packages


# Types and docstrings -------------------------------------------------------------------------------------------------


@each_file
def test_all_is_annotated(path):
    for function in functions(TREES[path]):
        args = function.args
        named = [*args.posonlyargs, *args.args, *args.kwonlyargs, *filter(None, (args.vararg, args.kwarg))]
        bare = [arg.arg for arg in named if arg.annotation is None and arg.arg not in {"self", "cls"}]
        assert not bare, f"{function.name}: {', '.join(bare)}"
        assert function.returns is not None, f"{function.name} does not say what it returns"


@each_file
def test_public_names_have_docstrings(path):
    tree = TREES[path]
    if not tree.body:
        return
    assert ast.get_docstring(tree), "the file's head"
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    for node in chain(tree.body, *(owner.body for owner in classes if not owner.name.startswith("_"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name


# What no file does ----------------------------------------------------------------------------------------------------


@each_file
def test_forbidden_names(path):
    bad = within_any(imports(TREES[path]), FORBIDDEN_IMPORTS)
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS:
            bad.add(f"{node.func.id}()")
        if isinstance(node, ast.Attribute) and dotted(node) in FORBIDDEN_NAMES:
            bad.add(dotted(node))
        if isinstance(node, ast.Global):
            bad.add(f"global {', '.join(node.names)}")
    assert not bad


@pytest.mark.parametrize("what", REACHING)
def test_only_these_files_reach_out(what):
    if what == "network":
        found = {name_of(path) for path in FILES if within_any(imports(TREES[path]), NETWORK)}
    else:
        found = {
            name_of(path)
            for path in FILES
            if any(isinstance(node, ast.Attribute) and dotted(node) == what for node in ast.walk(TREES[path]))
        }
    assert found == REACHING[what]


@each_file
def test_forbidden_arguments(path):
    for call in (node for node in ast.walk(TREES[path]) if isinstance(node, ast.Call)):
        given = {word.arg: getattr(word.value, "value", None) for word in call.keywords}
        assert given.get("shell") in (None, False), f"line {call.lineno}: shell"
        assert given.get("allow_pickle") in (None, False), f"line {call.lineno}: allow_pickle"
        if dotted(call.func) == "torch.load":
            assert given.get("weights_only") is True, f"line {call.lineno}: torch.load runs what the file says"


@each_file
def test_no_error_is_swallowed(path):
    for handler in (node for node in ast.walk(TREES[path]) if isinstance(node, ast.ExceptHandler)):
        assert handler.type is not None, f"line {handler.lineno}: a bare except"
        assert not isinstance(handler.body[0], ast.Pass), f"line {handler.lineno}: except with pass"
        assert dotted(handler.type) != "BaseException" or any(isinstance(node, ast.Raise) for node in handler.body)


@each_file
def test_imports_stand_at_the_head(path):
    late = {name for function in functions(TREES[path]) for name in imports(function)}
    assert {name for name in late if not within(name, LATE_IMPORTS)} == set()
    stars = [node for node in ast.walk(TREES[path]) if isinstance(node, ast.ImportFrom) and node.names[0].name == "*"]
    assert not stars


# Scripts --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_help_is_quick_to_come(path):
    """It answers from any folder for the root's scripts, and imports nothing that only the work needs."""
    as_file = path.parent == ROOT or name_of(path) == "models/yolo.py"
    start = [str(path)] if as_file else ["-m", module_of(path).removesuffix(".__main__")]
    command = [sys.executable, "-X", "importtime", *start, "--help"]
    folder = ROOT.parent if as_file else ROOT
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("usage: ")
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "argparse" in loaded
    assert not loaded & (NOT_FOR_OPTIONS if is_command(path) else HEAVY)


@pytest.mark.parametrize("room", ["utils/base", "utils/cli"])
def test_options_need_no_torch(room):
    """Only the standard library, tqdm for the log, and each other."""
    for path in (ROOT / room).glob("*.py"):
        outside = {name for name in imports(TREES[path]) if not within(name, {"utils.base", "utils.cli"})}
        assert within_any(outside, NOT_FOR_OPTIONS) == set(), name_of(path)


def test_every_command_is_a_script():
    assert {name_of(path) for path in SCRIPTS} >= COMMANDS


# Packages -------------------------------------------------------------------------------------------------------------


def required(file):
    """The packages that a requirements file names, in lower case."""
    lines = [line.partition("#")[0].strip() for line in (ROOT / file).read_text(encoding="utf-8").splitlines()]
    return {re.split(r"[\[=<>~! ]", line)[0].lower() for line in lines if line and not line.startswith("-")}


def test_requirements_are_what_is_imported():
    used = {name.partition(".")[0] for tree in TREES.values() for name in imports(tree)} - sys.stdlib_module_names
    used = {PACKAGES.get(name, name) for name in used - {name.partition(".")[0] for name in MODULES}}
    used |= {"tensorboard"}  # imported by way of torch.utils.tensorboard
    files = [required(f"requirements{extra}.txt") for extra in ("", "-export", "-serve", "-track", "-dev")]
    used = (used - {"python_multipart", "starlette"}) | {"python-multipart"}  # FastAPI brings starlette
    extras = {"mlflow", "mss", "optuna", "pycocotools", "sqlalchemy", "tensorrt", "wandb"}
    apps = [required(f"requirements-{name}.txt") for name in ("executorch", "coreml", "tflite")]
    several = [*files[:4], *apps]
    assert set().union(*several) == used - extras
    assert len(set().union(*several)) == sum(map(len, several))
    assert required("constraints.txt") == set().union(*files, *apps[:2])  # tflite's want an older pydantic than others


def test_ci_runs_the_readmes_command():
    pattern = re.search(r"'(\^python3 .*\$)'", (ROOT / ".ci/run").read_text(encoding="utf-8"))[1]
    found = re.findall(pattern, (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    install = "python3 -m venv .venv && .venv/bin/pip install -r requirements-dev.txt"
    assert found == [f"{install} && .venv/bin/python -m pytest -n 2"]
