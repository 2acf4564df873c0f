"""Pages: all text is escaped, nothing is fetched, odd names and numbers do no harm."""

import base64

import cv2
import numpy as np
import pytest

from utils.draw import html_page

EVIL = "\"><script>alert('x')</script>&amp;犬"


def test_text_is_escaped_in_cells_lists_titles_and_attributes(tmp_path):
    parts = [
        html_page.section(EVIL, html_page.table((EVIL,), [(EVIL,)]), html_page.lines([EVIL], "problem")),
        html_page.image_tag("QUJD", EVIL),
    ]
    html_page.write_page(tmp_path / "new" / "page.html", EVIL, parts)
    text = (tmp_path / "new" / "page.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert text.count("&quot;&gt;&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;&amp;amp;犬") == 7
    assert "default-src &#x27;none&#x27;" not in text  # the policy itself is markup
    assert "default-src 'none'; img-src data:" in text


def test_a_file_name_of_bytes_that_are_no_text(tmp_path):
    html_page.write_page(
        tmp_path / "page.html", "a", [html_page.escaped(b"\xff.jpg".decode("utf-8", "surrogateescape"))]
    )
    assert "?.jpg" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_nothing_comes_of_nothing():
    assert html_page.table(("a",), []) == ""
    assert html_page.lines([], "note") == ""
    assert html_page.section("a", "", "") == ""


def test_links_lead_to_sections():
    assert f'id="{html_page.anchor("Best & worst")}"' in html_page.section("Best & worst", "x")
    assert html_page.anchor("Best & worst") == "best---worst"


@pytest.mark.parametrize(("value", "text"), [(0.12345, "0.123"), (None, "-"), (float("nan"), "-"), (1, "1.000")])
def test_numbers(value, text):
    assert html_page.number(value) == text


def test_bars_stay_in_their_cell():
    cell = html_page.bars(0.25, 7, -1)
    assert [part.partition("%")[0] for part in cell.split("width:")[1:]] == ["25.0", "100.0", "0.0"]
    assert cell in html_page.table(("a",), [(cell,)])  # markup, so it is not escaped


def test_jpeg_is_the_image():
    image = np.full((40, 60, 3), (10, 120, 200), np.uint8)
    data = np.frombuffer(base64.b64decode(html_page.jpeg(image)), np.uint8)
    np.testing.assert_allclose(cv2.imdecode(data, cv2.IMREAD_COLOR).astype(int), image, atol=3)
