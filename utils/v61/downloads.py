"""v6.1's downloads: the local file, or an error that names the address. Nothing is ever fetched."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

RELEASES = "https://github.com/{repo}/releases/download/{release}/{name}"


def attempt_download(file: str | Path, repo: str = "ultralytics/yolov5", release: str = "v6.1") -> str:
    """The path of a file that is here, as text; FileNotFoundError that says where the release's file can be had.

    The name may be an address, of which the file of this name in the working folder is meant.
    """
    text = str(file).strip().replace("'", "")
    path = Path(url2file(text)) if "://" in text or text.startswith(("http:/", "https:/")) else Path(text)
    if path.exists():
        return str(path)
    address = text if text.startswith("http") else RELEASES.format(repo=repo, release=release, name=path.name)
    raise FileNotFoundError(f"{path}: no such file, and nothing is downloaded; the release's file is {address}")


def safe_download(
    file: str | Path, url: str, url2: str | None = None, min_bytes: float = 1.0, error_msg: str = ""
) -> None:
    """Return if a file of min_bytes is here; FileNotFoundError or ValueError that names the address if not."""
    path = Path(file)
    advice = error_msg or f"get it from {url2 or url} yourself"
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file, and nothing is downloaded; {advice}")
    if path.stat().st_size < min_bytes:
        raise ValueError(f"{path}: {path.stat().st_size} bytes, less than the {min_bytes:g} of a whole file; {advice}")


def download(
    url: str | Path | Sequence[str | Path],
    dir: str | Path = ".",
    unzip: bool = True,
    delete: bool = True,
    curl: bool = False,
    threads: int = 1,
    retry: int = 3,
) -> None:
    """Return if all that the addresses name is in the folder; FileNotFoundError that names an address if not."""
    del unzip, delete, curl, threads, retry
    for address in [url] if isinstance(url, str | Path) else url:
        path = Path(dir) / Path(url2file(str(address))).name
        if not path.exists() and not path.with_suffix("").exists():  # unpacked
            raise FileNotFoundError(f"{path}: no such file, and nothing is downloaded; get it from {address} yourself")


def url2file(url: str) -> str:
    """The file name in an address: `https://host/a.txt?token` gives `a.txt`."""
    return Path(unquote(url.replace(":/", "://", 1).partition("?")[0])).name


def gsutil_getsize(url: str = "") -> int:
    """ValueError: a bucket's file has no size here, as nothing asks the network."""
    raise ValueError(f"{url}: the size of a file in a bucket is not asked for, as nothing here uses the network")
