"""OpenVINO and NNCF find no package to report their use with."""

import subprocess
import sys

import pytest

from utils.general import ROOT

CODE = """
import sys
from models.runtimes.base import import_openvino
import_openvino()
from openvino.tools.ovc import telemetry_utils
assert telemetry_utils.tm.__name__.endswith("telemetry_stub"), telemetry_utils.tm
assert not [name for name in sys.modules if name.startswith("openvino_telemetry.")]
"""


def test_openvino_is_imported_without_telemetry():
    pytest.importorskip("openvino")
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_onnx_runtime_is_told_not_to_report():
    pytest.importorskip("onnxruntime")
    code = "import os; from models.runtimes.base import import_onnxruntime; import_onnxruntime(); "
    code += "assert os.environ['ORT_DISABLE_TELEMETRY'] == '1'"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
