"""Networks for mobiles and small computers, run on this one: ncnn and MNN, both on the CPU and in FP32."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.runtimes.base import METADATA_FILE, Names, Runtime, own_metadata, require_package
from utils.files.reading import parse_json, read_json

NCNN_PARAM, NCNN_BIN = "model.ncnn.param", "model.ncnn.bin"  # the names that pnnx gives them
NCNN_INPUT, NCNN_OUTPUT = "in0", "out0"
MNN_INPUT, MNN_OUTPUT = "images", "output"


class NcnnRuntime(Runtime):
    """A folder with an ncnn network and its metadata. It takes images of one size, one after another.

    precision: bf16 keeps what is between the layers in it, which spares memory; auto is what ncnn chooses.
    """

    precisions = ("fp32", "bf16", "auto")

    def __init__(
        self, path: Path, device: torch.device, names: Names, threads: int = 0, precision: str = "fp32"
    ) -> None:
        del names
        folder = path if path.is_dir() else path.parent
        missing = [name for name in (NCNN_PARAM, NCNN_BIN, METADATA_FILE) if not (folder / name).is_file()]
        if missing:
            raise ValueError(f"{folder}: has no {missing[0]}; export it again with export.py")
        super().__init__(own_metadata(folder, read_json(folder / METADATA_FILE)), device)
        check_ncnn_size(folder, self.metadata.details.get("bin_bytes"))
        with require_package("ncnn", str(folder)):
            import ncnn
        self.matrix, self.network = ncnn.Mat, ncnn.Net()
        options = self.network.opt
        options.use_vulkan_compute = False
        if precision != "auto":
            options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = False
            options.use_bf16_storage = precision == "bf16"
        options.num_threads = threads or torch.get_num_threads()
        if self.network.load_param(str(folder / NCNN_PARAM)) or self.network.load_model(str(folder / NCNN_BIN)):
            raise ValueError(f"{folder}: ncnn cannot load it; it is damaged, or of another version of ncnn")

    def compute(self, images: Tensor) -> list[Tensor]:
        """See Runtime."""
        rows = []
        for image in images.cpu().contiguous().numpy():
            extractor = self.network.create_extractor()
            extractor.input(NCNN_INPUT, self.matrix(image).clone())
            failed, found = extractor.extract(NCNN_OUTPUT)
            if failed:
                raise ValueError("ncnn cannot compute this network; export it again with export.py")
            rows.append(torch.from_numpy(np.array(found)))
        return [torch.stack(rows)]


def check_ncnn_size(folder: Path, expected: str | None) -> None:
    """ValueError where the weights are not as long as they were written, which ncnn would not notice."""
    found = str((folder / NCNN_BIN).stat().st_size)
    if expected != found:
        raise ValueError(f"{folder}: {NCNN_BIN} has {found} bytes, {expected} were written; export it again")


class MnnRuntime(Runtime):
    """An MNN file, whose metadata is its bizCode.

    precision: auto lets MNN compute in less than FP32 where it is made for that, as on ARM; elsewhere it is the same.
    """

    precisions = ("fp32", "auto")

    def __init__(
        self, path: Path, device: torch.device, names: Names, threads: int = 0, precision: str = "fp32"
    ) -> None:
        del names
        with require_package("MNN", str(path)):
            import MNN
        self.expr = MNN.expr
        word = "low" if precision == "auto" else "high"
        settings = {"precision": word, "backend": "CPU", "numThread": threads or torch.get_num_threads()}
        manager = MNN.nn.create_runtime_manager((settings,))
        try:
            network = MNN.nn.load_module_from_file(
                str(path), [MNN_INPUT], [MNN_OUTPUT], runtime_manager=manager, rearrange=True
            )
            content = parse_json(network.get_info()["bizCode"])
        except (SystemError, RuntimeError, ValueError, KeyError) as error:
            raise ValueError(f"{path}: not an MNN file of export.py, or a damaged one") from error
        super().__init__(own_metadata(path, content), device)
        self.network = network

    def compute(self, images: Tensor) -> list[Tensor]:
        """See Runtime."""
        array = images.cpu().contiguous().numpy()
        value = self.expr.const(array, list(array.shape), self.expr.NCHW)
        found = self.expr.convert(self.network.onForward([value])[0], self.expr.NCHW)
        return [torch.from_numpy(found.read().copy())]
