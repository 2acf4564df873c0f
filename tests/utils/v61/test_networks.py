"""Functions of networks, polygons, pixels, figures and the evaluation in v6.1's words."""

import math

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.parallel import DataParallel

from models.yolo import Model, SegmentationModel
from utils.augmentations import Albumentations, augment_hsv, classify_transforms, mixup
from utils.general import ROOT, apply_classifier, resample_segments, scale_segments, segment2box, segments2boxes, xyn2xy
from utils.metrics import ConfusionMatrix, ap_per_class, bbox_ioa, compute_ap, wh_iou
from utils.plots import (
    feature_visualization,
    output_to_target,
    plot_images,
    plot_lr_scheduler,
    plot_one_box,
    plot_results,
    plot_val_study,
    save_one_box,
)
from utils.torch_utils import (
    copy_attr,
    de_parallel,
    device_count,
    find_modules,
    is_parallel,
    load_classifier,
    profile,
    prune,
    scale_img,
    smart_inference_mode,
    sparsity,
    torch_distributed_zero_first,
)


def test_out_of_wrappers():
    model = nn.Linear(1, 1)
    assert (is_parallel(model), de_parallel(model)) == (False, model)
    wrapped = DataParallel(model)
    assert (is_parallel(wrapped), de_parallel(wrapped)) == (True, model)
    assert device_count() == (torch.cuda.device_count() if torch.cuda.is_available() else 0)


def test_copied_attributes():
    class Thing:
        pass

    a, b = Thing(), Thing()
    b.one, b.two, b._own = 1, 2, 3
    copy_attr(a, b, exclude=["two"])
    assert vars(a) == {"one": 1}
    copy_attr(a, b, include=("two",))
    assert vars(a) == {"one": 1, "two": 2}


@pytest.mark.parametrize(
    ("ratio", "same_shape", "shape"), [(1.0, False, (60, 90)), (0.5, False, (32, 64)), (0.5, True, (60, 90))]
)
def test_scaled_images(ratio, same_shape, shape):
    images = torch.full((1, 3, 60, 90), 0.25)
    found = scale_img(images, ratio, same_shape, gs=32)
    assert found.shape[2:] == shape
    assert torch.allclose(found[..., :30, :45], images[..., :30, :45])
    assert ratio == 1 or found[0, 0, -1, -1] == pytest.approx(0.447)


def test_profile_and_inference_mode(caplog):
    with caplog.at_level("INFO", "yolov5"):
        rows = profile(torch.rand(1, 3, 8, 8), [nn.Conv2d(3, 4, 1), torch.relu, nn.Linear(99, 1)], n=2, device="cpu")
    assert [row is None for row in rows] == [False, False, True]
    assert (rows[0][0], rows[0][5], rows[0][6]) == (16, (1, 3, 8, 8), (1, 4, 8, 8))
    assert rows[0][1] == pytest.approx(2 * 3 * 4 * 64 / 1e9)
    assert rows[0][3] > 0
    assert "Linear" in caplog.text

    @smart_inference_mode()
    def inference():
        return torch.is_inference_mode_enabled()

    assert inference()
    with torch_distributed_zero_first(-1):
        assert True


def test_second_stage():
    pytest.importorskip("torchvision")
    model = load_classifier("resnet18", n=2).eval()
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 2)

    class Bright(nn.Module):
        """Class 1 for bright pictures."""

        def forward(self, x):
            is_bright = (x.mean((1, 2, 3)) > 0.5).float()
            return torch.stack((1 - is_bright, is_bright), 1)

    image = np.zeros((100, 200, 3), np.uint8)
    image[:, 100:] = 255
    rows = torch.tensor([[5.0, 20, 15, 30, 0.9, 0], [5, 20, 15, 30, 0.9, 1], [85.0, 20, 95, 30, 0.9, 1]])
    (kept,) = apply_classifier([rows], Bright(), torch.zeros(1, 3, 50, 100), image)
    assert kept.tolist() == [[10, 40, 30, 60, pytest.approx(0.9), 0], [170, 40, 190, 60, pytest.approx(0.9), 1]]


def test_segmentation_is_refused_in_one_line(tiny):
    assert issubclass(SegmentationModel, nn.Module)
    assert not isinstance(Model(tiny(), verbose=False), SegmentationModel)
    with pytest.raises(ValueError, match=r"yolov5s-seg\.yaml: .*segmentation"):
        SegmentationModel("yolov5s-seg.yaml", nc=3)


# Polygons -------------------------------------------------------------------------------------------------------------


def test_polygons():
    square = np.array([[0.25, 0.25], [0.75, 0.25], [0.75, 0.75], [0.25, 0.75]])
    pixels = xyn2xy(square, w=100, h=40, padw=10, padh=5)
    assert pixels[0].tolist() == [35, 15]
    assert segments2boxes([pixels]).tolist() == [[60, 25, 50, 20]]
    assert segment2box(pixels, 60, 40).tolist() == [35, 15, 35, 35]
    assert segment2box(pixels - 1000, 60, 40).tolist() == [0, 0, 0, 0]
    (many,) = resample_segments([pixels.astype(np.float32)], n=9)
    assert many.shape == (9, 2)
    assert many[[0, 2, -1]].tolist() == [[35, 15], [85, 15], [35, 15]]
    assert segments2boxes([]).shape == (0, 4)


def test_scaled_polygons():
    points = np.array([[0.0, 16.0], [64.0, 48.0], [99.0, -9.0]])
    found = scale_segments((64, 64), points.copy(), (100, 200), normalize=False)
    np.testing.assert_allclose(found, [[0, 0], [200, 100], [200, 0]])
    np.testing.assert_allclose(scale_segments((64, 64), points.copy(), (100, 200), normalize=True).max(), 1)
    given = scale_segments((64, 64), points, (100, 200), ((0.32, 0.32), (0, 16)))
    np.testing.assert_allclose(given, found)
    assert given is points


# Pixels ---------------------------------------------------------------------------------------------------------------


def test_changes_of_pixels(monkeypatch):
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    labels, change = np.zeros((1, 5)), Albumentations()
    same, same_labels = change(image, labels, p=0.0)
    assert (same is image, same_labels is labels) == (True, True)
    monkeypatch.setattr("utils.v61.augmentations.PROBABILITY", 1.0)
    changed, same_labels = change(image.copy(), labels)
    assert (changed.shape, changed.dtype, same_labels is labels) == (image.shape, np.uint8, True)
    assert not np.array_equal(changed, image)
    assert np.ptp(changed.astype(int), axis=2).max() < 40  # gray but for the last one's rounding


def test_augmentations_without_a_generator():
    image = np.full((8, 8, 3), (40, 90, 160), np.uint8)
    np.random.seed(0)
    assert augment_hsv(image, hgain=0.5, sgain=0.5, vgain=0.5) is image
    assert (image != (40, 90, 160)).any()
    other = np.zeros((8, 8, 3), np.uint8)
    mixed, labels = mixup(image, np.zeros((1, 5)), other, np.ones((2, 5)))
    assert labels.shape == (3, 5)
    assert 0.3 < mixed.mean() / image.mean() < 0.7


def test_pictures_for_classifiers():
    image = np.zeros((50, 100, 3), np.uint8)
    image[:, 25:75, 2] = 255  # red, in BGR
    found = classify_transforms(10)(image)
    assert found.shape == (3, 10, 10)
    assert found[:, 5, 5].tolist() == pytest.approx([(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225])


# Figures --------------------------------------------------------------------------------------------------------------


def test_one_box_is_drawn_and_saved(tmp_path):
    image = np.arange(40 * 60 * 3, dtype=np.uint8).reshape(40, 60, 3)
    before = image.copy()
    crop = save_one_box(torch.tensor([10.0, 10, 30, 20]), image, tmp_path / "a" / "x.png", gain=1, pad=0, BGR=True)
    np.testing.assert_array_equal(crop, before[10:20, 10:30])
    turned = save_one_box([torch.tensor(10.0), 10, 30, 20], image, tmp_path / "a" / "x.jpg", gain=1, pad=0)
    np.testing.assert_array_equal(turned, crop[..., ::-1])
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["x.jpg", "x2.jpg"]
    square = save_one_box((10, 10, 30, 20), image, square=True, gain=1, pad=0, save=False)
    assert square.shape == (20, 20, 3)
    np.testing.assert_array_equal(image, before)
    plot_one_box([10, 10, 30, 20], image, color=[1, 2, 3], line_thickness=1)
    assert image[10, 15].tolist() == [1, 2, 3]
    plot_one_box(torch.tensor([10, 10, 30, 20]), image, label="cat")


def test_saved_crop_has_its_colours(tmp_path):
    image = np.zeros((20, 20, 3), np.uint8)
    image[..., 2] = 255  # red
    save_one_box((0, 0, 20, 20), image, tmp_path / "red.jpg", BGR=True)
    assert cv2.imread(str(tmp_path / "red.jpg"))[10, 10].tolist() == pytest.approx([0, 0, 254], abs=2)


def test_targets_and_grids(tmp_path):
    output = [torch.tensor([[10.0, 10, 30, 20, 0.9, 1]]), torch.zeros(0, 6), torch.tensor([[0.0, 0, 4, 4, 0.1, 0]])]
    targets = output_to_target(output)
    np.testing.assert_allclose(targets, [[0, 1, 20, 15, 20, 10, 0.9], [2, 0, 2, 2, 4, 4, 0.1]], rtol=1e-6)
    assert output_to_target([torch.zeros(0, 6)]).shape == (0, 7)
    images = torch.zeros(3, 3, 40, 60)
    grids = []
    for name, given in {"pixels": targets, "shares": targets / [1, 1, 60, 40, 60, 40, 1]}.items():
        plot_images(images, given, ["a.jpg"], tmp_path / f"{name}.png", {0: "cat", 1: "dog"})
        grids.append(cv2.imread(str(tmp_path / f"{name}.png")))
    np.testing.assert_array_equal(*grids)
    assert grids[0].any()
    plot_images(images.numpy() + 255, np.zeros((0, 6)), None, tmp_path / "none.jpg")
    assert (tmp_path / "none.jpg").exists()


def test_feature_maps(tmp_path):
    feature_visualization(torch.rand(2, 40, 8, 8), "models.common.C3", 3, n=32, save_dir=tmp_path)
    feature_visualization(torch.rand(2, 40, 8, 8), "models.yolo.Detect", 9, save_dir=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stage3_C3_features.npy", "stage3_C3_features.png"]


def test_figures_of_trainings(tmp_path):
    names = "epoch train/box_loss train/obj_loss train/cls_loss metrics/precision metrics/recall metrics/mAP_0.5"
    names += " metrics/mAP_0.5:0.95 val/box_loss val/obj_loss val/cls_loss x/lr0 x/lr1 x/lr2"
    row = ",".join(map(str, range(14)))
    (tmp_path / "results.csv").write_text(f"{','.join(names.split())}\n{row}\n")
    plot_results(dir=tmp_path, file="")
    plot_results(file=tmp_path / "results.csv")
    assert (tmp_path / "results.png").exists()
    np.savetxt(tmp_path / "study_coco_net.txt", np.random.default_rng(0).random((2, 10)))
    plot_val_study(dir=tmp_path, x=[256, 384])
    assert (tmp_path / "study.png").exists()
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 - epoch / 10)
    plot_lr_scheduler(optimizer, scheduler, 10, tmp_path)
    assert (tmp_path / "LR.png").exists()
    assert (optimizer.param_groups[0]["lr"], scheduler.last_epoch) == (0.1, 0)
    for call in (plot_results, plot_val_study):
        with pytest.raises(FileNotFoundError):
            call(dir=tmp_path / "absent", file="")


# Evaluation -----------------------------------------------------------------------------------------------------------


def test_v61s_figures_but_for_ap_which_is_cocos():
    golden = np.load(ROOT / "tests" / "golden" / "ap.npz")
    values = [golden[name] for name in ("tp", "conf", "pred_cls", "target_cls")]
    tp, fp, p, r, f1, ap, classes = ap_per_class(*values)
    np.testing.assert_allclose(ap, golden["ap_coco"], atol=1e-9)
    for found, name in ((p, "precision"), (r, "recall"), (f1, "f1")):
        np.testing.assert_allclose(found, golden[name], atol=1e-9)
    counts = np.array([(values[3] == category).sum() for category in classes])
    np.testing.assert_array_equal(tp, (r * counts).round())
    np.testing.assert_allclose(fp, (tp / np.maximum(p, 1e-16) - tp).round())
    assert classes.dtype == np.int32


def test_curves_are_written(tmp_path):
    rng = np.random.default_rng(0)
    tp, conf = rng.random((50, 10)) < 0.5, rng.random(50)
    found = ap_per_class(tp, conf, np.zeros(50), np.zeros(40), plot=True, save_dir=tmp_path, names={0: "cat"})
    assert found[5].shape == (1, 10)
    assert sorted(path.name for path in tmp_path.iterdir()) == (
        ["F1_curve.png", "PR_curve.png", "P_curve.png", "R_curve.png"]
    )


def test_area_below_a_curve():
    ap, precision, recall = compute_ap([0.5, 1.0], [1.0, 0.5])
    assert ap == pytest.approx(0.875, abs=0.005)
    assert precision.tolist() == [1, 1, 0.5, 0]
    assert recall.tolist() == [0, 0.5, 1, 1]


def test_confusion_matrix(tmp_path, capsys):
    matrix = ConfusionMatrix(nc=2)
    detections = torch.tensor([[0.0, 0, 10, 10, 0.9, 0], [50, 50, 60, 60, 0.9, 0]])
    matrix.process_batch(detections, torch.tensor([[0.0, 0, 0, 10, 10], [1, 20, 20, 30, 30]]))
    tp, fp = matrix.tp_fp()
    assert (tp.tolist(), fp.tolist()) == ([1, 0], [1, 0])
    matrix.plot(save_dir=tmp_path, names=["cat", "dog"])
    assert (tmp_path / "confusion_matrix.png").exists()
    matrix.print()
    assert capsys.readouterr().out == "1 0 1\n0 0 0\n0 1 0\n"


def test_pruned_weights(caplog):
    model = nn.Sequential(nn.Conv2d(2, 4, 1, bias=False), nn.ReLU(), nn.Conv2d(4, 4, 1, bias=False))
    assert find_modules(model) == [0, 2]
    with caplog.at_level("INFO", "yolov5"):
        prune(model, 0.25)
    assert sparsity(model) == 0.25
    assert [*model.state_dict()] == ["0.weight", "2.weight"]


def test_overlaps():
    boxes = np.array([[0.0, 0, 10, 10], [5, 5, 15, 15], [20, 20, 30, 30]])
    assert bbox_ioa(np.array([0.0, 0, 10, 10]), boxes).tolist() == pytest.approx([1, 0.25, 0])
    found = wh_iou(torch.tensor([[10.0, 10]]), torch.tensor([[10.0, 10], [5, 20]]))
    assert found.tolist() == [pytest.approx([1, 50 / 150])]
    assert math.isclose(float(found[0, 0]), 1)
