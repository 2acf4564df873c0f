"""Track objects in videos and streams by Roboflow's `trackers`, an optional package that is imported here only."""

from types import ModuleType
from typing import NamedTuple

import numpy as np

from utils.general import LOGGER
from utils.predict.sources import Frame
from utils.predict.video import frame_rate

INSTALL = "pip install -r requirements-track.txt"
FAINT = 0.1  # confidence from which a detection can continue a track: the lower threshold of ByteTrack
NO_ID = -1  # of a detection without a track, as in MOT Challenge's detection files


class TrackerKind(NamedTuple):
    """How the package names a tracker: its class, and its arguments for the confidence that starts a track."""

    cls: str
    thresholds: tuple[str, ...] = ("track_activation_threshold", "high_conf_det_threshold")
    needs_image: bool = False  # for the camera's motion


KINDS = {  # McByte is left out: it needs the weights of two segmentation networks
    "bytetrack": TrackerKind("ByteTrackTracker"),
    "botsort": TrackerKind("BoTSORTTracker", needs_image=True),
    "ocsort": TrackerKind("OCSORTTracker", ("high_conf_det_threshold",)),
    "cbiou": TrackerKind("CBIoUTracker"),
    "sort": TrackerKind("SORTTracker", ("track_activation_threshold",)),
}


class ObjectTracker:
    """Give the objects of one video or stream ids that last from frame to frame.

    Args:
        name: a key of KINDS.
        fps: frames per second as they are given here, None if unknown.
        start_conf: confidence from which a detection starts a track.
    """

    def __init__(self, name: str, fps: float | None, start_conf: float) -> None:
        self.kind = KINDS[name]
        self.seconds_per_frame = float(1 / frame_rate(fps))
        self.seconds = 0.0
        thresholds = dict.fromkeys(self.kind.thresholds, start_conf)
        package = tracking_package("trackers")
        self.tracker = getattr(package, self.kind.cls)(frame_rate=1 / self.seconds_per_frame, **thresholds)

    def update(self, frame: Frame, detections: np.ndarray) -> np.ndarray:
        """Match detections (n, 6), xyxy in pixels, confidence, class, with the tracks; return their ids (n,).

        Ids count from 1. NO_ID marks a detection without a track, also one that is not confirmed by a second frame.
        """
        self.seconds += (1 + frame.skipped) * self.seconds_per_frame
        tracked = self.tracker.update(
            as_supervision(detections),
            frame.image if self.kind.needs_image else None,
            self.seconds,
        )
        ids = np.full(len(detections), NO_ID, np.int64)
        if len(tracked):
            found = tracked.tracker_id >= 0  # the package counts from 0
            ids[tracked.data["row"][found]] = tracked.tracker_id[found] + 1
        return ids


class TrackerSet:
    """One tracker for each video and stream of a source; images have no time and get no ids."""

    def __init__(self, name: str, start_conf: float, is_live: bool) -> None:
        tracking_package("trackers")
        self.name, self.start_conf, self.is_live = name, start_conf, is_live
        self.trackers: dict[str, ObjectTracker] = {}
        self.is_warned = False

    def update(self, frame: Frame, detections: np.ndarray) -> np.ndarray:
        """Return the ids (n,) of a frame's detections (n, 6)."""
        if frame.is_still:
            if not self.is_warned:
                LOGGER.warning(f"{frame.name}: an image, and --track gives ids in videos and streams only")
            self.is_warned = True
            return np.full(len(detections), NO_ID, np.int64)
        if frame.stem not in self.trackers:
            if not self.is_live:  # files come one after another: the one before is complete
                self.trackers.clear()
            self.trackers[frame.stem] = ObjectTracker(self.name, frame.fps, self.start_conf)
        return self.trackers[frame.stem].update(frame, detections)


def tracking_package(name: str) -> ModuleType:
    """Import `trackers` or `supervision`; ImportError with the command that installs it."""
    try:
        if name == "trackers":
            import trackers

            return trackers
        import supervision
    except ImportError as error:
        raise ImportError(f"--track, --line and --zone need the package {error.name}: {INSTALL}") from error
    return supervision


def as_supervision(detections: np.ndarray, ids: np.ndarray | None = None) -> object:
    """Convert detections (n, 6) to supervision's, each with its row number, and its id if there are any."""
    sv = tracking_package("supervision")
    return sv.Detections(
        xyxy=detections[:, :4],
        confidence=detections[:, 4],
        class_id=detections[:, 5].astype(np.int64),
        tracker_id=ids,
        data={"row": np.arange(len(detections))},
    )


def mot_rows(frame: Frame, detections: np.ndarray, ids: np.ndarray) -> str:
    """Format tracked detections (n, 6) as MOT Challenge's results: frame, id, left, top, width, height, confidence."""
    lines = []
    for (x1, y1, x2, y2, confidence, _), track_id in zip(detections.tolist(), ids.tolist(), strict=True):
        if track_id != NO_ID:
            box = f"{x1:.6g},{y1:.6g},{x2 - x1:.6g},{y2 - y1:.6g}"
            lines.append(f"{frame.number},{track_id},{box},{confidence:.6g},-1,-1,-1\n")
    return "".join(lines)
