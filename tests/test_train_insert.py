"""Training with --insert and --require-transfer."""

import logging

import pytest

import train
from utils.files.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

BARE = {"imgsz": 64, "batch_size": 4, "workers": 0, "device": "cpu", "noplots": True, "noval": True}


@pytest.fixture
def fit(data, tmp_path):
    """`train.run` on the tiny set for an epoch, with results in tmp_path/runs."""

    def call(**options):
        return train.run(**{**BARE, "data": data, "project": str(tmp_path / "runs"), "epochs": 1, **options})

    return call


@pytest.fixture(scope="module")
def plain(small_weights, tmp_path_factory):
    """The small network's checkpoint, its classes called as those of the tiny set are counted."""
    source = load_checkpoint(small_weights)
    path = tmp_path_factory.mktemp("plain") / "plain.pt"
    save_checkpoint(path, Checkpoint(source.yaml, source.names, source.state))
    return path


def test_a_block_goes_into_the_checkpoints_architecture_and_all_weights_follow(fit, plain, caplog):
    total = len(load_checkpoint(plain).state)
    with caplog.at_level(logging.INFO, "yolov5"):
        folder = fit(weights=str(plain), insert=["NAMAttention@p3,nn.Identity@detect"], require_transfer=0.5, epochs=2)
    stored = load_checkpoint(folder / "weights" / "last.pt")
    rows = [*stored.yaml["backbone"], *stored.yaml["head"]]
    assert [row[2] for row in rows].count("NAMAttention") == 2
    assert [row[2] for row in rows[-4:]] == ["nn.Identity"] * 3 + ["Detect"]
    assert rows[-1][0] == [len(rows) - 4, len(rows) - 3, len(rows) - 2]
    assert "4 rows put in" in caplog.text
    assert f"/{total} tensors, 5 tensors are new" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO, "yolov5"):  # a run that goes on has its blocks already
        train.run(resume=str(folder), epochs=3)
    again = load_checkpoint(folder / "weights" / "last.pt")
    assert [*again.yaml["backbone"], *again.yaml["head"]] == rows
    assert "put in" not in caplog.text
    with pytest.raises(ValueError, match=r"--insert .* cannot change"):
        train.run(resume=str(folder), epochs=4, insert=["NAMAttention@p4"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"insert": ["NAMAttention"]}, "--insert NAMAttention: a block and its place"),
        ({"insert": ["NAMAttention@p9"]}, r"yolov5n\.yaml: Detect reads row 17 of stride 8"),
        ({"insert": "NAMAtention@p5"}, "did you mean NAMAttention"),
        ({"require_transfer": 0.95}, "--require-transfer 0.95: there are no weights"),
        ({"require_transfer": 95.0}, "--require-transfer 95.0: a share, from 0 to 1"),
    ],
)
def test_user_errors(fit, options, message):
    with pytest.raises(ValueError, match=message):
        fit(weights="", cfg="yolov5n.yaml", **options)


def test_too_small_a_share_of_the_weights_ends_it(fit, plain, caplog):
    """The set has ten classes and the weights three, so that the head's six tensors are refused."""
    with caplog.at_level(logging.INFO, "yolov5"), pytest.raises(ValueError, match=r"plain\.pt: \d+ of its \d+ tensors"):
        fit(weights=str(plain), insert=["NAMAttention@p3"], require_transfer=0.99)
    assert "refused" in caplog.text


def test_the_flag_is_repeated_or_takes_commas():
    opt = train.parse_opt(["--insert", "NAMAttention@p3,p4", "--insert", "C3[c, False]@backbone"])
    assert opt.insert == ["NAMAttention@p3,p4", "C3[c, False]@backbone"]
    assert opt.given == {"insert"}
    assert train.parse_opt([]).given == frozenset()
    assert train.parse_opt([]).insert == []
