"""Trainings for tests that end them by signals: each is a fork of one process that has imported all packages.

So a training of a tiny network takes a fraction of a second, and knows nothing of those before it.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.general import ROOT

SERVER = """
import importlib, json, os, sys, traceback
import train
from utils.general import run_script
for name in ("matplotlib.figure", "matplotlib.backends.backend_agg", "scipy.cluster.vq", "torch.utils.tensorboard",
             "torchvision"):
    importlib.import_module(name)
for line in sys.stdin:
    request = json.loads(line)
    child = os.fork()
    if child == 0:
        os.setsid()
        log = os.open(request["log"], os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o644)
        os.dup2(log, 1), os.dup2(log, 2)
        status = 0
        try:
            run_script(train.main, train.parse_opt(request["arguments"]))
        except SystemExit as error:
            status = error.code
        except BaseException:
            traceback.print_exc()
            status = 99
        sys.stderr.flush()
        os._exit(status)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
NETWORK = {  # of 1,800 parameters, one level of stride 8
    "nc": 3,
    "depth_multiple": 1.0,
    "width_multiple": 1.0,
    "anchors": [[10, 12, 20, 24]],
    "backbone": [[-1, 1, "Conv", [8, 3, 4]], [-1, 1, "Conv", [8, 3, 2]]],
    "head": [[-1, 1, "NAMAttention", [8]], [[2], 1, "Detect", ["nc", "anchors"]]],
}


class TrainingServer:
    """Starts trainings, one at a time; `log` is what the last one has written."""

    def __init__(self, log: Path) -> None:
        self.log_file = log
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, *arguments: object) -> int:
        """Start `train.py arguments`; its process number."""
        self.log_file.unlink(missing_ok=True)
        request = {"arguments": list(map(str, arguments)), "log": str(self.log_file)}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def wait(self) -> int:
        """The exit status of the training that was started."""
        return int(self.process.stdout.readline())

    def run(self, *arguments: object) -> int:
        """Train to the end."""
        self.start(*arguments)
        return self.wait()

    def run_until(self, seconds: float, number: int, *arguments: object) -> int:
        """Train, and send a signal after so many seconds, unless the training has ended."""
        child = self.start(*arguments)
        time.sleep(seconds)
        os.kill(child, number)  # as a zombie it is there until `wait`
        return self.wait()

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")


@contextmanager
def training_server(log: Path) -> Iterator[TrainingServer]:
    """A server that ends with the block."""
    server = TrainingServer(log)
    try:
        yield server
    finally:
        server.process.stdin.close()
        server.process.wait(60)
