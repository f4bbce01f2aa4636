"""Readers of data sets as they lie on disk: from a root folder to a manifest, one function per layout.

Nothing is written under the root, and nothing outside of it is read, whatever lists and links say. What is wrong with
single pictures is counted, with one example of each kind, and the picture (or what is wrong about it) is left out; only
a root that holds no such data set at all is an error.
"""

from __future__ import annotations

import csv
import errno
import json
import math
import os
import posixpath
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, assert_never

from uniemox.data.images import EXTENSIONS
from uniemox.data.manifest import Attributes, Box, Facts, Manifest, manifest_from_columns
from uniemox.data.specs import DatasetSpec, get_spec
from uniemox.data.splits import SPLITS, split_by_class
from uniemox.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from uniemox.data.specs import Layout, Ratios

_READERS: Final = 8
"""Threads that read annotations; most of their time is waiting for the disk."""
_PER_TASK: Final = 256
"""Annotations that a thread reads before it asks for more."""
_SHOWN: Final = 6
"""Names that a message about a wrong folder lists."""
_CLUTTER: Final = frozenset(("Thumbs.db", "desktop.ini", "__MACOSX"))
_BOX_COLUMNS: Final = ("path", "x0", "y0", "x1", "y1")

_ABSENT: Final = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)

_Kind = Literal["file", "folder", "outside", "other"]


@dataclass(frozen=True)
class Problem:
    """Something wrong with a data set that did not keep it from being read."""

    kind: str
    """What is wrong, in a few words."""
    count: int
    example: str
    """Where, the first time."""

    def __str__(self) -> str:
        return f"{self.count} x {self.kind} ({self.example})"


@dataclass(frozen=True)
class Import:
    """A manifest, and what was wrong with the data set it was made of."""

    manifest: Manifest
    problems: tuple[Problem, ...]


def import_dataset(
    name: str,
    root: Path,
    *,
    people: Path | None = None,
    ratios: Ratios | None = None,
    seed: int = 0,
    strict: bool = False,
) -> Import:
    """Read a data set from disk.

    Args:
        name: Name of the data set in the table of `specs`; `folders` and `split-folders` read any data, and take the
            classes from the names of folders.
        root: Folder of the data set; paths of the manifest are relative to it.
        people: CSV file of person boxes with the header `path,x0,y0,x1,y1[,score]`: paths relative to the root, pixels
            of the upright picture, one line per person.
        ratios: Shares of train, val and test per class, for class folders. None takes the published ones.
        seed: Seed of that split.
        strict: Whether any problem is an error.

    Returns:
        The manifest, rows of train before val before test, and the problems by kind.

    Raises:
        DataError: The root does not hold the data set, a list or the boxes cannot be read, or `strict` met a problem.
        ConfigError: Ratios are missing, wrong, or given for a set that is split already.
    """
    spec = get_spec(name)
    if not root.is_dir():
        raise DataError(f"no folder at {root}: give the folder of {spec.title}{_source(spec)}")
    problems = _Problems()
    tree = _Tree(root, problems)
    rows = _read(spec, tree, ratios=ratios, seed=seed)
    samples = rows.samples
    boxes = {} if people is None else _read_people(people, {s.path for s in samples}, problems)
    found = problems.to_tuple()
    if strict and found:
        raise DataError(
            f"{root} has problems: {'; '.join(map(str, found))}; mend them, or import it without --strict"
        )
    # Data that is in no table is called like its folder.
    own = "" if spec.classes else root.resolve().name
    facts = Facts(
        name=own or spec.name,
        title=own or spec.title,
        classes=rows.classes,
        emotion=spec.emotion,
        root=root,
        licence=spec.licence,
        url=spec.url,
        citation=spec.citation,
        layout=rows.layout,
    )
    manifest = manifest_from_columns(
        facts,
        paths=[sample.path for sample in samples],
        splits=[sample.split for sample in samples],
        labels=[sample.label for sample in samples],
        attributes=[sample.attributes for sample in samples],
        people=[boxes.get(sample.path, ()) for sample in samples],
    )
    return Import(manifest, found)


class _Sample(NamedTuple):
    path: str
    split: str
    label: int
    attributes: Attributes | None = None


class _Rows(NamedTuple):
    layout: Layout
    classes: tuple[str, ...]
    samples: list[_Sample]


class _Problems:
    """Counts of what went wrong, with one example each."""

    def __init__(self) -> None:
        self._found: dict[str, Problem] = {}

    def add(self, kind: str, example: str) -> None:
        known = self._found.get(kind) or Problem(kind, 0, _printable(example))
        self._found[kind] = replace(known, count=known.count + 1)

    def to_tuple(self) -> tuple[Problem, ...]:
        return tuple(self._found.values())


class _Tree:
    """The files below a root. Each folder is listed once, instead of asking for each of 118,102 pictures."""

    def __init__(self, root: Path, problems: _Problems) -> None:
        self.root = root
        self.problems = problems
        self._real = os.path.realpath(root)
        self._listings: dict[str, dict[str, _Kind] | None] = {}

    def names(self, folder: str) -> dict[str, _Kind] | None:
        """List a folder (a relative path, "" for the root) by name; empty if absent, None if links lead it outside."""
        if folder not in self._listings:
            self._listings[folder] = self._scan(folder)
        return self._listings[folder]

    def kind(self, path: str) -> _Kind | None:
        """Tell what a relative path in normal form is; None where there is nothing."""
        if posixpath.isabs(path) or path.split("/", 1)[0] == "..":
            return "outside"
        folder, name = posixpath.split(path)
        names = self.names(folder)
        return "outside" if names is None else names.get(name)

    def folders(self, folder: str) -> list[str]:
        """Name the folders in a folder."""
        return [name for name, kind in (self.names(folder) or {}).items() if kind == "folder"]

    def pictures(self, folder: str, above: tuple[str, ...] = ()) -> Iterator[str]:
        """Yield the paths of all pictures below a folder, in order, and count what else lies there."""
        real = os.path.realpath(self.root / folder)
        if real in (self._real, *above):
            self.problems.add("link in a circle", folder)
            return
        for name, kind in (self.names(folder) or {}).items():
            path = posixpath.join(folder, name)
            match kind:
                case "folder":
                    yield from self.pictures(path, (*above, real))
                case "file" if _is_picture(name):
                    yield path
                case "outside":
                    self.problems.add("link that leaves the root", path)
                case _:
                    self.problems.add("file that is no picture", path)

    def _scan(self, folder: str) -> dict[str, _Kind] | None:
        path = self.root / folder
        try:
            if not self._holds(os.path.realpath(path)):
                return None
            with os.scandir(path) as entries:
                found = sorted((entry.name, self._kind_of(entry)) for entry in entries)
        except ValueError:  # a NUL or half a character in a name
            return {}
        except OSError as error:
            if error.errno in _ABSENT:
                return {}
            raise DataError(f"cannot list {path}: {error.strerror}") from error
        return {name: kind for name, kind in found if self._is_wanted(folder, name)}

    def _kind_of(self, entry: os.DirEntry[str]) -> _Kind:
        if entry.is_symlink() and not self._holds(os.path.realpath(entry.path)):
            return "outside"
        if entry.is_dir():
            return "folder"
        return "file" if entry.is_file() else "other"

    def _holds(self, real: str) -> bool:
        return os.path.commonpath((self._real, real)) == self._real

    def _is_wanted(self, folder: str, name: str) -> bool:
        if name.startswith(".") or name in _CLUTTER:
            return False
        if _is_text(name):
            return True
        self.problems.add("file name that is not UTF-8", posixpath.join(folder, name))
        return False


def _read(spec: DatasetSpec, tree: _Tree, *, ratios: Ratios | None, seed: int) -> _Rows:
    base = spec.folder if spec.folder in tree.folders("") else ""
    layout = spec.layout
    # The authors of UniEmoX publish sets cut into split folders, also those that have none of their own.
    if layout == "class_folders" and spec.classes and set(SPLITS) & set(tree.folders(base)):
        layout = "split_folders"
    if ratios is not None and layout != "class_folders":
        raise ConfigError(f"{spec.title} in {tree.root} is split already: leave out --split")
    match layout:
        case "emoset":
            return _read_emoset(spec, tree)
        case "class_folders":
            shares = ratios or spec.ratios
            if shares is None:
                raise ConfigError(
                    "folders named by class come without splits: give --split, for example 80/5/15"
                )
            return _read_class_folders(spec, tree, base, ratios=shares, seed=seed)
        case "split_folders":
            return _read_split_folders(spec, tree, base)
        case _:
            assert_never(layout)


# --- EmoSet ----------------------------------------------------------------------------------------------------------


def _read_emoset(spec: DatasetSpec, tree: _Tree) -> _Rows:
    """Read EmoSet's lists, in both of their forms.

    `info.json`, and at least one of `train.json`, `val.json`, `test.json` with rows `[emotion, picture, annotation]`
    (the distributed archive) or `[emotion, name, picture, annotation]` (the authors' repository).
    """
    lists = [split for split in SPLITS if tree.kind(f"{split}.json") == "file"]
    if not lists or tree.kind("info.json") != "file":
        raise _wrong_root(spec, tree, "info.json and one of train.json, val.json, test.json")
    _check_info(spec, tree.root / "info.json")
    samples: list[_Sample] = []
    annotations: list[str] = []
    seen: dict[str, str] = {}
    for split in lists:
        for number, row in enumerate(_load_list(tree.root / f"{split}.json")):
            listed = _parse_row(row, spec, tree, where=f"row {number} of {split}.json")
            if listed is None:
                continue
            if listed.path in seen:
                again = seen[listed.path] == split
                kind = "picture listed twice" if again else "picture listed in two splits"
                tree.problems.add(kind, listed.path)
                continue
            seen[listed.path] = split
            samples.append(_Sample(listed.path, split, listed.label))
            annotations.append(listed.annotation)
    if not samples:
        raise _wrong_root(spec, tree, "the pictures that its lists name")
    found = _read_annotations(tree, annotations, [spec.classes[s.label] for s in samples])
    return _Rows(
        "emoset",
        spec.classes,
        [sample._replace(attributes=known) for sample, known in zip(samples, found, strict=True)],
    )


class _Listed(NamedTuple):
    path: str
    label: int
    annotation: str


def _check_info(spec: DatasetSpec, path: Path) -> None:
    info = _load_json(path)
    try:
        # One mapping for the emotions alone, or one for each attribute.
        numbers = info.get("emotion", info)["label2idx"]
        found = {str(name): int(index) for name, index in numbers.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} has no label2idx for emotions: it is not {spec.title}'s{_source(spec)}"
        ) from error
    if found != {name: label for label, name in enumerate(spec.classes)}:
        have = ", ".join(sorted(found, key=lambda name: (found[name], name)))
        raise DataError(
            f"{path} numbers the classes {have}, but {spec.title} has {', '.join(spec.classes)}: is it another set?"
        )


def _load_list(path: Path) -> list[Any]:
    rows = _load_json(path)
    if not isinstance(rows, list):
        raise DataError(f"{path} is not a list of pictures: unpack the data set again")
    return rows


def _load_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot read {path}: {error}; unpack the data set again") from error


def _parse_row(row: Any, spec: DatasetSpec, tree: _Tree, *, where: str) -> _Listed | None:
    """Check a row of a list; what is wrong with it is counted, and None returned."""
    match row:
        case [str(emotion), str(picture), str() | None as annotation]:
            pass
        case [str(emotion), str(), str(picture), str() | None as annotation]:
            pass
        case _:
            tree.problems.add("row of unknown form", where)
            return None
    if emotion not in spec.classes:
        tree.problems.add("unknown class", f"{emotion} in {where}")
        return None
    path = posixpath.normpath(picture)
    match tree.kind(path):
        case "file" if _is_picture(path):
            return _Listed(path, spec.classes.index(emotion), annotation or "")
        case "outside":
            tree.problems.add("path that leaves the root", f"{picture} in {where}")
        case None:
            tree.problems.add("listed picture that is not there", path)
        case _:
            tree.problems.add("file that is no picture", path)
    return None


def _read_annotations(
    tree: _Tree, annotations: Sequence[str], emotions: Sequence[str]
) -> list[Attributes | None]:
    """Read the annotation of each picture; those that are absent or broken are counted, and None."""
    paths = [_annotation_path(tree, annotation) for annotation in annotations]
    known = [i for i, path in enumerate(paths) if path is not None]
    tasks = [known[start : start + _PER_TASK] for start in range(0, len(known), _PER_TASK)]
    result: list[Attributes | None] = [None] * len(paths)
    with ThreadPoolExecutor(_READERS) as pool:
        read = pool.map(
            lambda task: [_read_annotation(tree.root / str(paths[i])) for i in task], tasks
        )
        for task, annotations_read in zip(tasks, read, strict=True):
            for i, annotation in zip(task, annotations_read, strict=True):
                result[i] = annotation.attributes
                for kind in annotation.problems:
                    tree.problems.add(kind, str(paths[i]))
                if annotation.emotion not in (None, emotions[i]):
                    tree.problems.add("annotation of another emotion", str(paths[i]))
    return result


def _annotation_path(tree: _Tree, annotation: str) -> str | None:
    path = posixpath.normpath(annotation) if annotation else ""
    match tree.kind(path) if path else None:
        case "file":
            return path
        case "outside":
            tree.problems.add("path that leaves the root", annotation)
        case _:
            tree.problems.add("missing annotation", path or "a row that names none")
    return None


class _Annotation(NamedTuple):
    attributes: Attributes | None
    emotion: Any = None
    problems: tuple[str, ...] = ()


def _read_annotation(path: Path) -> _Annotation:
    try:
        entry = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return _Annotation(None, problems=("broken annotation",))
    if not isinstance(entry, dict):
        return _Annotation(None, problems=("broken annotation",))
    problems = []

    def check(name: str, value: Any) -> Any:
        if value is None and entry.get(name):
            problems.append(f"{name} of unknown form")
        return value

    attributes = Attributes(
        brightness=check("brightness", _share(entry.get("brightness"))),
        colorfulness=check("colorfulness", _share(entry.get("colorfulness"))),
        scene=check("scene", _words(entry.get("scene"))),
        facial_expression=check("facial_expression", _words(entry.get("facial_expression"))),
        human_action=check("human_action", _words(entry.get("human_action"))),
        objects=check("object", _names(entry.get("object"))) or (),
    )
    return _Annotation(attributes, entry.get("emotion"), tuple(problems))


def _share(value: Any) -> float | None:
    """Take a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        return None
    return float(value)


def _words(value: Any) -> str | None:
    """Take a text with anything in it; blanks at its ends and line breaks would end up in a sentence."""
    return " ".join(value.split()) or None if isinstance(value, str) and _is_text(value) else None


def _names(value: Any) -> tuple[str, ...] | None:
    """Take a list of texts."""
    if not isinstance(value, list):
        return None
    names = [_words(name) for name in value]
    return None if None in names else tuple(name for name in names if name)


# --- Folders ---------------------------------------------------------------------------------------------------------


def _read_class_folders(
    spec: DatasetSpec, tree: _Tree, base: str, *, ratios: Ratios, seed: int
) -> _Rows:
    """Read `<class>/**/<picture>`, and cut each class into splits."""
    folders = tree.folders(base)
    if folders and set(folders) <= set(SPLITS):
        raise DataError(f"{tree.root} holds {', '.join(folders)}: import it as split-folders")
    classes, found = _read_classes(spec, tree, [base])
    # Relative to the folder of the classes: the split must not change with the level that is given as root.
    splits = split_by_class(
        [posixpath.relpath(path, base or ".") for _, path, _ in found],
        [label for _, _, label in found],
        ratios=ratios,
        seed=seed,
    )
    samples = [
        _Sample(path, split, label) for (_, path, label), split in zip(found, splits, strict=True)
    ]
    samples.sort(key=lambda sample: SPLITS.index(sample.split))
    return _Rows("class_folders", classes, samples)


def _read_split_folders(spec: DatasetSpec, tree: _Tree, base: str) -> _Rows:
    """Read `{train,val,test}/<class>/**/<picture>`."""
    present = {
        posixpath.join(base, split): split for split in SPLITS if split in tree.folders(base)
    }
    if not present:
        raise _wrong_root(spec, tree, "folders train, val or test")
    classes, found = _read_classes(spec, tree, list(present))
    samples = [_Sample(path, present[folder], label) for folder, path, label in found]
    return _Rows("split_folders", classes, samples)


def _read_classes(
    spec: DatasetSpec, tree: _Tree, folders: Sequence[str]
) -> tuple[tuple[str, ...], list[tuple[str, str, int]]]:
    """Read the class folders in some folders.

    Returns:
        The classes, and for each picture the folder, its path, its label.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for folder in folders:
        for path, name in _class_folders(spec, tree, folder):
            pictures = list(tree.pictures(path))
            if not pictures:
                tree.problems.add("empty class folder", path)
            found.setdefault((folder, name), []).extend(pictures)
    # A folder without any picture is no class of its own: it may hold anything.
    classes = spec.classes or tuple(sorted({name for (_, name), paths in found.items() if paths}))
    if not any(found.values()):
        names = ", ".join(spec.classes) or "by class"
        raise _wrong_root(spec, tree, f"folders named {names}, with pictures in them")
    for folder, name in product(folders, classes):
        if (folder, name) not in found:
            tree.problems.add("missing class folder", posixpath.join(folder, name))
    labels = {name: label for label, name in enumerate(classes)}
    return classes, [
        (folder, path, labels[name]) for (folder, name), paths in found.items() for path in paths
    ]


def _class_folders(spec: DatasetSpec, tree: _Tree, folder: str) -> Iterator[tuple[str, str]]:
    """Yield the path and the class of each class folder in a folder, and count what else is there."""
    known = {name.casefold(): name for name in spec.classes}
    for name, kind in (tree.names(folder) or {}).items():
        path = posixpath.join(folder, name)
        if kind == "outside":
            tree.problems.add("link that leaves the root", path)
        elif kind != "folder":
            if _is_picture(name):
                tree.problems.add("picture outside of a class folder", path)
        elif known and name.casefold() not in known:
            tree.problems.add("unknown class", path)
        else:
            yield path, known.get(name.casefold(), name)


# --- People ----------------------------------------------------------------------------------------------------------


def _read_people(path: Path, known: set[str], problems: _Problems) -> dict[str, list[Box]]:
    """Read person boxes from CSV."""
    boxes: dict[str, list[Box]] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            _check_header(path, reader.fieldnames or ())
            for line in reader:
                where = f"line {reader.line_num} of {path.name}"
                box = _parse_box(line)
                picture = posixpath.normpath(line["path"] or "")
                if box is None:
                    problems.add("box that is no box", where)
                elif picture not in known:
                    problems.add("box of a picture that is not in the set", f"{picture} in {where}")
                else:
                    boxes.setdefault(picture, []).append(box)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read the boxes in {path}: {error}") from error
    return boxes


def _check_header(path: Path, header: Sequence[str]) -> None:
    if sorted(header) not in (sorted(_BOX_COLUMNS), sorted((*_BOX_COLUMNS, "score"))):
        raise DataError(
            f"{path} begins with {','.join(header) or 'nothing'}, but boxes need the header "
            f"{','.join(_BOX_COLUMNS)} or {','.join(_BOX_COLUMNS)},score"
        )


def _parse_box(line: dict[str, str | None]) -> Box | None:
    try:
        x0, y0, x1, y1 = (float(line[name] or "") for name in _BOX_COLUMNS[1:])
        score = float(line["score"] or "") if line.get("score") else None
    except ValueError:
        return None
    # Each comparison is false for NaN.
    if not (0 <= x0 < x1 < math.inf and 0 <= y0 < y1 < math.inf):
        return None
    return Box(x0, y0, x1, y1, score) if score is None or math.isfinite(score) else None


# --- Names and messages ----------------------------------------------------------------------------------------------


def _wrong_root(spec: DatasetSpec, tree: _Tree, wanted: str) -> DataError:
    names = list(tree.names("") or ())
    there = ", ".join(map(_printable, names[:_SHOWN])) or "nothing"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    below = next((name for name in tree.folders("") if tree.kind(f"{name}/info.json")), None)
    wrong = "".join(f"; {problem}" for problem in tree.problems.to_tuple())
    hint = f"; did you mean {tree.root / below}?" if spec.layout == "emoset" and below else ""
    return DataError(
        f"{tree.root} is not {spec.title}: looked for {wanted}, found {there}{more}{wrong}{hint}"
        f"{_source(spec)}"
    )


def _source(spec: DatasetSpec) -> str:
    return f"; the set: {spec.url}" if spec.url else ""


def _is_picture(name: str) -> bool:
    return posixpath.splitext(name)[1].lower() in EXTENSIONS


def _is_text(name: str) -> bool:
    """Tell whether a text can be written as UTF-8: names of files and JSON may hold halves of characters."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _printable(text: str) -> str:
    """Write line breaks, control characters and halves of characters as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
