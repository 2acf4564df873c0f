"""Find the largest batch size that fits a GPU's memory by training on it.

A trial runs forward, backward, optimizer and moving average, with the gradients of one batch present during the next.
Memory is what the allocator has reserved, in bytes.

Shapes: B images of a batch, T targets of a batch.
"""

import gc
from collections.abc import Callable, Sequence
from importlib import import_module

import torch

from utils.data.labels import LabelRecord
from utils.datasets import Batch
from utils.general import LOGGER, colorstr
from utils.training.engine import Trainer

DEFAULT_BATCH = 16  # where nothing is measured
LARGEST_BATCH = 1024
SHARE = 0.9  # of the free memory that a run may take; fragments and other programs need the rest
MOSAIC_TILES = 4  # images whose labels one training image may show
GUESSES = 4  # by the line through two batches' memory, before the range is halved instead
TOO_LARGE = ("CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED", "canUse32BitIndexMath", "32-bit")  # in errors
PREFIX = "AutoBatch: "

TrainerFactory = Callable[[int], Trainer]


def auto_batch(make_trainer: TrainerFactory, device: torch.device, imgsz: int, records: Sequence[LabelRecord]) -> int:
    """Return the largest batch size at imgsz pixels, 1 to 1024 and at most the number of images, that fits the device.

    make_trainer(batch_size) returns a new trainer on the device, which is discarded. The RNG is not affected. On a CPU
    the result is 16.

    Raises:
        ValueError: if not even one image fits.
    """
    prefix = colorstr(PREFIX)
    if device.type != "cuda":
        LOGGER.info(f"{prefix}only a GPU's memory is measured, and this is a {device.type}: batch size {DEFAULT_BATCH}")
        return DEFAULT_BATCH
    objects = MOSAIC_TILES * sum(len(record.boxes) for record in records) / max(len(records), 1)
    free_memory()
    free, held = torch.cuda.mem_get_info(device)[0], torch.cuda.memory_reserved(device)  # held: by this process
    peaks: dict[int, int | None] = {}

    def peak_of(batch_size: int) -> int | None:
        batch = random_batch(batch_size, imgsz, round(objects * batch_size))
        peaks[batch_size] = peak_memory(make_trainer, batch, device)
        return peaks[batch_size]

    with torch.random.fork_rng(devices=[device]):
        found = largest_batch(peak_of, held + SHARE * free, min(LARGEST_BATCH, max(len(records), 1)))
    free_memory()
    if not found:
        raise ValueError(
            f"--batch-size -1: not even one image of {imgsz} pixels fits {free / 1e9:.2f} GB of free memory; choose a "
            "smaller --imgsz or model"
        )
    taken = ((peaks[found] or 0) - held) / 1e9
    LOGGER.info(f"{prefix}batch size {found} takes {taken:.2f} of the {free / 1e9:.2f} GB that are free on {device}")
    return found


def largest_batch(peak_of: Callable[[int], float | None], budget: float, most: int = LARGEST_BATCH) -> int:
    """Return the largest batch size, 1 to `most`, with peak_of(batch) <= budget; 0 if there is none.

    peak_of returns None if the memory did not suffice. The size is doubled until one fails; then the line through the
    last two, or bisection if the line misleads, chooses the next trial.
    """
    peaks: list[tuple[int, float]] = []  # of batches that fit, growing
    fitting, failing, guesses = 0, most + 1, 0
    while failing - fitting > 1:
        if failing > most:
            batch = min(max(2 * fitting, 1), most)
        elif guesses < GUESSES and len(peaks) > 1:
            batch = min(max(on_line(peaks[-2], peaks[-1], budget), fitting + 1), failing - 1)
            guesses += 1
        else:
            batch = (fitting + failing) // 2
        peak = peak_of(batch)
        if peak is not None and peak <= budget:
            fitting = batch
            peaks.append((batch, peak))
        else:
            failing = batch
    return fitting


def on_line(first: tuple[int, float], second: tuple[int, float], budget: float) -> int:
    """Extrapolate the batch size that uses up the budget from two (batch, bytes); 0 if memory does not rise."""
    slope = (second[1] - first[1]) / (second[0] - first[0])
    return int(second[0] + (budget - second[1]) / slope) if slope > 0 else 0


# A trial --------------------------------------------------------------------------------------------------------------


def peak_memory(make_trainer: TrainerFactory, batch: Batch, device: torch.device) -> int | None:
    """Return the peak memory in bytes reserved by training on the batch; None if it does not fit."""
    free_memory()
    torch.cuda.reset_peak_memory_stats(device)
    peak: int | None = None
    try:
        run_steps(make_trainer(len(batch.images)), batch)
        torch.cuda.synchronize(device)
        peak = torch.cuda.max_memory_reserved(device)
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and not any(text in str(error) for text in TOO_LARGE):
            raise
        LOGGER.debug(f"{PREFIX}{len(batch.images)} images do not fit: {error}")
    return peak


def run_steps(trainer: Trainer, batch: Batch) -> None:
    """Run two optimizer steps of two batches each, after which all persistent memory is allocated."""
    trainer.train_mode()
    trainer.optimizer.zero_grad()
    for number in range(2):
        trainer.backward(batch, number)
        trainer.backward(batch, number)
        trainer.step()


def random_batch(batch_size: int, imgsz: int, objects: int) -> Batch:
    """Return B copies of one noise image (B, 3, imgsz, imgsz) with `objects` objects of class 0; deterministic."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (1, 3, imgsz, imgsz), dtype=torch.uint8, generator=generator)
    images = image.repeat(batch_size, 1, 1, 1)
    targets = torch.rand(objects, 6, generator=generator) * 0.5 + 0.25  # (T, 6)
    targets[:, 0] = torch.arange(objects) % batch_size
    targets[:, 1] = 0
    return Batch(images, targets, (), ())


def free_memory() -> None:
    """Return unused cached memory to the GPU."""
    gc.collect()
    torch.cuda.empty_cache()


# Names of v6.1 --------------------------------------------------------------------------------------------------------


def __getattr__(name: str) -> object:
    """Import a v6.1 name on first access; utils/v61 lists where each is."""
    if name == "__path__":  # each import of the module asks for it
        raise AttributeError(name)
    return import_module("utils.v61").find(__name__, name)
