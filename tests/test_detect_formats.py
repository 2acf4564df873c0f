"""detect.py finds the same with a file of any format as with the checkpoint that it was made of."""

import cv2
import numpy as np
import pytest
import torch

import detect
import export
from models.yolo import Model
from utils.files.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from utils.files.images import read_image, write_image
from utils.predict.inference import to_tensor

NEEDS = {"safetensors": "safetensors", "onnx": "onnxruntime", "openvino": "openvino", "ncnn": "ncnn", "mnn": "MNN"}
FORMATS = ("torchscript", "pt2", "safetensors", "onnx", "openvino", "ncnn", "mnn")
HW = (64, 96)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Six pictures of blots, of the network's size and of one and a half times that."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(3)
    for i in range(6):
        blots = rng.integers(256, size=(4, 6, 3), dtype=np.uint8)
        w, h = (96, 64) if i % 2 else (144, 96)
        write_image(folder / f"{i}.png", cv2.resize(blots, (w, h), interpolation=cv2.INTER_CUBIC))
    return folder


@pytest.fixture(scope="module")
def folder(small_weights, pictures, tmp_path_factory):
    """A small network as net.pt, whose norms are of these pictures and whose head is sure; its files join it later."""
    folder, checkpoint = tmp_path_factory.mktemp("formats"), load_checkpoint(small_weights)
    model = Model(checkpoint.yaml, verbose=False)
    model.load_state_dict(checkpoint.state)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the mean of all batches
    images = [cv2.resize(read_image(path), HW[::-1]) for path in sorted(pictures.iterdir())]
    with torch.no_grad():
        model.train()(to_tensor(images, torch.device("cpu"), torch.float32))
        for conv in model.head.m:
            conv.weight *= 4
            conv.bias.view(2, 8)[:, 4:] += 2
    save_checkpoint(folder / "net.pt", Checkpoint(model.yaml, checkpoint.names, model.state_dict()))
    return folder


def labels_of(weights, pictures, project, **options):
    """Class, box in pixels and score of what detect.py writes, by picture: (n, 6)."""
    common = {"source": pictures, "imgsz": list(HW), "conf_thres": 0.5, "save_txt": True, "save_conf": True}
    common |= {"nosave": True, "device": "cpu", "threads": 1}
    folder = detect.run(weights, project=project, **common, **options)
    found = {path.name: np.loadtxt(path, ndmin=2) for path in sorted((folder / "labels").glob("*.txt"))}
    return {name: rows * (1, 144, 96, 144, 96, 1) for name, rows in found.items()}


@pytest.fixture(scope="module")
def wanted(folder, pictures, tmp_path_factory):
    return labels_of(folder / "net.pt", pictures, tmp_path_factory.mktemp("wanted"))


def test_the_network_is_decisive(wanted):
    """It finds several things in each picture, of more than one class."""
    assert len(wanted) == 6
    assert min(len(rows) for rows in wanted.values()) >= 3
    assert len({int(row[0]) for rows in wanted.values() for row in rows}) > 1
    assert max(len(rows) for rows in wanted.values()) > min(len(rows) for rows in wanted.values())


@pytest.mark.parametrize("name", [*FORMATS, "onnx by OpenCV"])
def test_the_labels_are_the_same(folder, pictures, wanted, tmp_path, name):
    kind, is_dnn = name.split()[0], " " in name
    if kind in NEEDS and not is_dnn:
        pytest.importorskip(NEEDS[kind])
    (file,) = export.run(folder / "net.pt", imgsz=list(HW), include=kind)
    found = labels_of(file, pictures, tmp_path, dnn=is_dnn)
    assert list(found) == list(wanted)
    for picture, rows in wanted.items():
        assert found[picture].shape == rows.shape
        for row in rows:  # which of two that are as sure comes first is chance
            same = found[picture][found[picture][:, 0] == row[0]]
            far = np.abs(same[:, 1:] - row[1:])  # (n, 5)
            assert ((far[:, :4].max(1) <= 1) & (far[:, 4] < 0.01)).any()
