"""Rows put into a yaml's text: what its author wrote stays, in any layout."""

import pytest
import yaml

from models.edit.insertion import insert, parse_insertions
from models.edit.text import flow_text, with_rows

HEAD = "nc: 2\ndepth_multiple: 1.0\nwidth_multiple: 1.0\nanchors: 1\n"
V61 = (
    HEAD
    + """
# a backbone
backbone:
  # [from, number, module, args]
  [[-1, 1, Conv, [8, 6, 2, 2]],  # 0-P1/2
   [-1, 1, Conv, [16, 3, 2]],  # 1-P2/4
   [-1, 3, C3, [16]],
  ]

# a head
head:
  [[-1, 1, Conv, [16, 1, 1]],
   [[-1, 2], 1, Concat, [1]],  # cat backbone
   [-1, 1, C3, [16]],  # 5 (P2/4)

   [[2, 5], 1, Detect, [nc, anchors]],  # Detect(P2, P2)
  ]
"""
)


def put(text, *specs):
    return with_rows(text, insert(yaml.safe_load(text), parse_insertions(specs), "x.yaml").nodes, "x.yaml")


def test_the_layout_of_v61():
    expected = V61.replace(
        "   [-1, 1, Conv, [16, 3, 2]],", "   [-1, 1, NAMAttention, []],    # 1\n   [-1, 1, Conv, [16, 3, 2]],"
    )
    expected = expected.replace("# 1-P2/4", "# 2-P2/4").replace("[[-1, 2], 1, Con", "[[-1, 3], 1, Con")
    expected = expected.replace("# 5 (P2/4)\n", "# 6 (P2/4)\n   [-1, 1, NAMAttention, []],  # 7\n").replace(
        "[[2, 5]", "[[3, 7]"
    )
    assert put(V61, "NAMAttention@0,5") == expected


def test_in_front_of_a_section_and_at_its_end():
    new = put(V61, "NAMAttention@before:0,backbone,before:3")
    assert "  [[-1, 1, NAMAttention, []],    # 0\n   [-1, 1, Conv, [8, 6, 2, 2]],  # 1-P1/2\n" in new
    assert "   [-1, 3, C3, [16]],\n   [-1, 1, NAMAttention, []],\n  ]\n" in new
    assert "head:\n  [[-1, 1, NAMAttention, []],\n   [-1, 1, Conv, [16, 1, 1]],\n" in new


@pytest.mark.parametrize("end", ["  # 5 (P2/4)\n  ]\n", "]\n", "  ]", ",]\n", "  # 5\n\n  # done\n]\n"])
def test_a_section_without_a_last_comma(end):
    text = HEAD + "head:\n  [[[2, 5], 1, Detect, [nc, anchors]]]\n"
    backbone = V61[V61.index("backbone:") : V61.index("   [[2, 5]")].replace("  ]\n\n# a head\nhead:\n  [[", "   [")
    text += backbone.replace("],  # 5 (P2/4)\n\n", "]") + end
    new = put(text, "NAMAttention@5")
    assert yaml.safe_load(new)["backbone"][-1] == [-1, 1, "NAMAttention", []]
    assert new.replace(" ", "").replace(",\n[-1,1,NAMAttention,[]]", "").replace("\n[-1,1,NAMAttention,[]]", "").count(
        "\n"
    ) in (text.count("\n"), text.count("\n") - 1)
    assert [line.partition("#")[2] for line in new.splitlines() if "#" in line and "Conv" in line]


def test_line_ends_and_a_missing_last_one_stay():
    block = HEAD + "backbone:\n  - [-1, 1, Conv, [8, 6, 2, 2]]\nhead:\n  - [[0], 1, Detect, [nc, anchors]]"
    assert put(block, "NAMAttention@0") == block.replace("2]]\n", "2]]\n  - [-1, 1, NAMAttention, []]\n").replace(
        "[[0]", "[[1]"
    )
    windows = V61.replace("\n", "\r\n")
    assert put(windows, "NAMAttention@0,5,before:3") == put(V61, "NAMAttention@0,5,before:3").replace("\n", "\r\n")


def test_a_from_that_grows_keeps_the_remark_in_its_column():
    rows = "".join(f"  - [-1, 1, Conv, [8, 3]]          # {i}\n" for i in range(9))
    rows += "  - [-1, 1, SPPF, [8, 5]]          # 9\n"
    text = f"{HEAD}backbone:\n{rows}head:\n  - [[8, 9], 1, Detect, [nc, anchors]]  # 10\n"
    new = put(text, "NAMAttention@9,8")
    assert "  - [[9, 11], 1, Detect, [nc, anchors]]  # 12\n" in new
    assert "  - [-1, 1, NAMAttention, []]      # 9\n  - [-1, 1, SPPF, [8, 5]]          # 10\n" in new


def test_names_need_no_numbers():
    text = V61.replace("[16]],  # 5", "[16], p2],  # 5").replace("C3, [16]],\n", "C3, [16], name: b2],\n")
    text = text.replace("[[-1, 2], 1, Con", "[[-1, b2], 1, Con").replace("[[2, 5]", "[[b2, p2]")
    content = yaml.safe_load(text)
    assert content["backbone"][2][4] == {"name": "b2"}
    new = put(text, "NAMAttention@1")
    assert "[[-1, b2], 1, Concat" in new
    assert "[[b2, p2], 1, Detect" in new
    new = put(text, "NAMAttention@p2,b2")
    assert "   [-1, 1, NAMAttention, [], p2-NAMAttention],  # 7\n" in new
    assert "[[-1, b2-NAMAttention], 1, Concat" in new
    assert "[[b2-NAMAttention, p2-NAMAttention], 1, Detect" in new
    assert "[b2-NAMAttention, 1, NAMAttention, [], b2-NAMAttention-NAMAttention]" in put(new, "NAMAttention@detect")
    assert "p2-NAMAttention1]" in put(put(text, "NAMAttention@p2"), "NAMAttention@before:p2-NAMAttention")


def test_odd_layouts():
    backbone = "backbone: [[-1, 1, Conv, [8, 6, 2, 2]], [-1, 1, Conv, [8]]]\n"
    text = f"{HEAD}{backbone}head:\n- - [1]\n  - 1\n  - Detect\n  - [nc]  # all\n"
    new = put(text, "NAMAttention@0")
    assert "[[-1, 1, Conv, [8, 6, 2, 2]],\n           [-1, 1, NAMAttention, []], [-1, 1, Conv" in new
    assert "\n- - [2]\n  - 1\n" in new
    assert "head:\n- [1, 1, NAMAttention, []]\n- - [2]\n  - 1\n  - Detect\n  - [nc]  # all\n" in put(
        text, "NAMAttention@detect"
    )


def test_a_text_that_is_not_the_contents_is_refused():
    nodes = insert(yaml.safe_load(V61), parse_insertions(["NAMAttention@0"])).nodes
    with pytest.raises(ValueError, match=r"x\.yaml: its layout cannot be kept"):
        with_rows(V61.replace("[16, 3, 2]", "[24, 3, 2]"), nodes, "x.yaml")


@pytest.mark.parametrize(
    "value",
    [
        1,
        -1,
        1.5,
        1e-5,
        True,
        False,
        None,
        "None",
        "nearest",
        "nn.SiLU",
        "1",
        "yes",
        "a b",
        "x: y",
        "#",
        "",
        "é",
        [[1], []],
    ],
)
def test_values_read_as_they_were(value):
    assert yaml.safe_load(f"[{flow_text([value, value])}]") == [[value, value]]
