"""v6.1's hooks of a training, and its loggers that hang on them, for training loops that users own."""

import math
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from utils.files.images import read_image
from utils.general import LOGGER
from utils.loggers import KEYS, summary_writer
from utils.loggers.base import BEST_KEYS
from utils.v61.plots import plot_images, plot_results

HOOKS = (
    "on_pretrain_routine_start",
    "on_pretrain_routine_end",
    "on_train_start",
    "on_train_epoch_start",
    "on_train_batch_start",
    "optimizer_step",
    "on_before_zero_grad",
    "on_train_batch_end",
    "on_train_epoch_end",
    "on_val_start",
    "on_val_batch_start",
    "on_val_image_end",
    "on_val_batch_end",
    "on_val_end",
    "on_fit_epoch_end",
    "on_model_save",
    "on_train_end",
    "on_params_update",
    "teardown",
)
LOGGERS = ("csv", "tb")  # where numbers go
PLOTTED_BATCHES = 3
Action = dict[str, object]


class Callbacks:
    """Functions that a training calls at its hooks. stop_training: set to True it asks the training to end."""

    def __init__(self) -> None:
        self._callbacks: dict[str, list[Action]] = {hook: [] for hook in HOOKS}
        self.stop_training = False

    def register_action(self, hook: str, name: str = "", callback: Callable[..., object] | None = None) -> None:
        """Let a function be called at a hook; AssertionError if there is no such hook or it cannot be called."""
        assert hook in self._callbacks, f"hook {hook!r} is not one of {', '.join(self._callbacks)}"
        assert callable(callback), f"callback {callback!r} cannot be called"
        self._callbacks[hook].append({"name": name, "callback": callback})

    def get_registered_actions(self, hook: str | None = None) -> dict[str, list[Action]] | list[Action]:
        """What is registered at a hook, or at all of them by their names."""
        return self._callbacks[hook] if hook else self._callbacks

    def run(self, hook: str, *args: object, **kwargs: object) -> None:
        """Call what is registered at a hook, in that order."""
        assert hook in self._callbacks, f"hook {hook!r} is not one of {', '.join(self._callbacks)}"
        for action in self._callbacks[hook]:
            action["callback"](*args, **kwargs)


class Loggers:
    """Write results.csv and, if it is installed, TensorBoard's events of a training; methods are v6.1's hooks.

    opt: the training's options, of which `evolve` is read: a search's trainings have no events.
    """

    def __init__(
        self,
        save_dir: str | Path | None = None,
        weights: str | None = None,
        opt: Namespace | None = None,
        hyp: Mapping[str, float] | None = None,
        logger: object = None,
        include: Sequence[str] = LOGGERS,
    ) -> None:
        self.save_dir = Path(save_dir or ".")
        self.weights, self.opt, self.hyp, self.logger, self.include = weights, opt, hyp, logger or LOGGER, include
        self.keys, self.best_keys = list(KEYS), ["best/epoch", *BEST_KEYS]
        self.csv = "csv" in include
        self.wandb = None
        self.tb = None
        writer = summary_writer() if "tb" in include and not getattr(opt, "evolve", None) else None
        if writer is not None:
            self.tb = writer(str(self.save_dir))

    def on_pretrain_routine_end(self) -> None:
        """Show the pictures of the labels."""
        self._show(sorted(self.save_dir.glob("*labels*.jpg")), 0)

    def on_train_batch_end(
        self,
        ni: int,
        model: nn.Module,
        imgs: Tensor,
        targets: Tensor,
        paths: Sequence[str],
        plots: bool = True,
        sync_bn: bool = False,
    ) -> None:
        """Write train_batch<ni>.jpg of the first batches."""
        del model, sync_bn
        if plots and ni < PLOTTED_BATCHES:
            plot_images(imgs, targets, paths, self.save_dir / f"train_batch{ni}.jpg")

    def on_train_epoch_end(self, epoch: int) -> None:
        """Nothing: all that is logged of an epoch is known once it was validated."""

    def on_val_image_end(self, pred: Tensor, predn: Tensor, path: str | Path, names: Sequence[str], im: Tensor) -> None:
        """Nothing: images with boxes went to services that are not written to here."""

    def on_val_end(self) -> None:
        """Show the pictures of the validation."""
        self._show(sorted(self.save_dir.glob("val*.jpg")), 0)

    def on_fit_epoch_end(self, vals: Sequence[float], epoch: int, best_fitness: float, fi: float) -> None:
        """Write an epoch's numbers: three training losses, P, R, mAP@.5, mAP@.5:.95, three losses, three rates."""
        numbers = dict(zip(self.keys, (float(value) for value in vals), strict=False))
        if self.csv:
            file = self.save_dir / "results.csv"
            rows = "" if file.exists() else ",".join(f"{name:>20}" for name in ("epoch", *self.keys)) + "\n"
            rows += ",".join(f"{value:>20.5g}" for value in (epoch, *numbers.values())) + "\n"
            with file.open("a", encoding="utf-8") as handle:
                handle.write(rows)
        if self.tb is not None:
            for name, value in numbers.items():
                if not math.isnan(value):
                    self.tb.add_scalar(name, value, epoch)

    def on_model_save(self, last: Path, epoch: int, final_epoch: bool, best_fitness: float, fi: float) -> None:
        """Nothing: checkpoints went to services that are not written to here."""

    def on_train_end(self, last: Path, best: Path, plots: bool, epoch: int, results: Sequence[float]) -> None:
        """Draw results.png, and close TensorBoard's file with the figures in it."""
        if plots and (self.save_dir / "results.csv").exists():
            plot_results(self.save_dir / "results.csv")
        self._show(sorted(self.save_dir.glob("*.png")), epoch)
        if self.tb is not None:
            self.tb.close()

    def on_params_update(self, params: Mapping[str, object]) -> None:
        """Nothing: parameters went to services that are not written to here."""

    def _show(self, files: Sequence[Path], epoch: int) -> None:
        """Give pictures to TensorBoard."""
        if self.tb is None:
            return
        for file in files:
            self.tb.add_image(file.stem, read_image(file)[..., ::-1], epoch, dataformats="HWC")
