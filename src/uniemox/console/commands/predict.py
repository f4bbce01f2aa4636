"""The commands that run a classifier: `evaluate`, `predict`."""

from __future__ import annotations

import signal
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from uniemox.compute.signals import StopSignals
from uniemox.config.inference import Decoding, EvaluateConfig, PredictConfig, RunsModel
from uniemox.console.commands.command import FAILURE, SUCCESS, Answer, Command
from uniemox.console.display import Terminal, is_main_process
from uniemox.console.flags import command_line
from uniemox.errors import ConfigError, DataError, exit_code
from uniemox.files.progress import untracked
from uniemox.version import __version__
from uniemox.wording import counted

if TYPE_CHECKING:
    from uniemox.config.explain import ExplainConfig
    from uniemox.inference.inputs import Inputs
    from uniemox.inference.parts import Parts
    from uniemox.inference.predictor import People, Prediction, Predictor
    from uniemox.targets.target import Target

Item = TypeVar("Item")


def _evaluate(config: EvaluateConfig, terminal: Terminal) -> Iterator[Answer]:
    """Score a classifier on a split of a manifest."""
    from uniemox.console.tables import report_tables
    from uniemox.files.whole import check_vacant
    from uniemox.inference.evaluate import evaluate

    if config.out is not None and not config.overwrite:
        check_vacant(config.out, ConfigError, otherwise=", or give `overwrite`")
    if config.card:
        from uniemox.checkpoints.folder import own_folder, record_robustness

        folder = own_folder(config.model)  # refused before the model runs
    # Only one of both can be shown at a time.
    with nullcontext() if config.robustness else terminal.status(f"evaluating {config.model}"):
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
            bridge=config.bridge,
            robustness=config.robustness,
            by=config.by,
            track=terminal.track if config.robustness else untracked,
        )
    if config.out is not None and is_main_process():
        from uniemox.report.run import write_evaluation_report

        command = command_line("evaluate", config)
        write_evaluation_report(config.out, model=config.model, data=config.data, split=config.split, command=command)
    if config.card and is_main_process() and report.robustness is not None:
        record_robustness(folder, report.robustness)
    yield Answer(list(report_tables(report)), report.to_dict())


def _predict(config: PredictConfig, terminal: Terminal) -> Generator[Answer, None, int]:
    """Predict emotions for images, folders, archives, videos, lists and tables."""
    from uniemox.inference.inputs import STDIN, InputReader
    from uniemox.inference.parts import check_out

    out, seen = config.out, _Count()
    if out is not None and check_out(out, resume=config.resume, overwrite=config.overwrite):
        yield _count_finished(out, config, terminal)
        return SUCCESS
    with nullcontext() if out is None else StopSignals().listening():
        stdin = None if sys.stdin is None else sys.stdin.buffer
        reader = InputReader(column=config.column, root=config.root, fps=config.fps, stdin=stdin)
        # A list on stdin is answered as its lines come, unless all of them are needed first.
        is_live = config.list == STDIN and not config.paths and out is None and config.boxes is None
        live = reader.read_list(STDIN) if is_live else None
        inputs = None if is_live else reader.find(config.paths, config.list)
        people = find_people(inputs, config, terminal)
        predictor = load_predictor(config, decoding=config.decoding)
        options: dict[str, Any] = {"batch_size": config.batch_size, "num_workers": config.workers, "people": people}
        options |= {"mask_people": config.mask_people, "explain": config.explain}
        if inputs is None:
            answers = _answer_each(live or (), partial(predictor.predict, **options), seen)
            failed = yield from _print(answers, predictor.target, config)
        elif out is None:
            with closing(track(seen.over(inputs), inputs, terminal)) as tracked:
                failed = yield from _print(predictor.predict(tracked, **options), predictor.target, config)
        else:
            parts = _write(inputs, out, predictor, options, config, terminal, seen)
            failed = parts.unreadable
            yield Answer([out], {"out": out, "rows" if _has_people(config) else "pictures": parts.rows})
    if inputs is None and not seen.count:
        raise DataError(f"{config.list} names no image")
    if failed:
        terminal.complain(f"{failed} of {seen.count} images got no answer")
    return FAILURE if failed == seen.count else SUCCESS


def load_predictor(config: RunsModel, *, decoding: Decoding = "auto") -> Predictor:
    """Load the classifier that a command runs; raises what `Predictor.load` raises."""
    from uniemox.inference.predictor import Predictor

    return Predictor.load(
        config.model,
        device=config.device,
        dataset=config.dataset,
        precision=config.precision,
        zero_shot=config.zero_shot,
        decoding=decoding,
    )


class _Count:
    """How many images were taken so far."""

    def __init__(self) -> None:
        self.count = 0

    def over(self, images: Iterable[Item]) -> Iterator[Item]:
        for image in images:
            self.count += 1
            yield image


def track(images: Iterable[Item], inputs: Inputs, terminal: Terminal) -> Generator[Item, None, None]:
    """Show progress, if it is known how many images there are."""
    if inputs.total is not None:
        yield from terminal.track(images, total=inputs.total, what="images")
        return
    with terminal.status("predicting"):
        yield from images


def _answer_each(live: Iterable[Inputs], predict: Callable[..., Iterator[Prediction]], seen: _Count) -> Iterator[Any]:
    """Answer what has arrived before waiting for more."""
    for inputs in live:
        yield from predict(seen.over(inputs))
        if sys.stdout is not None:
            sys.stdout.flush()  # a pipe would keep the answers back


def _print(predictions: Iterable[Prediction], target: Target, config: PredictConfig) -> Generator[Answer, None, int]:
    """Answer by JSON lines as they come, or by a table at the end; return how many images got no answer."""
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
        yield Answer([predictions_table(rows, target, top_k=config.top_k)])
    return failed


def _count_finished(out: Path, config: PredictConfig, terminal: Terminal) -> Answer:
    """Report that a table is complete, which a run that continues it need not make again."""
    from uniemox.inference.tables import count_rows

    rows, unread = count_rows(out)
    without = f", {unread} of them without an answer" if unread else ""
    terminal.complain(f"{out} is finished: it has {counted(rows, 'row')}{without}; --overwrite makes it again")
    return Answer([out], {"out": out, "rows" if _has_people(config) else "pictures": rows})


def _has_people(config: PredictConfig) -> bool:
    """Whether a table has rows for people."""
    return (config.detector is not None or config.boxes is not None) and not config.mask_people


def _write(
    inputs: Inputs,
    out: Path,
    predictor: Predictor,
    options: Mapping[str, Any],
    config: PredictConfig,
    terminal: Terminal,
    seen: _Count,
) -> Parts:
    """Make the parts of a table that are missing, and join them; finished parts survive an interruption."""
    from uniemox.inference.effects import COLUMNS
    from uniemox.inference.parts import Work, choose_part_size, open_parts
    from uniemox.inference.tables import about_model, form_of

    people = options["people"]
    about = about_model(config.model, predictor.facts, digest=predictor.digest())
    columns = {"people": _has_people(config), "times": inputs.has_times, "rows": inputs.has_rows}
    more = COLUMNS if config.explain else ()
    form = form_of(out, predictor.target, **columns, domain=predictor.domain, more=more, about=about)
    part_size = choose_part_size(inputs.total, config.batch_size)
    identity = _identify(predictor, inputs, people, config, digest=about["digest"])
    work = Work(identity=identity, num_inputs=inputs.total, part_size=part_size)
    with open_parts(out, work, form, resume=config.resume, overwrite=config.overwrite) as parts:
        if parts.done:
            terminal.write(f"continuing after {_count_kept(parts)}")
        try:
            started: deque[Any] = deque()
            with closing(track(seen.over(inputs), inputs, terminal)) as tracked:
                groups = predictor.predict_groups(_noted(parts.cut(tracked), started), **options)
                for predictions in groups:
                    parts.keep(started.popleft(), predictions)
            parts.join()
        except KeyboardInterrupt as interrupt:
            interrupt.add_note(_explain_kept(interrupt, parts))  # printed instead of "interrupted"
            raise
    return parts


def _noted(items: Iterable[Item], taken: deque[Item]) -> Iterator[Item]:
    """Yield items, and queue each for whoever uses what came of it: threads read ahead over the ends of parts."""
    for item in items:
        taken.append(item)
        yield item


def _count_kept(parts: Parts) -> str:
    known = parts.work.num_inputs
    return counted(parts.done, "image") if known is None else f"{parts.done} of {known} images"


def _identify(
    predictor: Predictor, inputs: Inputs, people: People | None, config: PredictConfig, *, digest: str
) -> dict[str, str]:
    """Name what the rows of a table depend on: a run continues only if all of it is the same."""
    from uniemox.people.detectors.detector import fingerprint

    identity = {
        "model": f"SHA-256 {digest[:16]}",
        "precision": predictor.precision,
        "decoding": predictor.decoding,
        "list of inputs": inputs.identity(),
        "version of uniemox": __version__,
    }
    if config.boxes is not None:
        identity["file of boxes"] = f"SHA-256 {fingerprint(config.boxes)}, {config.box_units}"
    elif people is not None and not isinstance(people, Mapping):
        identity["detector"] = people.source
    if config.mask_people or config.explain:
        identity["handling of people"] = "masked" if config.mask_people else "explained"
    return identity


def _explain_kept(interrupt: KeyboardInterrupt, parts: Parts) -> str:
    """Explain in one line what is kept, and how to continue."""
    by_hand = exit_code(interrupt) == 128 + signal.SIGINT
    why = "interrupted" if by_hand else f"interrupted by {interrupt}"
    if parts.is_joined:
        return f"{why} after the table was written"
    if not parts.done:
        return f"{why} before the first part was finished, so nothing is kept: run the command again"
    return f"{why}: {_count_kept(parts)} are kept in {parts.folder}. Run the command again with --resume to continue"


def find_people(inputs: Inputs | None, config: PredictConfig | ExplainConfig, terminal: Terminal) -> People | None:
    """Make what finds people, or read their boxes; None if nobody is asked for."""
    if config.detector is not None:
        from uniemox.console.commands.people import build_asked_detector

        return build_asked_detector(config.detector, config, device=config.device)
    if config.boxes is None or inputs is None:
        return None
    from uniemox.people.boxes import read_boxes

    names = {path.as_posix(): path for path in inputs.paths()}
    assigned = read_boxes(config.boxes).assign(names, units=config.box_units, size_of=inputs.sizes())
    for finding in (*assigned.problems, *assigned.notes):
        terminal.complain(f"{config.boxes}: {finding}")
    return {names[name]: found.boxes for name, found in zip(assigned.paths, assigned.found, strict=True)}


COMMANDS: Final = {
    "evaluate": Command(EvaluateConfig, _evaluate, in_several_processes=True),
    "predict": Command(PredictConfig, _predict),
}
