"""Files for apps that are one network with its metadata behind it: .pte and .tflite.

The network comes first, as its runtime wants it, which reads no further; then a zip archive with metadata.json, as
TensorFlow Lite's own tools put labels behind a network. It says how long the network is and what its SHA-256 is, so
that a damaged one is never given to a runtime, which could crash on it.
"""

import hashlib
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

from models.runtimes.base import METADATA_FILE, own_metadata
from models.runtimes.metadata import Metadata
from utils.files.reading import MOST_JSON, parse_json

MAGIC_AT = 4  # where a FlatBuffer keeps the four letters of its kind
LENGTH, HASH = "network_bytes", "network_sha256"
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, UnicodeDecodeError, NotImplementedError, RuntimeError)


def seal(network: bytes, metadata: Metadata, path: Path) -> None:
    """Writes a network and behind it what it says of itself, its length and its hash."""
    marks = {LENGTH: str(len(network)), HASH: hashlib.sha256(network).hexdigest()}
    path.write_bytes(network)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(METADATA_FILE, replace(metadata, details=metadata.details | marks).to_json())


def unseal(path: Path, magic: bytes, kind: str) -> tuple[Metadata, bytes]:
    """What a file says of itself, and its network; ValueError where it is not whole, or not of the kind of `magic`."""
    content = path.read_bytes()
    wanted = f"{path}: not {kind} of export.py, or a damaged one"
    try:
        with zipfile.ZipFile(path) as archive, archive.open(METADATA_FILE) as file:
            known = parse_json(file.read(MOST_JSON + 1))
    except (*DAMAGED, ValueError) as error:
        raise ValueError(wanted) from error
    metadata = own_metadata(path, known)
    length = metadata.details.get(LENGTH, "")
    network = content[: int(length)] if length.isdecimal() and len(length) <= len(str(len(content))) else b""
    is_whole = hashlib.sha256(network).hexdigest() == metadata.details.get(HASH)
    if not is_whole or network[MAGIC_AT : MAGIC_AT + len(magic)] != magic:
        raise ValueError(wanted)
    return metadata, network
