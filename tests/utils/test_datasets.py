"""Samples, order and loaders on drawn images; equal results whatever the workers, the cache or the epoch begun with."""

import itertools
import logging
import os
import pickle
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from utils.data.config import Hyp
from utils.data.image_store import ImageStore, available_memory, buffer_share, resized_hw
from utils.data.labels import LabelRecord
from utils.data.sampling import SampleKey
from utils.datasets import (
    Batch,
    DetectionDataset,
    ImageShape,
    RecordTable,
    Sample,
    TrainLoader,
    collate_fn,
    train_loader,
    val_loader,
    worker_count,
)
from utils.dist import DistEnv

HYP = Hyp(
    lr0=0.01,
    lrf=0.01,
    momentum=0.01,
    weight_decay=0.01,
    warmup_epochs=0.01,
    warmup_momentum=0.01,
    warmup_bias_lr=1.0,
    box=1.0,
    cls=1.0,
    cls_pw=1.0,
    obj=1.0,
    obj_pw=1.0,
    iou_t=1.0,
    anchor_t=1.0,
    fl_gamma=0.0,
    degrees=0.0,
    shear=0.0,
    perspective=0.0,
    flipud=0.0,
    copy_paste=0.0,
    hsv_h=0.015,
    hsv_s=0.7,
    hsv_v=0.4,
    translate=0.1,
    scale=0.5,
    fliplr=0.5,
    mosaic=1.0,
    mixup=0.0,
)
STILL = replace(HYP, hsv_h=0.0, hsv_s=0.0, hsv_v=0.0, translate=0.0, scale=0.0, fliplr=0.0, mosaic=0.0)
RICH = replace(HYP, degrees=5.0, shear=2.0, mosaic=0.7, mixup=0.5, copy_paste=0.5, flipud=0.5)
SIZES = ((96, 128), (128, 96), (100, 100), (60, 128), (128, 60), (97, 131), (240, 320), (64, 64), (130, 50))


def write(path, image) -> str:
    path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())
    return str(path)


def make_record(folder, i, hw) -> LabelRecord:
    """A smooth picture with a red box; every third has no label, every second a polygon row after a box row."""
    h, w = hw
    rng = np.random.default_rng(i)
    image = cv2.resize(rng.integers(0, 100, (4, 4, 3), np.uint8), (w, h), interpolation=cv2.INTER_CUBIC)
    image[h // 4 : h // 2, w // 4 : w // 2] = (0, 0, 255)
    path = write(folder / f"图像 é{i}.{('jpg', 'png')[i % 2]}", image)
    boxes, polygons = np.array([[i % 2, 0.375, 0.375, 0.25, 0.25]], np.float32), ()
    if i % 3 == 2:
        boxes = boxes[:0]
    elif i % 2:
        boxes = np.concatenate((boxes, [[1, 0.7, 0.7, 0.2, 0.2]])).astype(np.float32)
        polygons = (None, np.array([[0.6, 0.6], [0.8, 0.6], [0.7, 0.8]], np.float32))
    return LabelRecord(path, hw, boxes, polygons)


@pytest.fixture
def records(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    return [make_record(folder, i, hw) for i, hw in enumerate(SIZES)]


def same(a: Batch, b: Batch) -> bool:
    return torch.equal(a.images, b.images) and torch.equal(a.targets, b.targets) and a[2:] == b[2:]


def batches(loader, epochs) -> list[Batch]:
    found = [batch for epoch in epochs for batch in loader.epoch(epoch)]
    loader.close()
    return found


# Records and samples --------------------------------------------------------------------------------------------------


def test_a_table_gives_back_its_records(records):
    table = pickle.loads(pickle.dumps(RecordTable(records)))
    for i, record in enumerate(records):
        assert os.fsdecode(table.paths[i]) == record.image
        np.testing.assert_array_equal(table.labels(i), record.boxes)
        polygons = table.polygons(i)
        assert len(polygons) == len(record.polygons)
        for ours, theirs in zip(polygons, record.polygons, strict=True):
            assert (ours is None) == (theirs is None)
            assert ours is None or np.array_equal(ours, theirs)


def test_a_training_sample(records):
    sample = DetectionDataset(records, 64, hyp=RICH)[SampleKey(3, (1,))]
    assert isinstance(sample, Sample)
    assert sample.image.shape == (3, 64, 64)
    assert sample.image.dtype == torch.uint8
    assert sample.image.is_contiguous()
    assert sample.targets.shape[1] == 6
    assert sample.targets.dtype == torch.float32
    assert sample.path == records[1].image
    assert sample.shape == ImageShape(SIZES[1], None)


def test_no_augmentation_is_the_letterboxed_image(records):
    still = DetectionDataset(records, 128, hyp=STILL)[SampleKey(0, (0,))]
    plain = DetectionDataset(records, 128)[0]
    assert torch.equal(still.image, plain.image)
    torch.testing.assert_close(still.targets, plain.targets)
    torch.testing.assert_close(plain.targets, torch.tensor([[0, 0, 0.375, (16 + 36) / 128, 0.25, 24 / 128]]))
    red = (plain.image[0] > 200) & (plain.image[1] < 80)
    ys, xs = torch.nonzero(red, as_tuple=True)
    assert [xs.min().item(), ys.min().item(), xs.max().item(), ys.max().item()] == pytest.approx(
        [32, 40, 63, 63], abs=1
    )


def test_channels_are_red_green_blue(tmp_path):
    path = write(tmp_path / "a.png", np.full((32, 32, 3), (1, 2, 3), np.uint8))
    image = DetectionDataset([LabelRecord(path, (32, 32), np.zeros((0, 5), np.float32))], 32)[0].image
    assert image[:, 0, 0].tolist() == [3, 2, 1]


def test_the_way_back_to_native_pixels(records):
    dataset = DetectionDataset(records, 64, shapes=np.array([[96, 96]] * len(records)))
    for i, record in enumerate(records):
        sample = dataset[i]
        (h, w), ((ratio_h, ratio_w), (pad_w, pad_h)) = sample.shape
        assert (h, w) == record.hw
        cxcywh = sample.targets[:, 2:].numpy() * 96
        centre = (cxcywh[:, :2] - (pad_w, pad_h)) / (ratio_w, ratio_h)
        np.testing.assert_allclose(centre, record.boxes[:, 1:3] * (w, h), atol=1e-3)
        np.testing.assert_allclose(cxcywh[:, 2:] / (ratio_w, ratio_h), record.boxes[:, 3:] * (w, h), atol=1e-3)


def test_samples_depend_on_seed_epoch_and_index_alone(records):
    dataset = DetectionDataset(records, 64, hyp=RICH, seed=1)
    key = SampleKey(2, (3,))
    first = dataset[key]
    for other in (SampleKey(0, (1,)), SampleKey(5, (2,)), SampleKey(2, (4,))):
        assert not torch.equal(dataset[other].image, first.image)
    again = dataset[key]
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.targets, again.targets)
    assert not torch.equal(DetectionDataset(records, 64, hyp=RICH, seed=2)[key].image, first.image)


def test_mosaic_labels_lie_on_their_boxes(records):
    drawn = records[::2]  # all their labels are red boxes
    dataset = DetectionDataset(drawn, 128, hyp=replace(RICH, copy_paste=0.0, mixup=0.0, hsv_h=0.0))
    hits = []
    for epoch, index in itertools.product(range(12), range(len(drawn))):
        sample = dataset[SampleKey(epoch, (index,))]
        assert ((sample.targets[:, 2:] >= 0) & (sample.targets[:, 2:] <= 1)).all()
        for cx, cy, w, h in sample.targets[:, 2:].tolist():
            if min(w, h) * 128 > 8:
                red, green, _ = sample.image[:, int(cy * 128), int(cx * 128)].int()
                hits.append(bool(red > green + 50))
    assert len(hits) > 20
    assert np.mean(hits) > 0.9


# Files that are gone, damaged or changed ------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", ["gone", "damaged", "changed"])
@pytest.mark.parametrize("cache", [None, "ram", "disk"])
def test_a_bad_file_is_gray_in_training_and_an_error_in_validation(records, caplog, harm, cache):
    path = records[0].image
    if harm == "gone":
        os.remove(path)
    else:
        with open(path, "wb") as file:
            file.write(b"no image" if harm == "damaged" else cv2.imencode(".png", np.zeros((9, 7, 3), np.uint8))[1])
    with caplog.at_level(logging.WARNING, "yolov5"):
        dataset = DetectionDataset(records[:1], 64, hyp=replace(HYP, hsv_h=0.0, hsv_s=0.0, hsv_v=0.0), cache=cache)
        samples = [dataset[SampleKey(epoch, (0,))] for epoch in range(3)]
    assert all((sample.image == 114).all() and len(sample.targets) == 0 for sample in samples)
    assert sum(path in record.getMessage() for record in caplog.records) == 1
    with pytest.raises(ValueError, match=r"图像 é0\.jpg"):
        DetectionDataset(records, 64, cache=cache)[0]


# Quads, weights, the last epochs -------------------------------------------------------------------------------------


def test_a_quad_is_one_sample_enlarged_or_four(records):
    dataset = DetectionDataset(records, 64, hyp=RICH, seed=1)
    kinds = set()
    for epoch in range(8):
        key = SampleKey(epoch, (0, 3, 4, 6))
        quad = dataset[key]
        singles = [dataset[SampleKey(epoch, (index,))] for index in key.indices]
        assert quad.image.shape == (3, 128, 128)
        assert quad.path == records[0].image
        is_enlarged = torch.equal(quad.targets, singles[0].targets)
        kinds.add(is_enlarged)
        if not is_enlarged:
            assert torch.equal(quad.image[:, :64, :64], singles[0].image)
            assert torch.equal(quad.image[:, 64:, 64:], singles[3].image)
            assert len(quad.targets) == sum(len(single.targets) for single in singles)
        assert same(collate_fn([quad]), collate_fn([dataset[key]]))
    assert kinds == {True, False}


@pytest.mark.parametrize("rect", [False, True])
def test_quad_batches(records, rect, monkeypatch):
    monkeypatch.setattr("utils.datasets.cpu_count", lambda: 4)
    loader = train_loader(records, 64, 8, HYP, rect=rect, workers=0, epochs=2, quad=True)
    assert len(loader) == 2
    made = batches(loader, (0, 1))
    assert [len(batch.images) for batch in made] == [2, 1] * 2
    assert max(side for batch in made for side in batch.images.shape[2:]) == 128
    helped = batches(train_loader(records, 64, 8, HYP, rect=rect, workers=2, epochs=2, quad=True), (0, 1))
    assert all(same(a, b) for a, b in zip(made, helped, strict=True))


def used(dataset, make):
    """The images that are looked at while a sample is made."""
    seen, source = set(), dataset._source
    dataset._source = lambda index: (seen.add(index), source(index))[1]
    make()
    return seen


@pytest.mark.parametrize("workers", [0, 1])
def test_weighted_images_alone_are_seen(records, workers):
    """As centres of mosaics, as partners in them and in mixup, from the epoch on that the weights are set for."""

    def seen(epoch):
        return {path for batch in loader.epoch(epoch) for path in batch.paths}

    first, second = (np.eye(len(records))[i] for i in (0, 3))
    loader = train_loader(records, 64, 4, replace(HYP, mixup=1.0), workers=workers, epochs=3, weights=first)
    assert seen(0) == seen(1) == {records[0].image}
    loader.set_weights(second)
    assert seen(2) == {records[3].image}
    assert set(loader.dataset.partners) == {3}
    assert used(loader.dataset, lambda: loader.dataset[SampleKey(2, (3,))]) == {3}
    loader.close()


def test_an_image_that_is_drawn_twice_gives_two_samples(records):
    weights = np.eye(len(records))[1]
    made = batches(train_loader(records, 64, 9, RICH, workers=0, epochs=1, weights=weights), (0,))[0]
    assert made.paths == (records[1].image,) * 9
    assert len({image.numpy().tobytes() for image in made.images}) == 9


def test_weighted_epochs_resume_exactly(records):
    weights = np.arange(1.0, 10) / 45
    options = {"workers": 0, "epochs": 3, "weights": weights}
    whole = batches(train_loader(records, 64, 4, RICH, **options), range(3))
    rest = batches(train_loader(records, 64, 4, RICH, start_epoch=2, **options), (2,))
    assert all(same(a, b) for a, b in zip(whole[6:], rest, strict=True))
    assert not same(whole[0], whole[3])


@pytest.mark.parametrize(("close_mosaic", "first_without"), [(0, 4), (2, 2), (9, 0)])
def test_the_last_epochs_have_no_mosaics(records, close_mosaic, first_without):
    hyp = replace(RICH, mosaic=1.0, mixup=1.0)
    loader = train_loader(records, 64, 4, hyp, workers=0, epochs=4, close_mosaic=close_mosaic)
    without = DetectionDataset(records, 64, hyp=replace(hyp, mosaic=0.0))
    for epoch in range(4):
        keys = [SampleKey(epoch, (index,)) for index in range(len(records))]
        equal = [torch.equal(loader.dataset[key].image, without[key].image) for key in keys]
        assert equal == [epoch >= first_without] * len(records)


def test_cache_val_is_for_validation_alone(records):
    assert train_loader(records, 64, 4, HYP, workers=0, cache="val").dataset.store.cache is None
    assert val_loader(records, 64, 4, workers=0, cache="val").dataset.store._pool is not None


def test_no_images_is_an_error():
    with pytest.raises(ValueError, match="no images"):
        val_loader([], 64, 2, workers=0)


# Image store ----------------------------------------------------------------------------------------------------------


def make_store(records, imgsz=64, strict=False, **options):
    table = RecordTable(records)
    return ImageStore(table.paths, table.hw, imgsz, strict=strict, **options)


@pytest.mark.parametrize("strict", [False, True])
def test_caches_do_not_change_pixels(records, strict):
    plain, small = make_store(records, strict=strict, buffer_bytes=0), make_store(records, strict=strict)
    ram, disk = (make_store(records, strict=strict, cache=cache) for cache in ("ram", "disk"))
    for _ in range(2):  # the second time from what was kept
        for i in range(len(records)):
            expected = plain.get(i)
            assert expected.shape == (*resized_hw(np.array(SIZES[i]), 64), 3)
            for store in (small, ram, disk):
                np.testing.assert_array_equal(store.get(i), expected)


@pytest.mark.parametrize("cache", ["ram", "disk", None])
def test_a_repeated_image_is_kept_once(records, cache):
    repeated = [records[0], *records[:2], records[0]]
    store, plain = make_store(repeated, cache=cache), make_store(records)
    for i, expected in enumerate((0, 0, 1, 0)):
        np.testing.assert_array_equal(store.get(i), plain.get(expected))
    if cache == "ram":
        assert store._pool.numel() == plain.get(0).size + plain.get(1).size
    else:
        assert len(store._buffer) == 2


def test_the_buffer_keeps_to_its_bytes(records):
    store = make_store(records, buffer_bytes=30_000)
    for i in [0, 1, 2, 0, 3, 4, 5, 6, 7, 8, 0]:
        store.get(i)
        assert 0 < sum(image.nbytes for image in store._buffer.values()) <= 30_000
    assert list(store._buffer)[-1] == 0


def test_pictures_cannot_be_written_to(records):
    for cache in (None, "ram", "disk"):
        with pytest.raises(ValueError, match="read-only"):
            make_store(records, cache=cache).get(0)[0] = 0


def test_disk_cache_is_made_anew_when_its_image_changes_or_it_is_damaged(records):
    make_store(records, cache="disk").get(1)
    kept = make_store(records, cache="disk")._npy_path(1)
    assert kept.parent.name == "images_npy"
    old = make_store(records, cache="disk").get(1)
    image = cv2.imdecode(np.fromfile(records[1].image, np.uint8), 1)
    with open(records[1].image, "wb") as file:
        file.write(cv2.imencode(".png", 255 - image)[1])
    new = make_store(records, cache="disk").get(1)
    assert np.abs(255 - new.astype(int) - old).max() <= 1
    for damage in (b"", b"garbage", kept.read_bytes()[:-5]):
        kept.write_bytes(damage)
        np.testing.assert_array_equal(make_store(records, cache="disk").get(1), new)
    assert not list(kept.parent.glob("*tmp*"))


def test_an_unknown_cache_is_an_error(records):
    with pytest.raises(ValueError, match="'foo'"):
        make_store(records, cache="foo")


def test_ram_cache_that_does_not_fit_is_not_made(records, monkeypatch, caplog):
    monkeypatch.setattr("utils.data.image_store.available_memory", lambda: 1000)
    with caplog.at_level(logging.WARNING, "yolov5"):
        store = make_store(records, cache="ram")
    assert "going on without a cache" in caplog.text
    assert store.get(0).shape == (48, 64, 3)


def test_available_memory_is_plausible():
    free = available_memory()
    assert free is None or free > 1 << 20


@pytest.mark.parametrize("imgsz", [32, 64, 80, 160, 320])
def test_reduced_decoding_keeps_the_geometry(tmp_path, imgsz):
    """The centre of a bright disc stays where full decoding puts it, to a part of a pixel."""
    hw = 241, 319
    image = np.full((*hw, 3), 30, np.uint8)
    cv2.circle(image, (200, 90), 40, (240, 240, 240), -1, cv2.LINE_AA)
    record = LabelRecord(write(tmp_path / "a.jpg", image), hw, np.zeros((0, 5), np.float32))
    fast, exact = (make_store([record], imgsz, strict=strict).get(0).astype(float) - 30 for strict in (False, True))
    assert fast.shape == exact.shape
    for axis in (0, 1):
        centres = [(p.sum((1 - axis, 2)) * np.arange(p.shape[axis])).sum() / p.sum() for p in (fast, exact)]
        assert centres[0] == pytest.approx(centres[1], abs=0.2)


def test_validation_shrinks_by_area_from_the_full_image(records):
    image = cv2.imdecode(np.fromfile(records[6].image, np.uint8), cv2.IMREAD_COLOR)
    expected = cv2.resize(image, (64, 48), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(make_store(records, strict=True).get(6), expected)


# Order and shapes -----------------------------------------------------------------------------------------------------


def test_collate(records):
    dataset = DetectionDataset(records, 64)
    batch = collate_fn([dataset[i] for i in (0, 2, 1)])
    assert batch.images.shape == (3, 3, 64, 64)
    assert batch.targets[:, 0].tolist() == [0, 2, 2]
    assert batch.paths == tuple(records[i].image for i in (0, 2, 1))
    assert len(batch.shapes) == 3
    assert collate_fn([dataset[2]]).targets.shape == (0, 6)


@pytest.mark.parametrize(
    ("wanted", "batch_size", "expected"), [(0, 16, 0), (8, 1, 0), (1, 16, 1), (8, 2, 2), (8, 16, 4)]
)
def test_worker_count(monkeypatch, wanted, batch_size, expected):
    monkeypatch.setattr("utils.datasets.cpu_count", lambda: 4)
    assert worker_count(wanted, batch_size) == expected


@pytest.mark.parametrize(("processes", "mib"), [(0, 256), (1, 256), (2, 128), (8, 32), (64, 32)])
def test_processes_share_the_buffer(processes, mib):
    assert buffer_share(processes) == mib << 20


# Loaders --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", [None, "ram"])
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_change_batches(records, workers, cache, monkeypatch):
    monkeypatch.setattr("utils.datasets.cpu_count", lambda: 4)
    alone = batches(train_loader(records, 64, 4, RICH, seed=5, workers=0, epochs=2), (0, 1))
    helped = batches(train_loader(records, 64, 4, RICH, seed=5, workers=workers, epochs=2, cache=cache), (0, 1))
    assert [len(batch.images) for batch in alone] == [4, 4, 1, 4, 4, 1]
    assert all(same(a, b) for a, b in zip(alone, helped, strict=True))


def test_spawned_workers_get_the_same(records, monkeypatch):
    """As on Windows and macOS, where the data set travels to the workers."""
    alone = batches(train_loader(records, 64, 5, RICH, workers=0, epochs=1, cache="ram"), (0,))
    method = torch.multiprocessing.get_start_method(allow_none=True)
    torch.multiprocessing.set_start_method("spawn", force=True)
    try:
        helped = batches(train_loader(records, 64, 5, RICH, workers=1, epochs=1, cache="ram"), (0,))
    finally:
        torch.multiprocessing.set_start_method(method, force=True)
    assert all(same(a, b) for a, b in zip(alone, helped, strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_run_sees_the_batches_of_an_unbroken_one(records, workers):
    whole = batches(train_loader(records, 64, 4, HYP, workers=workers, epochs=4), range(4))
    rest = batches(train_loader(records, 64, 4, HYP, workers=workers, start_epoch=2, epochs=4), (2, 3))
    assert all(same(a, b) for a, b in zip(whole[6:], rest, strict=True))


def test_an_epoch_may_be_broken_off_and_repeated(records):
    loader = train_loader(records, 64, 4, HYP, workers=0)
    assert len(loader) == 3
    first = next(iter(loader.epoch(1)))
    assert same(first, next(iter(loader.epoch(1))))
    assert same(first, batches(loader, (1,))[0])


def test_workers_live_on_from_epoch_to_epoch(records):
    loader = train_loader(records, 64, 4, HYP, workers=1, epochs=3)
    iterators = []
    for epoch in range(3):
        assert len(list(loader.epoch(epoch))) == 3
        iterators.append(loader._iterator)
    assert iterators[0] is iterators[1] is iterators[2]
    loader.close()


def test_loaders_leave_the_global_generators_alone(records):
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    batches(train_loader(records, 64, 4, RICH, workers=0, epochs=1), (0,))
    list(val_loader(records, 64, 4, workers=0))
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()


def test_rectangular_training(records):
    made = [batches(train_loader(records, 64, 2, HYP, rect=True, workers=0), (epoch,)) for epoch in (0, 1)]
    assert [b.images.shape[2:] for b in made[0]] == [b.images.shape[2:] for b in made[1]]
    assert made[0][0].images.shape == (2, 3, 64, 64)
    assert len({b.images.shape[2:] for b in made[0]}) > 1
    assert [b.paths for b in made[0]] == [b.paths for b in made[1]]
    first, second = (train_loader(records, 64, 4, HYP, rect=True, workers=0, ranks=DistEnv(rank, 2)) for rank in (0, 1))
    for a, b in zip(batches(first, (0,)), batches(second, (0,)), strict=True):
        assert a.images.shape == b.images.shape


@pytest.mark.parametrize("cache", [None, "ram", "disk"])
def test_validation_batches(records, cache):
    loader = val_loader(records, 64, 4, workers=0, cache=cache)
    first, second = list(loader), list(loader)
    assert all(same(a, b) for a, b in zip(first, second, strict=True))
    assert sorted(path for batch in first for path in batch.paths) == sorted(record.image for record in records)
    assert [len(batch.images) for batch in first] == [4, 4, 1]
    assert len({batch.images.shape[2:] for batch in first}) > 1
    assert all(side % 32 == 0 for batch in first for side in batch.images.shape[2:])


def test_square_validation_keeps_the_order_of_the_records(records):
    made = list(val_loader(records, 64, 4, workers=0, rect=False))
    assert [path for batch in made for path in batch.paths] == [record.image for record in records]
    assert all(batch.images.shape[2:] == (64, 64) for batch in made)


def test_a_plain_data_set_keeps_no_pictures(records):
    assert DetectionDataset(records, 64).store._capacity == 0


@pytest.mark.parametrize(("workers", "mib"), [(0, 256), (2, 128)])
def test_each_worker_keeps_its_share_of_pictures(records, monkeypatch, workers, mib):
    monkeypatch.setattr("utils.datasets.cpu_count", lambda: 4)
    monkeypatch.setattr(TrainLoader, "_start", lambda *_: None)
    loader = train_loader(records, 64, 4, HYP, workers=workers)
    assert loader.workers == workers
    assert loader.dataset.store._capacity == mib << 20
