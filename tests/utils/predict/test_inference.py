"""A network made ready to run: its number format, its layout, its first pass."""

import logging

import pytest
import torch
from torch import nn

from utils.general import non_max_suppression
from utils.ops import nms
from utils.predict import inference
from utils.predict.inference import choose_size, inference_dtype, ready, warm_up


class Sized(nn.Module):
    """A network of strides to 32 that was trained at a size, or takes one only."""

    stride = torch.tensor([8.0, 16, 32])

    def __init__(self, imgsz=None, fixed_hw=None):
        super().__init__()
        self.imgsz, self.fixed_hw = imgsz, fixed_hw


@pytest.mark.parametrize(
    ("model", "imgsz", "hw", "told"),
    [
        (Sized(), None, (640, 640), "nothing says at what size the network was trained; --imgsz takes another"),
        (Sized(160), None, (160, 160), "the size that the network was trained at"),
        (Sized(160), 160, (160, 160), None),
        (Sized(160), [192], (192, 192), None),
        (Sized(160), [128, 224], (128, 224), None),
        (Sized(160), 640, (640, 640), "trained at 160: it may find far less than at that size; leave --imgsz out"),
        (Sized(640), [320, 416], (320, 416), "trained at 640"),
        (Sized(), 64, (64, 64), None),
        (Sized(fixed_hw=(96, 128)), None, (96, 128), "the only ones that the file takes"),
        (Sized(128, (96, 128)), 640, (96, 128), "--imgsz 640 640: the file is made for 96 128 only"),
        (Sized(320, (96, 128)), None, (96, 128), "export it with --imgsz 320"),
        (Sized(320, (320, 320)), 320, (320, 320), None),
    ],
)
def test_choice_of_the_size(model, imgsz, hw, told, caplog):
    caplog.set_level(logging.INFO, "yolov5")
    assert choose_size(model, imgsz) == hw
    said = [record.getMessage() for record in caplog.records]
    assert any(told in line for line in said) if told else not said


def test_members_of_different_sizes(caplog):
    caplog.set_level(logging.INFO, "yolov5")
    ensemble = nn.ModuleList([Sized(320), Sized(416), Sized()])
    ensemble.imgsz, ensemble.stride = 416, Sized.stride
    assert choose_size(ensemble) == (416, 416)
    assert "the largest size that a network of the ensemble was trained at (320, 416, unknown)" in caplog.text


def test_a_size_that_the_stride_does_not_divide(caplog):
    """A training at 90 pixels of a network of stride 32 has rounded it up, so must its use."""
    assert choose_size(Sized(90)) == (96, 96)


@pytest.mark.parametrize("half", [False, True])
def test_a_network_on_the_cpu_computes_in_full(half, caplog):
    caplog.set_level(logging.INFO, "yolov5")
    model = ready(nn.Conv2d(3, 4, 3).double(), half)
    assert model.weight.dtype == torch.float32
    assert model.weight.is_contiguous(memory_format=torch.channels_last)
    assert ["FP32 is used on this cpu" in record.getMessage() for record in caplog.records] == [True] * half


class Scaled(nn.Module):
    """A convolution, and an affine in the dtype of its weight, as NAM's."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.gain = nn.Parameter(torch.full((4, 1, 1), 1.001))

    def forward(self, x):
        maps = self.conv(x)
        return maps, maps * self.gain


@torch.no_grad()
def test_a_network_computes_in_bf16_and_its_affine_in_fp32():
    torch.manual_seed(0)
    images = torch.rand(2, 3, 8, 8)
    full, less = ready(Scaled(), False), ready(Scaled(), False, "bf16")
    less.load_state_dict(full.state_dict())
    maps, scaled = less(images)
    assert (maps.dtype, scaled.dtype) == (torch.bfloat16, torch.float32)
    assert not torch.equal(maps.float(), full(images)[0])
    torch.testing.assert_close(maps.float(), full(images)[0], rtol=0.02, atol=0.02)
    torch.testing.assert_close(scaled, maps.float() * 1.001)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_automatic_precision_is_what_the_device_computes_fast(monkeypatch, caplog, dtype):
    caplog.set_level(logging.INFO, "yolov5")
    monkeypatch.setattr(inference, "fast_dtype", lambda device: dtype)
    assert inference_dtype("auto", torch.device("cpu")) == dtype
    assert str(dtype or torch.float32) in caplog.text


def test_an_exported_file_sees_to_its_precision_itself():
    model = Scaled()
    model.precisions = ("fp32", "bf16")
    assert ready(model, False, "bf16")(torch.rand(1, 3, 8, 8))[0].dtype == torch.float32


def test_no_fp16_on_a_cpu():
    with pytest.raises(ValueError, match="--precision fp16"):
        ready(Scaled(), False, "fp16")
    with pytest.raises(ValueError, match="--half and --precision bf16"):
        ready(Scaled(), True, "bf16")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("half", [False, True])
def test_a_network_on_a_gpu(half):
    model = ready(nn.Conv2d(3, 4, 3).cuda(), half)
    assert model.weight.dtype == (torch.float16 if half else torch.float32)
    seen = []
    model.register_forward_hook(lambda module, args, output: seen.append((args[0].shape, output.requires_grad)))
    warm_up(model, (32, 64))
    assert seen == [((1, 3, 32, 64), False)]


def test_no_first_pass_on_the_cpu():
    model = nn.Conv2d(3, 4, 3)
    model.register_forward_hook(lambda *_: pytest.fail("the CPU needs none"))
    warm_up(model, (32, 64))


def test_a_first_pass_of_what_is_compiled():
    model = nn.Conv2d(3, 4, 3)
    model.stride = torch.tensor([8.0, 32.0])
    shapes = []
    model._compiled_call_impl = lambda images: shapes.append(tuple(images.shape))  # as nn.Module.compile sets it
    warm_up(model, (64, 64), batch_size=16)
    warm_up(model, (64, 64))
    assert shapes == [(2, 3, 64, 96), (1, 3, 64, 96)]


def test_the_suppression_is_loaded_before_the_first_image():
    nms._backend.cache_clear()
    warm_up(nn.Conv2d(3, 4, 3), (8, 8))
    assert nms._backend.cache_info().misses == 1
    non_max_suppression(torch.tensor([[[8.0, 8, 4, 4, 1, 1]]]))
    assert nms._backend.cache_info().misses == 1
