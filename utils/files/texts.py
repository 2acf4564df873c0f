"""Text files as their writers saved them: UTF-8, or UTF-16 as Windows' programs have it."""

import codecs

MARKS = {  # the longer ones first: that of UTF-32 begins as that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}
MANY_NULLS = 0.2  # share of the bytes: Latin text in UTF-16 has a null in each character


def text_encoding(data: bytes) -> str:
    """Return the encoding of a text by its mark, or of UTF-16 without one by its null bytes; else UTF-8."""
    for mark, encoding in MARKS.items():
        if data.startswith(mark):
            return encoding
    if data.count(0) > MANY_NULLS * len(data) and len(data) % 2 == 0:
        return "utf-16-le" if data[1::2].count(0) > data[::2].count(0) else "utf-16-be"
    return "utf-8"


def decode_text(data: bytes, name: str) -> str:
    """Decode the bytes of a text file; ValueError that names the file, the line and the remedy."""
    encoding = text_encoding(data)
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        kind = "UTF-8" if encoding.startswith("utf-8") else encoding.upper()
        raise ValueError(
            f"{name}, line {line}: not {kind} text (byte {error.start}); save the file as UTF-8"
        ) from error
