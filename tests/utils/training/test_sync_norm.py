"""utils/training/sync_norm.py against torch's batch norm, as one process and as two with halves of a batch."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from utils.dist import SINGLE, DistEnv
from utils.general import ROOT
from utils.training.sync_norm import SyncNorm2d, synchronized

SCRIPT = """
import sys
import torch
sys.path.insert(0, sys.argv[1])
from utils.dist import process_group
from utils.training.sync_norm import SyncNorm2d

with process_group() as ranks:
    x, norm = torch.load(sys.argv[2] + "/input.pt", weights_only=True), torch.nn.BatchNorm2d(3, eps=1e-3, momentum=0.03)
    norm.weight.data, norm.bias.data = torch.tensor([1.0, 2.0, -1.0]), torch.tensor([0.0, 0.5, 1.0])
    share = x[: 5] if ranks.is_main else x[5:]
    share = share.clone().requires_grad_()
    norm = SyncNorm2d.of(norm)
    y = norm(share)
    (y ** 3).sum().backward()
    found = {"y": y.detach(), "x": share.grad} | {name: p.grad for name, p in norm.named_parameters()}
    torch.save(found | dict(norm.named_buffers()), f"{sys.argv[2]}/{ranks.rank}.pt")
"""


def test_two_processes_are_one(tmp_path):
    """Output, gradients and statistics, also where one process has more images than the other."""
    x = torch.randn(8, 3, 4, 5) * 3 + 100  # a mean that differences of squares would drown in
    torch.save(x, tmp_path / "input.pt")
    (tmp_path / "script.py").write_text(SCRIPT)
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*start, tmp_path / "script.py", ROOT, tmp_path], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))

    norm, x = nn.BatchNorm2d(3, eps=1e-3, momentum=0.03), x.requires_grad_()
    norm.weight.data, norm.bias.data = torch.tensor([1.0, 2.0, -1.0]), torch.tensor([0.0, 0.5, 1.0])
    y = norm(x)
    (y**3).sum().backward()
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(torch.cat((first["y"], second["y"])), y.detach(), **close)
    torch.testing.assert_close(torch.cat((first["x"], second["x"])), x.grad, **close)
    for name, parameter in norm.named_parameters():
        torch.testing.assert_close(first[name] + second[name], parameter.grad, rtol=1e-3, atol=1e-3)
    for name, buffer in norm.named_buffers():
        torch.testing.assert_close(first[name], buffer, **close)
        torch.testing.assert_close(second[name], first[name])


def test_names_weights_and_evaluation_stay():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4, eps=1e-3)), nn.BatchNorm2d(4)).eval()
    before, x = dict(model.state_dict()), torch.randn(2, 3, 4, 4)
    y = model(x)
    model = synchronized(model, torch.device("cpu"), DistEnv(0, 2))
    assert [type(model[1][0]), type(model[2])] == [SyncNorm2d] * 2
    assert (model[1][0].eps, model[2].eps) == (1e-3, 1e-5)
    assert model.state_dict().keys() == before.keys()
    assert all(value.data_ptr() == before[name].data_ptr() for name, value in model.state_dict().items())
    torch.testing.assert_close(model(x), y, rtol=0, atol=0)


def test_one_process_needs_none(caplog):
    model = nn.Sequential(nn.BatchNorm2d(2))
    assert type(synchronized(model, torch.device("cpu"), SINGLE)[0]) is nn.BatchNorm2d
    assert "--sync-bn changes nothing" in caplog.text


def test_a_norm_without_statistics_is_refused():
    with pytest.raises(ValueError, match=r"--sync-bn: on CPUs .* needs weights, statistics and a momentum"):
        synchronized(nn.Sequential(nn.BatchNorm2d(2, affine=False)), torch.device("cpu"), DistEnv(0, 2))
