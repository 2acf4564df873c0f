"""Names of the files that results of many inputs are written to: one name per input, and it tells which.

An input keeps its own name, as in v6.1, unless another input would get the same one. Case makes no difference, as on
some file systems. Names are then told apart by the suffix (`img_jpg`, `img_png`), by folders (`a_img`, `b_img`), or by
a number (`img_2`); none of them is the name of another input.
"""

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote

from utils.files.addresses import QUERY, is_url, without_credentials
from utils.files.images import VIDEO_SUFFIXES
from utils.files.names import LONGEST_NAME, safe_name

SEPARATOR = "_"  # between a name and its number
UNPLANNED = "__"  # the same where later inputs are not known yet, and one may be called frame_2
DIGITS = "0123456789"
VIDEO_OUT, IMAGE_OUT = ".mp4", ".jpg"


class OutputName(NamedTuple):
    """What the results of one input are called.

    stem: of label files, crops and feature maps; a video's frames append their number, `clip_17`. picture: of the
    annotated image or video, without its suffix. separator: between the name and the number of a crop.
    """

    stem: str
    picture: str
    separator: str = SEPARATOR


class InputName(NamedTuple):
    """The parts of an input's own name. parents: its folders, or host and folders of a URL, from the outside in."""

    parents: tuple[str, ...]
    stem: str
    suffix: str
    is_video: bool

    @classmethod
    def parse(cls, file: str) -> "InputName":
        """Split a path or URL.

        A path's parts stay as they are, since a file system has them. A URL's are made safe and lose credentials and
        query.
        """
        if is_url(file):
            place = without_credentials(file).removesuffix(QUERY).partition("://")[2]
            path = PurePosixPath(unquote(place))
            parents, stem = tuple(map(safe_name, path.parts[:-1])), safe_name(path.stem)
        else:
            path = Path(os.path.abspath(file))
            parents = tuple(part for part in path.parts[:-1] if part != path.anchor)
            stem = path.stem
        return cls(parents, shortened(stem), path.suffix, path.suffix.lower() in VIDEO_SUFFIXES)

    @property
    def out_suffix(self) -> str:
        """The suffix of the annotated image or video, as far as the name tells."""
        return VIDEO_OUT if self.is_video else self.suffix or IMAGE_OUT

    def qualified(self, level: int) -> str:
        """Return the stem with more and more of the rest: of odd levels with the suffix, of each second a folder."""
        folders = level // 2
        words = [*self.parents[len(self.parents) - folders :]] if folders else []
        words.append(self.stem)
        if level % 2 and self.suffix:
            words.append(self.suffix[1:])
        return shortened(SEPARATOR.join(words))

    @property
    def levels(self) -> range:
        """The levels that `qualified` knows."""
        return range(2 * len(self.parents) + 2)


class NamesTaken:
    """The names of a run so far. A still's name and a video's differ, unless a frame of the video has the still's."""

    def __init__(self) -> None:
        self.stills: set[str] = set()
        self.videos: set[str] = set()
        self.numbered: set[str] = set()  # videos of these names would have a frame called as a still
        self.numbers: Counter[str] = Counter()  # the last one given to a stem

    def is_free(self, name: str, is_video: bool) -> bool:
        """Return whether no output of another input has this name or could get it."""
        name = key(name)
        if is_video:
            return name not in self.videos and name not in self.numbered
        return name not in self.stills and frame_base(name) not in self.videos

    def add(self, name: str, is_video: bool) -> None:
        """Note that a still or a video has this name."""
        name = key(name)
        if is_video:
            self.videos.add(name)
            return
        self.stills.add(name)
        base = frame_base(name)
        if base is not None:
            self.numbered.add(base)

    def claim(self, names: Sequence[InputName], to_key: Callable[[InputName, str], str], first: int = 0) -> list[str]:
        """Find names for inputs that want the same one: of each the plainest that fits none of the others.

        Where nothing in the path tells them apart they are numbered. to_key: what must be free, of an input and its
        name. first: the level to begin with.
        """
        if len(names) == 1 and not first:
            wanted = to_key(names[0], names[0].stem)
            if self.is_free(wanted, names[0].is_video):
                self.add(wanted, names[0].is_video)
                return [names[0].stem]
        found = [""] * len(names)
        open_ones = [*range(len(names))]
        for level in range(first, max(len(name.levels) for name in names)):
            texts = [name.qualified(level) for name in names]
            counts = Counter(map(key, texts))
            for i in open_ones:
                wanted = to_key(names[i], texts[i])
                if counts[key(texts[i])] == 1 and self.is_free(wanted, names[i].is_video):
                    found[i] = texts[i]
                    self.add(wanted, names[i].is_video)
            open_ones = [i for i in open_ones if not found[i]]
            if not open_ones:
                break
        for i in open_ones:
            found[i] = self._numbered(names[i], to_key)
        return found

    def _numbered(self, name: InputName, to_key: Callable[[InputName, str], str]) -> str:
        """Return the stem with the first number that is free, from 2 on; without one if that is free."""
        text, stem = name.stem, key(name.stem)
        while not self.is_free(to_key(name, text), name.is_video):
            self.numbers[stem] = max(self.numbers[stem], 1) + 1
            text = f"{name.stem}{SEPARATOR}{self.numbers[stem]}"
        self.add(to_key(name, text), name.is_video)
        return text


def key(name: str) -> str:
    """Return the name as file systems compare it that ignore case and Unicode's ways to write one letter."""
    return name.lower() if name.isascii() else unicodedata.normalize("NFC", name).casefold()


def shortened(name: str) -> str:
    """Cut a name off so that a number and a suffix may follow."""
    if len(name) <= LONGEST_NAME // 4:  # of 4 bytes at most
        return name
    name = name[:LONGEST_NAME]
    while len(os.fsencode(name)) > LONGEST_NAME:
        name = name[:-1]
    return name


def split_number(name: str) -> tuple[str, int] | None:
    """Split `clip__17` into `clip` and the 2 underscores before its number; None if it does not end in such."""
    base = name.rstrip(DIGITS)
    core = base.rstrip(SEPARATOR)
    return (core, len(base) - len(core)) if len(core) < len(base) < len(name) else None


def frame_base(name: str) -> str | None:
    """Return the name of the video that would have a frame of this name: `clip` of `clip_17`."""
    parts = split_number(name)
    return None if parts is None else parts[0] + SEPARATOR * (parts[1] - 1)


def distinct_names(names: Iterable[str]) -> list[str]:
    """Number names that occur again: `bus`, `bus_2`; never so that the result is another one of the names."""
    names = [*names]
    wanted, taken, found = {key(name) for name in names}, set[str](), []
    for name in names:
        text, number = name, 1
        while key(text) in taken or (number > 1 and key(text) in wanted):
            number += 1
            text = f"{name}{SEPARATOR}{number}"
        taken.add(key(text))
        found.append(text)
    return found


def stem_key(_name: InputName, text: str) -> str:
    """Return what must be free for label files and crops: the stem itself."""
    return text


def picture_key(name: InputName, text: str) -> str:
    """Return what must be free for annotated images: the stem with its suffix, so img.jpg and img.png may both be."""
    return f"{text}{name.out_suffix}"


def output_names(files: Sequence[str]) -> list[OutputName]:
    """Plan the output names of all inputs of a run. A file that is named again gets a number, `img_2`."""
    places = [file if is_url(file) else os.path.abspath(file) for file in files]
    distinct = [*dict.fromkeys(places)]
    names = [InputName.parse(place) for place in distinct]
    stems, pictures = planned(names, stem_key), planned(names, picture_key)
    index_of = {place: i for i, place in enumerate(distinct)}
    counts: Counter[str] = Counter()
    repeated_stems, repeated_pictures = NumbersBehind(stems), NumbersBehind(pictures)
    found: list[tuple[str, str, bool]] = []
    for place in places:
        i = index_of[place]
        counts[place] += 1
        stem, picture = stems[i], pictures[i]
        if counts[place] > 1:
            stem, picture = repeated_stems.next(stem), repeated_pictures.next(picture)
        found.append((stem, picture, names[i].is_video))
    separators = crop_separators([(stem, is_video) for stem, _, is_video in found])
    return [
        OutputName(stem, picture, separator) for (stem, picture, _), separator in zip(found, separators, strict=True)
    ]


class NumbersBehind:
    """Numbers for the second and later results of an input, `img_2`, that are no other's name."""

    def __init__(self, names: Iterable[str]) -> None:
        self.taken = {key(name) for name in names}
        self.numbers: Counter[str] = Counter()

    def next(self, name: str) -> str:
        """Return the name with the next number."""
        self.numbers[name] = max(self.numbers[name], 1) + 1
        text = f"{name}{SEPARATOR}{self.numbers[name]}"
        if key(text) in self.taken:
            return self.next(name)
        self.taken.add(key(text))
        return text


def planned(names: Sequence[InputName], to_key: Callable[[InputName, str], str]) -> list[str]:
    """Give each of several inputs, no two of them the same, a name of its own; those that nobody else wants first."""
    groups: defaultdict[tuple[str, bool], list[int]] = defaultdict(list)
    for i, name in enumerate(names):
        groups[key(to_key(name, name.stem)), name.is_video].append(i)
    taken, found = NamesTaken(), [""] * len(names)

    def rank(item: tuple[tuple[str, bool], list[int]]) -> tuple[bool, bool]:
        (_, is_video), members = item
        return len(members) > 1, is_video

    for _, members in sorted(groups.items(), key=rank):
        wanted = [names[i] for i in members]
        for i, text in zip(members, taken.claim(wanted, to_key, first=len(members) > 1), strict=True):
            found[i] = text
    return found


def crop_separators(stems: Sequence[tuple[str, bool]]) -> list[str]:
    """Return for each stem of a still, or of a video, the underscores that set off the numbers of its crops.

    One, or as many as it takes so that no crop `frame_2` is called as another input `frame_2` or one of its crops.
    """
    taken: defaultdict[str, set[int]] = defaultdict(set)  # of a still without its last underscores: how many are taken
    in_frames: defaultdict[str, set[int]] = defaultdict(set)  # of a video: how many behind the number of a frame
    for stem, is_video in stems:
        name = key(stem)
        core = name.rstrip(SEPARATOR)
        behind = len(name) - len(core)
        parts = split_number(name)
        if is_video:
            taken[core].add(behind + 1)
            base = frame_base(core)
            if base is not None:
                in_frames[base].add(behind + 1)
        elif parts is not None:
            taken[parts[0]].add(parts[1])
            base = frame_base(parts[0])
            if base is not None:
                in_frames[base].add(parts[1])
    separators = []
    for stem, is_video in stems:
        name = key(stem)
        core = name.rstrip(SEPARATOR)
        behind = len(name) - len(core)
        count = 1
        if is_video:
            while count in in_frames[name]:
                count += 1
        else:
            while behind + count in taken[core]:
                count += 1
            taken[core].add(behind + count)
        separators.append(SEPARATOR * count)
    return separators


class NamesAsTheyCome:
    """Output names of inputs that come one after another: each keeps its own unless an earlier one has it."""

    def __init__(self) -> None:
        self.stems, self.pictures = NamesTaken(), NamesTaken()

    def next(self, file: str) -> OutputName:
        """Return the names of the next input."""
        name = InputName.parse(file)
        (stem,) = self.stems.claim([name], stem_key)
        (picture,) = self.pictures.claim([name], picture_key)
        return OutputName(stem, picture, UNPLANNED)
