"""The commands that run a classifier: `evaluate`, `predict`."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from functools import partial
from hashlib import sha256
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from uniemox.compute.signals import StopSignals
from uniemox.config.inference import EvaluateConfig, PredictConfig
from uniemox.console.commands.command import FAILURE, SUCCESS, Answer, Command
from uniemox.console.commands.people import build_asked_detector
from uniemox.console.display import Terminal, is_main_process
from uniemox.errors import ConfigError, exit_code
from uniemox.version import __version__
from uniemox.wording import counted

if TYPE_CHECKING:
    from uniemox.inference.parts import Parts
    from uniemox.inference.predictor import People, Prediction, Predictor


def _evaluate(config: EvaluateConfig, terminal: Terminal) -> Iterator[Answer]:
    """Score a classifier on a split of a manifest."""
    from uniemox.console.tables import report_tables
    from uniemox.files.whole import check_vacant
    from uniemox.inference.evaluate import evaluate

    if config.out is not None and not config.overwrite:
        check_vacant(config.out, ConfigError, otherwise=", or give `overwrite`")
    with terminal.status(f"evaluating {config.model}"):
        report = evaluate(
            config.model,
            data=config.data,
            split=config.split,
            out=config.out,
            device=config.device,
            batch_size=config.batch_size,
            num_workers=config.workers,
            dataset=config.dataset,
            precision=config.precision,
            baselines=config.baselines,
            zero_shot=config.zero_shot,
        )
    if config.out is not None and is_main_process():
        from uniemox.report.run import write_evaluation_report

        write_evaluation_report(config.out, model=config.model, data=config.data, split=config.split)
    yield Answer(list(report_tables(report)), report.to_dict())


def _predict(config: PredictConfig, terminal: Terminal) -> Generator[Answer, None, int]:
    """Predict emotions for images or folders."""
    from uniemox.inference.parts import Work, check_out, choose_part_size, open_parts
    from uniemox.inference.predictor import Predictor, find_images
    from uniemox.inference.tables import SUFFIXES, form_of

    out = config.out
    if out is not None:
        if out.suffix.lower() not in SUFFIXES:
            raise ConfigError(f"out is {out}, but must end in {', '.join(SUFFIXES)}")
        check_out(out, resume=config.resume, overwrite=config.overwrite)
    with nullcontext() if out is None else StopSignals().listening():
        paths = find_images(config.paths)
        people = _people(paths, config, terminal)
        predictor = Predictor.load(
            config.model,
            device=config.device,
            dataset=config.dataset,
            precision=config.precision,
            zero_shot=config.zero_shot,
        )
        options: dict[str, Any] = {"batch_size": config.batch_size, "num_workers": config.workers, "people": people}
        if out is None:
            tracked = terminal.track(paths, total=len(paths), what="images")
            failed = yield from _print(predictor.predict(tracked, **options), config)
        else:
            identity = _identify(predictor, paths, people, config)
            part_size = choose_part_size(len(paths), config.batch_size)
            work = Work(identity=identity, num_inputs=len(paths), part_size=part_size)
            form = form_of(out, predictor.target, people=people is not None)
            with open_parts(out, work, form, resume=config.resume, overwrite=config.overwrite) as parts:
                try:
                    _write_parts(parts, paths, partial(predictor.predict_groups, **options), terminal)
                except KeyboardInterrupt as interrupt:
                    interrupt.add_note(_explain_kept(interrupt, parts))  # printed instead of "interrupted"
                    raise
            failed = parts.unreadable
            yield Answer([out], {"out": out, "pictures" if people is None else "rows": parts.rows})
    if failed:
        terminal.complain(f"{failed} of {len(paths)} images could not be read")
    return FAILURE if failed == len(paths) else SUCCESS


def _print(predictions: Iterable[Prediction], config: PredictConfig) -> Generator[Answer, None, int]:
    """Answer by JSON lines as they come, or by a table at the end; return how many images could not be read."""
    from uniemox.console.tables import predictions_table

    rows = []
    failed = 0
    for prediction in predictions:
        failed += prediction.answer is None and prediction.box is None
        if config.json:
            yield Answer(data=prediction.to_dict())
        else:
            rows.append(prediction)
    if not config.json:  # after the last image, so that the bar is gone when the table comes
        yield Answer([predictions_table(rows, top_k=config.top_k)])
    return failed


def _write_parts(parts: Parts, paths: Sequence[Path], predict: Callable[..., Any], terminal: Terminal) -> None:
    """Make the parts of a table that are missing, and join them; finished parts survive an interruption."""
    missing = parts.missing()
    if parts.done:
        terminal.write(f"continuing after {parts.done} of {len(paths)} images")
    bounds = list(map(parts.bounds, missing))
    todo = list(chain.from_iterable(paths[start:stop] for start, stop in bounds))
    with closing(terminal.track(todo, total=len(todo), what="images")) as tracked:
        groups = predict(islice(tracked, stop - start) for start, stop in bounds)
        for number, predictions in zip(missing, groups, strict=True):
            parts.keep(number, predictions)
    parts.join()


def _identify(
    predictor: Predictor, paths: Sequence[Path], people: People | None, config: PredictConfig
) -> dict[str, str]:
    """Name what the rows of a table depend on: a run continues only if all of it is the same."""
    from uniemox.people.detectors.detector import fingerprint

    digest = sha256(b"".join(os.fsencode(path) + b"\0" for path in paths)).hexdigest()
    identity = {
        "model": f"SHA-256 {predictor.digest()[:16]}",
        "precision": predictor.precision,
        "list of inputs": f"{counted(len(paths), 'image')}, SHA-256 {digest[:16]}",
        "version of uniemox": __version__,
    }
    if config.boxes is not None:
        identity["file of boxes"] = f"SHA-256 {fingerprint(config.boxes)}, {config.box_units}"
    elif people is not None and not isinstance(people, Mapping):
        identity["detector"] = people.source
    return identity


def _explain_kept(interrupt: KeyboardInterrupt, parts: Parts) -> str:
    """Explain in one line what is kept, and how to continue."""
    by_hand = exit_code(interrupt) == 128 + signal.SIGINT
    why = "interrupted" if by_hand else f"interrupted by {interrupt}"
    if parts.is_joined:
        return f"{why} after the table was written"
    if not parts.done:
        return f"{why} before the first part was finished, so nothing is kept: run the command again"
    kept = f"{parts.done} of {parts.work.num_inputs} images are kept in {parts.folder}"
    return f"{why}: {kept}. Run the command again with --resume to continue"


def _people(paths: Sequence[Path], config: PredictConfig, terminal: Terminal) -> People | None:
    """Make what finds people, or read their boxes; None if nobody is asked for."""
    if config.detector is not None:
        return build_asked_detector(config.detector, config, device=config.device)
    if config.boxes is None:
        return None
    from uniemox.people.boxes import read_boxes

    names = {path.as_posix(): path for path in paths}
    assigned = read_boxes(config.boxes).assign(names, units=config.box_units)
    for finding in (*assigned.problems, *assigned.notes):
        terminal.complain(f"{config.boxes}: {finding}")
    return {names[name]: found.boxes for name, found in zip(assigned.paths, assigned.found, strict=True)}


COMMANDS: Final = {
    "evaluate": Command(EvaluateConfig, _evaluate, in_several_processes=True),
    "predict": Command(PredictConfig, _predict),
}
