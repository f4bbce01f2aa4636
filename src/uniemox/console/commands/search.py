"""The command `search`."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Final

from uniemox.compute.signals import StopSignals
from uniemox.config.search import SearchConfig
from uniemox.console.commands.command import Answer, Command
from uniemox.errors import DataError, exit_code
from uniemox.wording import counted, shorten

if TYPE_CHECKING:
    from pathlib import Path

    from uniemox.console.display import Terminal
    from uniemox.inference.index import Index, Stamp
    from uniemox.inference.predictor import Prediction
    from uniemox.inference.search import Floats, Hit, Searcher


def _search(config: SearchConfig, terminal: Terminal) -> Iterator[Answer]:
    """Find images by a text, by another image, or by an emotion."""
    from uniemox.files.whole import check_absent
    from uniemox.inference.index import open_index, stamp_files
    from uniemox.inference.predictor import find_images
    from uniemox.inference.search import Searcher

    for path in (config.out, config.sheet):
        check_absent(path, overwrite=config.overwrite)
    with StopSignals().listening():
        files = stamp_files(find_images(config.paths))
        searcher = Searcher.load(
            config.model,
            device=config.device,
            dataset=config.dataset,
            precision=config.precision,
            zero_shot=config.zero_shot,
        )
        query = _query(config, searcher)
        with open_index(config.index, searcher.model, searcher.columns, reindex=config.reindex) as index:
            unreadable = _update(index, files, searcher, config, terminal)
            paths = {key: path for key, (path, _) in files.items()}
            hits = searcher.search(index, paths, query, count=config.top_k)
            num_images = len(index)
    if unreadable:
        first = f"{unreadable[0].path}: {unreadable[0].reason}"
        if not num_images:
            raise DataError(f"none of {counted(len(files), 'image')} can be read: {first}")
        terminal.complain(f"{len(unreadable)} of {counted(len(files), 'image')} could not be read: {first}")
    yield from _answer(hits, searcher, unreadable, num_images, config)


def _query(config: SearchConfig, searcher: Searcher) -> Floats | str:
    """Turn what is looked for into a query, before any image is indexed for it."""
    if config.text is not None:
        return searcher.query_text(config.text)
    if config.image is not None:
        return searcher.query_image(config.image)
    assert config.emotion is not None
    return searcher.find_emotion(config.emotion)


def _update(
    index: Index,
    files: Mapping[bytes, tuple[Path, Stamp]],
    searcher: Searcher,
    config: SearchConfig,
    terminal: Terminal,
) -> list[Prediction]:
    """Bring an index up to date; return the images that cannot be read, which every run tries again."""
    folders = [os.fsencode(path.absolute()) for path in config.paths if path.is_dir()]
    missing = index.refresh({key: stamp for key, (_, stamp) in files.items()}, folders)
    before = len(files) - len(missing)
    given = ((key, *files[key]) for key in missing)
    sizes = {"batch_size": config.batch_size, "num_workers": config.workers}
    try:
        with closing(terminal.track(given, total=len(missing), what="images")) as tracked:
            unreadable = searcher.fill(index, tracked, total=len(missing), **sizes)
    except KeyboardInterrupt as interrupt:
        kept = f"{index.num_added + before} of {counted(len(files), 'image')} are kept in {index.folder}"
        by_hand = exit_code(interrupt) == 128 + signal.SIGINT
        why = "interrupted" if by_hand else f"interrupted by {interrupt}"
        interrupt.add_note(f"{why}: {kept}. Run the command again to continue")  # printed instead of "interrupted"
        raise
    index.tidy()
    return unreadable


def _answer(
    hits: Sequence[Hit], searcher: Searcher, unreadable: Sequence[Prediction], num_images: int, config: SearchConfig
) -> Iterator[Answer]:
    """Write what was found, and print it."""
    from uniemox.console.tables import describe_answer, hits_table

    what = config.text or config.emotion or str(config.image)
    if config.out is not None:
        searcher.write(hits, config.out)
    if config.sheet is not None:
        from uniemox.checkpoints.notice import use_notice
        from uniemox.report.contact import Found, write_found

        found = [Found(hit.path, f"{hit.score:.3f}", describe_answer(hit.prediction)) for hit in hits if hit.path]
        score = "the cosine of features" if config.emotion is None else f"the probability of {config.emotion}"
        summary = f"{counted(len(found), 'image')} of {num_images:,}, by {config.model}. The score is {score}."
        notice = use_notice(searcher.predictor.facts)
        write_found(found, config.sheet, title=f"Search: {shorten(what)}", summary=summary, notice=notice)
    data = {
        "query": what,
        "images": num_images,
        "hits": [hit.to_dict() for hit in hits],
        "unreadable": [{"path": str(one.path), "reason": one.reason} for one in unreadable],
    }
    yield Answer([hits_table(hits), config.out, config.sheet], data)


COMMANDS: Final = {"search": Command(SearchConfig, _search)}
