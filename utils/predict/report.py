"""What a run of detect.py amounts to: counted by each process, joined and printed by the first.

Legend: B frames of a batch.
"""

import json
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from utils.dist import DistEnv
from utils.general import LOGGER, colorstr, one_line, plural
from utils.predict.outputs import ResultWriter
from utils.predict.sources import FileSource, LiveSource


@dataclass
class DetectStats:
    """What one process did: frames, objects by class, the last batch's shape.

    seconds: of pre-processing, inference and NMS.
    """

    frames: int = 0
    seconds: np.ndarray = field(default_factory=lambda: np.zeros(3))
    objects: Counter[str] = field(default_factory=Counter)
    shape: tuple[int, ...] = ()
    counts: list[dict[str, object]] = field(default_factory=list)  # at lines and in zones
    exit_status: int = 0  # other than 0 if a signal has ended it

    def add(self, shape: tuple[int, ...], seconds: np.ndarray) -> None:
        """Count a batch (B, 3, H, W) and its three durations."""
        self.frames += shape[0]
        self.seconds += seconds
        self.shape = tuple(shape)


@dataclass(frozen=True)
class RunTotals:
    """What all processes did together.

    seconds: of pre-processing, inference and NMS. shape: of the first batch known, () without one. written: files by
    kind. tried, skipped: files of the source. last_error: why the latest of them could not be read. summary: lines of
    the sources.
    """

    frames: int
    seconds: np.ndarray
    shape: tuple[int, ...]
    exit_status: int
    objects: Counter[str]
    written: Counter[str]
    tried: int
    skipped: int
    last_error: str | None
    summary: list[str]
    counts: list[dict[str, object]]


def joined_results(
    ranks: DistEnv, stats: DetectStats, source: FileSource | LiveSource, writer: ResultWriter
) -> RunTotals:
    """Sum up what all processes did; rank 0 takes over what the others wrote."""
    writer.close()
    own = {
        "frames": stats.frames,
        "seconds": stats.seconds.tolist(),
        "shape": stats.shape,
        "exit_status": stats.exit_status,
        "objects": stats.objects,
        "written": writer.written,
        "tried": source.tried,
        "skipped": source.skipped,
        "last_error": one_line(source.last_error) if source.last_error else None,
        "summary": source.summary(),
        "counts": stats.counts,
    }
    everyone = [json.loads(str(part["text"])) for part in ranks.gather({"text": np.array(json.dumps(own))})]
    if ranks.is_main:
        for rank in range(1, len(everyone)):
            writer.take_over(rank)
    return RunTotals(
        frames=sum(part["frames"] for part in everyone),
        seconds=np.sum([part["seconds"] for part in everyone], 0),
        shape=next((tuple(part["shape"]) for part in everyone if part["frames"]), ()),
        exit_status=max(part["exit_status"] for part in everyone),
        objects=sum((Counter(part["objects"]) for part in everyone), Counter()),
        written=sum((Counter(part["written"]) for part in everyone), Counter()),
        tried=sum(part["tried"] for part in everyone),
        skipped=sum(part["skipped"] for part in everyone),
        last_error=next((part["last_error"] for part in reversed(everyone) if part["last_error"]), None),
        summary=[line for part in everyone for line in part["summary"]],
        counts=[row for part in everyone for row in part["counts"]],
    )


def report(total: RunTotals, writer: ResultWriter) -> None:
    """Print the speed, what was found and where it is, of all processes; of streams, what was dropped."""
    for line in total.summary:
        LOGGER.info(line)
    if total.frames:
        pre, inference, nms = total.seconds / total.frames * 1000
        speeds = f"{pre:.1f}ms pre-process, {inference:.1f}ms inference, {nms:.1f}ms NMS"
        LOGGER.info(f"Speed: {speeds} per image at shape {total.shape}")
    found = enumerate_counts(Counter(dict(total.objects.most_common()))) or "no objects"
    unread = f", {plural(total.skipped, 'unreadable file')} skipped" if total.skipped else ""
    LOGGER.info(f"{plural(total.frames, 'image')}: {found}{unread}")
    written = total.written + Counter({f"{kind} file": 1 for kind in writer.tables.tables})
    if written:
        LOGGER.info(f"Results saved to {colorstr('bold', str(writer.folder))}: {enumerate_counts(written)}")


def enumerate_counts(counts: Counter[str]) -> str:
    """Return counts as text: `4 persons, 1 bus`."""
    return ", ".join(plural(count, name) for name, count in counts.items())
