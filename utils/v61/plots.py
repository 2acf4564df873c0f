"""v6.1's functions of utils.plots: single boxes, crops, grids of a batch, and the figures of a training."""

import random
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

import utils.draw.curves as figures
from utils.base.constants import STUDY_SIZES
from utils.draw.curves import new_figure, tidy
from utils.evaluation import study
from utils.evolve import files as evolve_files
from utils.evolve.files import RESULT_KEYS, EvolveFiles
from utils.files.feature_maps import save_features
from utils.general import LOGGER, increment_path
from utils.ops.boxes import xyxy2xywh
from utils.plots import Annotator, Color, crop_box, plot_batch

SHOWN_CONFIDENCE = 0.25  # least of a prediction that is drawn
NORMALIZED = 1.01  # boxes of a batch with no larger number are shares of the image


# Boxes ----------------------------------------------------------------------------------------------------------------


def plot_one_box(
    x: Sequence[float] | np.ndarray | Tensor,
    im: np.ndarray,
    color: Color | None = None,
    label: str | None = None,
    line_thickness: int | None = None,
) -> None:
    """Draw a box xyxy and its label on an image (h, w, 3) BGR, in place; without a colour in one drawn by chance."""
    chosen = [random.randint(0, 255) for _ in range(3)] if color is None else color
    Annotator(im, line_width=line_thickness).box_label(x, label or "", tuple(int(part) for part in chosen))


def save_one_box(
    xyxy: Tensor | Sequence[float],
    im: np.ndarray,
    file: str | Path = "image.jpg",
    gain: float = 1.02,
    pad: float = 10,
    square: bool = False,
    BGR: bool = False,
    save: bool = True,
) -> np.ndarray:
    """Return what is in a box xyxy of an image (h, w, 3), made larger by gain and pad, and write it as a .jpg.

    square: the longer side counts for both. BGR: the image is BGR, and so is what is returned; else it is turned round.
    A file that exists stays: the new one gets a number.
    """
    box = torch.as_tensor([float(value) for value in xyxy])
    if square:
        centre, size = xyxy2xywh(box)[:2], (box[2:] - box[:2]).max()
        box = torch.cat((centre - size / 2, centre + size / 2))
    part = crop_box(im, box, gain, pad)
    crop = part if BGR else np.ascontiguousarray(part[..., ::-1])
    if save:
        path = Path(file).with_suffix(".jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        rgb = np.ascontiguousarray(crop[..., ::-1])
        Image.fromarray(rgb).save(increment_path(path), quality=95, subsampling=0)
    return crop


def output_to_target(output: Sequence[Tensor]) -> np.ndarray:
    """Rows (T, 7) of each image's detections (n, 6): image, class, xywh in pixels, confidence."""
    rows = [
        torch.cat((torch.full((len(found), 1), i), found[:, 5:6], xyxy2xywh(found[:, :4]), found[:, 4:5]), 1)
        for i, found in enumerate(part.detach().cpu().float() for part in output)
    ]
    return torch.cat([torch.zeros(0, 7), *rows]).numpy()


def plot_images(
    images: Tensor | np.ndarray,
    targets: Tensor | np.ndarray,
    paths: Sequence[str] | None = None,
    fname: str | Path = "images.jpg",
    names: Sequence[str] | Mapping[int, str] | None = None,
    max_size: int = 1920,
    max_subplots: int = 16,
) -> None:
    """Write a grid of images (B, 3, H, W) RGB with their boxes.

    targets: (T, 6) image, class, xywh, or (T, 7) with a confidence, of which those above 0.25 are drawn; boxes in
    pixels of the batch or as shares of it.
    """
    images, targets = torch.as_tensor(images), torch.as_tensor(targets).float().clone()
    if images.is_floating_point() and images.numel() and float(images.max()) > 1:  # 0..255
        images = images / 255
    if targets.shape[1] > 6:
        targets = targets[targets[:, 6] > SHOWN_CONFIDENCE]
    if len(targets) and float(targets[:, 2:6].max()) > NORMALIZED:
        h, w = images.shape[2:]
        targets[:, 2:6] /= torch.tensor([w, h, w, h], device=targets.device)
    plot_batch(images, targets, Path(fname), _name_list(names), paths or (), max_size, max_subplots)


def _name_list(names: Sequence[str] | Mapping[int, str] | None) -> list[str]:
    """Names of classes by their number, as a list."""
    if isinstance(names, Mapping):
        return [str(names.get(i, i)) for i in range(max(names, default=-1) + 1)]
    return [str(name) for name in names or ()]


def feature_visualization(
    x: Tensor, module_type: str, stage: int, n: int = 32, save_dir: str | Path = Path("runs/detect/exp")
) -> None:
    """Write the feature maps of one image in a batch (B, C, H, W) as stage<i>_<module>_features.png and .npy.

    The picture has the first n channels, 32 at most. Detect has no maps.
    """
    if "Detect" in module_type or x.ndim != 4 or min(x.shape[2:]) <= 1:
        return
    name = f"stage{stage}_{module_type.split('.')[-1]}_features"
    LOGGER.info(f"Saving {Path(save_dir) / name}.png ({min(n, x.shape[1])} of {x.shape[1]} channels)")
    save_features(Path(save_dir), {name: x[0].detach().float().cpu().numpy()})


# Figures --------------------------------------------------------------------------------------------------------------


def plot_labels(labels: np.ndarray, names: Sequence[str] = (), save_dir: str | Path = "") -> None:
    """Write labels.jpg and labels_correlogram.jpg of labels (n, 5), class cx cy w h."""
    figures.plot_labels(labels, _name_list(names), Path(save_dir))


def plot_results(file: str | Path = "path/to/results.csv", dir: str | Path = "") -> None:
    """Write results.png of the results.csv of a training, beside it; without a file of that in the folder `dir`.

    FileNotFoundError if there is none.
    """
    folder = Path(file).parent if file else Path(dir)
    path = Path(file) if file and Path(file).is_file() else next(iter(sorted(folder.glob("results*.csv"))), None)
    if path is None:
        raise FileNotFoundError(f"{folder.resolve()}: has no results.csv of a training")
    figures.plot_results(path, folder / "results.png")


def plot_evolve(evolve_csv: str | Path = "path/to/evolve.csv") -> None:
    """Write evolve.png of a search's evolve.csv, beside it, and log the best values; FileNotFoundError without it."""
    path = Path(evolve_csv)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; a search by train.py --evolve writes it")
    header = [cell.strip() for cell in path.read_text(encoding="utf-8").splitlines()[0].split(",")]
    names = tuple(header[len(RESULT_KEYS) :])
    generations = EvolveFiles(path.parent, names).read() if path.name == "evolve.csv" else []
    if not generations:
        raise ValueError(f"{path}: holds no generation of a search; an evolve.csv does")
    evolve_files.plot_evolve(generations, names, path.with_suffix(".png"))
    best = generations[evolve_files.best_index(generations)]
    LOGGER.info(", ".join(f"{name} {value:.4g}" for name, value in best.hyp.items()))


def plot_val_study(file: str | Path = "", dir: str | Path = "", x: Sequence[int] | None = None) -> None:
    """Write study.png of val.py --task study: of one file of its rows, or of all study*.txt in a folder.

    x: the image sizes of the rows. FileNotFoundError if there is no such file.
    """
    folder = Path(file).parent if file else Path(dir)
    paths = [Path(file)] if file else sorted(folder.glob("study*.txt"))
    if not paths:
        raise FileNotFoundError(f"{folder.resolve()}: has no study*.txt of val.py --task study")
    tables = {path.stem.removeprefix("study_"): np.loadtxt(path, dtype=np.float32, ndmin=2) for path in paths}
    sizes = [list(x) if x is not None else list(STUDY_SIZES[: len(table)]) for table in tables.values()]
    study.plot_study(tables, sizes, folder / "study.png")


def plot_lr_scheduler(
    optimizer: Optimizer, scheduler: LRScheduler, epochs: int = 300, save_dir: str | Path = ""
) -> None:
    """Write LR.png of the learning rate over the epochs; optimizer and scheduler themselves stay as they are."""
    parameter = nn.Parameter(torch.zeros(1))
    trial = type(optimizer)([{**copy(optimizer.param_groups[0]), "params": [parameter]}])
    trial_scheduler = copy(scheduler)
    trial_scheduler.optimizer = trial
    rates = []
    for _ in range(epochs):
        trial_scheduler.step()
        rates.append(trial.param_groups[0]["lr"])
    figure = new_figure(6, 4)
    axes = figure.subplots()
    axes.plot(rates, color=figures.ACCENT)
    axes.set(xlabel="epoch", ylabel="learning rate", xlim=(0, epochs), ylim=(0, None))
    tidy(axes, grid=True)
    figure.savefig(Path(save_dir) / "LR.png", dpi=200)
