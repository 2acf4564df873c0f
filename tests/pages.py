"""A headless browser without a network, for the tests of pages."""

import re
import shutil
import subprocess
from types import SimpleNamespace

import pytest

from utils.files.images import read_image

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# What elements and styles name to be fetched, sent or linked to.
NAMED = re.compile(r"<[^>]*?\b(?:src|href|srcset|data|action|poster)\s*=\s*[\"']?([^\"'> ]*)|url\(([^)]*)\)|@import(.)")


@pytest.fixture
def open_page(tmp_path):
    """Opens a page: its `dom`, what its `console` said, its `shot` (h, w, 3), what it names that is `outside` of it."""
    if BROWSER is None:
        pytest.skip("needs chromium or google-chrome on the PATH")

    def call(page, width=1200, dark=False):
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"]
        options += ["--host-resolver-rules=MAP * ~NOTFOUND", "--disable-background-networking"]
        options += [f"--window-size={width},900", f"--user-data-dir={tmp_path / 'profile'}"]
        options += [f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
        shot = tmp_path / "shot.png"

        def browse(action):
            command = [BROWSER, *options, action, page.resolve().as_uri()]
            return subprocess.run(command, capture_output=True, timeout=120, check=True, cwd=tmp_path)

        dom = browse("--dump-dom").stdout.decode()
        log = browse(f"--screenshot={shot}").stderr.decode(errors="replace")
        named = ["".join(match) for match in NAMED.findall(page.read_text(encoding="utf-8"))]
        return SimpleNamespace(
            dom=dom,
            console=[line for line in log.splitlines() if "CONSOLE" in line],
            shot=read_image(shot),
            outside=[name for name in named if not name.startswith(("data:image/jpeg;base64,", "#"))],
        )

    return call
