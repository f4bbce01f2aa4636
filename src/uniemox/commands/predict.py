"""The commands that run a classifier: `evaluate`, `predict`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from uniemox.commands.command import (
    FAILURE,
    SUCCESS,
    Command,
    add_compute_flags,
    check_compute_flags,
)
from uniemox.commands.people import add_detector_flags, check_detector_flags, detector_of
from uniemox.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from jsonargparse import Namespace

    from uniemox.checkpoints.facts import ModelFacts
    from uniemox.commands.command import Output
    from uniemox.flags import Parser
    from uniemox.predict import People, Prediction, Predictor
    from uniemox.terminal import Item

MODEL_HELP: Final = (
    "A classifier: its folder, an export, a file of weights, demo, or hf-hub:org/name."
)
TABLE_SUFFIXES: Final = (".csv", ".jsonl", ".parquet")


def tell_evaluation(folder: Path, *, model: Path | str, data: Path, split: str) -> None:
    """Write the page of an evaluation, in the first process."""
    from uniemox.terminal import is_main_process

    if is_main_process():
        from uniemox.report.run import write_evaluation_report

        write_evaluation_report(folder, model=str(model), data=data, split=split)


def _add_dataset(parser: Parser) -> None:
    parser.add_flag("--dataset", str, "Data set or manifest that names the classes of a file.")


def _add_evaluate(parser: Parser) -> None:
    parser.add_words("model", str, MODEL_HELP)
    parser.add_flag("--data", Path, "Manifest made by `uniemox data prepare`.", required=True)
    parser.add_flag("--split", str, "Split of the manifest.", default="test")
    parser.add_flag("--out", Path, "Folder for the report and its pictures.")
    add_compute_flags(parser)
    _add_dataset(parser)
    parser.add_switch("--json", "Print JSON instead of tables.")


def _evaluate(given: Namespace, output: Output) -> int:
    check_compute_flags(given)
    from rich.text import Text

    from uniemox.evaluate import evaluate
    from uniemox.terminal import report_tables

    with output.console.status(Text(f"evaluating {given.model}")):
        report = evaluate(
            given.model,
            data=given.data,
            split=given.split,
            out=given.out,
            device=given.device,
            batch_size=given.batch_size,
            num_workers=given.num_workers,
            dataset=given.dataset,
        )
    if given.out is not None:
        tell_evaluation(given.out, model=given.model, data=given.data, split=given.split)
    if given.json:
        output.say_json(report.to_dict())
        return SUCCESS
    for table in report_tables(report):
        output.show(table)
    return SUCCESS


def _add_predict(parser: Parser) -> None:
    parser.add_words("model", str, MODEL_HELP)
    parser.add_words("paths", Path, "Pictures, and folders to search for them.", many=True)
    parser.add_flag(
        "--out",
        Path,
        "Table to write: .csv, .jsonl or .parquet, with the probabilities of all classes.",
    )
    parser.add_switch("--overwrite", "Replace the table if it exists.")
    parser.add_flag("--top-k", int, "Classes that the printed table shows.", default=3)
    add_compute_flags(parser)
    _add_dataset(parser)
    parser.add_switch(
        "--json", "Print a JSON object in a line for each picture, instead of a table."
    )
    parser.add_switch(
        "--people", "A row for each person too, found by --detector or given by --boxes."
    )
    parser.add_flag("--boxes", Path, "Boxes of people: CSV or COCO's JSON.")
    add_detector_flags(parser)


def _check_predict_flags(given: Namespace) -> None:
    check_compute_flags(given)
    _check_people_flags(given)
    if given.top_k < 1:
        raise ConfigError(f"--top-k is {given.top_k}, but must be at least 1")
    if given.out is None:
        return
    if given.out.suffix.lower() not in TABLE_SUFFIXES:
        raise ConfigError(f"--out is {given.out}, but must end in {', '.join(TABLE_SUFFIXES)}")
    if given.out.exists() and not given.overwrite:
        raise ConfigError(f"{given.out} exists; --overwrite replaces it")


def _check_people_flags(given: Namespace) -> None:
    check_detector_flags(given)
    if given.people and given.detector is None and given.boxes is None:
        raise ConfigError(
            "--people needs boxes: find them with --detector, or give a file of them with --boxes"
        )


def _predict(given: Namespace, output: Output) -> int:
    _check_predict_flags(given)
    from uniemox.predict import Predictor, find_pictures

    paths = find_pictures(given.paths)
    people = _people(paths, given, output)
    predictor = Predictor.load(given.model, device=given.device, dataset=given.dataset)
    failed = 0

    def counted() -> Iterator[Prediction]:
        nonlocal failed
        for prediction in _predictions(predictor, paths, people, given, output):
            failed += prediction.label is None and prediction.box is None
            yield prediction

    _put_out(counted(), given, output, predictor.facts)
    if failed:
        output.complain(f"{failed} of {len(paths)} pictures could not be read")
    return FAILURE if failed == len(paths) else SUCCESS


def _predictions(
    predictor: Predictor,
    paths: Sequence[Path],
    people: People | None,
    given: Namespace,
    output: Output,
) -> Iterator[Prediction]:
    """Predict, showing how many pictures are done."""
    from uniemox.terminal import track

    def shown(items: Iterable[Item]) -> Iterator[Item]:
        return track(items, output.console, total=len(paths), what="pictures")

    options = {"batch_size": given.batch_size, "num_workers": given.num_workers}
    if people is None:
        yield from shown(predictor.predict(paths, **options))
    else:  # a picture has several rows, but few pictures are read ahead
        yield from predictor.predict(shown(paths), people=people, **options)


def _people(paths: Sequence[Path], given: Namespace, output: Output) -> People | None:
    """Make what finds people, or read their boxes; None where nobody is asked for."""
    if given.detector is not None:
        return detector_of(given)
    if given.boxes is None:
        return None
    from uniemox.data.boxes import read_boxes

    names = {path.as_posix(): path for path in paths}
    assigned = read_boxes(given.boxes).assign(names)
    for problem in assigned.problems:
        output.complain(f"{given.boxes}: {problem}")
    return {
        names[name]: found.boxes for name, found in zip(assigned.paths, assigned.found, strict=True)
    }


def _put_out(
    predictions: Iterator[Prediction], given: Namespace, output: Output, facts: ModelFacts
) -> None:
    if given.out is not None:
        from uniemox.predict import write_predictions

        people = given.detector is not None or given.boxes is not None
        count = write_predictions(
            predictions, given.out, facts.classes, people=people, target=facts.target
        )
        if given.json:
            output.say_json({"out": str(given.out), "rows" if people else "pictures": count})
        else:
            output.say(given.out)
    elif given.json:
        for prediction in predictions:
            output.say_json(prediction.to_dict())
    else:
        from uniemox.terminal import predictions_table

        rows = list(predictions)  # before the console, so that the bar is gone when the table comes
        output.show(predictions_table(rows, top_k=given.top_k))


COMMANDS: Final = {
    "evaluate": Command("Score a classifier on a split of a manifest.", _add_evaluate, _evaluate),
    "predict": Command(
        "Tell the emotion of pictures, of folders of them too.", _add_predict, _predict
    ),
}
