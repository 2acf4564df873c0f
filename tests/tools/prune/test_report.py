"""The rows, the front and the files of tools.prune's report."""

import csv

from tools.prune.report import PrunedRow, front, plot, table, with_front, write_csv

ROWS = [
    PrunedRow("original", 0, 0, "nam", "a.pt", 0.5, 0.8, None, None, 1000, 4.0, 10.0, 12.0),
    PrunedRow("nam-0.2", 0.2, 0.19, "nam", "b.pt", 0.1, 0.2, 0.45, 0.75, 800, 3.0, 9.0, 11.0),
    PrunedRow("nam-0.4", 0.4, 0.4, "nam", "c.pt", 0.0, 0.1, 0.3, 0.6, 600, 3.5, 8.0, 9.0),
]


def test_front():
    assert front([(1.0, 0.5), (2.0, 0.4), (2.0, 0.6), (2.0, 0.6), (3.0, 0.6)]) == [(1.0, 0.5), (2.0, 0.6)]
    assert front([]) == []
    assert [row.is_on_front for row in with_front(ROWS)] == [True, True, False]


def test_table():
    lines = table(with_front(ROWS))
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split()[:3] == ["network", "removed", "parameters"]
    assert lines[2].split() == [
        "nam-0.2",
        "19.0%",
        "800",
        "3.000",
        "9.00",
        "11.00",
        "0.1000",
        "0.4500",
        "0.2000",
        "0.7500",
        "yes",
    ]
    assert lines[1].split()[7] == "-"


def test_files(tmp_path):
    rows = with_front(ROWS)
    write_csv(rows, tmp_path / "pareto.csv")
    plot(rows, tmp_path / "pareto.png")
    with (tmp_path / "pareto.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [row["map_after"] for row in read] == ["", "0.45", "0.3"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pareto.csv", "pareto.png"]
    assert (tmp_path / "pareto.png").stat().st_size > 5000
