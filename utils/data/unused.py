"""Name files beside a data set's images and labels that are not used, before they silently become background.

Searched are the folders of the images, those of their labels, and the folders beside `images` and `labels`. Each is
listed once; no file is opened.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from utils.files.images import IMAGE_SUFFIXES
from utils.general import plural

# Images of other programs, which neither v6.1 nor we read.
FOREIGN_IMAGES = frozenset(
    {".avif", ".exr", ".gif", ".hdr", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".pgm", ".ppm", ".psd", ".tga"}
)
ANNOTATIONS = {  # suffix in lower case: what to do about it
    ".txt": "",
    ".xml": "; convert them: python -m tools.convert voc --source {folder} --out NEW_FOLDER",
    ".json": "; convert them into one .txt an image",
}
WHOLE_SETS = ("_annotations.", "instances_", ".coco.json", "via_")  # in names of files about all images of a folder
NO_LABELS = frozenset({"classes.txt", "obj.names", "predefined_classes.txt", "readme.txt", "notes.txt"})
LABEL_FOLDERS = ("label", "annot", "txt", "xml", "json", "yolo", "voc", "gt")  # words in their names
MAX_BESIDE = 50  # folders beside `images` that are looked into


class FolderNames:
    """Cached listings of folders; a folder that cannot be read is empty."""

    def __init__(self) -> None:
        self.known: dict[Path, list[str]] = {}

    def __call__(self, folder: Path) -> list[str]:
        """Return the names of the files and folders in a folder, sorted."""
        if folder not in self.known:
            try:
                self.known[folder] = sorted(os.listdir(folder))
            except OSError:
                self.known[folder] = []
        return self.known[folder]

    def by_stem(self, folder: Path) -> dict[str, list[str]]:
        """Return the names of annotation files by stem."""
        found: dict[str, list[str]] = {}
        for name in self(folder):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in ANNOTATIONS:
                found.setdefault(stem, []).append(name)
        return found


def unused_notes(images: Sequence[str], paths: Sequence[str], missing: Sequence[bool]) -> list[str]:
    """Return messages about unused files, each with an example and a remedy.

    Args:
        images: (N,) distinct images.
        paths: (N,) where their label files were searched.
        missing: (N,) True if there is none.
    """
    names = FolderNames()
    return [
        *_stray_labels(images, paths, missing, names),
        *_foreign_images(images, names),
        *_lone_labels(images, paths, names),
    ]


def _stray_labels(
    images: Sequence[str], paths: Sequence[str], missing: Sequence[bool], names: FolderNames
) -> list[str]:
    """Return messages about annotations of images without a label file, by suffix and folder."""
    found: dict[tuple[str, bool], list[tuple[Path, str]]] = {}
    listings: dict[tuple[Path, Path], list[tuple[Path, dict[str, list[str]]]]] = {}
    for image, path, is_missing in zip(images, paths, missing, strict=True):
        if not is_missing:
            continue
        folders = Path(image).parent, Path(path).parent
        if folders not in listings:
            listings[folders] = [(folder, names.by_stem(folder)) for folder in _candidates(*folders, names)]
        stem = Path(image).stem
        for folder, stems in listings[folders]:
            if stem in stems:
                file = folder / min(stems[stem], key=_rank)
                found.setdefault((file.suffix, folder == folders[0]), []).append((file, path))
                break
    notes = []
    for (suffix, is_beside), files in found.items():
        file, path = files[0]
        where = "beside them" if is_beside else f"in {file.parent}"
        remedy = ANNOTATIONS[suffix.lower()].format(folder=file.parent) or f"; expected e.g. as {path}"
        count = f"{plural(len(files), 'image')} without a label file"
        notes.append(f"{count}, but with a {suffix} file {where} that is not used, e.g. {file}{remedy}")
    if any(missing) and not found:
        notes += _whole_sets(sorted({Path(image).parent for image in images}), names)
    return notes


def _rank(name: str) -> int:
    """Return the sort key of an annotation file: the most similar to a label file first."""
    return list(ANNOTATIONS).index(os.path.splitext(name)[1].lower())


def _candidates(image_folder: Path, label_folder: Path, names: FolderNames) -> list[Path]:
    """Return folders that may contain annotations: those of labels and images, beside them and beside `images`."""
    folders = [label_folder, image_folder]
    parts = image_folder.parts
    lower = [part.lower() for part in parts]
    depths = {len(parts) - 1, len(parts) - 2}  # of the part that annotations may have another folder in place of
    if "images" in lower:
        depths.add(len(lower) - 1 - lower[::-1].index("images"))
    first = 1 if image_folder.is_absolute() else 0
    for depth in sorted(depth for depth in depths if depth >= first):
        base, below = Path(*parts[:depth]), parts[depth + 1 :]
        beside = names(base)
        if lower[depth] != "images":
            beside = [name for name in beside if any(word in name.lower() for word in LABEL_FOLDERS)]
        for name in beside[:MAX_BESIDE]:
            folders += [base.joinpath(name, *below), base / name]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def _whole_sets(folders: Sequence[Path], names: FolderNames) -> list[str]:
    """Return messages about files with the annotations of a whole folder, as Roboflow and COCO write them."""
    places = dict.fromkeys([*folders, *(folder.parent for folder in folders)])
    files = [
        place / name
        for place in places
        for name in names(place)
        if name.endswith((".json", ".csv")) and any(part in name for part in WHOLE_SETS)
    ]
    if not files:
        return []
    command = f"python -m tools.convert coco --source {files[0]} --out NEW_FOLDER"
    remedy = f"; if it is COCO's: {command}" if files[0].suffix == ".json" else ""
    return [f"images without label files, and {files[0]}, which is not used{remedy}"]


def _foreign_images(images: Sequence[str], names: FolderNames) -> list[str]:
    """Return messages about images in unsupported formats."""
    folders = sorted({Path(image).parent for image in images})
    files = [
        folder / name
        for folder in folders
        for name in names(folder)
        if os.path.splitext(name)[1].lower() in FOREIGN_IMAGES
    ]
    if not files:
        return []
    suffixes = " ".join(sorted(IMAGE_SUFFIXES))
    count = plural(len(files), "image")
    return [f"{count} of a format that is not read, e.g. {files[0]}; save as one of {suffixes}"]


def _lone_labels(images: Sequence[str], paths: Sequence[str], names: FolderNames) -> list[str]:
    """Return messages about label files without an image, if labels have a folder of their own."""
    pairs = sorted({(Path(path).parent, Path(image).parent) for image, path in zip(images, paths, strict=True)})
    files = []
    for labels, folder in pairs:
        if labels == folder:
            continue
        stems = {os.path.splitext(name)[0] for name in names(folder)}
        files += [
            labels / name
            for name in names(labels)
            if name.lower().endswith(".txt") and name.lower() not in NO_LABELS and name[:-4] not in stems
        ]
    if not files:
        return []
    count = plural(len(files), "label file")
    return [f"{count} without an image of that name, not used, e.g. {files[0]}"]
