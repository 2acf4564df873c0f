"""Effects from runs.csv: pairs by seed, pooling against a worked example, tables and figure."""

import csv

import cv2
import numpy as np
import pytest
import scipy.stats

from tools.ablate.effects import common_pairs, effects_of, plot_effects, pool, read_effects, table_of, tables_of
from tools.ablate.stats import Paired, compare_paired

BASE = [0.50, 0.52, 0.51, 0.53, 0.49]
NAM = [0.51, 0.53, 0.53, 0.53, 0.50]


def records(**values):
    return [
        {"variant": name, "seed": seed, "map": value}
        for name, column in values.items()
        for seed, value in enumerate(column)
    ]


def pair_of(mean, variance):
    return Paired(10, mean, (variance * 10) ** 0.5, 0, 0, 1, 1, 1)


def test_effects_are_of_common_seeds():
    plain, nam, other = effects_of(records(plain=BASE, NAM=NAM, other=[0.5, 0.6]))
    assert (plain.variant, plain.seeds, plain.paired) == ("plain", 5, None)
    assert nam.paired == compare_paired(NAM, BASE)
    assert nam.corrected_p == pytest.approx(scipy.stats.ttest_rel(NAM, BASE).pvalue)
    assert (other.seeds, other.paired) == (2, None)


def test_no_baseline():
    with pytest.raises(ValueError, match="baseline plain; there are NAM"):
        effects_of(records(NAM=NAM))


def test_pooling_by_hand():
    """Effects 1 and 3 of variance 1 each: Q = 2, tau^2 = (2 - 1) / (2 - 2/2) = 1, so each weighs 1/2."""
    found = pool([pair_of(1, 1), pair_of(3, 1)])
    assert (found.mean, found.tau) == pytest.approx((2, 1))
    assert found.high - found.mean == pytest.approx(1.959964, abs=1e-5)


def test_data_sets_that_agree_are_pooled_by_their_precision():
    found = pool([pair_of(1, 1), pair_of(1.2, 0.25)])
    assert found.tau == 0
    assert found.mean == pytest.approx((1 + 4 * 1.2) / 5)
    assert pool([pair_of(1, 4)]).mean == 1
    assert pool([pair_of(1, 0), pair_of(2, 0)]).mean == pytest.approx(1.5)


def test_files_to_tables_and_figure(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        with (tmp_path / f"nam-{name}-runs.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("variant", "seed", "map"))
            for seed in range(5):
                base = rng.normal(0.5, 0.01)
                writer.writerows((("plain", seed, base), ("NAM", seed, base + 0.01 + rng.normal(0, 0.002))))
    found = read_effects([tmp_path / f"nam-{name}-runs.csv" for name in ("a", "b")], "plain")
    assert list(found) == ["nam-a", "nam-b"]
    assert len(common_pairs(found)["NAM"]) == 2
    text = tables_of(found)
    assert table_of(found["nam-a"]) in text
    assert text.count("| NAM | ") == 3
    plot_effects(found, tmp_path / "effects.png")
    assert cv2.imread(str(tmp_path / "effects.png")).std() > 0
    with pytest.raises(ValueError, match=r"nam-a-runs.csv: no run of the baseline SE"):
        read_effects([tmp_path / "nam-a-runs.csv"], "SE")
