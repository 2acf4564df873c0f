"""Non-maximum suppression: of boxes that overlap, the surest stays.

There is no time limit: what is found never depends on the machine's speed. torchvision suppresses where it works, which
is tried on first use; else OpenCV does, on the CPU, with the same result.

Legend: B images, N candidate boxes of an image, M of them that could be objects, P pairs of a box and a class.
"""

import logging
from collections.abc import Callable, Sequence
from functools import cache

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


def non_max_suppression(
    prediction: Tensor | Sequence[Tensor],
    conf_thres: float = 0.25,
    iou_thres: float = 0.45,
    classes: Sequence[int] | None = None,
    agnostic: bool = False,
    multi_label: bool = False,
    labels: Sequence[Tensor] = (),
    max_det: int = 300,
) -> list[Tensor]:
    """B tensors (n, 6) float32 of xyxy, confidence, class, surest first, at most max_det of an image.

    prediction: (B, N, 5 + nc) of any float type, xywh in pixels, objectness, class scores; confidence is their product
    and must be above conf_thres. A box goes whose IoU with a surer one of its class, with `agnostic` of any, is above
    iou_thres. classes: the class numbers to keep. multi_label: a box may be an object of several classes, else only of
    its best. labels: for each image known objects (t, 5), class, xywh in the network's pixels, that join them with
    confidence 1, for automatic labelling. What is not finite is no object. ValueError for what is out of its range.
    A device without float64 (MPS) leaves it to the CPU, where the result then is.
    """
    if isinstance(prediction, list | tuple):  # what a network gives in evaluation: decoded boxes, raw maps
        prediction = prediction[0]
    if prediction.device.type in WITHOUT_FLOAT64:
        prediction = prediction.cpu()
    assert prediction.ndim == 3, f"(B, N, 5 + nc) is wanted, not {tuple(prediction.shape)}"
    assert prediction.shape[2] > 5, "there are no class scores"
    batch, count, nc = *prediction.shape[:2], prediction.shape[2] - 5
    assert len(labels) in {0, batch}, f"labels of {len(labels)} images for a batch of {batch}"
    for name, value in (("confidence", conf_thres), ("IoU", iou_thres)):
        if not 0 <= value <= 1:
            raise ValueError(f"the {name} threshold is {value}: a share between 0 and 1 is wanted")
    if max_det < 1:
        raise ValueError(f"max_det is {max_det}: 1 or more detections of an image are wanted")

    wanted = None
    if classes is not None:
        wanted = torch.zeros(nc, dtype=torch.bool)
        wanted[[int(index) for index in classes if 0 <= index < nc]] = True  # others find nothing, as in v6.1
        wanted = wanted.to(prediction.device)
    group = max(MAX_SCORES // max(count * nc, 1), 1)
    found: list[Tensor] = []
    for start in range(0, batch, group):
        part = slice(start, start + group)
        rows, image = _candidates(prediction[part], labels[part], conf_thres)
        detections, image = _classify(rows, image, conf_thres, multi_label and nc > 1, wanted)
        counts = torch.bincount(image, minlength=len(prediction[part])).tolist()
        found += [_suppress(boxes, iou_thres, agnostic, max_det) for boxes in detections.split(counts)]
    return found


def _candidates(prediction: Tensor, labels: Sequence[Tensor], conf_thres: float) -> tuple[Tensor, Tensor]:
    """The rows (M, 5 + nc) that could be objects, and the image (M,) of each, in order; labels come first."""
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
    """Detections (P, 6), xyxy, confidence, class, and the image (P,) of each."""
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


def _suppress(detections: Tensor, iou_thres: float, agnostic: bool, max_det: int) -> Tensor:
    """The detections of an image that stay.

    Whether a box stays depends on surer ones only, so a first few are tried until max_det of them stay.
    """
    order = detections[:, 4].sort(descending=True, stable=True).indices[:MAX_BOXES]
    suppress = _backend(detections.device.type)
    size = max(4 * max_det, 1024)
    while True:
        tried = detections[order[:size]]
        boxes_xyxy = tried[:, :4]
        if not agnostic:  # each class gets a place of its own; in float64, or far places would cost their boxes digits
            boxes_xyxy = boxes_xyxy.double() + tried[:, 5:] * CLASS_DISTANCE
        kept = suppress(boxes_xyxy, tried[:, 4].to(boxes_xyxy), iou_thres)
        if len(kept) >= max_det or size >= len(order):
            return tried[kept[:max_det]]
        size *= 4


def load_nms(device_type: str) -> None:
    """Gets what suppresses on such a device; its import takes a second, which is not to be the first image's."""
    _backend("cpu" if device_type in WITHOUT_FLOAT64 else device_type)


@cache
def _backend(device_type: str) -> Suppress:
    """torchvision's NMS if it works on such a device, else OpenCV's."""
    try:
        from torchvision.ops import nms  # slow to import, and optional

        nms(torch.zeros(1, 4, device=device_type), torch.zeros(1, device=device_type), 0.5)
    except (ImportError, RuntimeError, AttributeError, OSError) as error:  # of another build than torch, most often
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        logging.getLogger("yolov5").info(f"torchvision cannot be used ({reason}): NMS runs in OpenCV, on the CPU")
        return nms_opencv
    return nms


def nms_opencv(boxes_xyxy: Tensor, scores: Tensor, iou_thres: float) -> Tensor:
    """Indices of the boxes (n, 4), of scores above 0, that stay, surest first: what torchvision.ops.nms gives."""
    if not len(boxes_xyxy):
        return torch.zeros(0, dtype=torch.int64, device=boxes_xyxy.device)
    corners = boxes_xyxy.detach().cpu().double().numpy()
    boxes = np.concatenate((corners[:, :2], corners[:, 2:] - corners[:, :2]), 1)  # x, y, w, h of the top left corner
    kept = cv2.dnn.NMSBoxes(boxes, scores.detach().cpu().float().numpy(), 0.0, iou_thres)
    return torch.as_tensor(np.array(kept), dtype=torch.int64).flatten().to(boxes_xyxy.device)
