"""Texts as UTF-8 and as Windows' programs save them."""

import pytest

from utils.files.texts import decode_text

TEXT = "bilder/größe 1.jpg\nbilder/2.jpg\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_each_encoding_that_can_be_known(encoding):
    assert decode_text(TEXT.encode(encoding), "a.txt").removeprefix("\ufeff") == TEXT


def test_marks_of_big_endian():
    assert decode_text(b"\xfe\xff" + TEXT.encode("utf-16-be"), "a.txt") == TEXT


@pytest.mark.parametrize("text", ["", "a", "0 0.5 0.5 1 1\n"])
def test_short_texts(text):
    assert decode_text(text.encode(), "a.txt") == text


def test_another_encoding_is_named_with_file_line_and_remedy():
    with pytest.raises(ValueError, match=r"a\.txt, line 2: not UTF-8.*save the file as UTF-8"):
        decode_text(b"a.jpg\ngr\xf6\xdfe.jpg\n", "a.txt")
