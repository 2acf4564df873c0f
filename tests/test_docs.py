"""The pages: scripts take their commands, links lead somewhere, the site builds, the tutorial runs."""

import importlib
import json
import re
import shlex
from pathlib import Path

import pytest

from utils.general import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SCRIPTS = {"train.py", "val.py", "detect.py", "export.py"}
TOOLS = {"ablate", "check", "convert", "gates", "insert", "place", "prune", "report", "serve", "split"}
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")
PLACEHOLDERS = ("<", "...")  # a command with a gap to fill in is none to type


def commands_of(page: Path) -> list[str]:
    """The lines of a page's bash blocks that start a script, remarks taken off, continued lines joined."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`(python (?:-m tools\.)?[^`]*)`", text)  # in a sentence
    return [line for line in lines if not any(gap in line for gap in PLACEHOLDERS)]


def words_of(command: str) -> list[str]:
    """The words from the script on, as `train.py --epochs 3` or `tools.ablate --config x`; empty for other programs."""
    for part in re.split(r"&&|\|", command):
        words = shlex.split(part, comments=True)
        for i, word in enumerate(words):
            if word in SCRIPTS:
                return words[i:]
            if word == "-m" and i + 1 < len(words) and words[i + 1].removeprefix("tools.") in TOOLS:
                return words[i + 1 :]
    return []


CASES = [(page, command) for page in PAGES for command in commands_of(page) if words_of(command)]


@pytest.mark.parametrize(("page", "command"), CASES, ids=[f"{page.stem}-{i}" for i, (page, _) in enumerate(CASES)])
def test_commands_are_taken(page, command):
    script, *arguments = words_of(command)
    if script in SCRIPTS:
        module = importlib.import_module(script.removesuffix(".py"))
    else:
        package = ROOT.joinpath(*script.split("."))
        module = importlib.import_module(f"{script}.cli" if package.is_dir() else script)
    if "--help" in arguments or (not arguments and script != "train.py"):
        return  # or the name of a tool in a sentence
    module.parse_opt(arguments)


def test_there_are_commands():
    assert len(CASES) > 40
    assert {words_of(command)[0] for _, command in CASES} >= SCRIPTS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for target, _ in LINK.findall(page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target


def test_every_page_is_in_the_site():
    listed = set(re.findall(r"^  - (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))
    assert listed == {page.name for page in (ROOT / "docs").glob("*.md")}


def test_the_site_builds(tmp_path):
    """Strictly: a link that leads nowhere is an error."""
    pytest.importorskip("material")
    mkdocs = pytest.importorskip("mkdocs.commands.build")
    config = importlib.import_module("mkdocs.config").load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path))
    mkdocs.build(config)
    assert (tmp_path / "index.html").is_file()


def test_the_tutorial_runs(data, tmp_path, monkeypatch):
    """At a tiny size and on the tests' set: every cell, in a kernel of its own."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(ROOT / "tutorial.ipynb", as_version=4)
    nbformat.validate(notebook)
    changes = {
        "EPOCHS, IMGSZ, RUNS = 8, 160": f'EPOCHS, IMGSZ, RUNS = 1, 64, "{tmp_path}"  #',
        '"shapes.yaml"': f'"{data}"',
        '"epochs": EPOCHS,': '"epochs": EPOCHS, "batch_size": 6, "workers": 0,',
    }
    replaced = dict.fromkeys(changes, 0)
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        for old, new in changes.items():
            replaced[old] += cell.source.count(old)
            cell.source = cell.source.replace(old, new)
    assert all(replaced.values())
    nbclient.NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(ROOT)}}).execute()
    outputs = json.dumps(notebook.cells)
    assert "mAP@.5:.95" in outputs
    assert (tmp_path / "nam" / "weights" / "best.torchscript").is_file()
