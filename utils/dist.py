"""Distributed processes: rank and size, and communication between ranks.

torchrun starts the processes and sets environment variables. GPU tensors use NCCL; CPU tensors, arrays and JSON use
gloo. Without torchrun there is one process, and all of this does nothing.
"""

import io
import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from utils.general import LOGGER, remove_stale, scratch_folder

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
TIMEOUT = timedelta(hours=1)  # rank 0 may scan a large data set while the others wait
RECEIVED = "yolov5-received"  # in the system's folder for temporary files
LOST = ("Connection closed", "Connection reset", "connection was closed", "Broken pipe", "Read timeout")


@dataclass(frozen=True)
class DistEnv:
    """One of `size` processes. All methods except `share` are collective: every rank calls them in the same order."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # among the processes of this machine

    @property
    def is_main(self) -> bool:
        """True for the process that writes files and logs for all."""
        return self.rank == 0

    def share(self, n: int) -> range:
        """Return this process's part of range(n): contiguous parts whose sizes differ by at most one."""
        return range(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def wait(self) -> None:
        """Wait until all processes have arrived."""
        if self.size > 1:
            self.sum_(torch.zeros(1))

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Run the block in rank 0, then in all others, which find what the first one wrote."""
        if not self.is_main:
            self.wait()
        yield
        if self.is_main:
            self.wait()

    @contextmanager
    def broadcast_file(self, path: Path | None) -> Iterator[Path]:
        """Yield a file of rank 0 to all ranks, on other machines too, while the block runs."""
        if self.size == 1:
            assert path is not None
            yield path
            return
        content = np.fromfile(path, np.uint8) if self.is_main else np.zeros(0, np.uint8)
        received = self._gather_bytes(content)[0]
        if self.is_main:
            yield path
            return
        place = Path(tempfile.gettempdir()) / RECEIVED
        remove_stale(place.parent, place.name)
        with scratch_folder(place) as folder:
            copy = folder / str(path.name if path else "sent")
            received.tofile(copy)
            yield copy

    def sum_(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over all processes, in place; return it."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def mean_(self, tensor: Tensor) -> Tensor:
        """Average a tensor over all processes, in place; return it."""
        return self.sum_(tensor).div_(self.size)

    def broadcast(self, value: object) -> object:
        """Return rank 0's value, which must be JSON-serializable."""
        if self.size == 1:
            return value
        content = np.frombuffer(json.dumps(value if self.is_main else None).encode(), np.uint8)
        return json.loads(self._gather_bytes(content if self.is_main else content[:0])[0].tobytes())

    def gather(self, arrays: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
        """Return each rank's arrays by name, in the order of ranks; numbers and strings only."""
        if self.size == 1:
            return [dict(arrays)]
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        found = self._gather_bytes(np.frombuffer(buffer.getbuffer(), np.uint8))
        return [dict(np.load(io.BytesIO(content.tobytes()), allow_pickle=False)) for content in found]

    def _gather_bytes(self, content: np.ndarray) -> list[np.ndarray]:
        """Return each rank's bytes (n,), whose sizes may differ."""
        lengths = torch.zeros(self.size, dtype=torch.int64)
        lengths[self.rank] = len(content)
        sizes = self.sum_(lengths).tolist()
        padded = torch.zeros(max(sizes), dtype=torch.uint8)
        padded[: len(content)] = torch.from_numpy(content.copy())
        found = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(found, padded)
        return [part[:size].numpy() for part, size in zip(found, sizes, strict=True)]


SINGLE = DistEnv()


def find_ranks() -> DistEnv:
    """Read rank and size from torchrun's variables; ValueError if they are incomplete."""
    if "WORLD_SIZE" not in os.environ:
        return SINGLE
    missing = [name for name in VARIABLES if name not in os.environ]
    if missing:
        raise ValueError(
            f"WORLD_SIZE is set in the environment, {missing[0]} not: start with torchrun, which sets both, or unset it"
        )
    try:
        rank, size, local_rank = (int(os.environ[name]) for name in VARIABLES[:3])
    except ValueError as error:
        raise ValueError(f"RANK, WORLD_SIZE and LOCAL_RANK must be numbers, as torchrun sets them: {error}") from error
    return DistEnv(rank, size, local_rank)


@contextmanager
def process_group() -> Iterator[DistEnv]:
    """Initialize the process group for the block. Rank 0 logs everything, the others only errors.

    Raises:
        ConnectionError: if another process has died.
    """
    ranks = find_ranks()
    if ranks.size == 1:
        yield ranks
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    level = LOGGER.level
    dist.init_process_group(backend, timeout=TIMEOUT)
    try:
        if not ranks.is_main:
            LOGGER.setLevel(max(level, logging.WARNING))
        yield ranks
        ranks.wait()
    except RuntimeError as error:
        if not any(sign in str(error) for sign in LOST):
            raise
        raise ConnectionError(
            f"rank {ranks.rank}: another process has gone, its own message says why, so this one ends too"
        ) from error
    finally:
        LOGGER.setLevel(level)
        dist.destroy_process_group()
