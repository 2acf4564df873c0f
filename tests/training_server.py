"""Trainings for tests that end them by signals: each is a fork of one process that has imported all packages.

So a training of a tiny network takes a fraction of a second, and knows nothing of those before it. Its figures are
empty files: drawing them would take ten times as long as all else.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.general import ROOT

SERVER = """
import importlib, json, os, sys, traceback
from pathlib import Path
import train
from matplotlib.figure import Figure
from utils.general import run_script

for name in ("matplotlib.backends.backend_agg", "scipy.cluster.vq", "torchvision", "torch._dynamo"):
    importlib.import_module(name)
Figure.savefig = lambda figure, path, **_: Path(path).touch()
sys.modules["torch.utils.tensorboard"] = None  # which would copy the figures
print("ready", flush=True)
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
    sys.stdin.readline()  # until then the child can be sent signals, even if it is over
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
POLL_S = 0.002
LONGEST_S = 120


class TrainingServer:
    """Starts trainings, one at a time; `log` is what the last one has written."""

    def __init__(self, log: Path) -> None:
        self.log_file = log
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout.readline() == "ready\n"

    def start(self, *arguments: object) -> int:
        """Start `train.py arguments`; its process number."""
        self.log_file.unlink(missing_ok=True)
        request = {"arguments": list(map(str, arguments)), "log": str(self.log_file)}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def wait(self) -> int:
        """The exit status of the training that was started."""
        self.process.stdin.write("wait\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def run(self, *arguments: object) -> int:
        """Train to the end."""
        self.start(*arguments)
        return self.wait()

    def run_until(self, number: int, condition: Callable[[], bool], seconds: float, *arguments: object) -> int:
        """Train, and send a signal so many seconds after the condition holds; the exit status."""
        child = self.start(*arguments)
        end = time.monotonic() + LONGEST_S
        while not (condition() or self.is_over(child)):
            assert time.monotonic() < end, self.log
            time.sleep(POLL_S)
        time.sleep(seconds)
        os.kill(child, number)  # one that is over is there until `wait`
        return self.wait()

    @staticmethod
    def is_over(child: int) -> bool:
        return not Path(f"/proc/{child}/cmdline").read_bytes() if Path(f"/proc/{child}").exists() else True

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""


@contextmanager
def training_server(log: Path) -> Iterator[TrainingServer]:
    """A server that ends with the block."""
    server = TrainingServer(log)
    try:
        yield server
    finally:
        server.process.stdin.close()
        server.process.wait(60)
