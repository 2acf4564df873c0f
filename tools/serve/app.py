"""The web application: what it answers at which path, and how a request becomes tasks and an answer.

GET  /            the page            GET /model.json    the model's card
POST /detect      the objects         GET /health        whether it works
GET  /metrics     for Prometheus      GET /openapi.json  all of this, for programs
"""

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import numpy as np
from torch import Tensor

from tools.serve.batches import Batcher, Busy
from tools.serve.limits import App, Guard, Limits, Refused, read_upload
from tools.serve.metrics import CONTENT_TYPE, Metrics
from tools.serve.predictor import Predictor, Task, Thresholds
from tools.serve.schema import DETECT_BODY, DETECT_RESPONSES
from utils.general import plural
from utils.predict.remote import fetch_bytes

if TYPE_CHECKING:
    from fastapi import FastAPI, Request

PAGE = Path(__file__).parent / "static"
DECODERS = 4  # images that are decoded at a time: what bounds the memory for them
MAX_FIELDS, MAX_FIELD_BYTES = 16, 4096  # of a form, besides its images
LEAST_CONF = 0.01  # below it, NMS of many thousand boxes would hold up all others
HEADERS = {  # of every answer: the page gets all from here, and nobody else shows it in a frame
    "content-security-policy": "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; img-src 'self' blob: data:; "
    "media-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Service:
    """What the application is made of. url_hosts: the hosts that images may be fetched from."""

    predictor: Predictor
    batcher: Batcher[Task, Tensor]
    metrics: Metrics
    limits: Limits
    card: Mapping[str, object]
    url_hosts: frozenset[str] = frozenset()


def create_app(service: Service, hosts: Sequence[str] = ("*",)) -> App:
    """The ASGI application. hosts: the names that requests may call this server by; others may be a trick on a browser.

    ImportError with the pip line where FastAPI or what it needs for uploads is missing.
    """
    try:
        import python_multipart
        from fastapi import FastAPI
        from fastapi.responses import JSONResponse
        from fastapi.staticfiles import StaticFiles
        from starlette.middleware.trustedhost import TrustedHostMiddleware
    except ImportError as error:
        raise ImportError(f"tools.serve: {error.name} is missing: pip install -r requirements-serve.txt") from error
    del python_multipart  # FastAPI looks for it when the first upload comes

    app = FastAPI(title="YOLOv5 with NAM", description=__doc__, version="1", docs_url=None, redoc_url=None)

    @app.exception_handler(Refused)
    async def refuse(_request: object, error: Refused) -> JSONResponse:
        headers = {"retry-after": "1"} if error.status == 503 else {}
        if error.status in {408, 413}:
            headers["connection"] = "close"  # what still comes is not read
        return JSONResponse({"detail": str(error)}, error.status, headers)

    add_detection(app, service)
    add_status(app, service)
    app.mount("/", StaticFiles(directory=PAGE, html=True), name="page")
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    paths = frozenset({"/", "/detect", "/health", "/metrics", "/model.json", "/openapi.json"})
    return Guard(app, service.limits, service.metrics, paths, HEADERS)


def add_status(app: "FastAPI", service: Service) -> None:
    """/health, /metrics and /model.json."""
    from fastapi.responses import JSONResponse, Response

    @app.get("/health", summary="Whether images can be looked at", responses={503: {"description": "no"}})
    async def health() -> JSONResponse:
        is_well = service.batcher.is_alive
        return JSONResponse({"status": "ok" if is_well else "stopped"}, 200 if is_well else 503)

    @app.get("/metrics", summary="Counts and times, in Prometheus' text format")
    async def metrics() -> Response:
        gauges = {"waiting_images": ("Images that wait for the network.", float(len(service.batcher)))}
        return Response(service.metrics.text(gauges), headers={"content-type": CONTENT_TYPE})

    @app.get("/model.json", summary="The model's card: classes, files, NAM gates in the last image")
    async def card() -> JSONResponse:
        return JSONResponse({**service.card, "runs": "server", "nam": service.predictor.gates.rows})


def add_detection(app: "FastAPI", service: Service) -> None:
    """/detect."""
    from fastapi import Query, Request
    from fastapi.responses import JSONResponse

    decoding = asyncio.Semaphore(DECODERS)
    names = service.card["names"]

    async def prepare(read: Callable[[], bytes], name: str, thresholds: Thresholds) -> Task:
        """The task of an upload or address, read and decoded in another thread."""

        def decode() -> Task:
            return service.predictor.prepare(read_upload(read(), name, service.limits), thresholds)

        async with decoding:
            return await asyncio.to_thread(decode)

    @app.post("/detect", summary="Find the objects in images", openapi_extra=DETECT_BODY, responses=DETECT_RESPONSES)
    async def detect(
        request: Request,
        conf: Annotated[float, Query(ge=LEAST_CONF, le=1, description="least confidence")] = Thresholds().conf,
        iou: Annotated[float, Query(ge=0, le=1, description="overlap of boxes")] = Thresholds().iou,
        classes: Annotated[list[int] | None, Query(max_length=1000, description="only these class numbers")] = None,
        agnostic: Annotated[bool, Query(description="let classes suppress each other")] = False,
        max_det: Annotated[int, Query(ge=1, le=1000, description="most objects of an image")] = 1000,
    ) -> JSONResponse:
        start = time.perf_counter()
        unknown = [index for index in classes or () if not 0 <= index < len(names)]
        if unknown:
            raise Refused(422, f"classes={unknown[0]}: the model's classes are 0 to {len(names) - 1}")
        thresholds = Thresholds(conf, iou, tuple(classes) if classes else None, agnostic, max_det)
        sources = await read_request(request, service)
        try:
            async with asyncio.timeout(service.limits.answer_s):
                tasks = [await prepare(read, name, thresholds) for name, read in sources]
                found = await asyncio.gather(*map(asyncio.wrap_future, service.batcher.submit(tasks)))
        except Busy as error:
            raise Refused(503, str(error)) from None
        except TimeoutError:
            raise Refused(503, f"no answer within {service.limits.answer_s:g} seconds; try again later") from None
        images = [
            describe(name, task.image_hw, rows, names)
            for (name, _), task, rows in zip(sources, tasks, found, strict=True)
        ]
        return JSONResponse({"images": images, "seconds": round(time.perf_counter() - start, 4)})


async def read_request(request: "Request", service: Service) -> list[tuple[str, Callable[[], bytes]]]:
    """The name of each image of a request, and what reads its bytes; Refused where there are none, or too many."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        found = from_json(await request.body(), service)
    elif kind == "multipart/form-data":
        found = await from_form(request, service)
    else:
        raise Refused(415, f"a request of type {kind[:60] or 'none'}; wanted is multipart/form-data with an image")
    if not found:
        raise Refused(400, "no image came; wanted is a form with one or more files in its field `image`")
    if len(found) > service.limits.images:
        raise Refused(413, f"{plural(len(found), 'image')}; allowed are {service.limits.images} in a request")
    return found


async def from_form(request: "Request", service: Service) -> list[tuple[str, Callable[[], bytes]]]:
    """The images that were uploaded."""
    from starlette.datastructures import UploadFile

    form = await request.form(max_files=service.limits.images, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES)
    files = [item for _, item in form.multi_items() if isinstance(item, UploadFile)]
    return [(shown_name(item.filename or f"image{i}"), item.file.read) for i, item in enumerate(files)]


def from_json(body: bytes, service: Service) -> list[tuple[str, Callable[[], bytes]]]:
    """The images at the addresses that {"urls": [...]} names, which are fetched from the allowed hosts only."""
    if not service.url_hosts:
        raise Refused(415, "this server fetches no images; upload them as multipart/form-data")
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, "the request is not JSON") from None
    urls = content.get("urls") if isinstance(content, dict) else None
    if not isinstance(urls, list) or not all(isinstance(url, str) for url in urls):
        raise Refused(400, 'wanted is {"urls": ["https://...", ...]}')
    return [(shown_name(url), fetcher(url, service)) for url in urls]


def fetcher(url: str, service: Service) -> Callable[[], bytes]:
    """What fetches the bytes at an address; Refused where its host is not one of those allowed."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        raise Refused(400, f"{shown_name(url)}: no address") from None
    if parts.scheme not in {"http", "https"} or host not in service.url_hosts or parts.username:
        raise Refused(403, f"{shown_name(url)}: images are fetched from {', '.join(sorted(service.url_hosts))} only")

    def fetch() -> bytes:
        try:
            return fetch_bytes(url, service.limits.body_bytes, follow=False)
        except ValueError as error:
            raise Refused(400, str(error)) from None

    return fetch


def shown_name(name: str) -> str:
    """A client's name of an image as it may stand in answers: printable, not long."""
    return "".join(letter if letter.isprintable() else "?" for letter in name[:200])


def describe(name: str, image_hw: tuple[int, int], rows: Tensor, names: Sequence[str]) -> dict[str, object]:
    """An image's part of the answer; rows (n, 6)."""
    boxes = np.round(rows[:, :4].numpy()).tolist()
    objects = [
        {
            **dict(zip(("xmin", "ymin", "xmax", "ymax"), map(int, box), strict=True)),
            "confidence": round(confidence, 5),
            "class": int(index),
            "name": names[int(index)],
        }
        for box, (confidence, index) in zip(boxes, rows[:, 4:].tolist(), strict=True)
    ]
    return {"name": name, "width": image_hw[1], "height": image_hw[0], "detections": objects}
