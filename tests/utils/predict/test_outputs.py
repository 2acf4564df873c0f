"""What detect.py writes: names, contents, and that nothing is overwritten or appended to unasked."""

import cv2
import numpy as np
import pytest
import torch

from utils.files.images import read_image, write_image
from utils.predict.outputs import ResultWriter
from utils.predict.sources import Frame

NAMES = ["person", "a/b"]
IMAGE = np.random.default_rng(0).integers(0, 255, (100, 200, 3), np.uint8)
# xyxy, confidence, class
FOUND = torch.tensor([[20.0, 10, 60, 90, 0.25, 1], [100, 0, 200, 100, 0.8125, 0]])
NONE = torch.zeros(0, 6)


def still(stem="bus", suffix=".png", image=IMAGE, name="bus.png"):
    return Frame(image, name, "image 1/1 bus.png: ", stem, suffix)


def moving(number, stem="clip", skipped=0, fps=10.0, image=IMAGE):
    return Frame(image, "clip.avi", "", stem, ".mp4", number, skipped, fps)


def frame_count(path):
    capture = cv2.VideoCapture(str(path))
    count = sum(1 for _ in iter(lambda: capture.read()[0], False))
    return count, capture.get(cv2.CAP_PROP_FPS)


def test_image(tmp_path):
    with ResultWriter(tmp_path / "exp", NAMES) as writer:
        writer.save_picture(still(), IMAGE)
    np.testing.assert_array_equal(read_image(tmp_path / "exp" / "bus.png"), IMAGE)
    assert dict(writer.written) == {"image": 1}


@pytest.mark.parametrize(("suffix", "written"), [(".JPG", "bus.JPG"), (".mpo", "bus.jpg"), (".dng", "bus.jpg")])
def test_formats_that_cannot_be_written_become_jpeg(tmp_path, suffix, written):
    ResultWriter(tmp_path, NAMES).save_picture(still(suffix=suffix), IMAGE)
    assert [path.name for path in tmp_path.iterdir()] == [written]


@pytest.mark.parametrize(
    ("with_confidence", "expected"),
    [
        (False, "1 0.2 0.5 0.2 0.8\n0 0.75 0.5 0.5 1\n"),
        (True, "1 0.2 0.5 0.2 0.8 0.25\n0 0.75 0.5 0.5 1 0.8125\n"),
    ],
)
def test_labels(tmp_path, with_confidence, expected):
    ResultWriter(tmp_path, NAMES).save_labels(still(), FOUND, with_confidence)
    assert (tmp_path / "labels" / "bus.txt").read_text() == expected


def test_label_files_of_a_video_are_numbered(tmp_path):
    writer = ResultWriter(tmp_path, NAMES)
    for frame in (still("clip"), moving(1), moving(2)):
        writer.save_labels(frame, FOUND, False)
    assert {path.name for path in (tmp_path / "labels").iterdir()} == {"clip.txt", "clip_1.txt", "clip_2.txt"}


def test_second_run_replaces_and_never_appends(tmp_path):
    for found in (FOUND, FOUND[:1], NONE):
        ResultWriter(tmp_path, NAMES).save_labels(still(), found, False)
        path = tmp_path / "labels" / "bus.txt"
        assert len(path.read_text().splitlines() if path.exists() else []) == len(found)


def test_nothing_found_leaves_no_folder(tmp_path):
    with ResultWriter(tmp_path / "exp", NAMES) as writer:
        writer.save_labels(still(), NONE, False)
        writer.save_crops(still(), NONE)
    assert not (tmp_path / "exp").exists()


def test_crops(tmp_path):
    writer = ResultWriter(tmp_path, NAMES)
    writer.save_crops(still(), torch.cat((FOUND, FOUND[1:], torch.tensor([[500.0, 500, 600, 600, 0.9, 0]]))))
    crops = {str(path.relative_to(tmp_path).as_posix()) for path in tmp_path.rglob("*.jpg")}
    assert crops == {"crops/a_b/bus.jpg", "crops/person/bus.jpg", "crops/person/bus_2.jpg"}
    # 40 x 80 around (40, 50) -> 50.8 x 91.6
    assert read_image(tmp_path / "crops" / "a_b" / "bus.jpg").shape == (91, 51, 3)


def test_videos_of_files_are_closed_one_after_another(tmp_path):
    with ResultWriter(tmp_path, NAMES) as writer:
        for stem in ("one", "two"):
            for number in (1, 2, 3):
                writer.save_picture(moving(number, stem, fps=29.97), IMAGE)
        assert list(writer.videos) == ["two"]
        assert frame_count(tmp_path / "one.mp4") == (3, pytest.approx(29.97, abs=0.01))
    assert frame_count(tmp_path / "two.mp4")[0] == 3
    assert writer.written["video"] == 2


def test_streams_are_written_side_by_side_and_keep_their_time(tmp_path):
    with ResultWriter(tmp_path, NAMES) as writer:
        for number, skipped in ((40, 39), (45, 4), (46, 0), (10_000, 9953)):
            writer.save_picture(moving(number, "a", skipped), IMAGE, is_live=True)
            writer.save_picture(moving(number, "b", 0, fps=90000.0), IMAGE, is_live=True)
    assert frame_count(tmp_path / "a.mp4") == (1 + 5 + 1 + 101, 10)  # a pause of 995 s is filled for 10 s
    assert frame_count(tmp_path / "b.mp4") == (4, 30)


def test_source_is_not_overwritten(tmp_path):
    write_image(tmp_path / "bus.png", IMAGE)
    frame = still(name=str(tmp_path / "bus.png"))
    with ResultWriter(tmp_path, NAMES) as writer, pytest.raises(ValueError, match="would be overwritten"):
        writer.save_picture(frame, IMAGE)
