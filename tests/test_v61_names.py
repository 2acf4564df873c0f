"""Names that v6.1's users and their programs import stand where they look for them."""

import inspect
import subprocess
import sys
from importlib import import_module

import pytest

import utils.general
import utils.metrics
import utils.ops.boxes
from utils import v61
from utils.general import ROOT

NAMES = {  # by module: ours, v6.1's adapters, and names that came later
    "utils.general": (
        "LOGGER ROOT check_file check_img_size clip_coords colorstr increment_path init_seeds make_divisible "
        "non_max_suppression scale_coords xywh2xyxy xywhn2xyxy xyxy2xywh xyxy2xywhn box_iou fitness "
        "Profile apply_classifier check_dataset check_git_status check_imshow check_online check_python "
        "check_requirements check_suffix check_version check_yaml clean_str coco80_to_coco91_class download emojis "
        "file_size get_latest_run intersect_dicts is_ascii is_chinese is_colab is_docker is_pip is_writeable "
        "labels_to_class_weights labels_to_image_weights methods one_cycle print_args print_mutation resample_segments "
        "segment2box segments2boxes set_logging strip_optimizer url2file user_config_dir WorkingDirectory xyn2xy "
        "clip_boxes plot_one_box save_one_box scale_boxes scale_segments DATASETS_DIR FILE NCOLS NUM_THREADS VERBOSE"
    ),
    "utils.metrics": (
        "ConfusionMatrix ap_per_class bbox_iou box_iou fitness average_precision bbox_ioa compute_ap plot_mc_curve "
        "plot_pr_curve wh_iou"
    ),
    "utils.torch_utils": (
        "EarlyStopping ModelEMA fuse_conv_and_bn initialize_weights model_info select_device time_sync copy_attr "
        "de_parallel device_count find_modules is_parallel profile prune scale_img sparsity "
        "torch_distributed_zero_first intersect_dicts load_classifier smart_inference_mode time_synchronized"
    ),
    "utils.augmentations": (
        "augment_hsv copy_paste letterbox mixup random_perspective Albumentations LOGGER bbox_ioa "
        "box_candidates check_version classify_transforms colorstr resample_segments segment2box"
    ),
    "utils.datasets": (
        "autosplit dataset_stats extract_boxes flatten_recursive IMG_FORMATS VID_FORMATS InfiniteDataLoader LoadImages "
        "LoadImagesAndLabels LoadStreams LoadWebcam create_dataloader exif_size exif_transpose get_hash img2label_paths"
    ),
    "utils.dataloaders": (
        "IMG_FORMATS VID_FORMATS InfiniteDataLoader LoadImages LoadImagesAndLabels LoadScreenshots LoadStreams "
        "create_dataloader autosplit exif_transpose img2label_paths letterbox"
    ),
    "utils.autoanchor": "check_anchor_order check_anchors kmean_anchors",
    "utils.autobatch": "autobatch check_train_batch_size",
    "utils.callbacks": "Callbacks",
    "utils.downloads": "attempt_download download gsutil_getsize safe_download url2file",
    "utils.loggers": "LOGGERS Loggers",
    "utils.loss": "ComputeLoss FocalLoss smooth_BCE",
    "utils.plots": (
        "Annotator colors Colors feature_visualization output_to_target plot_evolve plot_images plot_labels "
        "plot_lr_scheduler plot_results plot_val_study save_one_box plot_one_box"
    ),
    "models.common": (
        "Bottleneck BottleneckCSP C3 C3Ghost C3SPP C3TR Classify Concat Contract Conv DWConv Expand Focus "
        "GhostBottleneck GhostConv NAMAttention SPP SPPF TransformerBlock TransformerLayer autopad "
        "AutoShape DetectMultiBackend Detections"
    ),
    "hubconf": "custom yolov5l yolov5l6 yolov5m yolov5m6 yolov5n yolov5n6 yolov5s yolov5s6 yolov5x yolov5x6",
    "models.yolo": "Detect Model parse_model DetectionModel SegmentationModel",
    "models.experimental": "CrossConv Ensemble MixConv2d Sum attempt_load attempt_download",
    "train": "main parse_opt run train",
    "val": "main parse_opt run",
    "detect": "main parse_opt run",
}
CASES = [(module, name) for module, names in NAMES.items() for name in names.split()]


@pytest.mark.parametrize(("module", "name"), CASES, ids=[".".join(case) for case in CASES])
def test_import_path(module, name):
    assert hasattr(import_module(module), name)


@pytest.mark.parametrize(
    ("module", "name"), [(place, name) for place in v61.DOORS for name in v61.names_behind(place)], ids=str
)
def test_all_that_is_behind_a_door_is_tested(module, name):
    assert name in NAMES[module].split() or (module, name) in {
        ("utils.datasets", "LoadScreenshots"),
        *(("utils.dataloaders", each) for each in v61.names_behind("utils.datasets")),
        *(("utils.dataloaders", each) for each in ("dataset_stats", "extract_boxes", "flatten_recursive")),
    }
    assert hasattr(import_module(module), name)


@pytest.mark.parametrize("module", v61.DOORS)
def test_a_door_has_nothing_else(module):
    with pytest.raises(AttributeError, match=rf"'{module}' has no attribute 'no_such_name'"):
        import_module(module).no_such_name  # noqa: B018
    assert not hasattr(import_module(module), "__wrapped__")


def test_what_a_user_pastes_is_found_first(monkeypatch):
    def pasted():
        return "mine"

    monkeypatch.setattr(utils.general, "check_requirements", pasted, raising=False)
    assert utils.general.check_requirements is pasted


@pytest.mark.parametrize(
    ("module", "name", "home"),
    [
        ("utils.general", "box_iou", utils.metrics),
        ("utils.general", "fitness", utils.metrics),
        *(("utils.general", name, utils.ops.boxes) for name in ("clip_coords", "scale_coords", "xywh2xyxy")),
    ],
)
def test_passed_on_names_are_the_same_objects(module, name, home):
    assert getattr(import_module(module), name) is getattr(home, name)


@pytest.mark.parametrize(
    ("module", "later", "name"),
    [
        ("utils.general", "scale_boxes", "scale_coords"),
        ("utils.general", "clip_boxes", "clip_coords"),
        ("utils.torch_utils", "time_synchronized", "time_sync"),
        ("models.yolo", "DetectionModel", "Model"),
    ],
)
def test_later_names_mean_the_same(module, later, name):
    assert getattr(import_module(module), later) is getattr(import_module(module), name)


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
        ("utils.general", "check_file", "file suffix"),
        ("utils.general", "check_requirements", "requirements exclude install"),
        ("utils.plots", "Annotator", "im line_width font_size font pil example"),
        ("utils.plots", "save_one_box", "xyxy im file gain pad square BGR save"),
        ("utils.plots", "plot_images", "images targets paths fname names max_size max_subplots"),
        ("utils.plots", "feature_visualization", "x module_type stage n save_dir"),
        ("utils.torch_utils", "select_device", "device batch_size newline"),
        ("utils.torch_utils", "time_sync", ""),
        ("utils.torch_utils", "fuse_conv_and_bn", "conv bn"),
        ("utils.torch_utils", "scale_img", "img ratio same_shape gs"),
        ("utils.torch_utils", "profile", "input ops n device"),
        ("utils.metrics", "ap_per_class", "tp conf pred_cls target_cls plot save_dir names"),
        ("utils.autoanchor", "kmean_anchors", "dataset n img_size thr gen verbose"),
        ("utils.autoanchor", "check_anchors", "dataset model thr imgsz"),
        ("utils.datasets", "LoadImages", "path img_size stride auto"),
        ("utils.datasets", "LoadStreams", "sources img_size stride auto"),
        ("utils.datasets", "LoadWebcam", "pipe img_size stride"),
        ("utils.dataloaders", "LoadImages", "path img_size stride auto transforms vid_stride"),
        (
            "utils.datasets",
            "create_dataloader",
            "path imgsz batch_size stride single_cls hyp augment cache pad rect rank workers image_weights quad prefix "
            "shuffle",
        ),
        (
            "utils.datasets",
            "LoadImagesAndLabels",
            "path img_size batch_size augment hyp rect image_weights cache_images single_cls stride pad prefix",
        ),
        ("models.common", "DetectMultiBackend", "weights device dnn data fp16 fuse"),
        ("models.experimental", "attempt_load", "weights device inplace fuse map_location"),
    ],
)
def test_parameters_come_in_v61s_order(module, name, parameters):
    """The first of ours are v6.1's, so that calls by position mean the same."""
    ours = list(inspect.signature(getattr(import_module(module), name)).parameters)
    assert ours[: len(parameters.split())] == parameters.split()


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def test_star_import_and_log_without_set_up():
    code = """
from utils.general import *
from utils.datasets import *
from utils.plots import *
LOGGER.info("seen")
LOGGER.debug("unseen")
expected = {"LOGGER", "np", "torch", "cv2", "Path", "os", "check_requirements", "LoadImages", "save_one_box"}
missing = expected - {*globals()}
assert not missing, missing
assert Path(os.devnull) and torch.zeros(1) is not None and np.zeros(1) is not None and cv2.__version__
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == ["seen"]


def test_nothing_of_ours_imports_the_adapters():
    """Commands, networks, hub: none needs utils/v61 at its start."""
    code = """
import sys
import train, val, detect, export, hubconf, models.yolo, utils.general
print(*(name for name in sys.modules if name.startswith("utils.v61") or name in {"utils.callbacks", "utils.downloads"}))
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert not done.stdout.split()
