"""v6.1's functions of networks: out of wrappers, copied, scaled images, timed, in several processes, a second stage."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
import torch.nn.utils.prune as torch_prune
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode

from utils.general import LOGGER, make_divisible
from utils.ops.boxes import scale_coords, xywh2xyxy, xyxy2xywh
from utils.torch_utils import select_device, time_sync

GRAY = 0.447  # what scaled images are filled up with: ImageNet's mean
CROP_GAIN, CROP_PAD, CROP_SIDE = 1.3, 30, 224  # of what a second-stage classifier looks at


def is_parallel(model: nn.Module) -> bool:
    """Whether the model is wrapped for several GPUs or processes."""
    return isinstance(model, DataParallel | DistributedDataParallel)


def de_parallel(model: nn.Module) -> nn.Module:
    """The model without such a wrapper."""
    return model.module if is_parallel(model) else model


def copy_attr(a: object, b: object, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> None:
    """Give object a the attributes of b: those named in `include`, or all; never private ones or those of `exclude`."""
    for name, value in vars(b).items():
        if name.startswith("_") or name in exclude or (include and name not in include):
            continue
        setattr(a, name, value)


def find_modules(model: nn.Sequential, mclass: type[nn.Module] = nn.Conv2d) -> list[int]:
    """The numbers of the layers that are of a class."""
    return [i for i, layer in enumerate(model) if isinstance(layer, mclass)]


def sparsity(model: nn.Module) -> float:
    """The share of the model's parameters that are zero, 0..1."""
    parameters = list(model.parameters())
    zeros = sum(int((p == 0).sum()) for p in parameters)
    return zeros / max(sum(p.numel() for p in parameters), 1)


def prune(model: nn.Module, amount: float = 0.3) -> None:
    """Set the smallest weights of each convolution, this share of them, to zero; tools.prune takes channels out."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            torch_prune.l1_unstructured(module, name="weight", amount=amount)
            torch_prune.remove(module, "weight")
    LOGGER.info(f"Pruning model... {sparsity(model):.3g} global sparsity")


def scale_img(img: Tensor, ratio: float = 1.0, same_shape: bool = False, gs: int = 32) -> Tensor:
    """Images (B, C, H, W) scaled by a ratio, and filled up at right and bottom to multiples of the stride gs.

    same_shape: to their own height and width in place of multiples.
    """
    if ratio == 1.0:
        return img
    h, w = img.shape[2:]
    small_h, small_w = int(h * ratio), int(w * ratio)
    scaled = F.interpolate(img, size=(small_h, small_w), mode="bilinear", align_corners=False)
    if not same_shape:
        h, w = make_divisible(h * ratio, gs), make_divisible(w * ratio, gs)
    return F.pad(scaled, (0, w - small_w, 0, h - small_h), value=GRAY)


def smart_inference_mode(torch_1_9: bool = True) -> Callable[[Callable], Callable]:
    """A decorator: the function computes in torch's inference mode."""
    del torch_1_9
    return torch.inference_mode()


def device_count() -> int:
    """The number of GPUs that torch can use."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


@contextmanager
def torch_distributed_zero_first(local_rank: int) -> Iterator[None]:
    """Let the process of local rank 0 run the block first, then all others; -1 is one process alone."""
    several = dist.is_available() and dist.is_initialized()
    if several and local_rank not in (-1, 0):
        dist.barrier()
    yield
    if several and local_rank == 0:
        dist.barrier()


def profile(
    input: Tensor | Sequence[Tensor],
    ops: nn.Module | Callable | Sequence[nn.Module | Callable],
    n: int = 10,
    device: torch.device | str | None = None,
) -> list[list[object] | None]:
    """Log and return what modules or functions cost for each input: the mean of n runs.

    For each a list: parameters, GFLOPs, GB of GPU memory, ms forward, ms backward, shapes in and out; ms backward is
    NaN if there is no gradient. None for one that fails, which is logged.
    """
    device = device if isinstance(device, torch.device) else select_device("" if device is None else device)
    LOGGER.info(
        f"{'Params':>12s}{'GFLOPs':>12s}{'GPU_mem (GB)':>14s}{'forward (ms)':>14s}{'backward (ms)':>14s}"
        f"{'input':>24s}{'output':>24s}"
    )
    results: list[list[object] | None] = []
    for x in input if isinstance(input, list | tuple) else [input]:
        x = x.detach().to(device).requires_grad_(True)
        for op in ops if isinstance(ops, list | tuple) else [ops]:
            try:
                results.append(_profile_one(op, x, n, device))
            except (RuntimeError, TypeError, ValueError) as error:
                LOGGER.warning(f"{type(op).__name__} cannot be profiled for {tuple(x.shape)}: {error}")
                results.append(None)
    return results


def _profile_one(op: nn.Module | Callable, x: Tensor, n: int, device: torch.device) -> list[object]:
    """One row of `profile`."""
    op = op.to(device) if isinstance(op, nn.Module) else op
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        op(x)
    forward = backward = 0.0
    y: object = None
    for _ in range(n):
        start = time_sync(device)
        y = op(x)
        middle = time_sync(device)
        forward += middle - start
        first = y if isinstance(y, Tensor) else sum(part.sum() for part in y if isinstance(part, Tensor))
        if not isinstance(first, Tensor) or not first.requires_grad:
            backward = float("nan")
            continue
        first.sum().backward()
        backward += time_sync(device) - middle
    parameters = sum(p.numel() for p in op.parameters()) if isinstance(op, nn.Module) else 0
    memory = torch.cuda.memory_reserved() / 1e9 if device.type == "cuda" else 0.0
    shapes = tuple(x.shape), tuple(y.shape) if isinstance(y, Tensor) else "list"
    row = [parameters, counter.get_total_flops() / 1e9, memory, forward * 1000 / n, backward * 1000 / n, *shapes]
    LOGGER.info(f"{row[0]:12}{row[1]:12.4g}{row[2]:14.3f}{row[3]:14.4g}{row[4]:14.4g}{row[5]!s:>24s}{row[6]!s:>24s}")
    return row


# Second stage ---------------------------------------------------------------------------------------------------------


def load_classifier(name: str = "resnet101", n: int = 2) -> nn.Module:
    """torchvision's classifier of this name with n classes, untrained: nothing is downloaded, load your own weights."""
    import torchvision

    model = torchvision.models.get_model(name, weights=None)
    model.fc = nn.Linear(model.fc.in_features, n)
    LOGGER.info(f"{name} is untrained, as nothing is downloaded; give it weights by load_state_dict")
    return model


def apply_classifier(
    x: list[Tensor], model: nn.Module, img: Tensor, im0: np.ndarray | Sequence[np.ndarray]
) -> list[Tensor]:
    """Keep those detections of images whose class a second network finds as well.

    x: for each image (n, 6) xyxy in pixels of `img` (B, 3, H, W), confidence, class; the boxes are changed to pixels of
    the images im0 (h, w, 3) BGR. model: takes (n, 3, 224, 224) RGB in 0..1 and gives class scores.
    """
    images = [im0] if isinstance(im0, np.ndarray) else im0
    for i, rows in enumerate(x):
        if rows is None or not len(rows):
            continue
        rows = rows.clone()
        square = xyxy2xywh(rows[:, :4])
        square[:, 2:] = square[:, 2:].max(1).values[:, None] * CROP_GAIN + CROP_PAD
        areas = scale_coords(img.shape[2:], xywh2xyxy(square).round(), images[i].shape)
        scale_coords(img.shape[2:], rows[:, :4], images[i].shape)
        crops = [_crop(images[i], area) for area in areas.long().tolist()]
        found = model(torch.stack(crops).to(rows.device)).argmax(1)
        x[i] = rows[rows[:, 5].long() == found]
    return x


def _crop(image: np.ndarray, area: Sequence[int]) -> Tensor:
    """The part xyxy of an image (h, w, 3) BGR as (3, 224, 224) RGB in 0..1."""
    x1, y1, x2, y2 = area
    part = torch.from_numpy(image[y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1), ::-1].copy()).permute(2, 0, 1)
    return F.interpolate(part[None].float() / 255, (CROP_SIDE, CROP_SIDE), mode="bilinear", align_corners=False)[0]
