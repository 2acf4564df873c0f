"""Networks for apps, run on this machine: ExecuTorch and LiteRT (TensorFlow Lite), both on the CPU by XNNPACK."""

import warnings
from pathlib import Path

import torch
from torch import Tensor

from models.runtimes.base import Names, Runtime, preserve_logging, reason, require_package
from models.runtimes.sealed import unseal

PTE_MAGIC, TFLITE_MAGIC = b"ET12", b"TFL3"
EXECUTORCH_HINT = ", or -r requirements-executorch.txt"
TFLITE_HINT = ", or -r requirements-tflite.txt"
NOISY = "torch.utils._pytree"  # warns of how a package of ExecuTorch's registers its types


class ExecuTorchRuntime(Runtime):
    """A .pte file of export.py. It takes images of one size, as many at a time as it was made for."""

    def __init__(self, path: Path, device: torch.device, names: Names, threads: int = 0) -> None:
        del names
        metadata, network = unseal(path, PTE_MAGIC, "an ExecuTorch file")
        super().__init__(metadata, device)
        with (
            require_package("executorch", str(path), EXECUTORCH_HINT),
            preserve_logging(NOISY),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")  # it calls itself experimental
            from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool
            from executorch.runtime import Runtime as ExecuTorch
        if threads:
            _unsafe_reset_threadpool(threads)  # unsafe only while something computes
        try:
            self.program = ExecuTorch.get().load_program(network)
            self.method = self.program.load_method("forward")
        except self.errors as error:
            raise ValueError(f"{path}: ExecuTorch cannot load it: {reason(error)}") from error
        self.dtype = torch.float16 if metadata.details.get("precision") == "fp16" else torch.float32

    def compute(self, images: Tensor) -> list[Tensor]:
        """See Runtime."""
        return list(self.method.execute([images.cpu().to(self.dtype).contiguous()]))


class TfliteRuntime(Runtime):
    """A .tflite file of export.py, which takes images (B, H, W, 3) of one size and gives what all others give."""

    def __init__(self, path: Path, device: torch.device, names: Names, threads: int = 0) -> None:
        del names
        metadata, network = unseal(path, TFLITE_MAGIC, "a TFLite file")
        super().__init__(metadata, device)
        with require_package("ai-edge-litert", str(path), TFLITE_HINT):
            from ai_edge_litert.interpreter import Interpreter
        try:
            self.network = Interpreter(model_content=network, num_threads=threads or torch.get_num_threads())
            self.network.allocate_tensors()
        except self.errors as error:
            raise ValueError(f"{path}: LiteRT cannot load it: {reason(error)}") from error
        (self.input,), (self.output,) = self.network.get_input_details(), self.network.get_output_details()

    def compute(self, images: Tensor) -> list[Tensor]:
        """See Runtime."""
        self.network.set_tensor(self.input["index"], images.cpu().permute(0, 2, 3, 1).contiguous().numpy())
        self.network.invoke()
        return [torch.from_numpy(self.network.get_tensor(self.output["index"]))]  # a copy of it


APP_RUNTIMES = {"executorch": ExecuTorchRuntime, "tflite": TfliteRuntime}  # by the kinds of models/runtimes/load.py
