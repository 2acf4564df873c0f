"""What a trained network looks at, and whether its attention changes that: LayerCAM at each attention block.

LayerCAM (Jiang, Zhang, Hou, Cheng and Wei, "LayerCAM: Exploring Hierarchical Class Activation Maps for Localization",
IEEE TIP 2021) weights each place of each channel of a map A by how much a score S grows with it:

    relu(sum_k relu(dS/dA_k) * A_k)

S is here what the network says in all: the sum of the confidences, objectness times class score, of the boxes that it
keeps, so that the gradient passes the decoded head. A is a block's output: as trained, with the block at its mean gate,
and with the block taken out; each has boxes and an S of its own. A network without attention is looked at where Detect
reads it.

Legend: B blocks, C channels, H W height and width of a block's map, n boxes kept.
"""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import cv2
import numpy as np
import torch
from torch import Tensor

from models.blocks.nam import Gated
from models.yolo import Model
from tools.gates.gates import Hook, as_constant, as_identity, hooked
from utils.datasets import Batch
from utils.draw.html_page import Markup, escaped, image_tag, jpeg, number, section, table, write_page
from utils.files.names import UniqueNames, plain_cell, safe_name
from utils.general import LOGGER, atomic_write, non_max_suppression, plural, progress
from utils.plots import draw_tile, targets_of

CONFIDENCE, IOU = 0.25, 0.45  # of the boxes kept, as detect.py has them
TOP = 10  # boxes that make the score where none is kept
TILE, LONGEST = 480, 60_000  # pixels: the longer side of a tile, and what a JPEG may have
THUMBNAIL = 640  # pixels, the width in the index
HEAT = 0.6  # how much of the hottest place's colour covers the image
FLAT = 1e-6  # of a map's largest value; one that varies less is constant
TRAINED, MEAN, IDENTITY = "trained", "mean gate", "identity"


@dataclass(frozen=True)
class Cam:
    """What the network looks at with one block in one state."""

    block: str
    state: str  # TRAINED, MEAN or IDENTITY
    heat: np.ndarray  # (H, W) float32, 0 and more, of the score's unit
    score: float
    boxes: Tensor  # (n, 6) xyxy in the network's pixels, confidence, class
    correlation: float | None = None  # of the heat with that of the trained block; None where one is constant


# The maps -------------------------------------------------------------------------------------------------------------


def score_of(prediction: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of the confidences, a scalar with its gradient, of the boxes (n, 6) that decoded (1, N, 5 + nc) keep.

    Where none is kept, the sum of the TOP largest.
    """
    (boxes,) = non_max_suppression(prediction, CONFIDENCE, IOU)
    if len(boxes):
        return boxes[:, 4].sum(), boxes.detach()
    confidences = prediction[0, :, 4].float() * prediction[0, :, 5:].float().amax(1)
    return confidences.topk(min(TOP, len(confidences))).values.sum(), boxes.detach()


def layer_cam(gradient: Tensor, features: Tensor) -> Tensor:
    """relu(sum_k relu(dS/dA_k) * A_k), (H, W) float32, of dS/dA and A, both (1, C, H, W)."""
    weighted = gradient.detach().float().clamp(min=0) * features.detach().float()
    return weighted.sum(1).clamp(min=0)[0]


@contextmanager
def keeping(model: Model, blocks: Mapping[str, Gated]) -> Iterator[dict[str, Tensor]]:
    """By name the outputs of the blocks as a forward pass gives them; without blocks what Detect reads.

    Each is a tensor of its own, so that its gradient is that of what reads the block, and of no one else.
    """
    kept: dict[str, Tensor] = {}

    def keep(name: str, features: Tensor) -> Tensor:
        kept[name] = features.clone()
        return kept[name]

    if blocks:
        with hooked(dict(blocks), lambda name: lambda _block, _inputs, output: keep(name, output)):
            yield kept
        return
    names = detect_inputs(model)
    handle = model.head.register_forward_pre_hook(
        lambda _head, inputs: [keep(name, x) for name, x in zip(names, inputs[0], strict=False)]
    )
    try:
        yield kept
    finally:
        handle.remove()


def detect_inputs(model: Model) -> list[str]:
    """The names of the layers that Detect reads."""
    return [f"model.{source}" for source in model.rows[-1].sources[: model.head.nl]]


def look(model: Model, image: Tensor, blocks: Mapping[str, Gated]) -> tuple[dict[str, np.ndarray], float, Tensor]:
    """The heat (H, W) at each block, or where Detect reads, the score, and the boxes (n, 6), of image (1, 3, h, w).

    The network's weights need no gradient, and it may be fused. ValueError where a map is not finite.
    """
    with torch.enable_grad(), keeping(model, blocks) as kept:
        image = image.detach().to(next(model.parameters()).dtype).requires_grad_(True)
        score, boxes = score_of(model(image)[0])
        gradients = torch.autograd.grad(score, list(kept.values()), allow_unused=True, materialize_grads=True)
    heats = {name: layer_cam(grad, kept[name]).cpu().numpy() for name, grad in zip(kept, gradients, strict=True)}
    for name, heat in heats.items():
        if not np.isfinite(heat).all():
            raise ValueError(f"{name}: its map or gradient is not finite; the weights hold NaN or overflow")
    return heats, float(score.detach()), boxes.cpu()


def cams_of(model: Model, image: Tensor, blocks: Mapping[str, Gated], means: Mapping[str, Tensor]) -> list[Cam]:
    """What the network looks at in an image (1, 3, h, w) in 0..1: for each block its three states, in this order.

    means: the gates (C,) that the second state holds. Without blocks one for each input of Detect.
    """
    heats, score, boxes = look(model, image, blocks)
    found = []
    for name, heat in heats.items():
        found.append(Cam(name, TRAINED, heat, score, boxes, correlation(heat, heat)))
        if name not in blocks:
            continue
        for state, hook in _others(means, name):
            one = {name: blocks[name]}
            with hooked(one, lambda _, hook=hook: hook):
                other, other_score, other_boxes = look(model, image, one)
            found.append(Cam(name, state, other[name], other_score, other_boxes, correlation(heat, other[name])))
    return found


def _others(means: Mapping[str, Tensor], name: str) -> tuple[tuple[str, Hook], ...]:
    return (MEAN, as_constant(means[name])), (IDENTITY, as_identity)


def correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Pearson's, of two maps of one shape; None where one is constant."""
    if any(np.ptp(heat) <= FLAT * np.abs(heat).max() for heat in (a, b)):
        return None
    a, b = (heat.astype(np.float64).ravel() - heat.mean(dtype=np.float64) for heat in (a, b))
    return float(np.clip(a @ b / np.sqrt((a @ a) * (b @ b)), -1, 1))


# Pictures -------------------------------------------------------------------------------------------------------------


def shares_of_most(heat: np.ndarray) -> np.ndarray:
    """The map in 0..1: shares of its largest value; all 0 where that is 0."""
    most = heat.max()
    return heat / most if most > 0 else np.zeros_like(heat)


def draw_cams(image: np.ndarray, cams: Sequence[Cam], names: Sequence[str]) -> np.ndarray:
    """A row of tiles for each block, a column for each of its states, uint8 BGR; image (h, w, 3) is the network's."""
    blocks = list(dict.fromkeys(cam.block for cam in cams))
    rows = [[_tile(image, cam, names, len(blocks)) for cam in cams if cam.block == block] for block in blocks]
    return np.concatenate([np.concatenate(row, 1) for row in rows])


def _tile(image: np.ndarray, cam: Cam, names: Sequence[str], rows: int) -> np.ndarray:
    h, w = image.shape[:2]
    scale = min(TILE, LONGEST // rows) / max(h, w)
    size = (max(round(w * scale), 1), max(round(h * scale), 1))
    heat = cv2.resize(shares_of_most(cam.heat), size, interpolation=cv2.INTER_LINEAR)
    color = cv2.applyColorMap((heat * 255).round().astype(np.uint8), cv2.COLORMAP_TURBO)
    cover = HEAT * heat[..., None]
    picture = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    mixed = (picture * (1 - cover) + color * cover).round().astype(np.uint8)
    targets = targets_of([cam.boxes], (h, w), CONFIDENCE).numpy()  # (n, 7)
    r = "" if cam.state == TRAINED else f" r {number(cam.correlation)}"
    tile = draw_tile(mixed, targets, names, f"{cam.block} {cam.state}: S {cam.score:.2f}{r}")
    return cv2.rectangle(tile, (0, 0), (size[0] - 1, size[1] - 1), (255, 255, 255), 1)


# Files ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mean:
    """A block in one state, over all images."""

    block: str
    state: str
    score: float
    boxes: float  # kept of an image
    correlation: float | None  # over the images where neither map is constant
    constant: int  # images where one is


def means_of(pictures: Sequence[Sequence[Cam]]) -> list[Mean]:
    """What each block's states give in the mean of the images."""
    found = []
    for cams in zip(*pictures, strict=True):
        known = [cam.correlation for cam in cams if cam.correlation is not None]
        score, boxes = (float(np.mean(values)) for values in ([c.score for c in cams], [len(c.boxes) for c in cams]))
        r = float(np.mean(known)) if known else None
        found.append(Mean(cams[0].block, cams[0].state, score, boxes, r, len(cams) - len(known)))
    return found


def log_means(means: Sequence[Mean], images: int) -> None:
    """Says in the log what the states of each block score, and how alike their maps are."""
    width = max(len(mean.block) for mean in means) + 2
    LOGGER.info(f"LayerCAM of {plural(images, 'image')}: S is the sum of the confidences of an image's boxes")
    LOGGER.info(f"{'block':<{width}}{'state':<12}{'mean S':>10}{'boxes':>9}{'r with trained':>16}{'constant':>10}")
    for mean in means:
        cells = f"{mean.score:>10.3f}{mean.boxes:>9.2f}{number(mean.correlation):>16}{mean.constant:>10}"
        LOGGER.info(f"{mean.block:<{width}}{mean.state:<12}{cells}")


def write_cams(
    folder: Path, model: Model, batches: Iterable[Batch], blocks: Mapping[str, Gated], gates: Mapping[str, Tensor]
) -> list[Mean]:
    """Writes a JPEG for each image of the batches, which are of one, cam.csv and index.html with them all; the means.

    blocks: those looked at; gates: their mean gates (C,). ValueError where there is no image.
    """
    folder.mkdir(parents=True, exist_ok=True)
    device, claimed = next(model.parameters()).device, UniqueNames()
    pictures, rows, parts = [], [], []
    for batch in progress(batches, desc="LayerCAM"):
        (pixels,), path = batch.images, Path(batch.paths[0])
        cams = cams_of(model, pixels[None].to(device).float() / 255, blocks, gates)
        bgr = np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()[..., ::-1])  # (h, w, 3)
        drawn, file = draw_cams(bgr, cams, model.names), f"{claimed.claim(safe_name(path.stem))}.jpg"
        with atomic_write(folder / file) as temporary:
            temporary.write_bytes(cv2.imencode(".jpg", drawn)[1].tobytes())
        rows += [(path.name, cam.block, cam.state, len(cam.boxes), f"{cam.score:.6g}", cam.correlation) for cam in cams]
        parts.append(_figure(path.name, file, drawn))
        pictures.append(cams)
    if not pictures:
        raise ValueError("the data set's split has no image")
    means = means_of(pictures)
    with atomic_write(folder / "cam.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(("image", "block", "state", "boxes", "score", "correlation"))
        writer.writerows([[plain_cell(cell) for cell in row] for row in rows])
    cells = [(m.block, m.state, f"{m.score:.3f}", f"{m.boxes:.2f}", number(m.correlation), m.constant) for m in means]
    head = ("block", "state", "mean score", "boxes", "correlation with trained", "constant maps")
    write_page(
        folder / "index.html",
        "LayerCAM",
        ["<h1>LayerCAM</h1>", section("Means", table(head, cells)), section("Images", *parts)],
    )
    return means


def _figure(name: str, file: str, drawn: np.ndarray) -> Markup:
    h, w = drawn.shape[:2]
    size = (min(THUMBNAIL, w), max(round(h * min(THUMBNAIL, w) / w), 1))
    small = image_tag(jpeg(cv2.resize(drawn, size, interpolation=cv2.INTER_AREA)), name)
    return Markup(f'<p>{escaped(name)}<br><a href="{escaped(quote(file))}">{small}</a></p>')
