"""What lies at an http(s) address: its bytes, its image, and whether it is an image, a clip or a stream without end."""

import base64
import urllib.error
import urllib.request
from http.client import HTTPException, HTTPResponse
from typing import Literal
from urllib.parse import quote, unquote, urljoin, urlunsplit

import numpy as np

from utils.files.addresses import split_url, without_credentials
from utils.files.images import decode_image

TIMEOUT_S = 10.0  # to connect, and to wait for a frame
MAX_IMAGE_BYTES = 64 << 20
MAX_PLAYLIST_BYTES = 4 << 20
ASCII = "%/:;,@!$&'()*+=~?[]"  # what stays as it is where other characters of an address are percent-encoded
HEAD_BYTES = 64  # that tell a format
IMAGE_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"BM", b"II*\0", b"MM\0*")  # JPEG, PNG, BMP, TIFF
INDEXED_STARTS = (b"GIF8", b"\x30\x26\xb2\x75")  # GIF and ASF: clips with a size or an end
OPEN_STARTS = (b"\x1aE\xdf\xa3", b"FLV", b"OggS", b"G", b"\0\0\x01\xba")  # WebM, FLV, Ogg, MPEG-TS, -PS: perhaps live
PLAYLIST_START = b"#EXTM3U"
RemoteKind = Literal["image", "video", "live"]


class NoRedirection(urllib.request.HTTPRedirectHandler):
    """Answers that send elsewhere are errors."""

    def redirect_request(self, *_: object) -> None:
        """None: nothing is asked for."""


def fetch_bytes(url: str, most: int, follow: bool = True) -> bytes:
    """What lies at an http(s) address, `most` bytes of it at most; ValueError where there is nothing, or more.

    follow: whether an answer may send elsewhere.
    """
    name = without_credentials(url)
    opened = urllib.request.urlopen if follow else urllib.request.build_opener(NoRedirection).open
    try:
        with opened(image_request(url), timeout=TIMEOUT_S) as answer:
            data = answer.read(most + 1)
    except urllib.error.HTTPError as error:
        raise ValueError(f"{name}: {error}") from None
    except (OSError, HTTPException) as error:
        raise ValueError(f"{name}: {getattr(error, 'reason', error)}") from None
    if len(data) > most:
        raise ValueError(f"{name}: larger than {most >> 20} MiB")
    return data


def fetch_image(url: str) -> np.ndarray:
    """The (h, w, 3) uint8 BGR image at an http(s) address, at most MAX_IMAGE_BYTES; ValueError where there is none."""
    return decode_image(fetch_bytes(url, MAX_IMAGE_BYTES), without_credentials(url))


def image_request(url: str) -> urllib.request.Request:
    """The request for a URL; its user and password go into a header, which a redirection to elsewhere does not get."""
    parts = split_url(url)
    user, _, host = parts.netloc.rpartition("@")
    plain = parts._replace(
        netloc=host.encode("idna").decode(), path=quote(parts.path, ASCII), query=quote(parts.query, ASCII), fragment=""
    )
    request = urllib.request.Request(urlunsplit(plain), headers={"User-Agent": "yolov5-nam"})
    if user:
        token = base64.b64encode(unquote(user).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    return request


# What it is -----------------------------------------------------------------------------------------------------------


def is_http(address: str) -> bool:
    """Return whether the address is one of a web server."""
    return address.lower().startswith(("http://", "https://"))


def remote_kind(url: str) -> RemoteKind:
    """Ask an http(s) address what it sends: an image, a clip that ends, or a stream that does not.

    The content type and the first bytes decide. An address that does not answer now is taken for a stream, which is
    called again. ValueError for a page.
    """
    try:
        with urllib.request.urlopen(image_request(url), timeout=TIMEOUT_S) as answer:
            head = first_bytes(answer)
            content_type = answer.headers.get_content_type()
            if head.startswith(PLAYLIST_START):
                playlist = head + answer.read(MAX_PLAYLIST_BYTES)
                return playlist_kind(playlist.decode(errors="replace"), answer.url)
            return kind_of_answer(content_type, head, answer.length is not None, without_credentials(url))
    except (OSError, HTTPException):
        return "live"


def first_bytes(answer: HTTPResponse) -> bytes:
    """Return the first HEAD_BYTES, or all there are."""
    head = b""
    while len(head) < HEAD_BYTES:
        more = answer.read1(HEAD_BYTES - len(head))
        if not more:
            break
        head += more
    return head


def kind_of_answer(content_type: str, head: bytes, has_length: bool, name: str) -> RemoteKind:
    """Tell an image, a clip and a stream apart; has_length: the server says how many bytes there are."""
    family = content_type.partition("/")[0]
    if family == "multipart":
        return "live"
    is_riff = head.startswith(b"RIFF")
    if head.startswith(IMAGE_STARTS) or (is_riff and head[8:12] == b"WEBP") or b"ftypavif" in head[:16]:
        return "image"
    if head.startswith(INDEXED_STARTS) or is_riff or head[4:8] in {b"ftyp", b"moov", b"mdat"}:
        return "video"
    if head.startswith(OPEN_STARTS):
        return "video" if has_length else "live"
    if family == "image":
        return "image"
    if content_type in {"text/html", "application/json", "application/xhtml+xml"}:
        raise ValueError(f"{name}: a page ({content_type}), neither an image nor a video; name the file's own address")
    return "video" if has_length else "live"


def playlist_kind(text: str, url: str, is_variant: bool = False) -> RemoteKind:
    """Return whether an HLS playlist has an end; of one that lists variants, its first one decides."""
    if "#EXT-X-ENDLIST" in text:
        return "video"
    lines = [line.strip() for line in text.splitlines()]
    entries = [line for line in lines if line and not line.startswith("#")]
    if "#EXT-X-STREAM-INF" not in text or is_variant or not entries:
        return "live"
    variant = urljoin(url, entries[0])
    return playlist_kind(fetch_bytes(variant, MAX_PLAYLIST_BYTES).decode(errors="replace"), variant, is_variant=True)
