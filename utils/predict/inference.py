"""What val.py, detect.py and tools.serve share: limits, a network ready to run, images to it and boxes back."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from utils.general import LOGGER, check_img_size
from utils.ops.boxes import scaled_coords
from utils.ops.nms import load_nms
from utils.torch_utils import largest_stride

PRECISIONS = ("fp32", "bf16", "fp16", "auto")  # of --precision
HINTS = ("latency", "throughput")  # of --hint


def check_limits(conf_thres: float, iou_thres: float, counts: Mapping[str, int]) -> None:
    """ValueError where a threshold is no share, or one of the counts, by their flags, is below 1."""
    for flag, value in (("--conf-thres", conf_thres), ("--iou-thres", iou_thres)):
        if not 0 <= value <= 1:
            raise ValueError(f"{flag} {value}: a share between 0 and 1")
    for flag, value in counts.items():
        if value < 1:
            raise ValueError(f"{flag} {value}: 1 or more")


def ready(model: nn.Module, half: bool) -> nn.Module:
    """The model for channels-last images, in FP16 where `half` asks for it and it is on a GPU, else in FP32."""
    device = next(model.parameters()).device
    if half and device.type != "cuda":
        LOGGER.info(f"--half computes in FP16 on a GPU only; FP32 is used on this {device.type}")
    model = model.to(memory_format=torch.channels_last)
    return model.half() if half and device.type == "cuda" else model.float()


def fixed_size(model: nn.Module) -> tuple[int, int] | None:
    """Height and width of the only images that an exported file takes; None where the model takes any."""
    return getattr(model, "fixed_hw", None)


def input_size(model: nn.Module, imgsz: Sequence[int]) -> tuple[int, int]:
    """Height and width of the network's images: what is asked for, rounded up to the stride, or the file's only ones.

    imgsz: one number or two. What is used in place of what was asked for is said in the log.
    """
    height, width = imgsz[0], imgsz[-1]
    fixed = fixed_size(model)
    if fixed is None:
        height, width = check_img_size((height, width), largest_stride(model))
        return height, width
    if fixed != (height, width):
        LOGGER.warning(f"--imgsz {height} {width}: the file is made for {fixed[0]} {fixed[1]} only, which is used")
    return fixed


@torch.no_grad()
def warm_up(model: nn.Module, hw: tuple[int, int]) -> None:
    """Does what is not to be timed: loads the NMS, and on a GPU runs the model once, which chooses algorithms."""
    parameter = next(model.parameters())
    load_nms(parameter.device.type)
    if parameter.device.type == "cuda":
        model(torch.zeros(1, 3, *hw, device=parameter.device, dtype=parameter.dtype))


def to_tensor(fitted: Sequence[np.ndarray], device: torch.device, dtype: torch.dtype) -> Tensor:
    """(B, 3, H, W) RGB in 0..1 of letterboxed images (H, W, 3) uint8 BGR of one shape."""
    images = torch.from_numpy(np.stack(fitted)).to(device)  # (B, H, W, 3) BGR, uint8 until here: a quarter of the bytes
    return images.flip(3).permute(0, 3, 1, 2).to(dtype).div_(255)  # (B, 3, H, W), in channels-last order


def to_native(detections: Tensor, net_hw: Sequence[int], image_hw: tuple[int, int]) -> Tensor:
    """The detections (n, 6) in whole pixels of the image, on the CPU, least sure first so that they are drawn below."""
    detections = detections.cpu().flip(0)
    boxes_xyxy = scaled_coords(tuple(net_hw), detections[:, :4], image_hw).round()
    return torch.cat((boxes_xyxy, detections[:, 4:]), 1)
