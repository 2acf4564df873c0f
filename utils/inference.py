"""What val.py and detect.py do alike before the first image: their limits, and the network made ready to run."""

from collections.abc import Mapping

import torch
from torch import nn

from utils.general import LOGGER
from utils.nms import load_nms


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


@torch.no_grad()
def warm_up(model: nn.Module, hw: tuple[int, int]) -> None:
    """Does what is not to be timed: loads the NMS, and on a GPU runs the model once, which chooses algorithms."""
    parameter = next(model.parameters())
    load_nms(parameter.device.type)
    if parameter.device.type == "cuda":
        model(torch.zeros(1, 3, *hw, device=parameter.device, dtype=parameter.dtype))
