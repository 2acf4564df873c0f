"""v6.1's `DetectMultiBackend` over `models/runtimes`, and the names of later YOLOv5 networks.

models.common and models.yolo import both on first access, see utils/v61.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from models.runtimes.load import READABLE, Weights, find_kind, load_backend
from models.runtimes.onnx_header import read_onnx_header
from models.yolo import Model
from utils.files.addresses import is_url
from utils.files.yamls import read_yaml
from utils.general import LOGGER, find_file
from utils.torch_utils import largest_stride

# v6.1's flags of a file's format, and those of later versions, by our words for it.
FLAGS = {"pt": "pt", "torchscript": "jit", "onnx": "onnx", "openvino": "xml", "engine": "engine", "coreml": "coreml"}
FLAGS |= {"tflite": "tflite", "remote": "triton"}
UNREAD = ("saved_model", "pb", "edgetpu", "tfjs", "paddle")


class DetectMultiBackend(nn.Module):
    """A network from a file of any format, with v6.1's attributes and calls. `load_backend` reads the file.

    Attributes:
        pt, jit, onnx, xml, engine, coreml, tflite, triton: True for the file's format.
        model: The network itself; for a checkpoint a Model or an Ensemble.
        stride: Largest stride in pixels.
        names: Class names, a list.
        device: Where it computes.
        fp16: True if it computes in FP16.
        batch_size: Batch size of a file with a fixed one, else 1.
    """

    def __init__(
        self,
        weights: str | Weights | Sequence[str | Weights] = "yolov5s.pt",
        device: torch.device | str | None = None,
        dnn: bool = False,
        data: str | Path | None = None,
        fp16: bool = False,
        fuse: bool = True,
        trust: bool = False,
    ) -> None:
        """Load the file. data: data yaml with class names for a file without them. fp16: on a GPU only."""
        super().__init__()
        first = weights if isinstance(weights, str | Weights) else next(iter(weights))
        kind = "remote" if is_url(str(first)) else find_kind(Path(str(first)))
        for name in (*FLAGS.values(), *UNREAD):
            setattr(self, name, FLAGS.get(kind) == name)
        self.dnn = dnn and self.onnx
        self.device = torch.device("cpu") if device is None else torch.device(device)
        model = load_backend(
            weights, self.device, dnn=self.dnn, names=lambda: names_of(data, first), fuse=fuse, trust=trust
        )
        self.model = model.to(memory_format=torch.channels_last)
        self.fp16 = fp16 and self.pt and self.device.type == "cuda"
        if self.fp16:
            self.model.half()
        self.stride = largest_stride(self.model)
        self.names, self.nc = self.model.names, self.model.nc
        self.batch_size = getattr(self.model, "fixed_batch", None) or 1

    def __getattr__(self, name: str) -> object:
        """Look up further attributes of the network: yaml, hyp, save, fixed_hw, ..."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in {"model", "_modules"}:  # while it is made
                raise
            return getattr(self.model, name)

    def forward(
        self, im: Tensor, augment: bool = False, visualize: bool | str | Path = False, val: bool = False
    ) -> Tensor | list[Tensor] | tuple[Tensor, list[Tensor] | None]:
        """Return decoded boxes (B, N, 5 + nc) for images (B, 3, H, W) in 0..1; with `val` the raw maps too.

        A checkpoint's network in training mode returns the raw maps alone. visualize: a folder for feature maps.
        """
        if visualize and self.pt:
            found = self.model(im, augment=augment, visualize=visualize)
        else:
            found = self.model(im, augment=augment)
        if val or isinstance(found, list):
            return found
        return found[0]

    @torch.no_grad()
    def warmup(self, imgsz: Sequence[int] = (1, 3, 640, 640), half: bool = False) -> None:
        """Run the network once on zeros (B, 3, H, W) if it is on a GPU, so that algorithms are chosen."""
        if self.device.type != "cpu":
            dtype = torch.float16 if half or self.fp16 else torch.float32
            self.forward(torch.zeros(*imgsz, device=self.device, dtype=dtype))

    @staticmethod
    def model_type(p: str | Path = "path/to/model.pt") -> str:
        """Return the format of a file; ValueError if it is not supported."""
        kind = find_kind(Path(p))
        if not kind:
            raise ValueError(f"{p}: of no format that is read here: {READABLE}")
        return kind


def names_of(data: str | Path | None, weights: str | Weights) -> list[str]:
    """Read class names from a data yaml; without one class0, class1, ... if the file has the number of classes.

    Raises:
        ValueError: if neither gives them.
    """
    if data is None and str(weights).lower().endswith(".onnx"):
        shape = read_onnx_header(str(weights)).outputs[0].shape
        count = (shape[-1] or 0) - 5 if shape else 0
        if count > 0:
            LOGGER.warning(
                f"{weights}: brings no class names, so they are class0 to class{count - 1}; data= names them"
            )
            return [f"class{i}" for i in range(count)]
    if data is None:
        raise ValueError(f"{weights}: brings no class names; name the data yaml that has them with data=")
    content = read_yaml(find_file(data))
    names, count = content.get("names"), content.get("nc")
    if names is None and isinstance(count, int):
        return [f"class{i}" for i in range(count)]
    found = [names[i] for i in sorted(names)] if isinstance(names, dict) else names
    if not isinstance(found, list) or not found:
        raise ValueError(f"{data}: names: a list of class names is expected")
    return [str(name) for name in found]


class SegmentationModel(Model):
    """Name of YOLOv5 v7.0's segmentation networks, for isinstance checks in programs; not implemented."""

    def __init__(self, cfg: str | Path | dict = "yolov5s-seg.yaml", *_: object, **__: object) -> None:
        raise ValueError(f"{cfg}: networks for segmentation are not built here, only detectors; Model builds those")
