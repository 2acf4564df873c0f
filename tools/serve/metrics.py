"""What a server counts, in the text format that Prometheus reads (version 0.0.4)."""

import threading
from bisect import bisect_left
from collections.abc import Mapping, Sequence

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
IMAGES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
PREFIX = "yolov5"
Labels = tuple[tuple[str, str], ...]


class Counter:
    """A sum for each set of labels."""

    kind = "counter"

    def __init__(self, help_text: str) -> None:
        self.help_text = help_text
        self.values: dict[Labels, float] = {}

    def add(self, value: float, labels: Labels) -> None:
        """Adds to the sum of these labels."""
        self.values[labels] = self.values.get(labels, 0) + value

    def lines(self, name: str) -> list[str]:
        """A sample for each set of labels, 0 where nothing was counted yet."""
        return [sample(name, labels, value) for labels, value in sorted(self.values.items())] or [sample(name, (), 0)]


class Histogram:
    """How many values are at most as large as each of the bounds."""

    kind = "histogram"

    def __init__(self, help_text: str, bounds: Sequence[float]) -> None:
        self.help_text, self.bounds = help_text, bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float, labels: Labels) -> None:
        """Sorts a value in."""
        assert not labels, "histograms have none here"
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def lines(self, name: str) -> list[str]:
        """Cumulative buckets, the sum and the count."""
        lines, below = [], 0
        for bound, count in zip((*map("{:g}".format, self.bounds), "+Inf"), self.counts, strict=True):
            below += count
            lines.append(sample(f"{name}_bucket", (("le", bound),), below))
        return [*lines, sample(f"{name}_sum", (), self.total), sample(f"{name}_count", (), below)]


class Metrics:
    """The server's counters and histograms; may be used from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._items: dict[str, Counter | Histogram] = {
            "requests_total": Counter("Requests that were answered, by path and status."),
            "request_seconds": Histogram("Seconds from head to answer of requests to /detect.", SECONDS),
            "images_total": Counter("Images that were looked at."),
            "detections_total": Counter("Objects that were found."),
            "batch_images": Histogram("Images that went through the network together.", IMAGES),
            "network_seconds": Histogram("Seconds that a batch took, NMS included.", SECONDS),
        }

    def add(self, name: str, value: float = 1, **labels: str) -> None:
        """Counts a value."""
        with self._lock:
            self._items[name].add(value, tuple(labels.items()))

    def text(self, gauges: Mapping[str, tuple[str, float]]) -> str:
        """All of it; gauges are what is measured now: help text and value by name."""
        lines: list[str] = []
        with self._lock:
            for key, item in self._items.items():
                lines += [*head(f"{PREFIX}_{key}", item.help_text, item.kind), *item.lines(f"{PREFIX}_{key}")]
        for key, (help_text, value) in gauges.items():
            lines += [*head(f"{PREFIX}_{key}", help_text, "gauge"), sample(f"{PREFIX}_{key}", (), value)]
        return "\n".join(lines) + "\n"


def head(name: str, help_text: str, kind: str) -> list[str]:
    """The two lines before the samples of a metric."""
    return [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}"]


def sample(name: str, labels: Labels, value: float) -> str:
    """`name{label="text"} value`."""
    inner = ",".join(f'{key}="{escaped(text)}"' for key, text in labels)
    return f"{name}{{{inner}}} {value:.17g}" if inner else f"{name} {value:.17g}"


def escaped(text: str) -> str:
    """A label's text as the format has it."""
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
