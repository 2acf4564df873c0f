"""Addresses: what is one, what is shown of it, and that of a server's network."""

import pytest

from utils.files.addresses import ModelAddress, is_url, shown, without_credentials


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("rtsp://user:pass@host:554/cam", "rtsp://host:554/cam"),
        ("rtsp://user:p@ss@host/cam", "rtsp://host/cam"),
        ("https://host/a.m3u8?token=secret", "https://host/a.m3u8?..."),
        ("http://host/cam#secret", "http://host/cam"),
        (" RTSP://user:secret@Host/cam", "rtsp://Host/cam"),
        ("rtsp://user:se/cret@host/cam", "rtsp://...@host/cam"),
        ("rtsp://user:se#cret@host/cam", "rtsp://..."),
        ("rtsp://user:se?cret@host/cam", "rtsp://...?..."),
        ("rtsp://user:se[cret@host/cam", "rtsp://host/cam"),
        ("rtsp://user:se\u2100ret@host/cam", "rtsp://host/cam"),
        ("rtsp://[::1]:554/cam", "rtsp://[::1]:554/cam"),
        ("http://host:80/@me/live", "http://...@me/live"),
        ("http://host/@me/live", "http://host/@me/live"),
        ("rtsp://host/cam", "rtsp://host/cam"),
        ("0", "0"),
        ("a/b@c.jpg", "a/b@c.jpg"),
    ],
)
def test_without_credentials(address, expected):
    assert without_credentials(address) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("rtsp://h", True), ("HTTP://h", True), ("C:/a", False), ("a://", True), ("0", False)]
)
def test_is_url(text, expected):
    assert is_url(text) == expected


def test_no_option_shows_a_password():
    options = {"weights": ["http://me:secret@host/net", "a.pt"], "source": " rtsp://me:secret@host/cam", "imgsz": [640]}
    expected = {"weights": ["http://host/net", "a.pt"], "source": "rtsp://host/cam", "imgsz": [640]}
    assert shown(options) == expected
    assert shown({"data": " a.yaml", "conf": 0.25, "classes": None}) == {
        "data": " a.yaml",
        "conf": 0.25,
        "classes": None,
    }


@pytest.mark.parametrize(
    ("url", "text", "parts"),
    [
        ("http://host:8000/net", "http://host:8000/net", ("", "net", "")),
        ("HTTPS://host/net/", "https://host/net", ("", "net", "")),
        ("http://host/v2/models/net", "http://host/net", ("", "net", "")),
        ("http://host/v2/models/net/versions/3", "http://host/net/versions/3", ("", "net", "3")),
        ("http://host/net/versions/3", "http://host/net/versions/3", ("", "net", "3")),
        ("http://host/a/b/v2/models/net", "http://host/a/b/net", ("/a/b", "net", "")),
        ("http://host/my net", "http://host/my%20net", ("", "my%20net", "")),
        ("http://host/a%2Fb", "http://host/a%2Fb", ("", "a%2Fb", "")),
        ("http://[::1]:8000/net", "http://[::1]:8000/net", ("", "net", "")),
        ("http://b\u00fccher.example/net", "http://xn--bcher-kva.example/net", ("", "net", "")),
    ],
)
def test_address_of_a_network(url, text, parts):
    address = ModelAddress.parse(url)
    assert (str(address), (address.prefix, address.name, address.version)) == (text, parts)
    assert address.stem == address.name
    assert ModelAddress.parse(text) == address


def test_a_password_is_kept_and_not_shown():
    address = ModelAddress.parse("http://me:se%2Fcret@host:80/net")
    assert address.credentials == "me:se/cret"
    assert "cret" not in f"{address} {address!r}"


@pytest.mark.parametrize(
    "url",
    [
        "ftp://me:secret@host/net",
        "http://me:secret@host",
        "http://me:secret@host/",
        "http://me:secret@host/a?secret",
        "http://me:secret@host/a#secret",
        "http://me:secret@host:port/a",
        "http:///net",
        "http://me:secret@/net",
    ],
)
def test_what_is_no_address_of_a_network(url):
    with pytest.raises(ValueError, match=r"not (an|the) address") as caught:
        ModelAddress.parse(url)
    assert "secret" not in str(caught.value)
