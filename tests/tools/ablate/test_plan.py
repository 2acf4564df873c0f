"""The yaml of an ablation: the runs that come of it, and each way to get it wrong."""

import pytest
import yaml

from tools.ablate.plan import load_plan, replace_blocks
from train import parse_opt
from utils.files.yamls import read_yaml
from utils.general import ROOT

GOOD = {
    "data": "shapes.yaml",
    "seeds": 2,
    "baseline": "plain",
    "train": {"weights": "", "imgsz": 64, "noplots": True},
    "variants": {
        "plain": {"cfg": "yolov5n.yaml"},
        "no gate": {"cfg": "yolov5n-NAM.yaml", "replace": {"NAMAttention": "IdentityControl"}, "epochs": 3},
        "faster": {"cfg": "yolov5n-NAM.yaml", "hyp": {"lr0": 0.02}},
    },
}


@pytest.fixture
def plan_of(tmp_path):
    """The plan of GOOD with some keys changed; None takes a key away."""

    def call(**changes):
        content = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
        (tmp_path / "plan.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        return load_plan(str(tmp_path / "plan.yaml"), tmp_path / "out")

    return call


def test_runs_come_seed_by_seed_with_options_that_train_takes(plan_of, tmp_path):
    plan = plan_of()
    keys = [run.key for run in plan.runs]
    assert keys == ["plain-s0", "no_gate-s0", "faster-s0", "plain-s1", "no_gate-s1", "faster-s1"]
    opt = parse_opt(list(plan.runs[4].arguments))
    assert (opt.seed, opt.epochs, opt.imgsz, opt.weights, opt.noplots, opt.exist_ok) == (1, 3, 64, "", True, True)
    assert (opt.project, opt.name) == (str(tmp_path / "out" / "runs"), "no_gate-s1")
    assert read_yaml(opt.cfg)["head"][14] == [-1, 1, "IdentityControl", [1024]]
    hyp = read_yaml(parse_opt(list(plan.runs[2].arguments)).hyp)
    assert hyp == read_yaml(ROOT / "data" / "hyps" / "hyp.scratch-low.yaml") | {"lr0": 0.02}
    assert plan.seeds == (0, 1)
    assert plan.split == "val"


def test_the_digest_knows_options_and_files(plan_of):
    first, again = plan_of().runs, plan_of(seeds=[0, 1, 7]).runs
    assert [run.digest for run in first] == [run.digest for run in again[:6]]
    other = plan_of(train={"weights": "", "imgsz": 96}).runs
    assert not {run.digest for run in first} & {run.digest for run in other}
    variants = {**GOOD["variants"], "faster": {"cfg": "yolov5n-NAM.yaml", "hyp": {"lr0": 0.03}}}
    changed = plan_of(variants=variants).runs
    assert [a.digest == b.digest for a, b in zip(first, changed, strict=True)] == [True, True, False] * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": None}, "seeds is missing"),
        ({"colour": 1}, "unknown key colour"),
        ({"seeds": [0, 0]}, "seeds"),
        ({"seeds": []}, "seeds"),
        ({"seeds": 10**9}, "seeds 1000000000"),
        ({"seeds": [-1]}, "from 0 on"),
        ({"baseline": "NAM"}, "with the baseline NAM among them"),
        ({"variants": {"plain": {}}}, "two or more"),
        ({"variants": {"plain": {}, "Plain": {}}}, "same name in the file system"),
        ({"variants": {"plain": {}, "x": {"project": "y"}}}, "x: project"),
        ({"variants": {"plain": {}, "x": {"epoch": 3}}}, "x: no option is called epoch; did you mean epochs"),
        ({"variants": {"plain": {}, "x": {"replace": {"A": "B"}}}}, "replace needs a cfg"),
        ({"variants": {"plain": {}, "x": {"cfg": "yolov5n.yaml", "replace": {"A": "B"}}}}, "block A"),
        ({"variants": {"plain": {}, "x": {"hyp": {"lr9": 1}}}}, "unknown hyper-parameter lr9"),
        ({"variants": {"plain": {}, "x": 3}}, "must hold"),
        ({"split": "tests"}, "must be one of train, val, test"),
        ({"alpha": 5.0}, "between 0 and 1"),
        ({"bootstrap": -1}, "0 for none"),
        ({"looks": [3, 4]}, "looks"),
        ({"looks": [1, 2]}, "from 3 on"),
    ],
)
def test_mistakes_are_named(plan_of, changes, message):
    with pytest.raises(ValueError, match=message):
        plan_of(**changes)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_plan(str(tmp_path / "none.yaml"), tmp_path)


def test_replaced_blocks_keep_their_channels_alone():
    content = replace_blocks("yolov5n.yaml", {"SPPF": "SPP"})
    assert content["backbone"][9] == [-1, 1, "SPP", [1024]]


def test_the_example_is_a_plan(tmp_path):
    plan = load_plan(str(ROOT / "data" / "ablations" / "nam-shapes.yaml"), tmp_path)
    assert len(plan.runs) == 66
    assert plan.variants[:3] == ("plain", "NAM", "NAM identity-start")
    assert plan.variants[-4:] == ("identity", "half", "SiLU", "convolution")


def test_the_digest_is_of_contents_and_not_of_places(plan_of, tmp_path):
    (tmp_path / "a").mkdir()
    copy = tmp_path / "a" / "copy.yaml"
    copy.write_text("# the same network\n" + (ROOT / "models" / "yolov5n.yaml").read_text())
    own = {**GOOD["variants"], "plain": {"cfg": str(copy)}}
    first, moved = plan_of().runs, plan_of(variants=own).runs
    assert [run.digest for run in first] == [run.digest for run in moved]
    copy.write_text(copy.read_text().replace("depth_multiple: 0.33", "depth_multiple: 0.66"))
    assert plan_of(variants=own).runs[0].digest != first[0].digest


def test_known_names_a_csv(plan_of, tmp_path):
    assert plan_of().known is None
    assert plan_of(known="docs/nam-shapes-runs.csv").known == ROOT / "docs" / "nam-shapes-runs.csv"
    with pytest.raises(ValueError, match="known 3"):
        plan_of(known=3)
