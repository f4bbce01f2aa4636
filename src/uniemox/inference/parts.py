"""The finished parts of a table that takes long to make, kept beside it until all of them exist.

`T.parts/` holds a whole file for every so many images, `progress.json` with what the work is and the hash of each part,
and a lock. Parts are written under another name and then renamed, so that a killed run loses the unfinished one alone.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from itertools import chain, count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from uniemox.errors import ConfigError, DataError
from uniemox.files.digest import hash_file
from uniemox.files.locking import is_locked, locked
from uniemox.files.whole import check_absent, is_unfinished, write_whole
from uniemox.files.writing import explain_failure
from uniemox.inference.tables import Form
from uniemox.wording import reason_of, shorten

if TYPE_CHECKING:
    from uniemox.inference.predictor import Prediction

log = logging.getLogger(__name__)

Item = TypeVar("Item")

_FORMAT: Final = 2
_PROGRESS, _LOCK = "progress.json", "lock"
_NEXT: Final = "continue with `resume`"
_AGAIN: Final = "start again with `overwrite`"
_OURS: Final = re.compile(r"(progress\.json|lock|joined|part-\d{5,}\.(csv|jsonl|parquet))(\.writing)?")
_MIN_IMAGES, _MAX_PARTS = 64, 1000
_UNCOUNTED: Final = 512  # Images of a part where it is not known how many there are: some minutes of a video


@dataclass(frozen=True)
class _Part:
    """A finished part."""

    inputs: int
    rows: int
    unreadable: int  # Images that got no answer
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is to be done, and what the rows of it depend on."""

    identity: Mapping[str, str]  # What shapes the rows, by what a user calls it: model, inputs, …
    num_inputs: int | None  # None where that shows only at the end, as of a video
    part_size: int  # Images of a part


class Portion(Generic[Item]):
    """The inputs of a part that is to be made; taken once, it has counted them."""

    def __init__(self, number: int, inputs: Iterable[Item]) -> None:
        self.number, self.count = number, 0
        self._inputs = inputs

    def __iter__(self) -> Iterator[Item]:
        for item in self._inputs:
            self.count += 1
            yield item


def choose_part_size(num_inputs: int | None, batch_size: int) -> int:
    """Choose how many images a part has: whole batches, a few of them, and no more than about a thousand parts."""
    minimum = max(_MIN_IMAGES, 4 * batch_size, _UNCOUNTED if num_inputs is None else num_inputs // _MAX_PARTS)
    return -(-minimum // batch_size) * batch_size


def check_out(out: Path, *, resume: bool, overwrite: bool) -> bool:
    """Refuse a table that already exists, or of which another run left parts, before anything is loaded.

    `resume` continues from parts; `overwrite` replaces a table, and starts again where parts exist.

    Returns:
        Whether the table that should be continued is finished, so that there is nothing to do.

    Raises:
        ConfigError: Names the next step.
        DataError: Another run is writing it.
    """
    if out.is_dir():
        raise ConfigError(f"out is {out}, but must be a file and not a folder")
    folder = _folder_of(out)
    _refuse_others(folder)
    if is_locked(folder / _LOCK):
        raise _in_use(folder)
    if resume and not overwrite and out.exists():
        left = _read_progress(folder)
        if left is None or not left[1]:
            return True
    _decide(out, resume=resume, overwrite=overwrite)
    return False


class Parts:
    """The parts of one table; made by `open_parts`."""

    def __init__(self, out: Path, work: Work, form: Form, finished: dict[int, _Part]) -> None:
        self.work = work
        self.folder = _folder_of(out)
        self.is_joined = False
        """Whether the table is in its place, so that the parts are of no more use."""
        self._out, self._form, self._finished = out, form, finished

    @property
    def rows(self) -> int:
        """Rows of the finished parts."""
        return sum(part.rows for part in self._finished.values())

    @property
    def unreadable(self) -> int:
        """Images of the finished parts that got no answer."""
        return sum(part.unreadable for part in self._finished.values())

    @property
    def done(self) -> int:
        """Images of the finished parts."""
        return sum(part.inputs for part in self._finished.values())

    def cut(self, inputs: Iterable[Item]) -> Iterator[Portion[Item]]:
        """Cut all inputs into the portions of the parts that are missing; take one to its end before the next.

        The inputs of finished parts are passed over, so a stream is read again from its start.
        """
        stream = iter(inputs)
        for number in count():
            first = list(islice(stream, 1))
            if not first:
                break
            portion = Portion(number, chain(first, islice(stream, self.work.part_size - 1)))
            if number in self._finished:
                deque(portion, maxlen=0)
            else:
                yield portion
        for late in [late for late in self._finished if late >= number]:  # the stream was longer then
            del self._finished[late]

    def keep(self, portion: Portion[Any], predictions: Iterable[Prediction]) -> None:
        """Write a part, all rows of its images in order, taken as they are written, or raise `DataError`."""
        number, unreadable = portion.number, 0

        def counted() -> Iterator[Prediction]:
            nonlocal unreadable
            for prediction in predictions:
                unreadable += prediction.answer is None and prediction.box is None
                yield prediction

        with write_whole(self._path(number), DataError, elsewhere="", then=_NEXT) as beside:
            rows = self._form.write(counted(), beside)
            sha256 = _hash(beside)
        self._finished[number] = _Part(portion.count, rows, unreadable, sha256)
        self._save()

    def join(self) -> None:
        """Put the table in its place once all portions are kept, or raise `DataError`; the parts are then kept."""
        assert sorted(self._finished) == list(range(len(self._finished)))
        with write_whole(self._out, DataError, inside=self.folder, elsewhere="", then=_NEXT) as beside:
            self._form.join([self._path(number) for number in sorted(self._finished)], beside)
        self.is_joined = True

    def _save(self) -> None:
        """Write down which parts are finished."""
        parts = {str(number): asdict(part) for number, part in self._finished.items()}
        with write_whole(self.folder / _PROGRESS, DataError, elsewhere="", then=_NEXT) as beside:
            beside.write_text(json.dumps({"format": _FORMAT, **asdict(self.work), "parts": parts}), encoding="utf-8")

    def _drop_damaged(self) -> None:
        """Forget the parts that are no longer what was written, so that they are made again."""
        damaged = [number for number, part in self._finished.items() if _hash(self._path(number)) != part.sha256]
        if damaged:
            text = "%d of %d parts in %s are damaged or missing: they are made again"
            log.warning(text, len(damaged), len(self._finished), self.folder)
        for number in damaged:
            del self._finished[number]

    def _path(self, number: int) -> Path:
        return self.folder / f"part-{number:05d}{self._form.suffix}"


@contextmanager
def open_parts(out: Path, work: Work, form: Form, *, resume: bool = False, overwrite: bool = False) -> Iterator[Parts]:
    """Hold the parts of a table for one run; nothing is left of them once they are joined, or where none is finished.

    The folder of the table is made if absent. `resume` and `overwrite` are those of `check_out`; a resumed run keeps
    the size of parts that it started with.

    Raises:
        ConfigError: The parts are of other work, or of a run that is to be neither continued nor replaced.
        DataError: Another run holds them, or the folder cannot be written.
    """
    folder = _folder_of(out)
    _refuse_others(folder)
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / _LOCK))
        except BlockingIOError as error:
            raise _in_use(folder) from error
        except OSError as error:
            why = explain_failure(folder, error, elsewhere="choose another `out`")
            raise DataError(f"{out} cannot be written: {why}") from error
        left = _decide(out, resume=resume, overwrite=overwrite)
        if left is None:
            _clear(folder, keep=(_LOCK,))
            parts = Parts(out, work, form, {})
        else:
            then, finished = left
            _check_same(then, work, folder)
            parts = Parts(out, replace(work, part_size=then.part_size), form, finished)
            parts._drop_damaged()
        try:
            parts._save()
            yield parts
        finally:
            if parts.is_joined or not parts.done:
                _clear(folder)


def _decide(out: Path, *, resume: bool, overwrite: bool) -> tuple[Work, dict[int, _Part]] | None:
    """Return the parts to continue from, or None to start from the beginning, if that is what was asked for."""
    folder = _folder_of(out)
    left = None if overwrite and not resume else _read_progress(folder)
    if left is not None and left[1]:
        if resume:
            return left
        raise ConfigError(f"{folder} holds parts of an interrupted run: continue it with `resume`, or {_AGAIN}")
    check_absent(out, overwrite=overwrite)
    return None


def _read_progress(folder: Path) -> tuple[Work, dict[int, _Part]] | None:
    """Read what an earlier run wrote down: what it was to do, and its finished parts."""
    path = folder / _PROGRESS
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if found.pop("format") != _FORMAT:
            raise ConfigError(f"{folder} was started by another version of uniemox: {_AGAIN}")
        parts = {int(number): _Part(**part) for number, part in found.pop("parts").items()}
        work = Work(**found)
        _check_progress(work, parts)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{path} is damaged ({reason_of(error)}): {_AGAIN}") from error
    return work, parts


def _check_progress(work: Work, parts: Mapping[int, _Part]) -> None:
    sizes = [work.part_size, *(size for part in parts.values() for size in (part.rows, part.inputs))]
    if not all(type(size) is int and size > 0 for size in sizes):
        raise ValueError("a size is no whole number greater than 0")
    if not all(type(part.unreadable) is int and part.unreadable >= 0 for part in parts.values()):
        raise ValueError("a count is no whole number")
    is_known = work.num_inputs is None or type(work.num_inputs) is int
    if not is_known or not all(isinstance(text, str) for text in work.identity.values()):
        raise ValueError("it does not say what the parts are of")
    if any(number < 0 or number * work.part_size >= (work.num_inputs or math.inf) for number in parts):
        raise ValueError("it names a part of no input")


def _check_same(then: Work, now: Work, folder: Path) -> None:
    pairs = {name: (then.identity.get(name), now.identity.get(name)) for name in [*then.identity, *now.identity]}
    others = [
        f"another {name} ({shorten(before or 'none')} then, {shorten(after or 'none')} now)"
        for name, (before, after) in pairs.items()
        if before != after
    ]
    if others:
        raise ConfigError(
            f"{folder} is of a run with {' and '.join(others)}: repeat its command with `resume`, or {_AGAIN}"
        )


def _folder_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.parts")


def _is_ours(path: Path) -> bool:
    return bool(_OURS.fullmatch(path.name)) or is_unfinished(path)


def _hash(path: Path) -> str:
    """Compute a file's SHA-256; empty where it cannot be read."""
    try:
        return hash_file(path)
    except OSError:
        return ""


def _refuse_others(folder: Path) -> None:
    """Refuse a folder of this name that somebody else made."""
    if not folder.exists():
        return
    place = f"{folder} is where the parts of the table go, but"
    if not folder.is_dir():
        raise ConfigError(f"{place} it is a file: choose another `out`")
    try:
        others = [path.name for path in folder.iterdir() if not _is_ours(path)]
    except OSError as error:
        raise DataError(f"{folder} cannot be listed: {reason_of(error)}") from error
    if others:
        raise ConfigError(f"{place} holds {others[0]}: choose another `out`")


def _clear(folder: Path, *, keep: tuple[str, ...] = ()) -> None:
    """Delete what is ours, the list of parts first: without it, parts bind nobody."""
    for path in (folder / _PROGRESS, *sorted(folder.glob("*"))):
        if path.name not in keep and _is_ours(path):
            path.unlink(missing_ok=True)
    if not keep:
        with suppress(OSError):  # somebody put a file of their own there
            folder.rmdir()


def _in_use(folder: Path) -> DataError:
    return DataError(f"{folder} is in use by another run that writes this table: wait for it, or choose another `out`")
