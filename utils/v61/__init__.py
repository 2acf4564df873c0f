"""Names of YOLOv5 v6.1 and its successors that are elsewhere here, have another name, or are only adapters.

A module that v6.1 has ends with a door, a `__getattr__` that asks `find` for a name that the module has not. So such a
name costs nothing until somebody imports it, and a function that a user pastes into the module is found before ours.
Nothing of ours imports this package: it is thin adapters over our own parts, for programs that were written for v6.1.
"""

import sys
from importlib import import_module

ALL = "__all__"  # what `from module import *` asks for

CHECKS = (
    "DATASETS_DIR FILE NCOLS NUM_THREADS VERBOSE Profile WorkingDirectory check_dataset check_git_status check_imshow "
    "check_online check_python check_requirements check_suffix check_version check_yaml clean_str emojis file_size "
    "get_latest_run is_ascii is_chinese is_colab is_docker is_pip is_writeable methods print_args user_config_dir"
)
SOURCES = "IMG_FORMATS VID_FORMATS LoadImages LoadScreenshots LoadStreams LoadWebcam"
LOADERS = "InfiniteDataLoader LoadImagesAndLabels create_dataloader exif_size exif_transpose get_hash img2label_paths"
# Behind each door: names by the module that has them. After v6.1 some got new names and places; they have both here.
DOORS: dict[str, dict[str, str]] = {
    "utils.general": {
        "utils.v61.checks": CHECKS,
        "utils.v61.segments": "resample_segments scale_segments segment2box segments2boxes xyn2xy",
        "utils.v61.training": (
            "coco80_to_coco91_class intersect_dicts labels_to_class_weights labels_to_image_weights one_cycle "
            "print_mutation"
        ),
        "utils.v61.networks": "apply_classifier",
        "utils.v61.downloads": "download url2file",
        "utils.v61.plots": "plot_one_box save_one_box",
        "utils.files.checkpoint": "strip_optimizer",
    },
    "utils.torch_utils": {
        "utils.v61.networks": (
            "copy_attr de_parallel device_count find_modules is_parallel load_classifier profile prune scale_img "
            "smart_inference_mode sparsity torch_distributed_zero_first"
        ),
        "utils.v61.training": "intersect_dicts",
    },
    "utils.datasets": {"utils.v61.sources": SOURCES, "utils.v61.loaders": LOADERS},
    "utils.dataloaders": {
        "utils.v61.sources": SOURCES,
        "utils.v61.loaders": LOADERS,
        "utils.data.tools": "autosplit dataset_stats extract_boxes flatten_recursive",
        "utils.augmentations": "letterbox",
    },
    "utils.plots": {
        "utils.v61.plots": (
            "feature_visualization output_to_target plot_evolve plot_images plot_labels plot_lr_scheduler plot_one_box "
            "plot_results plot_val_study save_one_box"
        )
    },
    "utils.augmentations": {
        "utils.v61.augmentations": "Albumentations box_candidates classify_transforms",
        "utils.v61.segments": "resample_segments segment2box",
        "utils.v61.metrics": "bbox_ioa",
        "utils.v61.checks": "check_version",
        "utils.general": "LOGGER colorstr",
    },
    "utils.autoanchor": {"utils.v61.fitting": "check_anchor_order check_anchors kmean_anchors"},
    "utils.autobatch": {"utils.v61.fitting": "autobatch check_train_batch_size"},
    "utils.metrics": {
        "utils.v61.metrics": "ConfusionMatrix ap_per_class bbox_ioa compute_ap plot_mc_curve plot_pr_curve wh_iou"
    },
    "utils.loggers": {"utils.v61.callbacks": "LOGGERS Loggers"},
    "utils.callbacks": {"utils.v61.callbacks": "Callbacks"},
    "utils.downloads": {"utils.v61.downloads": "attempt_download download gsutil_getsize safe_download url2file"},
    "models.common": {
        "models.v61": "DetectMultiBackend",
        "utils.predict.autoshape": "AutoShape",
        "utils.predict.results": "Detections",
    },
    "models.experimental": {"utils.v61.downloads": "attempt_download"},
    "models.yolo": {"models.v61": "SegmentationModel"},
}
RENAMED = {  # later names of what is there under v6.1's: the module and the name
    "utils.general": {
        "clip_boxes": ("utils.ops.boxes", "clip_coords"),
        "scale_boxes": ("utils.ops.boxes", "scale_coords"),
    },
    "utils.torch_utils": {"time_synchronized": ("utils.torch_utils", "time_sync")},
    "models.yolo": {"DetectionModel": ("models.yolo", "Model")},
}


def find(place: str, name: str) -> object:
    """Import what is behind the door of the module `place` under this name; AttributeError if nothing is.

    Asked for `__all__`, return the names that a star import of the module takes: its own and those behind its door.
    """
    known = names_behind(place)
    if name == ALL:
        return sorted({*known, *(own for own in vars(sys.modules[place]) if not own.startswith("_"))})
    if name not in known:
        raise AttributeError(f"module {place!r} has no attribute {name!r}")
    home, attribute = known[name]
    return getattr(import_module(home), attribute)


def names_behind(place: str) -> dict[str, tuple[str, str]]:
    """The names behind a module's door, with the module and the name that each has there."""
    homes = {name: (home, name) for home, names in DOORS[place].items() for name in names.split()}
    return homes | RENAMED.get(place, {})
