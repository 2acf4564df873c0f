"""Reads back what W&B's package keeps of a run while it is offline."""

import json
import struct

import wandb
from wandb.proto.wandb_internal_pb2 import Record

BLOCK, HEAD, MAGIC = 32768, 7, b":W&B"


def chunks(data):
    """The payloads of a file of records, cut into blocks as LevelDB's logs are."""
    assert data[:4] == MAGIC
    place, parts = HEAD, []
    while place + HEAD <= len(data):
        if BLOCK - place % BLOCK < HEAD:  # the rest of a block that has no room for a head
            place += BLOCK - place % BLOCK
            continue
        length, kind = struct.unpack("<HB", data[place + 4 : place + HEAD])
        parts.append(data[place + HEAD : place + HEAD + length])
        place += HEAD + length
        if kind in (1, 4):  # whole, or the last of several
            yield b"".join(parts)
            parts.clear()


def key_of(item):
    return item.key or "/".join(item.nested_key)


class OfflineRun:
    """One offline-run-... folder: run, history (a dict a step), summary, config, artifacts, exit code."""

    def __init__(self, folder):
        wandb.teardown()  # its service writes until then
        (file,) = folder.glob("*.wandb")
        self.history, self.summary, self.config, self.artifacts, self.exit_code = [], {}, {}, [], None
        for payload in chunks(file.read_bytes()):
            record = Record.FromString(payload)
            kind = record.WhichOneof("record_type")
            if kind == "run":
                self.run = record.run
                self.config |= {key_of(item): json.loads(item.value_json) for item in record.run.config.update}
            elif kind == "config":
                self.config |= {key_of(item): json.loads(item.value_json) for item in record.config.update}
            elif kind == "history":
                self.history.append({key_of(item): json.loads(item.value_json) for item in record.history.item})
            elif kind == "summary":
                self.summary |= {key_of(item): json.loads(item.value_json) for item in record.summary.update}
            elif kind == "artifact":
                self.artifacts.append(record.artifact)
            elif kind == "request" and record.request.WhichOneof("request_type") == "log_artifact":
                self.artifacts.append(record.request.log_artifact.artifact)
            elif kind == "exit":
                self.exit_code = record.exit.exit_code

    def values(self, key):
        """(epoch, value) of a key, as they were logged."""
        return [(step["epoch"], step[key]) for step in self.history if key in step]
