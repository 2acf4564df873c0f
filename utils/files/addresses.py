"""Addresses: what is one, how it is shown without its password, and that of a network which a server has."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import SplitResult, quote, unquote, urlsplit

from utils.general import LOGGER, colorstr

URL = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]*)://")
QUERY = "?..."  # what is shown of a query, which may hold a token
MODEL_SCHEMES = ("http", "https")
MODEL_PATH = re.compile(r"((?:/[^/]+)*?)(?:/v2/models)?/([^/]+)(?:/versions/(\d+))?/?")
WANTED = "http://host:8000/model, or https, with user:password@ and /versions/1 where they are needed"


def is_url(text: str) -> bool:
    """Whether the text is an address with a scheme, as `rtsp://host/path`."""
    return URL.match(text) is not None


def without_credentials(address: str) -> str:
    """The address without user, password and query, for logs and file names; anything but a URL as it is.

    Nothing is shown of a password either that should have been percent-encoded, as one with a slash.
    """
    start = URL.match(address)
    if start is None:
        return address
    scheme, rest = start[1].lower(), address[start.end() :]
    server = re.split("[/?#]", rest, maxsplit=1)[0]
    place, mark, _ = rest.partition("#")[0].partition("?")
    if ":" in server and "@" in place[len(server) :]:  # user:pass/word@host, unless it is a port and a path
        place = f"...@{place.rpartition('@')[2]}"
    elif "@" in server:
        place = place[server.rindex("@") + 1 :]
    elif re.fullmatch(r"[^\[].*:.*\D.*", server):  # user:pass#word@host: what should be a port is none
        place = "..."
    return f"{scheme}://{place}{QUERY if mark else ''}"


def split_url(url: str) -> SplitResult:
    """The parts of a URL; ValueError, which does not repeat it, where it is none."""
    try:
        parts = urlsplit(url)
        is_whole = bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_whole = False
    if not is_whole:
        raise ValueError(
            f"{without_credentials(url)}: not an address; in a user's name and password, characters such as / ? # [ ] "
            "are written as %2F %3F %23 %5B %5D"
        )
    return parts


def shown(options: Mapping[str, object]) -> dict[str, object]:
    """The options of a script as they may be logged and written: no address in them has its password."""

    def plain(value: object) -> object:
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return without_credentials(value.strip()) if isinstance(value, str) and is_url(value) else value

    return {name: plain(value) for name, value in options.items()}


def log_options(command: str, options: Mapping[str, object]) -> None:
    """Log a command's options in one line, as v6.1 does at each start, without the passwords of addresses."""
    LOGGER.info(colorstr(f"{command}: ") + ", ".join(f"{name}={value}" for name, value in shown(options).items()))


@dataclass(frozen=True)
class ModelAddress:
    """Where a server has a network; as a text it has no password. `stem` is what files are called after it.

    prefix, mostly empty, stands before the server's paths; it and the name are percent-encoded. version: of the
    network, empty where the server is to choose. credentials: `user:password`, empty where there are none.
    """

    scheme: str
    host: str
    port: int | None
    prefix: str
    name: str
    version: str = ""
    credentials: str = field(default="", repr=False)

    @classmethod
    def parse(cls, url: str) -> Self:
        """The parts of `http://host:8000/model`; ValueError, which does not repeat a password, where it is none."""
        parts = split_url(url.strip())
        path = MODEL_PATH.fullmatch(parts.path)
        if parts.scheme not in MODEL_SCHEMES or path is None or parts.query or parts.fragment:
            raise ValueError(f"{without_credentials(url)}: not the address of a network; wanted is {WANTED}")
        user = unquote(parts.netloc.rpartition("@")[0])
        prefix, name, version = (unquote(part or "") for part in path.groups())
        host = str(parts.hostname).encode("idna").decode()
        return cls(parts.scheme, host, parts.port, quote(prefix), quote(name, ""), version, user)

    def __str__(self) -> str:
        """Without user and password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port is None else f":{self.port}"
        version = f"/versions/{self.version}" if self.version else ""
        return f"{self.scheme}://{host}{port}{self.prefix}/{self.name}{version}"

    @property
    def stem(self) -> str:
        """The network's name."""
        return self.name
