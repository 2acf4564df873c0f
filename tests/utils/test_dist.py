"""utils/dist.py: shares, torchrun's variables, and two gloo processes that tell each other things."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from utils.dist import SINGLE, VARIABLES, DistEnv, find_ranks, process_group
from utils.general import ROOT

SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np, torch
sys.path.insert(0, sys.argv[1])
from utils.dist import process_group
from utils.general import LOGGER, set_logging

set_logging()
folder = Path(sys.argv[2])
with process_group() as ranks:
    found = {"rank": ranks.rank, "size": ranks.size, "level": LOGGER.getEffectiveLevel()}
    found["told"] = ranks.broadcast({"name": "é", "n": [1, None]} if ranks.is_main else "ignored")
    found["sum"] = ranks.sum_(torch.tensor([1.0, ranks.rank])).tolist()
    found["mean"] = ranks.mean_(torch.tensor([1.0, ranks.rank])).tolist()
    own = {"rows": np.full((ranks.rank * 2, 3), ranks.rank, np.float32), "texts": np.array(["a", "bé"][: ranks.rank])}
    gathered = ranks.gather(own)
    found["shapes"] = [part["rows"].shape for part in gathered]
    found["types"] = [str(part["rows"].dtype) for part in gathered]
    found["texts"] = [part["texts"].tolist() for part in gathered]
    with ranks.main_first():
        found["seen"] = (folder / "made").exists()
        (folder / "made").touch()
    with ranks.broadcast_file(folder / "content" if ranks.is_main else None) as file:
        found["content"] = file.read_text()
        found["is_copy"] = file != folder / "content"
    (folder / f"{ranks.rank}.json").write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What the script writes in each of two processes."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "script.py").write_text(SCRIPT)
    (folder / "content").write_text("of rank 0")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(folder / "script.py"), str(ROOT), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("rank", (0, 1)),
        ("size", (2, 2)),
        ("told", ({"name": "é", "n": [1, None]},) * 2),
        ("sum", ([2.0, 1.0],) * 2),
        ("mean", ([1.0, 0.5],) * 2),
        ("shapes", ([[0, 3], [2, 3]],) * 2),
        ("types", (["float32", "float32"],) * 2),
        ("texts", ([[], ["a"]],) * 2),
        ("seen", (False, True)),
        ("content", ("of rank 0",) * 2),
        ("is_copy", (False, True)),
    ],
)
def test_two_processes(told, key, expected):
    assert tuple(found[key] for found in told) == expected


def test_only_rank_0_tells_what_it_does(told):
    assert told[1]["level"] > told[0]["level"]


@pytest.mark.parametrize("n", [0, 1, 2, 5, 12, 13])
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_shares_follow_each_other(n, size):
    shares = [DistEnv(rank, size).share(n) for rank in range(size)]
    assert [i for share in shares for i in share] == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_one_process_is_by_itself(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with process_group() as ranks:
        assert ranks == SINGLE
        assert ranks.is_main
        assert ranks.broadcast("x") == "x"
        assert ranks.gather({"a": np.arange(2)})[0]["a"].tolist() == [0, 1]
        with ranks.main_first(), ranks.broadcast_file(Path("a.pt")) as path:
            assert path == Path("a.pt")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"WORLD_SIZE": "2"}, "RANK not: start with torchrun"),
        ({**dict.fromkeys(VARIABLES, "1"), "RANK": "first"}, "must be numbers.*first"),
    ],
)
def test_incomplete_variables(monkeypatch, values, message):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        find_ranks()
