"""Draw boxes, labels and batches on images with OpenCV and Pillow; utils/draw/curves.py draws figures with axes.

Images are (H, W, 3) uint8 BGR arrays. An Annotator draws on the given array, as v6.1's does; all others draw on a copy.
"""

import math
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from utils.files.fonts import load_font
from utils.files.images import write_image
from utils.ops.boxes import PAD_VALUE, clipped_coords, xywh2xyxy, xyxy2xywh

Color = tuple[int, int, int]
FONT = cv2.FONT_HERSHEY_SIMPLEX
CAPTION_HEIGHT = 18  # pixels above each image of a grid, for its file name
SMALL_TILE = 320  # pixels; a smaller image of a grid is enlarged to it, lest its labels cover it
PIXELS_PER_FONT_SCALE = 27  # Pillow's font size that looks as large as OpenCV's font at scale 1


class Colors:
    """Palette of twenty colours for classes; class indices beyond cycle."""

    HEX = (
        "FF3B47",
        "00A6ED",
        "FFB000",
        "22B573",
        "8F5BE8",
        "FF6FB5",
        "2F5BEA",
        "9BCF1A",
        "00B8A9",
        "FF7A1A",
        "C2186B",
        "7A4B2A",
        "FFE04B",
        "5D6BC4",
        "35E0A1",
        "D573FF",
        "7E8F16",
        "5FD7F2",
        "A63A3A",
        "7B8CA3",
    )

    def __init__(self) -> None:
        self.palette = [self.hex2rgb(f"#{code}") for code in self.HEX]
        self.n = len(self.palette)

    @staticmethod
    def hex2rgb(h: str) -> Color:
        """Convert `#RRGGBB` to (red, green, blue)."""
        red, green, blue = bytes.fromhex(h.removeprefix("#"))
        return red, green, blue

    def __call__(self, index: int, bgr: bool = False) -> Color:
        """Return the colour of class `index` as (red, green, blue), or (blue, green, red)."""
        r, g, b = self.palette[int(index) % self.n]
        return (b, g, r) if bgr else (r, g, b)


colors = Colors()


def text_color(background: Color) -> Color:
    """Return black or white, whichever has more contrast with the (BGR) background."""
    b, g, r = background
    return (0, 0, 0) if 0.299 * r + 0.587 * g + 0.114 * b > 150 else (255, 255, 255)


class Annotator:
    """Draws boxes and labels on a BGR image, `im`, in place: ASCII with OpenCV, other text with Pillow.

    An array that OpenCV cannot draw on, such as `image[..., ::-1]`, is copied; a PIL image is converted to an array.
    font, pil and example are v6.1's and ignored: each text selects its own font. With `labels_last` set, `result` draws
    the labels on top of all boxes.
    """

    def __init__(
        self,
        im: np.ndarray | Image.Image,
        line_width: int | None = None,
        font_size: int | None = None,
        font: str = "",
        pil: bool = False,
        example: str = "",
    ) -> None:
        self.im = np.require(im, requirements=["C", "W"])
        assert self.im.shape[2:] == (3,), f"(H, W, 3) is drawn upon, not {self.im.shape}"
        assert self.im.dtype == np.uint8, f"uint8 is drawn upon, not {self.im.dtype}"
        side = sum(self.im.shape[:2]) / 2
        self.lw = line_width or max(round(side * 0.003), 2)
        self.font_scale = font_size / PIXELS_PER_FONT_SCALE if font_size else self.lw / 3
        self.font_size = font_size or round(self.font_scale * PIXELS_PER_FONT_SCALE)
        self.labels_last = False
        self.pending: list[tuple[tuple[int, int], str, Color, Color | None]] = []

    def box_label(
        self,
        box: Sequence[float] | np.ndarray | Tensor,
        label: str = "",
        color: Color = (128, 128, 128),
        txt_color: Color | None = None,
    ) -> None:
        """Draw a box (xyxy in pixels, corners in any order) and its label, if any.

        txt_color: of the text; by default black or white, whichever has more contrast.
        """
        x1, y1, x2, y2 = (int(v) for v in finite_corners(box, self.im.shape[:2]))
        cv2.rectangle(self.im, (x1, y1), (x2, y2), color, self.lw)
        if label and self.labels_last:
            self.pending.append(((x1, y1), label, color, txt_color))
        elif label:
            self.label((x1, y1), label, color, txt_color)

    def label(self, corner_xy: tuple[int, int], text: str, background: Color, ink: Color | None = None) -> None:
        """Write a label above the corner if there is room, else below; moved and shrunk to stay inside the image."""
        mask = text_mask(text, self.font_scale, self.font_size)
        mask = fit(mask, max_hw=self.im.shape[:2])
        height, width = mask.shape
        x, y = corner_xy
        # The box's line is centred on its edge: the label starts where the line does.
        x, y = x - self.lw // 2, y - height if y >= height else y
        x = min(max(x, 0), self.im.shape[1] - width)
        y = min(max(y, 0), self.im.shape[0] - height)
        opacity = mask[..., None] / 255  # (h, w, 1)
        letters = np.array(text_color(background) if ink is None else ink) * opacity
        patch = letters + np.array(background) * (1 - opacity)
        self.im[y : y + height, x : x + width] = patch.round().astype(np.uint8)

    def rectangle(
        self, xy: Sequence[float], fill: Color | None = None, outline: Color | None = None, width: int = 1
    ) -> None:
        """Draw a rectangle xyxy in pixels: filled, outlined or both; a white outline if neither colour is given."""
        x1, y1, x2, y2 = (int(v) for v in finite_corners(xy, self.im.shape[:2]))
        if fill is not None:
            cv2.rectangle(self.im, (x1, y1), (x2, y2), fill, cv2.FILLED)
        if outline is not None or fill is None:
            cv2.rectangle(self.im, (x1, y1), (x2, y2), (255, 255, 255) if outline is None else outline, width)

    def text(self, xy: Sequence[float], text: str, txt_color: Color = (255, 255, 255)) -> None:
        """Write text without a background, its lower left corner at xy, clipped to the image."""
        mask = text_mask(text, self.font_scale, self.font_size)
        h, w = self.im.shape[:2]
        left, top = int(xy[0]), int(xy[1]) - mask.shape[0] + 1
        x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + mask.shape[1], w), min(top + mask.shape[0], h)
        if x1 >= x2 or y1 >= y2:
            return
        opacity = mask[y1 - top : y2 - top, x1 - left : x2 - left, None] / 255  # (h, w, 1)
        patch = np.array(txt_color) * opacity + self.im[y1:y2, x1:x2] * (1 - opacity)
        self.im[y1:y2, x1:x2] = patch.round().astype(np.uint8)

    def result(self) -> np.ndarray:
        """Return the image; it is the given array if that could be drawn on."""
        for corner_xy, label, color, txt_color in self.pending:
            self.label(corner_xy, label, color, txt_color)
        self.pending.clear()
        return self.im


def finite_corners(box_xyxy: Sequence[float] | np.ndarray | Tensor, hw: tuple[int, int]) -> np.ndarray:
    """Round a box to pixels with x1 <= x2 and y1 <= y2, clipped to one image size around the image, for OpenCV."""
    x1, y1, x2, y2 = np.nan_to_num(np.asarray(box_xyxy, np.float64))
    h, w = hw
    corners = [min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)]
    return np.clip(np.round(corners), [-w, -h, -w, -h], [2 * w, 2 * h, 2 * w, 2 * h])


def text_mask(text: str, font_scale: float, font_size: int) -> np.ndarray:
    """Render text as (h, w) uint8, 255 on 0, with a small margin; font_scale is OpenCV's, font_size Pillow's."""
    text = " ".join(text.split()) or " "
    return ascii_mask(text, font_scale) if text.isascii() else unicode_mask(text, font_size)


def ascii_mask(text: str, font_scale: float) -> np.ndarray:
    """Render text with OpenCV's font; the height depends on the size only."""
    thickness = max(round(font_scale * 2), 1)
    (width, height), baseline = cv2.getTextSize(text, FONT, font_scale, thickness)
    margin = max(round(font_scale * 4), 2)
    mask = np.zeros((height + baseline + margin, width + 2 * margin), np.uint8)
    cv2.putText(mask, text, (margin, height + margin // 2), FONT, font_scale, 255, thickness, cv2.LINE_AA)
    return mask


def unicode_mask(text: str, font_size: int) -> np.ndarray:
    """Render text with an installed font that has the glyphs."""
    font = load_font(text, font_size)
    margin = max(font_size // 8, 2)
    left, top, right, bottom = (round(v) for v in font.getbbox(text))
    # Heights of the letters' line, not of this text's letters, keep labels of one image alike.
    top, bottom = min(top, 0), max(bottom, round(font.getbbox("Ágj")[3]))
    canvas = Image.new("L", (right - left + 2 * margin, bottom - top + margin))
    ImageDraw.Draw(canvas).text((margin - left, margin // 2 - top), text, fill=255, font=font)
    return np.asarray(canvas)


def fit(mask: np.ndarray, max_hw: tuple[int, int]) -> np.ndarray:
    """Shrink a mask to max_hw if it is larger."""
    h, w = mask.shape
    scale = min(max_hw[0] / h, max_hw[1] / w, 1.0)
    if scale == 1.0:
        return mask
    return cv2.resize(mask, (max(int(w * scale), 1), max(int(h * scale), 1)), interpolation=cv2.INTER_AREA)


def crop_box(image: np.ndarray, box_xyxy: Tensor, gain: float = 1.02, pad: float = 10) -> np.ndarray:
    """Crop a box, enlarged by `gain` and `pad` pixels in width and height; may be empty."""
    box_xywh = xyxy2xywh(box_xyxy.detach().cpu().float().view(1, 4))
    size = box_xywh[:, 2:] * gain + pad
    corners = xywh2xyxy(torch.cat((box_xywh[:, :2], size), 1))
    x1, y1, x2, y2 = clipped_coords(corners, image.shape[:2])[0].long().tolist()
    return image[y1:y2, x1:x2].copy()


def plot_batch(
    images: Tensor,
    targets: Tensor,
    path: Path,
    names: Sequence[str],
    paths: Sequence[str] = (),
    max_side: int = 1920,
    max_images: int = 16,
) -> None:
    """Write `draw_batch` to `path`."""
    write_image(path, draw_batch(images, targets, names, paths, max_side, max_images))


def draw_batch(
    images: Tensor,
    targets: Tensor,
    names: Sequence[str],
    paths: Sequence[str] = (),
    max_side: int = 1920,
    max_images: int = 16,
) -> np.ndarray:
    """Draw a grid of the first images with their boxes, (h, w, 3) uint8 BGR, no side above max_side.

    Images smaller than SMALL_TILE are enlarged if there is room.

    Args:
        images: (B, 3, H, W) RGB, uint8 or float in 0..1.
        targets: (T, 6) image index, class, cx, cy, w, h in 0..1; a seventh column is the confidence, which is shown.
            `targets_of` converts predictions.
        names: Class names.
        paths: Files of the images, whose names are written above them.
        max_side: Limit of the grid in pixels.
        max_images: Limit of the number of images.
    """
    images = images[:max_images].detach().cpu()
    rows = targets.detach().cpu().float().numpy()
    if images.is_floating_point():
        images = images.float().mul(255).round().clamp(0, 255).byte()  # a new tensor: the batch stays as it is
    count, (height, width) = len(images), images.shape[2:]
    columns = max(math.ceil(math.sqrt(count)), 1)
    side = max(height, width)
    caption = CAPTION_HEIGHT if paths else 0
    scale = min(max(max_side - columns * caption, columns) / (columns * side), max(SMALL_TILE / side, 1.0))
    interpolation = cv2.INTER_LINEAR if scale > 1 else cv2.INTER_AREA
    h, w = max(round(height * scale), 1), max(round(width * scale), 1)
    canvas = np.full((max(math.ceil(count / columns), 1) * (h + caption), columns * w, 3), PAD_VALUE, np.uint8)
    for i, image in enumerate(images):
        bgr = np.ascontiguousarray(image.permute(1, 2, 0).numpy()[..., ::-1])  # (H, W, 3)
        tile = cv2.resize(bgr, (w, h), interpolation=interpolation)
        tile = cv2.rectangle(tile, (0, 0), (w - 1, h - 1), (255, 255, 255), 1)  # below the labels
        tile = draw_tile(tile, rows[rows[:, 0] == i], names)
        if paths:
            tile = np.concatenate((draw_caption(Path(paths[i]).name if i < len(paths) else "", w), tile))
        top, left = i // columns * (h + caption), i % columns * w
        canvas[top : top + h + caption, left : left + w] = tile
    return canvas


def draw_caption(name: str, width: int) -> np.ndarray:
    """Draw a strip with the end of a file name, (CAPTION_HEIGHT, width, 3)."""
    strip = np.full((CAPTION_HEIGHT, width, 3), 70, np.uint8)
    annotator = Annotator(strip, font_size=11)
    if name and hasattr(annotator, "label"):  # a class pasted from v6.1 has no such method
        annotator.label((0, 0), name[-40:], (70, 70, 70))
    return strip


def draw_tile(tile: np.ndarray, rows: np.ndarray, names: Sequence[str], caption: str = "") -> np.ndarray:
    """Draw one image with its targets, and a caption on top of them in the upper left corner, if any."""
    h, w = tile.shape[:2]
    annotator = Annotator(
        tile,
        line_width=max(round((h + w) / 2 * 0.004), 1),
        font_size=max(round((h + w) / 2 * 0.03), 11),
    )
    annotator.labels_last = True
    boxes_xyxy = xywh2xyxy(rows[:, 2:6]) * (w, h, w, h)
    for row, box_xyxy in zip(rows, boxes_xyxy, strict=True):
        index = int(row[1])
        name = names[index] if 0 <= index < len(names) else str(index)
        annotator.box_label(box_xyxy, f"{name} {row[6]:.1f}" if len(row) > 6 else name, colors(index, bgr=True))
    drawn = annotator.result()
    if caption and hasattr(annotator, "label"):  # a class pasted from v6.1 has no such method
        annotator.label((5, 5), caption[-40:], (70, 70, 70))
    return drawn


def targets_of(predictions: Sequence[Tensor], hw: tuple[int, int], conf_thres: float = 0.25) -> Tensor:
    """Convert each image's predictions (n, 6), xyxy in network pixels, conf, class, to (T, 7) for `draw_batch`."""
    h, w = hw
    parts = [torch.zeros(0, 7)]
    for i, prediction in enumerate(predictions):
        kept = prediction[prediction[:, 4] > conf_thres].detach().cpu().float()
        boxes = xyxy2xywh(kept[:, :4]) / torch.tensor([w, h, w, h])
        parts.append(torch.cat((torch.full((len(kept), 1), float(i)), kept[:, 5:6], boxes, kept[:, 4:5]), 1))
    return torch.cat(parts)


# Names of v6.1 --------------------------------------------------------------------------------------------------------


def __getattr__(name: str) -> object:
    """Import a v6.1 name on first access; utils/v61 lists where each is."""
    if name == "__path__":  # each import of the module asks for it
        raise AttributeError(name)
    return import_module("utils.v61").find(__name__, name)
