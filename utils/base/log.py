"""The project's log and progress bars on the console."""

import logging
import re
import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

COLORS = ("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white")
STYLES = {"bold": 1, "underline": 4}
STYLES |= {name: 30 + i for i, name in enumerate(COLORS)} | {f"bright_{name}": 90 + i for i, name in enumerate(COLORS)}
CONTROLS = re.compile(r"\x1b(?!\[[\d;]*m)|[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f]")
Item = TypeVar("Item")


class ConsoleHandler(logging.Handler):
    """Log handler for standard error that keeps progress bars intact."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line, with the level of warnings and errors. Control characters are shown escaped."""
        prefix = f"{record.levelname}: " if record.levelno >= logging.WARNING else ""
        text = CONTROLS.sub(lambda found: repr(found[0])[1:-1], self.format(record))
        tqdm.write(f"{prefix}{text}", file=sys.stderr)


class ProjectLogger(logging.Logger):
    """A logger that prints from INFO on if no logging is configured, as v6.1's does after a bare import.

    Importing it sets neither handler nor level. Once a program has configured logging, that alone applies.
    """

    def isEnabledFor(self, level: int) -> bool:
        """Return True if records of this level are output."""
        if self.level or self.hasHandlers():
            return super().isEnabledFor(level)
        return level >= logging.INFO and level > self.manager.disable and not self.disabled

    def callHandlers(self, record: logging.LogRecord) -> None:
        """Pass a record to the configured handlers, or to the console if there are none."""
        if self.hasHandlers():
            super().callHandlers(record)
        else:
            ConsoleHandler().handle(record)


def _project_logger(name: str) -> logging.Logger:
    """Return the logger of this name as a ProjectLogger; the class of other loggers is unchanged."""
    former = logging.getLoggerClass()
    logging.setLoggerClass(ProjectLogger)
    try:
        return logging.getLogger(name)
    finally:
        logging.setLoggerClass(former)


LOGGER = _project_logger("yolov5")


def set_logging(verbose: bool = True) -> logging.Logger:
    """Let LOGGER write to the console, from INFO or from WARNING on, and return it. No import calls this."""
    LOGGER.setLevel(logging.INFO if verbose else logging.WARNING)
    if not any(isinstance(handler, ConsoleHandler) for handler in LOGGER.handlers):
        LOGGER.addHandler(ConsoleHandler())
    return LOGGER


def colorstr(*parts: str) -> str:
    """Format the last part in the styles named before it, by default blue and bold; plain unless in a terminal."""
    *styles, text = parts if len(parts) > 1 else ("blue", "bold", parts[0])
    if not sys.stderr.isatty():
        return text
    return "".join(f"\033[{STYLES[style]}m" for style in styles) + text + "\033[0m"


def progress(
    items: Iterable[Item], total: int | None = None, desc: str = "", delay: float = 0.0, disable: bool = False
) -> "tqdm[Item]":
    """Wrap items in a progress bar on standard error; in a file or pipe it is updated twice a minute."""
    return tqdm(
        items,
        total=total,
        desc=desc,
        delay=delay,
        disable=disable,
        mininterval=0.1 if sys.stderr.isatty() else 30,
        bar_format="{l_bar}{bar:10}{r_bar}",
        file=sys.stderr,
    )
