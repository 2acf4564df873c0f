"""Names that the scripts of v6.1's users and its tutorials import stand where they look for them."""

import inspect
from importlib import import_module

import pytest

import utils.general
import utils.metrics
import utils.ops.boxes

NAMES = {
    "utils.general": (
        "LOGGER ROOT check_file check_img_size clip_coords colorstr increment_path init_seeds make_divisible "
        "non_max_suppression scale_coords xywh2xyxy xywhn2xyxy xyxy2xywh xyxy2xywhn"
    ),
    "utils.metrics": "ConfusionMatrix ap_per_class bbox_iou box_iou fitness",
    "utils.torch_utils": (
        "EarlyStopping ModelEMA fuse_conv_and_bn initialize_weights model_info select_device time_sync"
    ),
    "utils.augmentations": "augment_hsv copy_paste letterbox mixup random_perspective",
    "utils.datasets": "autosplit dataset_stats extract_boxes flatten_recursive",
    "utils.loss": "ComputeLoss FocalLoss smooth_BCE",
    "utils.plots": "Annotator colors",
    "models.common": (
        "Bottleneck BottleneckCSP C3 C3Ghost C3SPP C3TR Classify Concat Contract Conv DWConv Expand Focus "
        "GhostBottleneck GhostConv NAMAttention SPP SPPF TransformerBlock TransformerLayer autopad"
    ),
    "hubconf": "custom yolov5l yolov5l6 yolov5m yolov5m6 yolov5n yolov5n6 yolov5s yolov5s6 yolov5x yolov5x6",
    "utils.predict.autoshape": "AutoShape",
    "models.yolo": "Detect Model parse_model",
    "models.experimental": "CrossConv Ensemble MixConv2d Sum attempt_load",
    "train": "main parse_opt run train",
    "val": "main parse_opt run",
    "detect": "main parse_opt run",
}
CASES = [(module, name) for module, names in NAMES.items() for name in names.split()]


@pytest.mark.parametrize(("module", "name"), CASES, ids=[".".join(case) for case in CASES])
def test_import_path(module, name):
    assert hasattr(import_module(module), name)


@pytest.mark.parametrize(
    ("name", "home"),
    [
        ("box_iou", utils.metrics),
        ("fitness", utils.metrics),
        *((name, utils.ops.boxes) for name in ("clip_coords", "scale_coords", "xywh2xyxy", "xyxy2xywh")),
    ],
)
def test_passed_on_names_are_the_same_objects(name, home):
    assert getattr(utils.general, name) is getattr(home, name)


@pytest.mark.parametrize(
    ("module", "name", "parameters"),
    [
        (
            "utils.general",
            "non_max_suppression",
            "prediction conf_thres iou_thres classes agnostic multi_label labels max_det",
        ),
        ("utils.general", "scale_coords", "img1_shape coords img0_shape ratio_pad"),
        ("utils.general", "increment_path", "path exist_ok sep mkdir"),
        ("utils.augmentations", "letterbox", "image new_shape color auto scaleFill scaleup stride"),
        ("utils.general", "check_img_size", "imgsz s floor"),
        ("utils.plots", "Annotator", "im line_width font_size font pil example"),
        ("utils.torch_utils", "select_device", "device"),
        ("utils.torch_utils", "time_sync", ""),
        ("utils.torch_utils", "fuse_conv_and_bn", "conv bn"),
        ("models.experimental", "attempt_load", "weights device"),
    ],
)
def test_parameters_come_in_v61s_order(module, name, parameters):
    """The first of ours are v6.1's, so that calls by position mean the same."""
    ours = list(inspect.signature(getattr(import_module(module), name)).parameters)
    assert ours[: len(parameters.split())] == parameters.split()
