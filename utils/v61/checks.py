"""v6.1's checks and small helpers of utils.general: they look and log, and never install, download or ask a network."""

import contextlib
import importlib.metadata
import inspect
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import cv2
import numpy as np

from utils.data.config import DataConfig
from utils.files.yamls import YAML_SUFFIXES, read_yaml
from utils.general import LOGGER, ROOT, check_file, colorstr
from utils.processes.display import check_display
from utils.torch_utils import time_sync

REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*(.*)")
COMPARISON = re.compile(r"(===|==|>=|<=|!=|~=|>|<)\s*([^\s,;]+)")
SPECIAL = set("|@#!¡·$€%&()=?¿^*;:,¨´><+")  # noqa: RUF001
IS_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
IS_CHINESE = re.compile("[\u4e00-\u9fff]")


# v6.1's constants
FILE = ROOT / "utils" / "general.py"
DATASETS_DIR = ROOT.parent / "datasets"
NUM_THREADS = min(8, max(1, (os.cpu_count() or 1) - 1))
NCOLS = shutil.get_terminal_size().columns  # of a progress bar
VERBOSE = True


# Environment ----------------------------------------------------------------------------------------------------------


def check_requirements(
    requirements: str | Path | Iterable[str] = ROOT / "requirements.txt",
    exclude: Sequence[str] = (),
    install: bool = True,
    cmds: Sequence[str] = (),
) -> bool:
    """Warn of packages that are absent or of another version; return whether none is. Nothing is ever installed.

    requirements: a file, one requirement, or several. install and cmds are v6.1's and change nothing.
    """
    del install, cmds
    missing = []
    for text in requirement_lines(requirements):
        name, _, versions = text.partition(";")[0].partition(" ")
        found = REQUIREMENT.fullmatch(f"{name}{versions}".strip())
        if found is None or found[1] in exclude:
            continue
        try:
            installed = importlib.metadata.version(found[1])
        except importlib.metadata.PackageNotFoundError:
            missing.append(text)
            continue
        if not all(satisfies(installed, sign, version) for sign, version in COMPARISON.findall(found[2])):
            missing.append(f"{text} ({installed} is installed)")
    if missing:
        wanted = " ".join(f'"{text.partition(" (")[0]}"' for text in missing)
        LOGGER.warning(f"{colorstr('requirements:')} {', '.join(missing)} not found; pip install {wanted}")
    return not missing


def requirement_lines(requirements: str | Path | Iterable[str]) -> list[str]:
    """The requirements given, or of a file, without comments and pip's options; a warning if there is no such file."""
    if isinstance(requirements, Path) or (isinstance(requirements, str) and requirements.endswith(".txt")):
        path = Path(requirements)
        if not path.is_file():
            LOGGER.warning(f"{path}: no such file, so no requirement is checked")
            return []
        lines: Iterable[str] = path.read_text(encoding="utf-8").splitlines()
    else:
        lines = [requirements] if isinstance(requirements, str) else requirements
    plain = [str(line).partition("#")[0].strip() for line in lines]
    return [line for line in plain if line and not line.startswith("-")]


def satisfies(installed: str, sign: str, wanted: str) -> bool:
    """Whether a version is as a comparison wants it; `~=` and what is not numbers are taken as at least."""
    found, other = version_numbers(installed), version_numbers(wanted.removesuffix(".*"))
    if sign in {"==", "==="}:
        return found[: len(other)] == other if wanted.endswith(".*") else padded(found, other) == padded(other, found)
    if sign == "!=":
        return padded(found, other) != padded(other, found)
    if sign == ">":
        return padded(found, other) > padded(other, found)
    if sign == "<":
        return padded(found, other) < padded(other, found)
    return (
        padded(found, other) <= padded(other, found) if sign == "<=" else padded(found, other) >= padded(other, found)
    )


def version_numbers(version: str) -> list[int]:
    """The numbers at the start of a version: `2.1.0+cpu` is 2, 1, 0."""
    release = re.match(r"v?(\d+(?:\.\d+)*)", version.strip())
    return [int(part) for part in release[1].split(".")] if release else []


def padded(numbers: Sequence[int], other: Sequence[int]) -> list[int]:
    """The numbers with zeros behind, so that they are as many as the others at least."""
    return [*numbers, *[0] * (len(other) - len(numbers))]


def check_version(
    current: str = "0.0.0",
    minimum: str = "0.0.0",
    name: str = "version ",
    pinned: bool = False,
    hard: bool = False,
    verbose: bool = False,
) -> bool:
    """Whether a version is at least, with `pinned` exactly, another one; with `hard` an AssertionError if it is not."""
    result = satisfies(current, "==" if pinned else ">=", minimum)
    message = f"{name}{minimum} is required, {name}{current} is installed"
    if hard:
        assert result, message
    if verbose and not result:
        LOGGER.warning(message)
    return result


def check_python(minimum: str = "3.7.0") -> None:
    """AssertionError if this Python is older than `minimum`."""
    check_version(".".join(map(str, sys.version_info[:3])), minimum, name="Python ", hard=True)


def check_git_status(repo: str = "", branch: str = "") -> None:
    """Log that nothing is fetched: v6.1 asks the network here whether its repository is up to date."""
    del repo, branch
    LOGGER.info(f"{colorstr('github:')} not asked whether {ROOT.name} is up to date; git fetch tells")


def check_online() -> bool:
    """False: nothing of this repository may use the network, whether there is one or not."""
    return False


def check_imshow(warn: bool = True) -> bool:
    """Whether OpenCV can show a window here; if not, the reason is logged."""
    try:
        check_display()
        cv2.imshow("test", np.zeros((1, 1, 3), np.uint8))
        cv2.waitKey(1)
        cv2.destroyAllWindows()
        cv2.waitKey(1)
    except (ValueError, cv2.error) as error:
        if warn:
            LOGGER.warning(f"no windows can be shown here: {str(error).strip().splitlines()[0]}")
        return False
    return True


def is_colab() -> bool:
    """Whether this is Google Colab."""
    return "google.colab" in sys.modules


def is_docker() -> bool:
    """Whether this process runs in a container of Docker."""
    return Path("/.dockerenv").exists()


def is_pip() -> bool:
    """Whether this repository lies among installed packages."""
    return "site-packages" in Path(__file__).resolve().parts


def is_writeable(dir: str | Path, test: bool = False) -> bool:
    """Whether files can be written into a folder; with `test` by writing one."""
    if not test:
        return os.access(dir, os.W_OK)
    file = Path(dir) / f".{os.getpid()}.tmp"
    try:
        file.touch()
        file.unlink()
    except OSError:
        return False
    return True


def user_config_dir(dir: str = "Ultralytics", env_var: str = "") -> Path:
    """The user's folder for settings of this name; it is not made, and no environment variable is read."""
    del env_var
    folders = {"win32": "AppData/Roaming", "darwin": "Library/Application Support"}
    return Path.home() / folders.get(sys.platform, ".config") / dir


# Texts ----------------------------------------------------------------------------------------------------------------


def is_ascii(s: object = "") -> bool:
    """Whether a text, or that of a list of names, has ASCII characters only."""
    return IS_NOT_ASCII.search(str(s)) is None


def is_chinese(s: object = "人工智能") -> bool:
    """Whether a text has a Chinese character."""
    return IS_CHINESE.search(str(s)) is not None


def emojis(str: str = "") -> str:
    """The text; on Windows without characters that its console may not have."""
    return str.encode().decode("ascii", "ignore") if sys.platform == "win32" else str


def clean_str(s: str) -> str:
    """A text with underscores in place of characters that mean something in paths and addresses."""
    return "".join("_" if character in SPECIAL else character for character in s)


def print_args(args: str | Mapping[str, object] | None = None, opt: object = True, show_func: object = False) -> None:
    """Log the options of a script: v6.1's print_args(name, options), or print_args(vars(options)) of later versions."""
    del show_func
    if isinstance(args, str):
        name, values = args, vars(opt) if hasattr(opt, "__dict__") else dict(opt)
    else:
        frame = inspect.currentframe()
        caller = frame.f_back if frame is not None else None
        name = Path(caller.f_code.co_filename).stem if caller is not None else ""
        values = dict(caller.f_locals if args is None and caller is not None else args or {})
    LOGGER.info(colorstr(f"{name}: ") + ", ".join(f"{key}={value}" for key, value in values.items()))


def methods(instance: object) -> list[str]:
    """The names of an object's methods, without those that Python itself gives it."""
    return [name for name in dir(instance) if callable(getattr(instance, name)) and not name.startswith("__")]


# Files ----------------------------------------------------------------------------------------------------------------


def check_suffix(
    file: str | Sequence[str] = "yolov5s.pt", suffix: str | Sequence[str] = (".pt",), msg: str = ""
) -> None:
    """AssertionError if a file, or one of several, has a suffix that is not one of those allowed; none is allowed."""
    if not file or not suffix:
        return
    allowed = [suffix] if isinstance(suffix, str) else list(suffix)
    for name in [file] if isinstance(file, str | Path) else file:
        found = Path(name).suffix.lower()
        assert not found or found in allowed, f"{msg}{name}: the suffix must be {' or '.join(allowed)}"


def check_yaml(file: str | Path, suffix: Sequence[str] = YAML_SUFFIXES) -> str:
    """The path of a yaml file, found as `check_file` finds it."""
    return check_file(file, suffix)


def check_dataset(data: str | Path | Mapping[str, object], autodownload: bool = True) -> dict[str, object]:
    """The content of a data yaml: train, val and test as absolute paths, names a list, nc their number.

    Nothing is downloaded; FileNotFoundError if the validation images are absent. autodownload is v6.1's and changes
    nothing. A mapping is taken for what this function has returned before.
    """
    del autodownload
    if isinstance(data, Mapping):
        return dict(data)
    config = DataConfig.from_yaml(data)
    config.prepare()
    config.split("val")
    content: dict[str, object] = {**read_yaml(config.file), "path": config.root}
    content |= {"nc": config.nc, "names": list(config.names)}
    for name in ("train", "val", "test"):
        sources = [str(source) for source in getattr(config, name)]
        content[name] = sources[0] if len(sources) == 1 else sources or None
    return content


def file_size(path: str | Path) -> float:
    """The size of a file, or of all files below a folder, in MB; 0 for neither."""
    path = Path(path)
    if path.is_file():
        return path.stat().st_size / 1e6
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6


def get_latest_run(search_dir: str | Path = ".") -> str:
    """The newest last*.pt below a folder, for a resume; '' if there is none."""
    found = sorted(Path(search_dir).rglob("last*.pt"), key=lambda path: path.stat().st_mtime_ns)
    return str(found[-1]) if found else ""


class WorkingDirectory(contextlib.ContextDecorator):
    """Change into another folder for a `with` block or a decorated function."""

    def __init__(self, new_dir: str | Path) -> None:
        self.dir, self.cwd = new_dir, Path.cwd().resolve()

    def __enter__(self) -> None:
        """Change into the folder."""
        os.chdir(self.dir)

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Change back."""
        os.chdir(self.cwd)


# Time -----------------------------------------------------------------------------------------------------------------


class Profile(contextlib.ContextDecorator):
    """Take the time of a `with` block: `dt` seconds of the last, `t` of all; a decorated function's is printed.

    device: its queued work is waited for.
    """

    def __init__(self, t: float = 0.0, device: object = None) -> None:
        self.t, self.device = t, device
        self.start = self.dt = 0.0

    def __call__(self, func: Callable[..., object]) -> Callable[..., object]:
        """The function, which then prints how long each call takes."""

        def timed(*args: object, **kwargs: object) -> object:
            with self:
                result = func(*args, **kwargs)
            print(f"Profile results: {self.dt:.5f}s")
            return result

        return timed

    def __enter__(self) -> Self:
        """Start the clock."""
        self.start = self.time()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Stop the clock."""
        self.dt = self.time() - self.start
        self.t += self.dt

    def time(self) -> float:
        """Seconds of a clock, when all work queued on a GPU is done."""
        return time_sync()
