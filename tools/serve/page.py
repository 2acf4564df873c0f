"""The page that needs no server: its files, the network in ONNX, its card and ONNX Runtime for browsers in a folder."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from tools.serve.predictor import model_card
from utils.general import atomic_write
from utils.predict.inference import choose_size

PAGE = Path(__file__).parent / "static"
VENDOR = PAGE / "vendor"
RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
MODEL = "model.onnx"


def export_page(folder: Path, weights: Sequence[Path], model: nn.Module, imgsz: Sequence[int] | None) -> Path:
    """Writes the page, the network and its card into the folder, and gives it; files of the same names are replaced.

    ValueError where the weights are no single ONNX file, FileNotFoundError where ONNX Runtime was not fetched yet.
    """
    if len(weights) != 1 or weights[0].suffix.lower() != ".onnx":
        raise ValueError(
            f"--export-page: {weights[0]} does not run in browsers; make an ONNX file with "
            "python export.py --include onnx, and name it with --weights"
        )
    missing = [name for name in RUNTIME if not (VENDOR / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"--export-page: {VENDOR / missing[0]} is missing, which npm fetches: cd {PAGE} && npm ci && npm run vendor"
        )
    pages = [file for file in sorted(PAGE.iterdir()) if file.suffix in {".html", ".css", ".js", ".svg"}]
    (folder / VENDOR.name).mkdir(parents=True, exist_ok=True)
    for file in (*pages, *(VENDOR / name for name in RUNTIME)):
        copy(file, folder / file.relative_to(PAGE))
    copy(weights[0], folder / MODEL)
    card = {**model_card(weights, model, choose_size(model, imgsz)), "runs": "browser", "model": MODEL, "nam": []}
    with atomic_write(folder / "model.json") as temporary:
        temporary.write_text(json.dumps(card) + "\n", encoding="utf-8")
    return folder


def copy(source: Path, target: Path) -> None:
    """Puts a file there as a whole or not at all."""
    with atomic_write(target) as temporary:
        shutil.copyfile(source, temporary)
