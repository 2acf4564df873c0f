"""Values that flags have in common with the code behind them, importable without torch."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # the repository
SPLITS = ("train", "val", "test")
QUAD = 4  # images of a sample of --quad
AMP_CHOICES = ("auto", "bf16", "fp16", "off")  # of --amp
AUTO_PRECISION = "auto"
PRECISIONS = ("fp32", "bf16", "fp16", AUTO_PRECISION)  # of --precision
AUTO_THREADS = "auto"  # of --threads
HINTS = ("latency", "throughput")  # of --hint
TRACKERS = ("bytetrack", "botsort", "ocsort", "cbiou", "sort")  # of --track, the default first
SIZE_DEFAULT = "the size the model was trained at, else 640"  # help of --imgsz
STUDY_SIZES = tuple(range(256, 1536 + 1, 128))  # pixels
SERVICE_PROJECT = "YOLOv5"  # default project of --wandb and experiment of --mlflow, as in v6.1
