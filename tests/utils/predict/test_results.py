"""Detections: four forms of the boxes that agree, pictures and tables of them, and arrays that nobody draws on."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import ImageShow

from utils.files.images import read_image
from utils.predict.results import Detections

ROWS = torch.tensor([[10, 20, 50, 40, 0.9, 1], [0, 0, 20, 10, 0.5, 0], [60, 20, 80, 50, 0.4, 1.0]])


@pytest.fixture
def results():
    """Two images of other sizes, the second without detections."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (50, 100, 3), np.uint8), rng.integers(0, 256, (30, 40, 3), np.uint8)]
    for image in images:
        image.flags.writeable = False
    return Detections(images, [ROWS, ROWS[:0]], ["a.jpg", "a.jpg"], [0.1, 0.2, 0.3], ["cat", "bus"], (2, 3, 64, 96))


def test_forms_agree(results):
    assert torch.equal(results.xyxy[0], ROWS)
    assert results.xywh[0][0].tolist() == pytest.approx([30, 30, 40, 20, 0.9, 1])
    assert results.xyxyn[0][0].tolist() == pytest.approx([0.1, 0.4, 0.5, 0.8, 0.9, 1])
    assert results.xywhn[0][0].tolist() == pytest.approx([0.3, 0.6, 0.4, 0.4, 0.9, 1])
    for form in (results.xyxy, results.xywh, results.xyxyn, results.xywhn):
        assert [rows.shape for rows in form] == [(3, 6), (0, 6)]


def test_text_and_times(results, capsys):
    results.print()
    first, second, speed = capsys.readouterr().out.splitlines()
    assert first == "image 1/2: 50x100 1 cat, 2 buses"
    assert second == "image 2/2: 30x40 (no detections)"
    assert speed.startswith(
        "Speed: 50.0ms pre-process, 100.0ms inference, 150.0ms NMS per image at shape (2, 3, 64, 96)"
    )
    assert (len(results), results.n, results.s) == (2, 2, (2, 3, 64, 96))
    assert results.t == pytest.approx((50, 100, 150))


def test_tolist(results):
    one, two = results.tolist()
    assert (len(one), len(two), one.files, one.s) == (1, 1, ["a.jpg"], (1, 3, 64, 96))
    assert torch.equal(one.xywhn[0], results.xywhn[0])
    assert torch.equal(two.xyxy[0], ROWS[:0])
    assert one.t == pytest.approx(results.t)


def test_render_draws_on_copies_which_are_imgs_then(results):
    own, before = list(results.imgs), [image.copy() for image in results.imgs]
    drawn, plain = results.render()
    assert (drawn != before[0]).any()
    assert np.array_equal(plain, before[1])
    assert all(np.array_equal(image, old) for image, old in zip(own, before, strict=True))
    assert results.imgs[0] is drawn
    assert results.tolist()[0].imgs[0] is drawn
    bare = results.render(labels=False)[0]
    assert not np.array_equal(bare, drawn)
    assert np.array_equal(results.tolist()[0].render()[0], drawn)  # of the image as it was, not drawn upon twice


def test_images_that_somebody_puts_in_are_drawn(results):
    results.render()
    results.imgs[0] = np.full((50, 100, 3), 7, np.uint8)
    assert (results.render()[0][45:, :5] == 7).all()


def test_crops_hold_no_boxes(results, tmp_path):
    plain = [crop["im"] for crop in results.crop(save=False)]
    results.render()
    assert all(np.array_equal(a, b["im"]) for a, b in zip(plain, results.crop(save=False), strict=True))


def test_save_writes_into_the_folder_that_is_named(results, tmp_path, monkeypatch):
    (tmp_path / "static").mkdir()
    monkeypatch.chdir(tmp_path)
    assert [str(results.save(save_dir=name)) for name in ("static", "static/", "new/one")] == ["static"] * 2 + [
        "new/one"
    ]
    assert [str(results.save()) for _ in range(2)] == ["runs/detect/exp", "runs/detect/exp2"]
    assert len(list((tmp_path / "static").iterdir())) == 2


def test_save(results, tmp_path):
    folders = [results.save(tmp_path / "exp")]
    assert sorted(path.name for path in folders[0].iterdir()) == ["a.jpg", "a_2.jpg"]
    difference = read_image(folders[0] / "a.jpg").astype(int) - results.render()[0][..., ::-1]
    swapped = read_image(folders[0] / "a.jpg").astype(int) - results.render()[0]
    assert np.abs(difference).mean() < np.abs(swapped).mean()


def test_crop(results, tmp_path):
    crops = results.crop(save_dir=tmp_path / "exp")
    assert [(crop["label"], crop["cls"]) for crop in crops] == [("bus 0.90", 1), ("cat 0.50", 0), ("bus 0.40", 1)]
    assert torch.equal(crops[0]["box"], ROWS[0, :4])
    assert np.array_equal(crops[1]["im"], results.imgs[0][:15, :25])  # 1.02 times and 10 pixels larger
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.jpg"))
    assert files == ["exp/crops/bus/a.jpg", "exp/crops/bus/a__2.jpg", "exp/crops/cat/a.jpg"]
    results.crop(save_dir=tmp_path / "exp")  # as in a loop over a video's frames: nothing is written over
    assert len([*tmp_path.rglob("*.jpg")]) == 6
    crops[1]["im"][:] = 0
    assert results.imgs[0][:15, :25].any()


def test_crop_without_files(results, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(results.crop(save=False)) == 3
    assert not list(tmp_path.iterdir())


def test_show(results, monkeypatch):
    shown = []
    monkeypatch.setattr(ImageShow, "show", lambda image, title: shown.append((image.size, title)) or True)
    results.show()
    assert shown == [((100, 50), "a.jpg"), ((40, 30), "a.jpg")]
    monkeypatch.setattr(ImageShow, "show", lambda image, title: False)
    with pytest.raises(ValueError, match="no viewer"):
        results.show()


def test_pandas(results):
    pytest.importorskip("pandas")
    tables = results.pandas()
    assert list(tables.xyxy[0].columns) == ["xmin", "ymin", "xmax", "ymax", "confidence", "class", "name"]
    assert list(tables.xywhn[1].columns) == ["xcenter", "ycenter", "width", "height", "confidence", "class", "name"]
    assert tables.xyxy[0].iloc[0].tolist() == pytest.approx([10, 20, 50, 40, 0.9, 1, "bus"])
    assert tables.xywh[0]["width"].tolist() == [40, 20, 20]
    assert tables.xyxyn[0]["name"].tolist() == ["bus", "cat", "bus"]
    assert len(tables.xyxy[1]) == 0


@pytest.mark.parametrize(("package", "method"), [("pandas", "pandas"), ("supervision", "to_supervision")])
def test_a_package_that_is_absent(results, monkeypatch, package, method):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=f"pip install {package}"):
        getattr(results, method)()


def test_to_supervision(results, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", SimpleNamespace(Detections=SimpleNamespace))
    first, second = results.to_supervision()
    assert np.array_equal(first.xyxy, ROWS[:, :4].numpy())
    assert first.class_id.tolist() == [1, 0, 1]
    assert first.confidence.tolist() == pytest.approx([0.9, 0.5, 0.4])
    assert first.data["class_name"].tolist() == ["bus", "cat", "bus"]
    assert (second.xyxy.shape, second.class_id.dtype) == ((0, 4), int)
