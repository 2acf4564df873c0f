"""Serves a model on the web: a page to try it on images, videos and the camera, and an interface for programs.

    python -m tools.serve --weights runs/train/exp/weights/best.pt           # then open http://127.0.0.1:8000
    curl -F image=@image.jpg "http://127.0.0.1:8000/detect?conf=0.4"   # the objects as JSON
    python -m tools.serve --weights best.onnx --export-page runs/page        # a page for any web host

Only this machine is served unless --host says otherwise; there are no passwords: put a proxy that has them, and TLS,
in front of a server for others. Images that come at the same time go through the network together.
"""

import logging
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from models.runtimes.load import load_backend
from tools.serve.app import LOOPBACK, Service, create_app
from tools.serve.batches import Batcher
from tools.serve.limits import Limits, punctual_protocol
from tools.serve.metrics import Metrics
from tools.serve.page import export_page
from tools.serve.predictor import Predictor, Thresholds, model_card
from utils.base.constants import HINTS, PRECISIONS, SIZE_DEFAULT
from utils.cli.arguments import check_size, check_threads, thread_count, tool_parser
from utils.data.config import names_of
from utils.files.addresses import log_options
from utils.files.weights import find_weights
from utils.general import LOGGER, ROOT
from utils.ops.boxes import PAD_VALUE
from utils.predict.inference import ready, warm_up
from utils.torch_utils import ThreadLimit, select_device

CONNECTIONS = 512  # at a time; each costs a few kilobytes
KEEP_ALIVE_S = 5  # how long a connection may wait for its next request


@dataclass(frozen=True)
class ServeOptions:
    """The flags of `parse_opt`, which holds their defaults and meanings."""

    weights: list[str]
    data: str
    imgsz: list[int] | None
    device: str
    half: bool
    dnn: bool
    trust: bool
    threads: int | str
    precision: str
    hint: str
    host: str
    port: int
    batch_size: int
    max_wait: float
    queue: int
    max_mb: float
    max_megapixels: float
    max_images: int
    body_timeout: float
    timeout: float
    allow_urls: list[str]
    export_page: str
    verbose: bool

    def check(self) -> None:
        """ValueError where a number is out of its range."""
        least = {"batch_size": 1, "queue": 1, "max_images": 1, "max_wait": 0, "port": 0}
        for key, low in least.items():
            if getattr(self, key) < low:
                raise ValueError(f"--{key.replace('_', '-')} {getattr(self, key)}: {low} or more")
        for key in ("max_mb", "max_megapixels", "body_timeout", "timeout"):
            if not 0 < getattr(self, key) < 1e6:
                raise ValueError(f"--{key.replace('_', '-')} {getattr(self, key)}: more than 0, less than a million")
        if self.port > 65535:
            raise ValueError(f"--port {self.port}: 0 for any free one, up to 65535")
        if self.queue < self.max_images:
            raise ValueError(f"--queue {self.queue} has no room for a request of --max-images {self.max_images}")
        check_size(self.imgsz)
        check_threads(self.threads)
        if not self.host.strip():
            raise ValueError("--host is empty; 127.0.0.1 for this machine only, 0.0.0.0 for its network")

    @property
    def limits(self) -> Limits:
        """Of a request."""
        pixels = int(self.max_megapixels * 1e6)
        return Limits(int(self.max_mb * 2**20), pixels, self.max_images, self.body_timeout, self.timeout)


def main(opt: ServeOptions) -> None:
    """Serves until it is stopped, or writes the page that needs no server.

    Ctrl-C or SIGTERM lets what has begun be finished; a second one does not.
    """
    opt.check()
    if opt.verbose:
        log_options("serve", asdict(opt))
    weights = find_weights(opt.weights)
    if opt.export_page:
        model = load_backend(weights, "cpu", names=names_of(opt.data), trust=opt.trust)
        folder = export_page(Path(opt.export_page), weights, model, opt.imgsz)
        LOGGER.info(f"Page written to {folder}; any web host can serve it, or: python -m http.server -d {folder}")
        return
    with service(opt, weights) as parts:
        is_local = opt.host in LOOPBACK
        app = create_app(parts, ("127.0.0.1", "localhost", "[::1]") if is_local else ("*",))
        if not is_local:
            LOGGER.warning(f"--host {opt.host}: whoever reaches this machine may use the server; it has no passwords")
        serve(opt, app)


@contextmanager
def service(opt: ServeOptions, weights: Sequence[Path]) -> Iterator[Service]:
    """The loaded network and all around it; what waits at the end is finished."""
    backend = load_backend(
        weights,
        select_device(opt.device),
        names=names_of(opt.data),
        dnn=opt.dnn,
        trust=opt.trust,
        threads=ThreadLimit(opt.threads).apply(),
        precision=opt.precision,
        hint=opt.hint,
    )
    model = ready(backend, opt.half, opt.precision)
    metrics = Metrics()
    predictor = Predictor(model, opt.imgsz, Metrics())
    warm_up(model, predictor.imgsz)
    gray = np.full((*predictor.imgsz, 3), PAD_VALUE, np.uint8)
    predictor([predictor.prepare(gray, Thresholds())])  # the first is slow, and must not be the first to show an error
    predictor.metrics = metrics  # which begin with the first request
    card = model_card(weights, model, predictor.imgsz)
    batcher = Batcher(predictor, opt.batch_size, opt.max_wait / 1000, opt.queue)
    try:
        yield Service(predictor, batcher, metrics, opt.limits, card, frozenset(map(str.lower, opt.allow_urls)))
    finally:
        batcher.close()
        LOGGER.info("Stopped")


def serve(opt: ServeOptions, app: object) -> None:
    """Answers requests until a signal comes."""
    try:
        import uvicorn
    except ImportError as error:
        raise ImportError("tools.serve: uvicorn is missing: pip install -r requirements-serve.txt") from error
    signal.signal(signal.SIGTERM, ended)  # which uvicorn sends on when it is done
    log = logging.getLogger("uvicorn.error")
    log.handlers, log.propagate = [*LOGGER.handlers], False
    log.setLevel(logging.INFO)
    try:
        uvicorn.run(
            app,
            host=opt.host,
            port=opt.port,
            http=punctual_protocol(opt.body_timeout),
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=max(round(opt.timeout), 1),
        )
    except SystemExit as error:  # uvicorn has said why
        raise SystemExit(1 if error.code else 0) from None


def ended(*_: object) -> None:
    """Ends the program well, by way of all `finally`."""
    raise SystemExit(0)


def parse_opt(arguments: Sequence[str] | None = None) -> ServeOptions:
    """The options of the command line, or of `arguments`."""
    parser = tool_parser(
        "serve",
        "Serve a model: a page to try it, and an interface for programs.",
        "--weights runs/train/exp/weights/best.pt",
    )
    parser.add_argument(
        "--weights",
        nargs="+",
        default=[str(ROOT / "yolov5s.pt")],
        help="checkpoint(s), several make an ensemble, or a file of export.py; "
        "where the default is absent, the newest best.pt of runs/train",
    )
    parser.add_argument(
        "--data",
        default=str(ROOT / "data" / "coco128.yaml"),
        help="class names for formats that carry none; a checkpoint carries its own",
    )
    parser.add_argument(
        "--imgsz",
        "--img",
        "--img-size",
        nargs="+",
        type=int,
        help=f"inference size in pixels: one, or h w (default: {SIZE_DEFAULT})",
    )
    parser.add_argument("--device", default="", help="0, 0,1 or cpu; empty takes the first GPU if there is one")
    parser.add_argument("--half", action="store_true", help="compute in FP16, on a GPU only")
    parser.add_argument("--dnn", action="store_true", help="run an .onnx file by OpenCV in place of ONNX Runtime")
    parser.add_argument(
        "--trust",
        action="store_true",
        help="load a program that was not exported here (.torchscript, .pt2, .engine), which may do all that you may",
    )
    parser.add_argument(
        "--threads",
        type=thread_count,
        default=0,
        metavar="N|auto",
        help="threads that the network may use; 0: as it likes; auto: as many as cores are free now",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="what a checkpoint (fp16: on a GPU), an OpenVINO, ncnn (no fp16) or MNN file (fp32, auto) computes in; "
        "auto: what is quickest here",
    )
    parser.add_argument(
        "--hint",
        choices=HINTS,
        default="latency",
        help="OpenVINO: throughput computes several images of a batch at a time, and takes --batch-size apart for that",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 for the whole network")
    parser.add_argument("--port", type=int, default=8000, help="port to listen at; 0 takes a free one")
    parser.add_argument("--batch-size", type=int, default=8, help="most images that go through the network at a time")
    parser.add_argument("--max-wait", type=float, default=5, help="ms that a batch waits for more images; 0: none")
    parser.add_argument("--queue", type=int, default=128, help="images that may wait; beyond them the answer is 503")
    parser.add_argument("--max-mb", type=float, default=16, help="most MiB of a request")
    parser.add_argument("--max-megapixels", type=float, default=50, help="most of an image, told from its header")
    parser.add_argument("--max-images", type=int, default=16, help="most of a request")
    parser.add_argument("--body-timeout", type=float, default=15, help="seconds that a request may take to arrive")
    parser.add_argument("--timeout", type=float, default=30, help="seconds that an arrived request may wait")
    parser.add_argument(
        "--allow-urls",
        nargs="+",
        default=[],
        metavar="HOST",
        help='take JSON {"urls": [...]} too, and fetch the images from these hosts',
    )
    parser.add_argument(
        "--export-page",
        default="",
        metavar="FOLDER",
        help="write the page with the --weights, an .onnx file, into this folder: it runs in the browser; then end",
    )
    parser.add_argument("--verbose", action="store_true", help="log all options at the start")
    return ServeOptions(**vars(parser.parse_args(arguments)))
