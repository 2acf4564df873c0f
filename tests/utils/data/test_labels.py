"""Bad rows, bad files, odd names, EXIF rotations, lists and the cache of utils/data/labels.py and its two helpers."""

import logging
import os
import pickle
import shutil

import numpy as np
import pytest
from PIL import Image

from utils.data.label_cache import load_cache
from utils.data.labels import LabelRecord, as_one_class, cache_path, find_images, label_path, read_labels, scan
from utils.data.sampling import ImageWeights
from utils.datasets import DetectionDataset
from utils.files.images import read_image


def make(root, name="a.jpg", text="0 .5 .5 .2 .2\n", size=(40, 20), **save):
    """One image below root/images and its label file; text None makes no label file."""
    image = root / "images" / name
    image.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 120, 30)).save(image, **save)
    if text is not None:
        label = root / "labels" / name
        label.parent.mkdir(parents=True, exist_ok=True)
        label.with_suffix(".txt").write_text(text, encoding="utf-8")
    return image


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


# rows -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "boxes", "problem"),
    [
        ("", [], None),
        ("\n  \n", [], None),
        ("0 .5 .5 .2 .2", [[0, 0.5, 0.5, 0.2, 0.2]], None),
        ("\ufeff0 .5 .5 .2 .2\r\n1 .5 .5 .2 .2\r\n", [[0, 0.5, 0.5, 0.2, 0.2], [1, 0.5, 0.5, 0.2, 0.2]], None),
        ("1.0\t.5 .5   .2 2e-1", [[1, 0.5, 0.5, 0.2, 0.2]], None),
        ("0 .5 .5 1.0000001 .2", [[0, 0.5, 0.5, 1, 0.2]], "1 value up to"),  # v6.1 loses the image
        ("0 -1e-9 .5 .2 1.0005", [[0, 0, 0.5, 0.2, 1]], "2 values"),
        ("0 .5 .5 .2 .2 .93", [[0, 0.5, 0.5, 0.2, 0.2]], "confidence"),
        (
            "0 .5 .5 .2 .2\n0 .5 .5 .2 .2\n1 .5 .5 .2 .2",
            [[0, 0.5, 0.5, 0.2, 0.2], [1, 0.5, 0.5, 0.2, 0.2]],
            "1 repeated row",
        ),
        ("0 .5 .5 0 .2\n1 .5 .5 .2 .2", [[1, 0.5, 0.5, 0.2, 0.2]], "1 box without area"),
        ("0 .5 .5 0 0", [], "1 box without area"),
        ("1 .5 .5 .2 .2\n0 .5 .5 .2", [[1, 0.5, 0.5, 0.2, 0.2]], ":2: row left out: 4 values"),
        ("1 .5 .5 .2 .2\n0 .1 .1 .2 .2 .3 .3 .4", [[1, 0.5, 0.5, 0.2, 0.2]], ":2: row left out: 8 values"),
        ("1 .5 .5 .2 .2\n\n0 .5 .5 nan .2", [[1, 0.5, 0.5, 0.2, 0.2]], ":3: row left out: a value is not finite"),
        ("1 .5 .5 .2 .2\n0 .5 .5 inf .2", [[1, 0.5, 0.5, 0.2, 0.2]], "not finite"),
        ("1 .5 .5 .2 .2\nnan .5 .5 .2 .2", [[1, 0.5, 0.5, 0.2, 0.2]], "not finite"),
        ("1 .5 .5 .2 .2\n1.5 .5 .5 .2 .2", [[1, 0.5, 0.5, 0.2, 0.2]], "class 1.5 is not a whole number"),
        ("1 .5 .5 .2 .2\ncat .5 .5 .2 .2", [[1, 0.5, 0.5, 0.2, 0.2]], "'cat .5 .5 .2 .2' is not a row of numbers"),
        ("1 .5 .5 .2 .2\n0,.5,.5,.2,.2", [[1, 0.5, 0.5, 0.2, 0.2]], "not a row of numbers"),
        ("1 .5 .5 .2 .2\n0 .5 .5 .2 1.002", [[1, 0.5, 0.5, 0.2, 0.2]], "value 1.002 outside 0..1"),
        ("1 .5 .5 .2 .2\n0 320 240 64 48", [[1, 0.5, 0.5, 0.2, 0.2]], "pixels?"),
    ],
)
def test_rows(tmp_path, text, boxes, problem):
    labels = read_labels(write(tmp_path / "a.txt", text), nc=3)
    assert labels.boxes.shape == (len(boxes), 5)
    assert labels.boxes.dtype == np.float32
    np.testing.assert_allclose(labels.boxes, np.array(boxes).reshape(-1, 5), atol=1e-7)
    assert labels.polygons == ()
    assert len(labels.problems) == (problem is not None)
    assert all(problem in line and "a.txt" in line for line in labels.problems)


def test_polygons_and_boxes_are_told_apart_row_by_row(tmp_path):
    rows = "0 .1 .2 .5 .2 .3 .6\n1 .5 .5 .2 .4\n2 .1 .1 .9 .1 .9 .8 .1 .8\n0 .2 1.0004 .4 .5 .6 .5\n"
    boxes, polygons, problems = read_labels(write(tmp_path / "a.txt", rows), nc=3)
    expected = [[0, 0.3, 0.4, 0.4, 0.4], [1, 0.5, 0.5, 0.2, 0.4], [2, 0.5, 0.45, 0.8, 0.7], [0, 0.4, 0.75, 0.4, 0.5]]
    np.testing.assert_allclose(boxes, expected, atol=1e-6)
    assert [None if p is None else len(p) for p in polygons] == [3, None, 4, 3]  # a triangle is a polygon too
    np.testing.assert_allclose(polygons[0], [[0.1, 0.2], [0.5, 0.2], [0.3, 0.6]], atol=1e-7)
    assert polygons[3].max() <= 1
    assert len(problems) == 1


def test_copies_do_not_shift_polygons(tmp_path):
    rows = "0 .1 .2 .5 .2 .3 .6\n0 .1 .2 .5 .2 .3 .6\n1 .5 .5 .2 .4\n2 .1 .1 .9 .1 .9 .8\n"
    boxes, polygons, _ = read_labels(write(tmp_path / "a.txt", rows))
    assert boxes[:, 0].tolist() == [0, 1, 2]
    assert [polygon is None for polygon in polygons] == [False, True, False]


@pytest.mark.parametrize(("row", "what"), [("3 .5 .5 .2 .2", "3 >= nc 3"), ("-1 .5 .5 .2 .2", "-1 is negative")])
def test_class_out_of_range_is_one_line_with_file_and_line(tmp_path, row, what):
    path = write(tmp_path / "a.txt", f"0 .5 .5 .2 .2\n\n{row}\n")
    with pytest.raises(ValueError, match=rf"a\.txt:3: label class {what}.* nc 3 and 3 names") as error:
        read_labels(path, nc=3)
    assert "\n" not in str(error.value)


def test_all_classes_as_one():
    boxes = np.array([[3, 0.1, 0.2, 0.3, 0.4], [0, 0.5, 0.6, 0.7, 0.8]], np.float32)
    record = LabelRecord("a.jpg", (20, 30), boxes, (None, np.zeros((3, 2), np.float32)))
    one = as_one_class(record)
    assert one.boxes[:, 0].tolist() == [0, 0]
    np.testing.assert_array_equal(one.boxes[:, 1:], boxes[:, 1:])
    assert record.boxes[0, 0] == 3
    assert one.polygons is record.polygons
    assert as_one_class(LabelRecord("b.jpg", (9, 9), boxes[:0])).boxes.shape == (0, 5)


def test_any_class_without_nc_but_no_negative_one(tmp_path):
    assert read_labels(write(tmp_path / "a.txt", "700 .5 .5 .2 .2")).boxes[0, 0] == 700
    with pytest.raises(ValueError, match="negative"):
        read_labels(write(tmp_path / "a.txt", "-7 .5 .5 .2 .2"))


@pytest.mark.parametrize(
    "data", [b"0 .5 .5 .2 .2\n\xff\xfe\x00", b"<annotation>\n</annotation>\n", b"0 320 240 64 48\n"]
)
def test_file_without_a_good_row_is_refused(tmp_path, data):
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.txt"):
        read_labels(tmp_path / "a.txt", nc=3)


# images and paths -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("/d/images/train/a.jpg", "/d/labels/train/a.txt"),
        ("/d/images/images/a.b.PNG", "/d/images/labels/a.b.txt"),
        ("images/a.jpg", "labels/a.txt"),
        (r"C:\d\images\train\a.jpg", r"C:\d\labels\train\a.txt"),
        ("/d/myimages/a.jpg", "/d/myimages/a.txt"),
        ("/d/images.jpg", "/d/images.txt"),
        ("/d/图像/images/猫 🐈.jpg", "/d/图像/labels/猫 🐈.txt"),
    ],
)
def test_label_path(image, label):
    assert label_path(image) == label


def test_find_images_in_folders(tmp_path):
    for name in ("b.jpg", "a.PNG", "sub/deep/c.jpeg", "notes.txt", ".hidden.jpg", ".cache/d.jpg", "e.mp4"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "images/sub/loop").symlink_to(tmp_path / "images", target_is_directory=True)
    found = find_images([tmp_path / "images"])
    assert found == [str(tmp_path / "images" / name) for name in ("a.PNG", "b.jpg", "sub/deep/c.jpeg")]


def test_links_are_kept_as_they_are(tmp_path):
    make(tmp_path / "store", "a.jpg")
    (tmp_path / "images").symlink_to(tmp_path / "store/images", target_is_directory=True)
    assert find_images([tmp_path / "images"]) == [str(tmp_path / "images/a.jpg")]


def test_find_images_in_a_list(tmp_path, monkeypatch):
    image = make(tmp_path, "train/a.jpg")
    elsewhere = make(tmp_path / "cwd", "b.jpg")
    monkeypatch.chdir(tmp_path / "cwd")
    lines = ["./images/train/a.jpg", "images/train/a.jpg", r".\images\train\a.jpg", "", "images/b.jpg", str(elsewhere)]
    listing = write(tmp_path / "train.txt", "\ufeff" + "\r\n".join(lines))
    assert find_images([listing]) == sorted([str(image)] * 3 + ["images/b.jpg", str(elsewhere)])


def test_what_a_list_or_the_sources_repeat_counts_as_often(tmp_path, caplog):
    caplog.set_level(logging.INFO, "yolov5")
    rare, common = make(tmp_path, "rare.jpg"), make(tmp_path, "common.jpg", "1 .5 .5 .2 .2\n")
    listing = write(tmp_path / "train.txt", "./images/rare.jpg\n./images/common.jpg\n./images/rare.jpg\n")
    images = find_images([listing, common])
    assert images == [str(common)] * 2 + [str(rare)] * 2
    assert [line for line in caplog.messages if "repeated" in line and "train.txt: 2 images" in line and "3 in" in line]
    cache = tmp_path / "labels.cache.npz"
    records, report = scan(images, 2, cache)
    assert [record.image for record in records] == images
    assert (report.found, report.checked) == (4, 2)
    assert scan(images, 2, cache)[1].checked == 0
    stamp = cache.stat().st_mtime_ns
    scan(images, 2, cache)
    assert cache.stat().st_mtime_ns == stamp, "the cache is not written again"
    assert scan([str(rare), str(rare)], 2)[1].notes == (), "an image does not share its label file with itself"
    assert len(DetectionDataset(records, 32)) == 4
    weights = ImageWeights(records, 2)()
    assert weights.tolist() == [0.25] * 4, "both classes are balanced: each weighs as much as it is listed"


@pytest.mark.parametrize("damage", [b"", b"no image"])
def test_a_repeated_image_that_cannot_be_read_is_left_out_each_time(tmp_path, damage):
    good, bad = make(tmp_path, "good.jpg"), make(tmp_path, "bad.jpg")
    bad.write_bytes(damage)
    records, report = scan([str(bad), str(bad), str(good), str(good)], 1)
    assert [record.image for record in records] == [str(good)] * 2
    assert (report.found, report.corrupt) == (2, 2)
    assert len(report.notes) == 1


@pytest.mark.parametrize(
    ("lines", "error", "message"),
    [
        ("images/a.jpg\nimages/b.mp4\n", ValueError, r"list\.txt:2: 'images/b\.mp4' is not an image"),
        ("x/a.jpg\nx/b.jpg\n", FileNotFoundError, r"list\.txt: none of its 2 images"),
        ("\n", FileNotFoundError, r"list\.txt: no image"),
    ],
)
def test_bad_lists(tmp_path, lines, error, message):
    with pytest.raises(error, match=message):
        find_images([write(tmp_path / "list.txt", lines)])


def test_bad_sources(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        find_images([tmp_path / "nowhere"])
    with pytest.raises(FileNotFoundError, match="no image in it"):
        find_images([make(tmp_path).parent, tmp_path / "labels"])
    with pytest.raises(ValueError, match="neither a folder"):
        find_images([write(tmp_path / "a.csv", "")])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_size_follows_exif_orientation_as_the_decoder_does(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = make(tmp_path, f"a{suffix}", exif=exif)
    records, _ = scan([str(image)], nc=1)
    assert records[0].hw == read_image(image).shape[:2] == ((40, 20) if orientation > 4 else (20, 40))


# scan -----------------------------------------------------------------------------------------------------------------


def broken_jpeg(path):
    path.write_bytes(path.read_bytes()[:-4])


def broken_png(path):
    data = bytearray(path.read_bytes())
    data[-20] ^= 255
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        ("a.jpg", broken_jpeg, "truncated"),
        ("a.jpg", lambda path: path.write_bytes(b""), "empty"),
        ("a.jpg", lambda path: path.write_bytes(b"<html>not found</html>"), "not an image"),
        ("a.png", broken_png, "a.png"),
        ("a.png", lambda path: path.write_bytes(path.read_bytes()[:60]), "a.png"),
        ("a.bmp", lambda path: path.write_bytes(path.read_bytes()[:60]), "a.bmp"),
        ("a.jpg", lambda path: Image.new("RGB", (9, 40)).save(path), "9x40 pixels"),
        ("a.jpg", lambda path: path.unlink(), "a.jpg: no such file"),
    ],
)
def test_corrupt_images_are_named_survived_and_left_alone(tmp_path, name, damage, reason):
    good, bad = make(tmp_path, "good.jpg"), make(tmp_path, name)
    damage(bad)
    before = bad.read_bytes() if bad.exists() else None
    records, report = scan([str(bad), str(good)], nc=1)
    assert [record.image for record in records] == [str(good)]
    assert (report.found, report.missing, report.empty, report.corrupt) == (1, 0, 0, 1)
    assert any(reason in note and note.count(str(bad)) == 1 for note in report.notes)
    assert (bad.read_bytes() if bad.exists() else None) == before


def test_bytes_after_the_end_mark_are_harmless(tmp_path):
    image = make(tmp_path)
    image.write_bytes(image.read_bytes() + b"\0\0padding")
    assert scan([str(image)], nc=1)[1].corrupt == 0


def test_background_is_counted_and_layout_explained(tmp_path):
    images = [make(tmp_path, "a.jpg"), make(tmp_path, "b.jpg", text=None), make(tmp_path, "c.jpg", text="\n")]
    records, report = scan([str(image) for image in images], nc=1)
    assert [len(record.boxes) for record in records] == [1, 0, 0]
    assert all(record.boxes.shape[1] == 5 for record in records)
    assert (report.found, report.missing, report.empty, report.corrupt, report.notes) == (2, 1, 1, 0, ())

    shutil.move(tmp_path / "images", tmp_path / "photos")
    _, report = scan(find_images([tmp_path / "photos"]), nc=1)
    assert report.missing == 3
    assert "no folder `images`" in report.notes[0]
    assert "none of 3 images has a label file" in report.notes[1]
    shutil.copy(tmp_path / "labels/a.txt", tmp_path / "photos/a.txt")
    assert scan(find_images([tmp_path / "photos"]), nc=1)[1].found == 1


def test_two_images_with_one_label_file_are_reported(tmp_path):
    images = [make(tmp_path, "a.jpg"), make(tmp_path, "a.png")]
    assert "1 image with the label file of another" in scan(list(map(str, images)), nc=1)[1].notes[0]


def test_scan_names_the_line_of_a_bad_class_from_cache_as_well(tmp_path):
    image = make(tmp_path, text="0 .5 .5 .2 .2\n4 .5 .5 .2 .2\n")
    cache = tmp_path / "labels.cache.npz"
    for nc in (3, 4, 3):
        with pytest.raises(ValueError, match=r"a\.txt:2: label class 4 >= nc"):
            scan([str(image)], nc, cache)
    assert len(scan([str(image)], 5, cache)[0]) == 1
    assert len(scan([str(image)], None, cache)[0]) == 1  # --single-cls


@pytest.mark.parametrize("probe", [0, 10, 200])  # threads from the first on, perhaps, and surely none
def test_odd_names_and_many_workers(tmp_path, monkeypatch, probe):
    monkeypatch.setattr("utils.data.labels.PROBE", probe)
    names = [f"{stem} {i}.jpg" for stem in ("图像", "사진", "🐈", "a'b\"$(x)", "train #1") for i in range(20)]
    images = sorted(str(make(tmp_path / "наборы", name)) for name in names)
    assert find_images([tmp_path / "наборы/images"]) == images
    cache = tmp_path / "наборы/labels.cache.npz"
    fresh, again = (scan(images, 1, cache, workers) for workers in (4, 1))
    assert [record.image for record in fresh[0]] == images
    assert (fresh[1].checked, again[1].checked) == (100, 0)
    assert [record.image for record in again[0]] == images


# cache ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def pairs(tmp_path):
    """Three images with a box, polygons and nothing, and the place of their cache."""
    make(tmp_path, "a.jpg", "1 .5 .5 .2 .2\n")
    make(tmp_path, "b.png", "0 .1 .2 .5 .2 .3 .6\n1 .5 .5 .2 .4\n0 .1 .1 .9 .1 .9 .8 .1 .8\nbad row\n")
    make(tmp_path, "c.bmp", None)
    return find_images([tmp_path / "images"]), tmp_path / "labels.cache.npz"


def same(a, b):
    assert (a.image, a.hw, len(a.polygons)) == (b.image, b.hw, len(b.polygons))
    np.testing.assert_array_equal(a.boxes, b.boxes)
    for p, q in zip(a.polygons, b.polygons, strict=True):
        assert (p is None) == (q is None)
        assert p is None or np.array_equal(p, q)


def test_cache_round_trip(pairs):
    images, cache = pairs
    fresh, first = scan(images, 3, cache)
    known, second = scan(images, 3, cache)
    assert (first.checked, second.checked) == (3, 0)
    assert first.notes == second.notes
    assert len(first.notes) == 1
    for a, b in zip(fresh, known, strict=True):
        same(a, b)
    assert [len(record.polygons) for record in known] == [0, 3, 0]


def test_cache_notices_an_edit_of_the_same_length_and_time(pairs):
    images, cache = pairs
    scan(images, 3, cache)
    label = label_path(images[0])
    times = os.stat(label).st_mtime_ns
    write(cache.parent / "labels/a.txt", "2 .5 .5 .2 .2\n")
    os.utime(label, ns=(times, times))
    records, report = scan(images, 3, cache)
    assert report.checked == 1
    assert records[0].boxes[0, 0] == 2
    assert scan(images, 3, cache)[1].checked == 0


def test_cache_notices_new_gone_and_changed_files(pairs):
    images, cache = pairs
    root = cache.parent
    scan(images, 3, cache)
    write(root / "labels/c.txt", "0 .5 .5 .5 .5\n")  # a label file appears
    os.remove(label_path(images[0]))  # one goes
    make(root, "b.png", None, size=(60, 30))  # an image changes
    new = str(make(root, "d.jpg"))
    records, report = scan([*images, new], 3, cache)
    assert (report.checked, report.found, report.missing) == (4, 3, 1)
    assert [record.hw for record in records] == [(20, 40), (30, 60), (20, 40), (20, 40)]
    assert scan(images[:2], 3, cache)[1].checked == 0
    assert sorted(load_cache(cache)) == images[:2]  # what went is forgotten


class Trap:
    """Unpickling this makes a file."""

    def __reduce__(self):
        return open, ("trap-was-sprung", "w")


@pytest.mark.parametrize("kind", ["pickle", "npy", "npz", "text", "half", "empty", "version", "misfit", "packed"])
def test_foreign_and_damaged_caches_are_ignored_and_replaced(pairs, kind, monkeypatch):
    images, cache = pairs
    monkeypatch.chdir(cache.parent)
    scan(images, 3, cache)
    with np.load(cache) as file:
        arrays = dict(file)
    trap = np.array([Trap()], dtype=object)
    with open(cache, "r+b" if kind == "half" else "wb") as file:
        match kind:
            case "pickle":
                pickle.dump({"hash": Trap()}, file)
            case "npy":
                np.save(file, trap, allow_pickle=True)
            case "npz":
                np.savez(file, **{**arrays, "hw": trap}, allow_pickle=True)
            case "text":
                file.write(b"hello")
            case "half":
                file.truncate(500)
            case "version":
                np.savez(file, **{**arrays, "format": np.array("yolov5 label cache 0")})
            case "misfit":
                np.savez(file, **{**arrays, "boxes": arrays["boxes"][1:]})
            case "packed":
                np.savez_compressed(file, **arrays)
    assert load_cache(cache) == {}
    assert scan(images, 3, cache)[1].checked == 3
    assert scan(images, 3, cache)[1].checked == 0
    assert not (cache.parent / "trap-was-sprung").exists()


def test_v61_cache_is_neither_read_nor_overwritten(pairs):
    images, cache = pairs
    old = cache.with_name("labels.cache")
    old.write_bytes(pickle.dumps(Trap()))
    before = old.read_bytes()
    assert cache_path([cache.parent / "images"]) == cache
    scan(images, 3, cache)
    assert old.read_bytes() == before


def test_read_only_place_costs_only_the_cache(pairs, caplog):
    images, cache = pairs
    cache.parent.chmod(0o555)
    try:
        assert scan(images, 3, cache)[1].found == 2
    finally:
        cache.parent.chmod(0o755)
    assert not cache.exists()
    assert "scan not kept" in caplog.text
    assert scan(images, 3, cache.parent / "no/such/folder.npz")[1].found == 2


def test_cache_path(tmp_path):
    for folder in ("images/train", "images/val", "photos"):
        (tmp_path / folder).mkdir(parents=True)
    assert cache_path([tmp_path / "images/train"]) == tmp_path / "labels/train.cache.npz"
    assert cache_path([tmp_path / "images/train", tmp_path / "images/val"]) == tmp_path / "labels/train+1.cache.npz"
    assert cache_path([tmp_path / "train.txt"]) == tmp_path / "train.cache.npz"
    assert cache_path([tmp_path / "photos"]) == tmp_path / "photos/labels.cache.npz"


def test_bccd(shared, tmp_path):
    images = find_images([shared / "datasets/bccd/images" / split for split in ("train", "val", "test")])
    records, report = scan(images, 3, tmp_path / "bccd.cache.npz")
    assert (len(records), report.found, report.corrupt) == (364, 364, 0)
    assert all(record.hw == (480, 640) for record in records)


def test_only_a_cache_that_was_there_is_spoken_of(tmp_path, caplog):
    caplog.set_level(logging.INFO, "yolov5")
    images, cache = [str(make(tmp_path))], tmp_path / "labels.cache.npz"
    scan(images, 1, cache)
    scan(images, 1, cache)
    assert ["known from" in record.getMessage() for record in caplog.records] == [False, True]


def test_an_image_that_is_left_out_misses_no_labels(tmp_path):
    _, report = scan([str(make(tmp_path, size=(4, 4)))], nc=1)
    assert report.corrupt == 1
    assert len(report.notes) == 1, "that it is too small, not that it has no label file"
