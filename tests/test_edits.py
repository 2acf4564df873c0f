"""Edits that users of v6.1 make outside models/: each is made in a copy of the repository, and its effect is seen.

Two copies are made and run once each: in one single lines are changed, in the other functions and a class are pasted
that are written for v6.1. docs/recipes.md shows the same places.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.copies import copy_repository
from tools.report import ReportOptions
from utils.cli.arguments import read_options
from utils.data.config import Hyp
from utils.general import ROOT
from utils.training.optim import build_optimizer

TRAIN = "imgsz=64, batch_size=4, workers=0, device='cpu', epochs=1, noplots=True"
NOTE = """
def note(name, value):
    import json, os

    with open(os.environ["NOTES"], "a") as file:
        file.write(json.dumps([name, value]) + "\\n")
"""
# What is done with both copies. Imports come from the copy, which is the folder that this is started in.
DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, ".")
data, images, out = sys.argv[1:]
import cv2, numpy as np
import detect, hubconf, train, val
from models.runtimes.load import load_backend
from tools.serve.metrics import Metrics
from tools.serve.predictor import Predictor, Thresholds
from utils.metrics import note

def middle(image):
    h, w = image.shape[:2]
    return image[h // 2 - 10 : h // 2 + 10, w // 2 - 10 : w // 2 + 10]

note("stage", "train")
opt = train.parse_opt([])
note("cfg", opt.cfg)
note("weights", opt.weights)
layers = train.Model(opt.cfg, verbose=False).modules()
note("activations", sorted({type(layer.act).__name__ for layer in layers if hasattr(layer, "act")}))
folder = train.run(TRAIN, data=data, project=out + "/train")
best = folder / "weights" / "best.pt"
note("stage", "val")
val.run(data=data, weights=best, imgsz=64, workers=0, device="cpu", conf_thres=0.0, noplots=True, project=out + "/val")
note("stage", "detect")
folder = detect.run(best, images, imgsz=64, device="cpu", conf_thres=0.0, save_txt=True, project=out + "/detect")
picture = sorted(folder.glob("*.jpg"))[0]
note("middle", np.median(middle(cv2.imread(str(picture))), (0, 1)).tolist())
note("rows", len((folder / "labels" / (picture.stem + ".txt")).read_text().splitlines()))
note("stage", "hub")
model = hubconf.custom(best, device="cpu", verbose=False)
model.conf = 0.0
model(Path(images) / picture.name, size=64)
note("stage", "serve")
predictor = Predictor(load_backend([best], "cpu"), [64], Metrics())
predictor([predictor.prepare(np.full((64, 64, 3), 114, np.uint8), Thresholds(conf=0.0))])
note("stage", "end")
"""
TINY_YAML = """
nc: 10
depth_multiple: 1.0
width_multiple: 0.25
anchors: [[10,13, 16,30, 33,23], [30,61, 62,45, 59,119]]
backbone:
  - [-1, 1, Conv, [64, 6, 2, 2]]
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 1, Conv, [128, 3, 2]]
head:
  - [-1, 1, C3, [128]]
  - [[2, 4], 1, Detect, [nc, anchors]]
"""


def edited_copy(folder: Path) -> Path:
    """A copy of the repository with a small network as models/tiny.yaml and `note` in utils/metrics.py."""
    copy_repository(folder)
    shutil.copytree(ROOT / "tools", folder / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "models" / "tiny.yaml").write_text(TINY_YAML)
    paste(folder / "utils" / "metrics.py", NOTE)
    return folder


def change(file: Path, pattern: str, new: str) -> None:
    """Puts lines in the place of the only match of a pattern, with the indentation of the line that it begins in."""
    text = file.read_text(encoding="utf-8")
    found = list(re.finditer(pattern, text))
    assert len(found) == 1, f"{file.name} has {len(found)} times {pattern}"
    start = text.rfind("\n", 0, found[0].start()) + 1
    indent = re.match(" *", text[start:])[0]
    first, *others = new.strip("\n").split("\n")
    lines = "\n".join([first, *(indent + line for line in others)])
    file.write_text(text[: found[0].start()] + lines + text[found[0].end() :], encoding="utf-8")


def paste(file: Path, code: str) -> None:
    """Pastes functions below all others: of two of one name the later counts."""
    file.write_text(f"{file.read_text(encoding='utf-8')}\n\n{code}", encoding="utf-8")


def run(folder: Path, data: str, options: str) -> dict[str, list]:
    """Runs the driver in the copy; what was noted, by name, with the stage before each value, and the log."""
    done = subprocess.run(
        [sys.executable, "-c", DRIVER.replace("TRAIN", options), data, images_of(data), str(folder / "out")],
        cwd=folder,
        env={**os.environ, "NOTES": str(folder / "notes.txt")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, list] = {"log": done.stderr.splitlines()}
    stage = ""
    for line in (folder / "notes.txt").read_text().splitlines():
        name, value = json.loads(line)
        stage = value if name == "stage" else stage
        found.setdefault(name, []).append((stage, value))
    return found


def images_of(data: str) -> str:
    """The folder of the test images of the set that the yaml describes."""
    return str(Path(data).parent / "shapes" / "images" / "test")


# Lines ----------------------------------------------------------------------------------------------------------------

IOU = """
def bbox_iou(box1, box2, x1y1x2y2=True, GIoU=False, DIoU=False, CIoU=False, Wise=False, eps=1e-7):
    assert not x1y1x2y2
    box2 = box2.T
    left = torch.max(box1[0] - box1[2] / 2, box2[0] - box2[2] / 2)
    top = torch.max(box1[1] - box1[3] / 2, box2[1] - box2[3] / 2)
    right = torch.min(box1[0] + box1[2] / 2, box2[0] + box2[2] / 2)
    bottom = torch.min(box1[1] + box1[3] / 2, box2[1] + box2[3] / 2)
    inter = (right - left).clamp(0) * (bottom - top).clamp(0)
    iou = inter / (box1[2] * box1[3] + box2[2] * box2[3] - inter + eps)
    note("iou", [Wise, list(box1.shape), list(box2.shape)])
    if Wise:
        return torch.exp((box1[0] - box2[0]) ** 2 + (box1[1] - box2[1]) ** 2), iou
    return iou
"""
WISE_LOSS = """
if type(iou) is tuple:
    before = lbox.detach().clone()
    lbox += (iou[0].detach() * (1.0 - iou[1])).mean()
    note("lbox", [i, len(pbox), len(tbox[i]), float(lbox - before)])
    iou = iou[1]
else:
    lbox += (1.0 - iou).mean()
"""
SOFT_NMS = """
def soft_nms(boxes, scores, iou_thres, sigma=0.5):
    from utils.metrics import note

    note("nms", len(boxes))
    scores, keep = scores.clone(), []
    for _ in range(3):
        best = scores.argmax()
        keep.append(best)
        scores *= torch.exp(-(box_iou(boxes[best][None], boxes)[0] ** 2) / sigma)
        scores[best] = -1
    return torch.stack(keep[: len(boxes)])
"""
COUNTING = """
from utils.metrics import note
for *xyxy, conf, cls in reversed(det):
    c = int(cls)
    annotator.box_label(xyxy, f"{names[c]} {conf:.2f}", color=colors(c, True))
if len(det):
    note("box", [Path(frame.name).name, names[c], [int(x) for x in xyxy], float(conf), float(det[0, 4]), len(det)])
im0[im0.shape[0] // 2 - 10 : im0.shape[0] // 2 + 10, im0.shape[1] // 2 - 10 : im0.shape[1] // 2 + 10] = (255, 0, 255)
det = det[:2]
"""


@pytest.fixture(scope="module")
def lines(tmp_path_factory, data):
    """What the copy noted in which single lines were changed."""
    folder = edited_copy(tmp_path_factory.mktemp("lines"))
    metrics, loss, general = (folder / "utils" / f"{name}.py" for name in ("metrics", "loss", "general"))
    paste(metrics, IOU)
    change(loss, "from utils.metrics import bbox_iou\n", "from utils.metrics import bbox_iou, note\n\n")
    change(loss, r"x1y1x2y2=False, CIoU=True\)", "x1y1x2y2=False, Wise=True)")
    change(loss, r"lbox \+= .*\n", WISE_LOSS + "\n")
    change(general, r"i = nms\(boxes, scores, iou_thres\)", "i = soft_nms(boxes, scores, iou_thres)")
    paste(general, SOFT_NMS)
    activation = "self.act = nn.LeakyReLU(0.1) if act is True else nn.Identity()"
    change(folder / "models/common.py", r"self\.act = act if isinstance.*", activation)
    change(folder / "train.py", r'"--cfg", default=""', '"--cfg", default="tiny.yaml"')
    change(folder / "train.py", r'"--weights",\n +default=[^\n]*', '"--weights",\ndefault="",')
    change(folder / "detect.py", "# Every image passes here", COUNTING + "# Every image passes here")
    figure = 'LOGGER.info(f"F1 is {result.stats.f1.mean():.3f}")'
    change(folder / "val.py", "# A further figure", figure + "\n# A further figure")
    return run(folder, data, TRAIN)


def test_a_pasted_iou_is_what_the_loss_calls(lines):
    called = [value for stage, value in lines["iou"] if stage == "train"]
    assert all(is_wise and box1[0] == 4 and box1 == box2 for is_wise, box1, box2 in called)
    assert {len(box1) for _, box1, _ in called} == {2}


def test_a_pasted_box_loss_sees_each_match_once(lines):
    assert {value[0] for _, value in lines["lbox"]} == {0, 1}
    assert all(matches == len_t and loss > 0 for _, (_, matches, len_t, loss) in lines["lbox"])


@pytest.mark.parametrize("stage", ["val", "detect", "hub", "serve"])
def test_a_pasted_nms_line_is_used_everywhere(lines, stage):
    assert any(where == stage and count > 0 for where, count in lines["nms"])


def test_an_activation_is_that_of_all_convolutions(lines):
    assert lines["activations"][0][1] == ["LeakyReLU"]


def test_defaults_are_those_of_the_edited_lines(lines):
    assert lines["cfg"][0][1] == "tiny.yaml"
    assert lines["weights"][0][1] == ""


def test_a_loop_over_the_detections_of_an_image(lines, data):
    values = [value for _, value in lines["box"]]
    assert {value[0] for value in values} == {path.name for path in Path(images_of(data)).glob("*.jpg")}
    assert all(conf == best for *_, conf, best, _ in values), "the loop ends with the surest"
    assert max(count for *_, count in values) == 3, "Soft-NMS above leaves three"
    blue, green, red = lines["middle"][0][1]
    assert (blue > 200, green < 50, red > 200) == (True, True, True), "what is drawn on im0 is saved"
    assert lines["rows"][0][1] == 2, "what is left of det is saved"


def test_a_figure_of_the_evaluation(lines):
    assert sum("F1 is 0." in line or "F1 is 1." in line for line in lines["log"]) == 1


# Functions and a class ------------------------------------------------------------------------------------------------

LOSS_CLASS = """
class ComputeLoss:
    def __init__(self, model, autobalance=False):
        h = model.hyp
        device = next(model.parameters()).device
        self.BCEcls = nn.BCEWithLogitsLoss(pos_weight=torch.tensor([h["cls_pw"]], device=device))
        self.BCEobj = nn.BCEWithLogitsLoss(pos_weight=torch.tensor([h["obj_pw"]], device=device))
        self.cp, self.cn = smooth_BCE(eps=h.get("label_smoothing", 0.0))
        det = model.model[-1]
        self.balance = {3: [4.0, 1.0, 0.4]}.get(det.nl, [4.0, 1.0, 0.25, 0.06, 0.02])
        self.hyp, self.gr = h, 1.0
        for k in "na", "nc", "nl", "anchors":
            setattr(self, k, getattr(det, k))

    def __call__(self, p, targets):
        from utils.metrics import note
        device = targets.device
        lcls, lbox, lobj = (torch.zeros(1, device=device) for _ in range(3))
        for i, pi in enumerate(p):
            lobj += self.BCEobj(pi[..., 4].float(), torch.zeros_like(pi[..., 4]).float()) * self.balance[i]
            lbox += 0 * pi.sum()
        lobj *= self.hyp["obj"]
        note("class", [list(targets.shape), self.nl])
        return (lbox + lobj + lcls) * p[0].shape[0], torch.cat((lbox, lobj, lcls)).detach()
"""
NMS = """
def non_max_suppression(prediction, conf_thres=0.25, iou_thres=0.45, classes=None, agnostic=False, multi_label=False,
                        labels=(), max_det=300):
    from utils.metrics import note
    nc = prediction.shape[2] - 5
    t = time.time()
    output = [torch.zeros((0, 6), device=prediction.device)] * prediction.shape[0]
    for xi, x in enumerate(prediction):
        x = x[x[..., 4] > conf_thres]
        x[:, 5:] *= x[:, 4:5]
        box = xywh2xyxy(x[:, :4])
        conf, j = x[:, 5:].max(1, keepdim=True)
        x = torch.cat((box, conf, j.float()), 1)[conf.view(-1) > conf_thres]
        c = x[:, 5:6] * (0 if agnostic else 7680)
        i = torchvision.ops.nms(x[:, :4] + c, x[:, 4], iou_thres)[:max_det]
        output[xi] = x[i]
        if time.time() - t > 60:
            LOGGER.warning("slow")
    note("nms", nc)
    return output
"""
STOPPER = """
class EarlyStopping:
    def __init__(self, patience=30):
        self.best_fitness, self.best_epoch, self.patience = 0.0, 0, patience

    def __call__(self, epoch, fitness):
        from utils.metrics import note
        note("stopper", epoch)
        if fitness >= self.best_fitness:
            self.best_epoch, self.best_fitness = epoch, fitness
        return epoch - self.best_epoch >= self.patience
"""
AUGMENTATIONS = """
class Albumentations:
    def __init__(self):
        self.transform = None

    def __call__(self, im, labels, p=1.0):
        from utils.metrics import note
        note("albumentations", [list(im.shape), labels.shape[1], bool((labels[:, 1:] <= 1).all())])
        im[:8] = 255
        return im, labels

def random_perspective(im, targets=(), segments=(), degrees=10, translate=.1, scale=.1, shear=10, perspective=0.0,
                       border=(0, 0)):
    from utils.metrics import note
    note("perspective", [list(im.shape), border])
    height, width = im.shape[0] + border[0] * 2, im.shape[1] + border[1] * 2
    targets[:, 1:] = targets[:, 1:] * (height / im.shape[0])
    return cv2.resize(im, (width, height)), targets

def copy_paste(im, labels, segments, p=0.5):
    return im, labels, segments

def mixup(im, labels, im2, labels2):
    from utils.metrics import note
    note("mixup", list(im2.shape))
    return im, labels

def augment_hsv(im, hgain=0.5, sgain=0.5, vgain=0.5):
    from utils.metrics import note
    note("hsv", float(im[:8].min()))
    im[:] = 255 - im
"""
ANCHORS = """
def check_anchors(dataset, model, thr=4.0, imgsz=640):
    from utils.metrics import note
    m = model.module.model[-1] if hasattr(model, "module") else model.model[-1]
    m.anchors[:] = m.anchors * 2
    note("anchors", [len(dataset.labels), dataset.shapes.shape[1]])
"""
DRAWING = """
class Annotator:
    def __init__(self, im, line_width=None, font_size=None, font="Arial.ttf", pil=False, example="abc"):
        self.im = im

    def box_label(self, box, label="", color=(128, 128, 128), txt_color=(255, 255, 255)):
        from utils.metrics import note
        note("drawn", label)

    def result(self):
        return np.asarray(self.im)
"""
ROWS = """
def parse_model(d, ch):
    from utils.metrics import note
    layers, save = [], []
    for i, (f, n, m, args) in enumerate(d["backbone"] + d["head"]):
        m = globals()[m]
        if m is Detect:
            args = [d["nc"], d["anchors"], [ch[x] for x in f]]
        else:
            c2 = make_divisible(args[0] * d["width_multiple"], 8)
            args = [ch[f], c2, *args[1:]]
        layer = m(*args)
        layer.i, layer.f, layer.type, layer.np = i, f, m.__name__, sum(p.numel() for p in layer.parameters())
        save.extend(x % i for x in ([f] if isinstance(f, int) else f) if x != -1)
        layers.append(layer)
        ch = [c2] if i == 0 else [*ch, c2]
    note("parsed", len(layers))
    return nn.Sequential(*layers), sorted(save)
"""
FUSE = """
def fuse(self):
    from utils.metrics import note
    note("fused", 1)
    for m in self.model.modules():
        if isinstance(m, (Conv, DWConv)) and hasattr(m, "bn"):
            m.conv = fuse_conv_and_bn(m.conv, m.bn)
            delattr(m, "bn")
            m.forward = m.forward_fuse
    return self

Model.fuse = fuse
"""
FITNESS = """
def fitness(x):
    note("fitness", list(x.shape))
    w = [0.0, 0.0, 0.9, 0.1]
    return (x[:, :4] * w).sum(1)
"""


@pytest.fixture(scope="module")
def functions(tmp_path_factory, data):
    """What the copy noted in which functions and a class were pasted."""
    pytest.importorskip("torchvision")
    folder = edited_copy(tmp_path_factory.mktemp("functions"))
    paste(folder / "utils" / "loss.py", LOSS_CLASS)
    paste(folder / "utils" / "general.py", NMS)
    paste(folder / "utils" / "metrics.py", FITNESS)
    paste(folder / "utils" / "torch_utils.py", STOPPER)
    paste(folder / "utils" / "augmentations.py", AUGMENTATIONS)
    paste(folder / "utils" / "autoanchor.py", ANCHORS)
    paste(folder / "utils" / "plots.py", DRAWING)
    change(folder / "models" / "yolo.py", "\n# Script ---", f"\n{ROWS}\n{FUSE}\n# Script ---")
    change(folder / "data/hyps/hyp.scratch-low.yaml", r"mixup: 0\.0", "mixup: 1.0")
    change(folder / "train.py", r'"--cfg", default=""', '"--cfg", default=ROOT / "models/tiny.yaml"')
    return run(folder, data, f"{TRAIN}, weights='', amp='off'")


def test_a_pasted_loss_class_trains(functions):
    shape, levels = functions["class"][0][1]
    assert (shape[1], levels) == (6, 2)
    assert functions["cfg"][0][1].endswith("models/tiny.yaml"), "a default may be a path"


@pytest.mark.parametrize("stage", ["train", "val", "detect", "hub", "serve"])
def test_a_pasted_nms_function_is_used_everywhere(functions, stage):
    assert any(where == stage and nc == 10 for where, nc in functions["nms"])


def test_a_pasted_fitness_chooses_the_best_epoch(functions):
    assert all(shape == [1, 4] for _, shape in functions["fitness"])


def test_a_pasted_stopper_and_a_pasted_check_of_anchors(functions):
    assert [value for _, value in functions["stopper"]] == [0]
    assert functions["anchors"][0][1] == [12, 2]


def test_pasted_augmentations_make_the_samples(functions):
    """The order is v6.1's: warp and mixup of painted images, Albumentations with shares, colours in place."""
    warps = [value for _, value in functions["perspective"]]
    assert warps
    assert all(value == [[128, 128, 3], [-32, -32]] for value in warps)
    assert {tuple(value) for _, value in functions["mixup"]} == {(64, 64, 3)}
    assert all(value == [[64, 64, 3], 5, True] for _, value in functions["albumentations"])
    assert {value for _, value in functions["hsv"]} == {255.0}
    assert len(functions["hsv"]) == len(functions["albumentations"]) == 12


def test_pasted_drawing_parsing_and_fusing(functions):
    assert any(stage == "detect" for stage, _ in functions["drawn"])
    assert {value for _, value in functions["parsed"]} == {6}
    assert {stage for stage, _ in functions["fused"]} >= {"train", "val", "detect"}


# In this process ------------------------------------------------------------------------------------------------------


class Gate(nn.Module):
    """A user's block whose parameters are neither of a convolution nor of a norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))
        self.mixing = nn.Parameter(torch.eye(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return torch.einsum("bchw,cd->bdhw", x, self.mixing) * self.scale[:, None, None]


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_any_parameter_is_trained(name):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), Gate(4), nn.BatchNorm2d(4))
    hyp = replace(Hyp.from_yaml("hyp.scratch-low.yaml"), lr0=0.1)
    optimizer = build_optimizer(model, name, hyp, 64)
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    model(torch.rand(2, 3, 4, 4)).square().sum().backward()
    optimizer.step()
    assert not [key for key, value in model.named_parameters() if torch.equal(value, before[key])]


@pytest.mark.parametrize("script", ["train", "val", "detect", "export"])
def test_each_flag_has_a_line_with_its_default(script):
    """What `--help` shows is what the script's own text says, so that a default can be changed there."""
    text = (ROOT / f"{script}.py").read_text(encoding="utf-8")
    flags = re.findall(r'\.add_argument\(\s*"(--[\w-]+)"', text)
    done = subprocess.run(
        [sys.executable, f"{script}.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    shown = re.findall(r"^  (?:-h, )?(--[\w-]+)", done.stdout, re.MULTILINE)
    hidden = {"--local_rank"}
    assert set(shown) - {"--help"} == set(flags) - hidden
    assert " ".join(done.stdout.split()).count("(default: ") == len(set(flags) - hidden)


def test_a_new_flag_is_said_to_need_a_field(capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument("--my-flag", default=1)
    with pytest.raises(SystemExit):
        read_options(ReportOptions, parser, [])
    assert re.search("--my-flag .*my_flag.* ReportOptions in tools/report.py", capsys.readouterr().err)
