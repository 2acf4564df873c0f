"""What val.py, detect.py and tools.serve share: a network ready to run, images to it and boxes back."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from utils.base.constants import AUTO_PRECISION
from utils.general import LOGGER, check_img_size
from utils.ops.boxes import scaled_coords
from utils.ops.nms import load_nms
from utils.torch_utils import fast_dtype, largest_stride

DEFAULT_SIZE = 640  # pixels, of a network of which it is not known what size it was trained at
FAR = 1.5  # times as large or small as in training; there and beyond mAP falls fast


def ready(model: nn.Module, half: bool, precision: str = "fp32") -> nn.Module:
    """Prepare a model for channels-last images; weights are FP16 with `half` on a GPU, else FP32.

    With a precision other than fp32 a checkpoint's network computes under autocast, as in training: decoded boxes and
    NAM's affine remain FP32. An exported file was told its precision when it was loaded.

    Raises:
        ValueError: if the device does not compute in this precision, or if `half` is given too.
    """
    device = next(model.parameters()).device
    if half and device.type != "cuda":
        LOGGER.info(f"--half computes in FP16 on a GPU only; FP32 is used on this {device.type}")
    model = model.to(memory_format=torch.channels_last)
    dtype = None if hasattr(model, "precisions") else inference_dtype(precision, device)
    if half and dtype is not None:
        raise ValueError(f"--half and --precision {precision} exclude each other: leave one out")
    if half and device.type == "cuda":
        return model.half()
    model = model.float()
    if dtype is not None:
        model.forward = torch.autocast(device.type, dtype)(model.forward)
    return model


def inference_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the dtype for autocast by --precision, None for FP32; what `auto` selects is logged.

    Raises:
        ValueError: for FP16 on a CPU, where it is slower than FP32 and overflows.
    """
    if precision == "fp16" and device.type == "cpu":
        raise ValueError("--precision fp16 needs a GPU for a checkpoint; a CPU takes bf16, auto or fp32")
    if precision != AUTO_PRECISION:
        return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    dtype = fast_dtype(device)
    LOGGER.info(f"--precision auto: {dtype or torch.float32} on this {device.type}")
    return dtype


def fixed_size(model: nn.Module) -> tuple[int, int] | None:
    """Height and width of the only images that an exported file takes; None where the model takes any."""
    return getattr(model, "fixed_hw", None)


def choose_size(model: nn.Module, imgsz: int | Sequence[int] | None = None, flag: str = "--imgsz") -> tuple[int, int]:
    """Height and width of the network's images; in the log where they come from if nobody asked for them.

    Those asked for, one number or two, as `input_size` has them. For None those that a file takes only, else the size
    that the network was trained at, else 640. A size far from that of the training is warned of. flag: what asks for a
    size.
    """
    trained, fixed = trained_size(model), fixed_size(model)
    if imgsz is None:
        hw = input_size(model, fixed or trained or made_size(model))
        LOGGER.info(f"images of {hw[0]} x {hw[1]} pixels, {source_of_size(model, flag)}")
    else:
        hw = input_size(model, imgsz, flag)
    if trained is not None and is_far(max(hw), trained):
        advice = f"export it with --imgsz {trained}" if fixed else f"leave {flag} out, or give {trained}"
        LOGGER.warning(
            f"images of {hw[0]} x {hw[1]} pixels, but the network was trained at {trained}: it may find far less than "
            f"at that size; {advice}"
        )
    return hw


def trained_size(model: nn.Module) -> int | None:
    """The longer side of the images that a network was trained on, in pixels; None where its file does not say it."""
    return getattr(model, "imgsz", None)


def made_size(model: nn.Module) -> int:
    """The longer side that an exported file without a fixed size was made with, 640 where that is not known."""
    metadata = getattr(model, "metadata", None)
    return DEFAULT_SIZE if metadata is None else max(metadata.imgsz)


def source_of_size(model: nn.Module, flag: str) -> str:
    """Where the size of a network's images comes from that nobody asked for."""
    trained = trained_size(model)
    if fixed_size(model):
        return "the only ones that the file takes"
    if trained is None:
        return f"as nothing says at what size the network was trained; {flag} takes another"
    sizes = [trained_size(member) for member in model] if isinstance(model, nn.ModuleList) else [trained]
    if len(set(sizes)) > 1:
        others = ", ".join("unknown" if size is None else str(size) for size in sizes)
        return f"the largest size that a network of the ensemble was trained at ({others})"
    return "the size that the network was trained at"


def is_far(size: int, trained: int) -> bool:
    """Whether a network may find far less at one size than at the one that it was trained at."""
    return max(size, trained) >= FAR * min(size, trained)


def input_size(model: nn.Module, imgsz: int | Sequence[int], flag: str = "--imgsz") -> tuple[int, int]:
    """Height and width of the network's images: what is asked for, rounded up to the stride, or the file's only ones.

    imgsz: one number or two. What is used in place of what was asked for, by the flag, is said in the log.
    """
    sides = [imgsz] if isinstance(imgsz, int) else imgsz
    height, width = sides[0], sides[-1]
    fixed = fixed_size(model)
    if fixed is None:
        height, width = check_img_size((height, width), largest_stride(model))
        return height, width
    if fixed != (height, width):
        LOGGER.warning(f"{flag} {height} {width}: the file is made for {fixed[0]} {fixed[1]} only, which is used")
    return fixed


@torch.no_grad()
def warm_up(model: nn.Module, hw: tuple[int, int], batch_size: int = 1) -> None:
    """Do what is not to be timed: load the NMS, and run the model once on a GPU or if it is to be compiled.

    On a GPU that chooses algorithms. A compiled model gets images like those to come: of several if batch_size is above
    1, and of two different sides, as its program would else be for squares only.
    """
    parameter = next(model.parameters())
    load_nms(parameter.device.type)
    is_compiled = any(module._compiled_call_impl is not None for module in model.modules())
    if not (is_compiled or parameter.device.type == "cuda"):
        return
    h, w = hw
    shape = (min(batch_size, 2), 3, h, w + largest_stride(model)) if is_compiled else (1, 3, h, w)
    images = torch.zeros(shape, device=parameter.device, dtype=parameter.dtype)
    model(images.to(memory_format=torch.channels_last))


def to_tensor(fitted: Sequence[np.ndarray], device: torch.device, dtype: torch.dtype) -> Tensor:
    """(B, 3, H, W) RGB in 0..1 of letterboxed images (H, W, 3) uint8 BGR of one shape."""
    images = torch.from_numpy(np.stack(fitted)).to(device)  # (B, H, W, 3) BGR, uint8 until here: a quarter of the bytes
    return images.flip(3).permute(0, 3, 1, 2).to(dtype).div_(255)  # (B, 3, H, W), in channels-last order


def to_native(detections: Tensor, net_hw: Sequence[int], image_hw: tuple[int, int]) -> Tensor:
    """Return the detections (n, 6) in whole pixels of the image, on the CPU."""
    detections = detections.cpu()
    boxes_xyxy = scaled_coords(tuple(net_hw), detections[:, :4], image_hw).round()
    return torch.cat((boxes_xyxy, detections[:, 4:]), 1)
