"""How long clients wait for a running tools.serve, and whether any of their requests is lost.

    python -m tools.serve --weights best.pt --imgsz 320
    python -m benchmarks.serving --source ../shared/datasets/bccd/images/val --clients 64 --requests 2000

Each client is a thread with a connection of its own that asks again as soon as it is answered. The clients take their
share of the machine's time too; on another machine they would not.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from utils.files.images import IMAGE_SUFFIXES
from utils.general import LOGGER, ROOT, one_line, run_script

BOUNDARY = "----------------benchmarks-serving"
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class ServingOptions:
    """The flags of `parse_opt`, which holds their meanings."""

    url: str
    source: str
    clients: int
    requests: int

    def check(self) -> None:
        """ValueError where a number or the address is out of its range."""
        for flag, value in (("--clients", self.clients), ("--requests", self.requests)):
            if value < 1:
                raise ValueError(f"{flag} {value}: 1 or more")
        if urlsplit(self.url).scheme != "http" or not urlsplit(self.url).hostname:
            raise ValueError(f"--url {self.url}: wanted is http://host:port, as tools.serve says it")


@dataclass(frozen=True)
class Answer:
    """What came of a request: the HTTP status, 0 where there was no answer, and the seconds that it took."""

    status: int
    seconds: float
    error: str = ""


def parse_opt(arguments: Sequence[str] | None = None) -> ServingOptions:
    """The options of the command line, or of `arguments`."""
    parser = argparse.ArgumentParser(description="Time a running tools.serve with many clients at once.")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="the server's address")
    parser.add_argument(
        "--source", default=str(ROOT / "datasets" / "shapes" / "images" / "val"), help="folder of images"
    )
    parser.add_argument("--clients", type=int, default=64, help="how many ask at once")
    parser.add_argument("--requests", type=int, default=2000, help="how many images are asked about in all")
    return ServingOptions(**vars(parser.parse_args(arguments)))


def main(opt: ServingOptions) -> list[Answer]:
    """Asks, and says how it went; the answers. ValueError where a request came to nothing."""
    opt.check()
    bodies = [form(file) for file in images_in(Path(opt.source))]
    shares = [[bodies[i % len(bodies)] for i in range(j, opt.requests, opt.clients)] for j in range(opt.clients)]
    begin = time.perf_counter()
    with ThreadPoolExecutor(opt.clients) as pool:
        answers = [answer for found in pool.map(lambda share: ask(opt.url, share), shares) for answer in found]
    seconds = time.perf_counter() - begin
    p50, p95, p99 = np.percentile([answer.seconds for answer in answers], (50, 95, 99))
    states = Counter(str(answer.status or answer.error) for answer in answers)
    LOGGER.info(
        f"{opt.requests} requests by {opt.clients} clients in {seconds:.1f} s, {opt.requests / seconds:.1f} a second; "
        f"p50 {p50:.3f} s, p95 {p95:.3f} s, p99 {p99:.3f} s; {json.dumps(states)}"
    )
    if set(states) != {"200"}:
        raise ValueError(f"not all were answered: {json.dumps(states)}")
    return answers


def images_in(folder: Path) -> list[Path]:
    """The images in a folder; FileNotFoundError where there are none."""
    found = sorted(file for file in folder.glob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise FileNotFoundError(f"--source {folder}: no images in it")
    return found


def form(file: Path) -> bytes:
    """The body of a form with the file as its field `image`."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="{file.stem[:50]}"\r\n\r\n'
    return head.encode("utf-8") + file.read_bytes() + f"\r\n--{BOUNDARY}--\r\n".encode()


def ask(url: str, bodies: Sequence[bytes]) -> list[Answer]:
    """One client: its requests, one after another over one connection, which is opened again where it broke."""
    place = urlsplit(url)
    connection = HTTPConnection(place.hostname or "", place.port or 80, timeout=TIMEOUT_S)
    answers = []
    for body in bodies:
        begin = time.perf_counter()
        try:
            connection.request("POST", "/detect", body, {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"})
            reply = connection.getresponse()
            reply.read()
            answers.append(Answer(reply.status, time.perf_counter() - begin))
        except (OSError, HTTPException) as error:
            connection.close()
            answers.append(Answer(0, time.perf_counter() - begin, one_line(error) or type(error).__name__))
    connection.close()
    return answers


if __name__ == "__main__":
    run_script(main, parse_opt())
