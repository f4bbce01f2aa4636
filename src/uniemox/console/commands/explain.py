"""The command `explain`."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from uniemox.config.explain import ExplainConfig
from uniemox.console.commands.command import FAILURE, SUCCESS, Answer, Command
from uniemox.console.commands.predict import find_people, load_predictor, track
from uniemox.console.display import Terminal
from uniemox.errors import ConfigError, DataError

if TYPE_CHECKING:
    from uniemox.inference.explain import EffectRow, Explanation
    from uniemox.inference.predictor import Predictor


def _explain(config: ExplainConfig, terminal: Terminal) -> Generator[Answer, None, int]:
    """Explain answers: where in an image, and whether by its people or its scene."""
    from uniemox.files.whole import check_absent, check_vacant
    from uniemox.inference.explain import explain
    from uniemox.inference.inputs import InputReader

    check_absent(config.out, overwrite=config.overwrite)
    if config.overlays is not None and not config.overwrite:
        check_vacant(config.overlays, ConfigError, name="overlays", otherwise=", or give `overwrite`")
    stdin = None if sys.stdin is None else sys.stdin.buffer
    inputs = InputReader(column=config.column, root=config.root, fps=config.fps, stdin=stdin).find(config.paths)
    people = find_people(inputs, config, terminal)
    predictor = load_predictor(config)
    found = explain(
        predictor,
        track(inputs, inputs, terminal),
        people=people,
        method=config.method,
        emotion=config.emotion,
        with_map=config.shows_maps,
    )
    counted = _Counted(found, config.overlays)
    if config.out is not None:
        _write(counted, config.out, predictor, config)
        yield Answer([config.out, config.overlays], {"out": config.out, "images": counted.count})
    elif config.json:
        for one in counted:
            yield Answer(data=one.to_dict())
    else:
        from uniemox.console.tables import explanations_table

        listed = [one.without_image() for one in counted]
        sentences = [f"{one.path}: {one.sentence}." for one in listed if one.sentence is not None]
        yield Answer([explanations_table(listed), *sentences, config.overlays])
    if counted.failed:
        terminal.complain(f"{counted.failed} of {counted.count} images got no answer")
    return FAILURE if counted.failed == counted.count else SUCCESS


class _Counted:
    """Explanations as they come, each counted, and its overlay written into a folder, if there is one."""

    def __init__(self, found: Iterator[Explanation], folder: Path | None) -> None:
        self._found, self._folder = found, folder
        self._names: Counter[str] = Counter()
        self.count = self.failed = 0

    def __iter__(self) -> Iterator[Explanation]:
        for one in self._found:
            self.count += 1
            self.failed += one.answer is None
            if self._folder is not None and one.image is not None:
                self._draw(one, self._folder)
            yield one

    def _draw(self, one: Explanation, folder: Path) -> None:
        from uniemox.files.whole import write_whole
        from uniemox.inference.overlay import overlay

        assert one.image is not None
        stem = "image" if one.path is None else one.path.stem
        self._names[stem] += 1  # images of several folders, and frames, share a name
        name = stem if self._names[stem] == 1 else f"{stem}-{self._names[stem]}"
        with write_whole(folder / f"{name}.png", DataError, elsewhere="choose another `overlays`") as beside:
            overlay(one.image, one).save(beside, "png")


def _write(found: _Counted, out: Path, predictor: Predictor, config: ExplainConfig) -> None:
    from uniemox.files.whole import write_whole
    from uniemox.inference.explain import COLUMNS, list_rows
    from uniemox.inference.tables import Form, about_model

    form = Form(out.suffix.lower(), COLUMNS, about_model(config.model, predictor.facts, digest=predictor.digest()))

    def rows() -> Iterator[EffectRow]:
        for one in found:
            yield from list_rows(one)

    with write_whole(out, DataError, elsewhere="choose another `out`") as beside:
        form.write(rows(), beside)


COMMANDS: Final = {"explain": Command(ExplainConfig, _explain)}
