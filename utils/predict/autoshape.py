"""A network that takes images as they come - paths, addresses, PIL, numpy - and gives Detections.

Legend: B images, H and W of the network's image, N candidate boxes, n detections of an image.
"""

from collections.abc import Sequence
from numbers import Integral
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from utils.augmentations import letterbox, letterbox_placement
from utils.files.addresses import is_url, without_credentials
from utils.files.images import pillow_to_rgb, read_image, scaled_to_uint8
from utils.general import make_divisible, non_max_suppression
from utils.ops.boxes import scaled_coords
from utils.ops.nms import load_nms
from utils.predict.inference import choose_size
from utils.predict.remote import fetch_image
from utils.predict.results import Detections
from utils.predict.streams import path_of
from utils.torch_utils import largest_stride, profile_layers, time_sync

Picture = str | Path | Image.Image | np.ndarray
FORMS = "a path, an http(s) address, a PIL image, a numpy array (RGB), or a list of them"


class AutoShape(nn.Module):
    """Wraps a network (a Model or an Ensemble): reading and letterboxing before it, NMS and the image's pixels after.

    To be set at any time: conf and iou, the thresholds of NMS; agnostic, whether classes suppress each other;
    multi_label, whether a box may be of several classes; classes, the class numbers to keep or one of them, None for
    all; max_det, most detections of an image; amp, FP16 by autocast on a GPU. Of the network it has names, stride,
    yaml, nc and hyp. dmb: whether the network is a DetectMultiBackend; pt: whether it is PyTorch's.
    """

    __module__ = "models.common"  # where v6.1 has it, and where programs look for it

    conf = 0.25
    iou = 0.45
    agnostic = False
    multi_label = False
    classes: Sequence[int] | int | None = None
    max_det = 1000
    amp = False

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.eval().to(memory_format=torch.channels_last)
        self.sizes: dict[int | None, int] = {}  # those asked for, and what they came to
        self.dmb = hasattr(model, "pt")
        self.pt = getattr(model, "pt", True)
        for name in ("yaml", "nc", "hyp", "names", "stride"):
            if hasattr(model, name):
                setattr(self, name, getattr(model, name))

    def find_size(self, size: int | None) -> int:
        """The longer side of the network's images; what there is to say of it is said in the log, once."""
        if size is not None and size < 1:
            raise ValueError(f"size {size}: a number of pixels, 1 or more, is wanted")
        if size not in self.sizes:
            self.sizes[size] = max(choose_size(self.model, None if size is None else [int(size)], "size"))
        return self.sizes[size]

    def train(self, mode: bool = True) -> "AutoShape":
        """Stays in evaluation; ValueError for what only a training has: `model.model` is the network to train."""
        if mode:
            raise ValueError("this model is for inference; load it with autoshape=False to train it")
        return super().train(False)

    @torch.no_grad()
    def forward(
        self,
        imgs: Picture | Tensor | Sequence[Picture],
        size: int | None = None,
        augment: bool = False,
        profile: bool = False,
    ) -> Detections | tuple[Tensor, list[Tensor] | None]:
        """The detections in an image or a list of images, each in its own pixels.

        imgs: paths, http(s) addresses, PIL images and numpy arrays: RGB (h, w, 3), or (3, h, w), or gray (h, w),
        scaled to uint8 where they are not, and turned as their EXIF tags say.
        size: pixels that the longer side is scaled to, without it those that the network was trained at, or 640 where
        that is not known. augment: test-time augmentation.
        profile: logs the time of each layer. A tensor (B, 3, H, W) in 0..1 is given to the network as it is, and what
        comes out is what the network gives. ValueError or OSError for what is no image.
        """
        parameter = next(self.model.parameters())
        device = parameter.device
        with torch.autocast(device.type, enabled=self.amp and device.type != "cpu"):
            if isinstance(imgs, Tensor):
                return self.model(imgs.to(device, parameter.dtype), augment=augment)
            load_nms(device.type)  # once, and not to be timed
            times = [time_sync(device)]
            images, files = read_pictures(imgs)
            fixed_hw = getattr(self.model, "fixed_hw", None)
            batch = to_batch(images, self.find_size(size), largest_stride(self.model), fixed_hw)  # (B, 3, H, W)
            batch = batch.to(device).to(parameter.dtype).div_(255)
            times.append(time_sync(device))
            prediction = self.model(batch, augment=augment)
            prediction = prediction if isinstance(prediction, Tensor) else prediction[0]  # (B, N, 5 + nc)
            times.append(time_sync(device))
        classes = [self.classes] if isinstance(self.classes, Integral) else self.classes
        limits = (self.conf, self.iou, classes, self.agnostic, self.multi_label)
        found = non_max_suppression(prediction.float(), *limits, max_det=self.max_det)  # B of (n, 6)
        native = [
            torch.cat((scaled_coords(batch.shape[2:], rows[:, :4], image.shape[:2]), rows[:, 4:]), 1)
            for rows, image in zip(found, images, strict=True)
        ]
        times.append(time_sync(device))
        if profile:
            network = self.model.model if self.dmb else self.model
            for member in network if isinstance(network, nn.ModuleList) else [network]:
                profile_layers(member, batch)
        return Detections(images, native, files, np.diff(times).tolist(), self.names, batch.shape)


def to_batch(images: Sequence[np.ndarray], size: int, stride: int, fixed_hw: tuple[int, int] | None = None) -> Tensor:
    """(B, 3, H, W) uint8 in channels-last order: images (h, w, 3) letterboxed to what their longer sides need.

    The longer side becomes `size`, each axis the largest of the batch, rounded up to the stride. fixed_hw: the only
    height and width that an exported file takes.
    """
    size = make_divisible(size, stride)
    if fixed_hw is not None:
        fitted = [letterbox(image, fixed_hw, auto=False)[0] for image in images]
    elif len({image.shape for image in images}) == 1:
        fitted = [letterbox(image, size, auto=True, stride=stride)[0] for image in images]
    else:
        scaled = [letterbox_placement(image.shape[:2], size).hw for image in images]
        height, width = (make_divisible(max(sides), stride) for sides in zip(*scaled, strict=True))
        fitted = [letterbox(image, (height, width), auto=False)[0] for image in images]
    return torch.from_numpy(np.stack(fitted)).permute(0, 3, 1, 2)


def read_pictures(imgs: Picture | Sequence[Picture]) -> tuple[list[np.ndarray], list[str]]:
    """The images (h, w, 3) uint8 RGB and a file name for each, with the suffix .jpg; `image0.jpg` where it has none."""
    several = list(imgs) if isinstance(imgs, list | tuple) else [imgs]
    if not several:
        raise ValueError(f"no image is given; wanted is {FORMS}")
    images, files = [], []
    for i, picture in enumerate(several):
        image, name = read_picture(picture)
        images.append(image)
        files.append(str(PurePosixPath(Path(name).name or f"image{i}").with_suffix(".jpg")))
    return images, files


def read_picture(picture: Picture) -> tuple[np.ndarray, str]:
    """One image (h, w, 3) uint8 RGB, and the name of the file that it came from or nothing."""
    if isinstance(picture, str) and is_url(picture):
        if not picture.lower().startswith(("http://", "https://")):
            raise ValueError(f"{without_credentials(picture)}: images are fetched by http and https only")
        return to_rgb(fetch_image(picture)), unquote(path_of(picture))
    if isinstance(picture, str | Path):
        return to_rgb(read_image(picture)), str(picture)
    if isinstance(picture, Image.Image):
        file = str(getattr(picture, "filename", ""))
        return pillow_to_rgb(picture, file or f"PIL image of mode {picture.mode}"), file
    if isinstance(picture, np.ndarray):
        return from_array(picture), ""
    raise ValueError(f"a {type(picture).__name__} is no image; wanted is {FORMS}")


def to_rgb(image_bgr: np.ndarray) -> np.ndarray:
    """The image (h, w, 3) with its channels the other way round."""
    return np.ascontiguousarray(image_bgr[..., ::-1])


def from_array(array: np.ndarray) -> np.ndarray:
    """An image (h, w, 3) uint8 RGB of an array (h, w), (h, w, c) or (c, h, w); c is 1 or 3, or 4 in the last place.

    Other types than uint8 are scaled by the rule of utils/files/pixels.py, as files are.
    Channels come first where the first side is 1 or 3 and the last is no number of channels; a fourth one is left out.
    """
    image = array[..., None] if array.ndim == 2 else array
    if image.ndim == 3 and image.shape[0] in {1, 3} and image.shape[2] not in {1, 3, 4}:
        image = image.transpose(1, 2, 0)
    if image.ndim != 3 or image.shape[2] not in {1, 3, 4} or not image.size:
        raise ValueError(f"an array of shape {array.shape}; (h, w, 3), (3, h, w) or (h, w) is wanted")
    image = np.repeat(image, 3, 2) if image.shape[2] == 1 else image[..., :3]
    return np.ascontiguousarray(scaled_to_uint8(image, f"array of shape {array.shape}"))
