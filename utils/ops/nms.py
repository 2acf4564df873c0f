"""The steps of non-maximum suppression. `non_max_suppression` itself is in utils/general.py.

There is no time limit, so results do not depend on the machine's speed. torchvision's operator is used if it works,
which is tried on first use; otherwise OpenCV's on the CPU, with the same result.

Shapes: B images, N candidate boxes of an image, M of them above the confidence threshold, P pairs of a box and a class.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from utils.ops.boxes import xywh2xyxy

Suppress = Callable[[Tensor, Tensor, float], Tensor]

MIN_SIDE, MAX_SIDE = 2, 7680  # pixels; boxes with a smaller or larger side are dropped
CLASS_DISTANCE = 6 * MAX_SIDE  # more than the part of the plane is wide that boxes may lie in
MAX_BOXES = 30_000  # of an image, the surest, go into the suppression
WITHOUT_FLOAT64 = {"mps"}  # kinds of devices
MAX_SCORES = 2**24  # computed at once: bounds the memory that a batch of an untrained model takes


def candidates(
    prediction: Tensor,
    conf_thres: float,
    classes: Sequence[int] | None = None,
    multi_label: bool = False,
    labels: Sequence[Tensor] = (),
) -> Iterator[Tensor]:
    """Yield for each of B images its detections before suppression, (n, 6) xyxy, confidence, class, by confidence.

    The arguments are those of `non_max_suppression`; at most MAX_BOXES per image are yielded.
    """
    batch, count, nc = *prediction.shape[:2], prediction.shape[2] - 5
    wanted = None
    if classes is not None:
        wanted = torch.zeros(nc, dtype=torch.bool)
        wanted[[int(index) for index in classes if 0 <= index < nc]] = True  # others find nothing, as in v6.1
        wanted = wanted.to(prediction.device)
    group = max(MAX_SCORES // max(count * nc, 1), 1)
    for start in range(0, batch, group):
        part = slice(start, start + group)
        rows, image = _candidates(prediction[part], labels[part], conf_thres)
        detections, image = _classify(rows, image, conf_thres, multi_label and nc > 1, wanted)
        counts = torch.bincount(image, minlength=len(prediction[part])).tolist()
        for boxes in detections.split(counts):
            order = boxes[:, 4].sort(descending=True, stable=True).indices[:MAX_BOXES]
            yield boxes[order]


def _candidates(prediction: Tensor, labels: Sequence[Tensor], conf_thres: float) -> tuple[Tensor, Tensor]:
    """Return the rows (M, 5 + nc) above the threshold and the image (M,) of each, in order, labels first."""
    xy, wh, objectness = prediction[..., :5].float().split((2, 2, 1), 2)
    possible = (objectness > conf_thres) & (objectness < torch.inf)  # NaN is neither
    possible = possible & (wh >= MIN_SIDE) & (wh <= MAX_SIDE) & (xy.abs() <= 2 * MAX_SIDE)  # (B, N, 2)
    image, place = possible.all(2).nonzero(as_tuple=True)
    rows = prediction[image, place].float()
    if not labels:
        return rows, image
    known = torch.cat([rows.new_zeros(0, 5), *(label.to(rows) for label in labels)])  # (T, 5)
    known_rows = rows.new_zeros(len(known), rows.shape[1])
    known_rows[:, :4] = known[:, 1:]
    known_rows[:, 4] = 1
    known_rows[:, 5:].scatter_(1, known[:, :1].long(), 1.0)
    lengths = torch.tensor([len(label) for label in labels], device=image.device)
    image = torch.cat((torch.arange(len(labels), device=image.device).repeat_interleave(lengths), image))
    image, order = image.sort(stable=True)
    return torch.cat((known_rows, rows))[order], image


def _classify(
    rows: Tensor, image: Tensor, conf_thres: float, multi_label: bool, wanted: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return detections (P, 6), xyxy, confidence, class, and the image (P,) of each."""
    scores = rows[:, 5:] * rows[:, 4:5]  # (M, nc)
    if multi_label:
        sure = (scores > conf_thres) & (scores < torch.inf)
        row, category = (sure if wanted is None else sure & wanted).nonzero(as_tuple=True)
        confidence = scores[row, category]
    else:
        confidence, category = scores.nan_to_num(0.0, posinf=0.0).max(1)
        sure = (confidence > conf_thres) & (confidence < torch.inf)
        row = (sure if wanted is None else sure & wanted[category]).nonzero()[:, 0]
        confidence, category = confidence[row], category[row]
    boxes_xyxy = xywh2xyxy(rows[:, :4])[row]
    return torch.cat((boxes_xyxy, confidence[:, None], category[:, None].float()), 1), image[row]


def boxes_by_class(detections: Tensor, agnostic: bool) -> tuple[Tensor, Tensor]:
    """Split detections (n, 6) into boxes (n, 4) xyxy and scores (n,). Unless `agnostic`, offset each class.

    With offsets both are float64, so that large offsets cost no precision.
    """
    boxes, scores = detections[:, :4], detections[:, 4]
    if agnostic:
        return boxes, scores
    return boxes.double() + detections[:, 5:] * CLASS_DISTANCE, scores.double()


def nms(boxes_xyxy: Tensor, scores: Tensor, iou_thres: float) -> Tensor:
    """Return the indices of the boxes (n, 4) that remain after suppression, by score."""
    return _backend(boxes_xyxy.device.type)(boxes_xyxy, scores, iou_thres)


class LazyTorchvision:
    """Stand-in for torchvision that imports it on first access, as the import takes two seconds."""

    def __getattr__(self, name: str) -> object:
        """Import torchvision."""
        import torchvision

        return getattr(torchvision, name)


torchvision = LazyTorchvision()  # for a non_max_suppression that was written for v6.1, where it is imported


def load_nms(device_type: str) -> None:
    """Load the NMS of a device type, so that the first image does not wait for it."""
    _backend("cpu" if device_type in WITHOUT_FLOAT64 else device_type)


@cache
def _backend(device_type: str) -> Suppress:
    """Return torchvision's NMS if it works on a device type, otherwise OpenCV's."""
    try:
        suppress = _torchvision_nms()
        suppress(torch.zeros(1, 4, device=device_type), torch.zeros(1, device=device_type), 0.5)
    except (ImportError, RuntimeError, AttributeError, OSError) as error:  # of another build than torch, most often
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        logging.getLogger("yolov5").info(f"torchvision cannot be used ({reason}): NMS runs in OpenCV, on the CPU")
        return nms_opencv
    return suppress


def _torchvision_nms() -> Suppress:
    """Return torchvision's operator, from its compiled library alone if that can be loaded.

    `import torchvision` takes two seconds, mostly for torch._dynamo, which is not needed here.
    """
    package = find_spec("torchvision")
    if package is None:
        raise ImportError("it is not installed")
    try:
        for folder in package.submodule_search_locations or ():
            for library in Path(folder).glob("_C*"):
                torch.ops.load_library(library)
        return torch.ops.torchvision.nms
    except (OSError, AttributeError):  # it needs libraries that the import finds
        from torchvision.ops import nms as suppress

        return suppress


def nms_opencv(boxes_xyxy: Tensor, scores: Tensor, iou_thres: float) -> Tensor:
    """Return the indices of the boxes (n, 4) that remain, by score (> 0), equal to torchvision.ops.nms."""
    if not len(boxes_xyxy):
        return torch.zeros(0, dtype=torch.int64, device=boxes_xyxy.device)
    corners = boxes_xyxy.detach().cpu().double().numpy()
    boxes = np.concatenate((corners[:, :2], corners[:, 2:] - corners[:, :2]), 1)  # x, y, w, h of the top left corner
    kept = cv2.dnn.NMSBoxes(boxes, scores.detach().cpu().float().numpy(), 0.0, iou_thres)
    return torch.as_tensor(np.array(kept), dtype=torch.int64).flatten().to(boxes_xyxy.device)
