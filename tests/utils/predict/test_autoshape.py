"""Images of every kind give the boxes that detect.py finds, and stay as they were."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import detect
from models.experimental import Ensemble, attempt_load
from models.yolo import Model
from utils.data.label_files import label_rows
from utils.files.checkpoint import Checkpoint, save_checkpoint
from utils.files.images import write_image
from utils.predict import autoshape
from utils.predict.autoshape import AutoShape, from_array, to_batch


@pytest.fixture
def weights(tiny, tmp_path):
    """A checkpoint that is sure of many boxes."""
    torch.manual_seed(0)
    model = Model(tiny(), verbose=False, warn=False)
    for conv in model.head.m:
        torch.nn.init.normal_(conv.weight, std=0.3)
        conv.bias.data.view(model.head.na, -1)[:, 4:] += 5
    path = tmp_path / "tiny.pt"
    save_checkpoint(path, Checkpoint(model.yaml, ("cat", "dog"), model.state_dict()))
    return path


@pytest.fixture
def model(weights):
    return AutoShape(attempt_load(weights))


@pytest.fixture
def rgb():
    """A smooth picture, 50 x 90."""
    noise = np.random.default_rng(0).integers(0, 256, (5, 9, 3), np.uint8)
    return cv2.resize(noise, (90, 50), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def picture(rgb, tmp_path):
    path = tmp_path / "picture.png"
    write_image(path, rgb[..., ::-1])
    return path


def test_the_boxes_are_those_of_detect(model, weights, picture, tmp_path):
    folder = detect.run(weights, picture, imgsz=160, save_txt=True, save_conf=True, project=tmp_path / "runs")
    rows = model(picture, size=160).xyxy[0].flip(0)
    assert len(rows) > 5
    rows[:, :4] = rows[:, :4].round()
    assert (folder / "labels/picture.txt").read_text() == label_rows(rows, (50, 90), with_confidence=True)


def kinds(rgb, picture):
    pil = Image.fromarray(rgb)
    return {
        "text": str(picture),
        "path": picture,
        "pil": pil,
        "rgba": pil.convert("RGBA"),
        "hwc": rgb,
        "chw": rgb.transpose(2, 0, 1),
        "hw4": np.dstack((rgb, np.zeros_like(rgb[..., 0]))),
        "url": "https://host/folder/picture.png?size=1",
    }


def test_each_kind_gives_the_same(model, rgb, picture, monkeypatch):
    monkeypatch.setattr(autoshape, "fetch_image", lambda url: rgb[..., ::-1].copy())
    given = kinds(rgb, picture)
    expected = model(rgb, size=160).xyxy[0]
    for kind, item in given.items():
        assert torch.equal(model(item, size=160).xyxy[0], expected), kind
    together = model(list(given.values()), size=160)
    assert len(together) == len(given)
    assert together.s == (len(given), 3, 96, 160)
    for rows in together.xyxy:
        torch.testing.assert_close(rows, expected, rtol=1e-4, atol=1e-3)
    assert together.files == ["picture.jpg"] * 2 + [f"image{i}.jpg" for i in range(2, 7)] + ["picture.jpg"]


def test_gray_is_gray_rgb(model, rgb):
    gray = rgb[..., 0].copy()
    expected = model(np.dstack([gray] * 3), size=160).xyxy[0]
    for item in (gray, gray[..., None], gray[None], Image.fromarray(gray)):
        assert torch.equal(model(item, size=160).xyxy[0], expected)


@pytest.mark.parametrize(
    ("shape", "hw"), [((4, 20, 3), (4, 20)), ((3, 20, 3), (3, 20)), ((3, 20, 5), (20, 5)), ((1, 7, 9), (7, 9))]
)
def test_where_the_channels_are(shape, hw):
    assert from_array(np.zeros(shape, np.uint8)).shape == (*hw, 3)


def test_exif_turns_a_pil_image(model, rgb, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned to the right by a quarter
    path = tmp_path / "turned.png"
    Image.fromarray(rgb).save(path, exif=exif)
    with Image.open(path) as image:
        found = model(image, size=160)
    assert torch.equal(found.xyxy[0], model(np.rot90(rgb, -1), size=160).xyxy[0])
    assert torch.equal(found.xyxy[0], model(path, size=160).xyxy[0])
    assert found.files == ["turned.jpg"]


def test_images_of_several_sizes_share_a_batch(rgb):
    batch = to_batch([rgb, rgb[:, :30]], 64, 32)  # 50 x 90 as 36 x 64, 50 x 30 as 64 x 38
    assert batch.shape == (2, 3, 64, 64)
    assert batch.dtype == torch.uint8


def test_a_tensor_goes_to_the_network_as_it_is(model):
    images = torch.rand(2, 3, 64, 96)
    assert torch.equal(model(images)[0], model.model(images)[0])


@pytest.mark.parametrize("classes", [0, np.int64(1)])
def test_one_class_may_be_a_number(model, rgb, classes):
    model.conf = 0.0
    model.classes = classes
    one = model(rgb, size=64).xyxy[0]
    model.classes = [int(classes)]
    assert len(one)
    assert torch.equal(one, model(rgb, size=64).xyxy[0])


def test_attributes_take_effect(model, rgb):
    everything = model(rgb, size=160).xyxy[0]
    model.max_det = 2
    assert torch.equal(model(rgb, size=160).xyxy[0], everything[:2])
    model.max_det, model.multi_label = 1000, True
    assert set(model(rgb, size=160).xyxy[0][:, 5].tolist()) == {0.0, 1.0}
    model.classes = [1]
    assert set(model(rgb, size=160).xyxy[0][:, 5].tolist()) == {1.0}
    model.classes, model.multi_label, model.conf = None, False, float(everything[:, 4].median())
    assert torch.equal(model(rgb, size=160).xyxy[0], everything[everything[:, 4] > model.conf])
    model.conf, model.iou = 0.25, 1.0
    assert len(model(rgb, size=160).xyxy[0]) > len(everything)


def test_an_ensemble_and_augmentation(model, weights, rgb):
    pair = AutoShape(attempt_load([weights, weights]))
    assert isinstance(pair.model, Ensemble)
    assert torch.equal(pair(rgb, size=160, augment=False).xyxy[0], model(rgb, size=160).xyxy[0])
    assert not torch.equal(model(rgb, size=160, augment=True).xyxy[0], model(rgb, size=160).xyxy[0])


def test_profile_logs_every_layer(model, rgb, caplog):
    caplog.set_level("INFO", "yolov5")
    model(rgb, size=32, profile=True)
    assert sum("models.common" in line or "Detect" in line for line in caplog.messages) >= len(model.model.model)


def test_it_stays_in_evaluation(model):
    assert not model.eval().training
    with pytest.raises(ValueError, match="autoshape=False"):
        model.train()


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ([], "no image is given"),
        (7, "a int is no image"),
        ([None], "a NoneType is no image"),
        (np.full((8, 8, 3), -1.0), "float64 values from -1 to -1"),
        (Image.fromarray(np.full((8, 8), np.nan, np.float32)), "mode F: .*NaN"),
        (np.zeros((8, 8, 2), np.uint8), r"\(8, 8, 2\)"),
        (np.zeros((0, 8, 3), np.uint8), r"\(0, 8, 3\)"),
        (np.zeros((2, 8, 8, 3), np.uint8), r"\(2, 8, 8, 3\)"),
        ("ftp://user:secret@host/a.png", "^ftp://host/a.png: .* http"),
    ],
)
def test_what_is_no_image(model, item, message):
    with pytest.raises(ValueError, match=message):
        model(item)


def test_an_absent_file_and_a_size_of_nothing(model, rgb):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        model("nowhere.png")
    with pytest.raises(ValueError, match="size 0"):
        model(rgb, size=0)


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int64, np.uint16])
def test_numbers_of_other_types_are_bytes(kind):
    image = np.arange(5 * 6 * 3).reshape(5, 6, 3)
    found = from_array(image.astype(kind))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, image)
