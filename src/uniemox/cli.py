"""The command line: words to a configuration, then one call. The only module that prints.

Results go to stdout or to files, progress and logs to stderr. Exit codes: 0 success, 1 failure, 2 wrong use, 130
interrupted. What a command needs is imported when it runs, so that `--help` brings no torch.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from dataclasses import asdict, dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING

from uniemox.errors import ConfigError, UniEmoXError
from uniemox.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from jsonargparse import Namespace
    from rich.console import Console

    from uniemox.data.manifest import Manifest
    from uniemox.flags import Parser
    from uniemox.predict import Prediction
    from uniemox.settings import Config

SUCCESS, FAILURE, WRONG_USE, INTERRUPTED = 0, 1, 2, 130
TABLE_SUFFIXES = (".csv", ".jsonl", ".parquet")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The words after the program's name; None takes those of this process.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    # Threads that wait by spinning take the cores from the processes that decode pictures. Read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if isinstance(sys.stdout, TextIOWrapper):
        # Names of files may hold what the encoding cannot say; stderr is made like this by Python.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = _run_within_memory(words)
        _flush()
    except SystemExit as leaving:  # --help
        return leaving.code if isinstance(leaving.code, int) else SUCCESS
    except KeyboardInterrupt:
        _complain("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output, such as `head`, has enough; at exit Python must not flush into the broken pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except (UniEmoXError, OSError) as error:
        if "--debug" in words:
            traceback.print_exc()
        _complain(f"error: {error}")
        return WRONG_USE if isinstance(error, ConfigError) else FAILURE
    return code


def _run_within_memory(words: list[str]) -> int:
    """Run one command; torch's and Python's want of memory becomes an error for users."""
    try:
        return _run(words)
    except (MemoryError, RuntimeError) as error:
        reason = str(error).partition("\n")[0][:200]
        # torch's class cannot be named here: torch is imported by the command alone.
        wants = ("out of memory", "allocate memory")
        if not isinstance(error, MemoryError) and not any(want in reason for want in wants):
            raise
        raise UniEmoXError(f"not enough memory: lower the batch or the model ({reason})") from error


def _flush() -> None:
    if sys.stdout is not None:  # closed by whoever started us
        sys.stdout.flush()


def _complain(text: str) -> None:
    from uniemox.terminal import printable

    rank = os.environ.get("RANK", "0")
    where = "" if rank == "0" else f" (rank {rank})"
    print(f"uniemox{where}: {printable(' '.join(text.split()))}", file=sys.stderr)


def _run(words: list[str]) -> int:
    if words[:1] == ["--debug"]:
        words = [*words[1:], "--debug"]
    if not words or words[0] in ("-h", "--help"):
        print(_overview(""), end="")
        return SUCCESS if words else WRONG_USE
    if words[0] == "--version":
        print(f"uniemox {__version__}")
        return SUCCESS
    for length in (2, 1):
        command = COMMANDS.get(" ".join(words[:length]))
        if command is not None:
            return _run_command(" ".join(words[:length]), command, words[length:])
    group = f"{words[0]} "
    if any(name.startswith(group) for name in COMMANDS):
        if words[1:2] in (["-h"], ["--help"]):
            print(_overview(group), end="")
            return SUCCESS
        subcommands = " or ".join(name for name in COMMANDS if name.startswith(group))
        raise ConfigError(f"{words[0]} needs to know what to do: {subcommands}")
    from uniemox.flags import nearest

    name = words[0][:80]
    raise ConfigError(f"there is no command {name}{nearest(name, COMMANDS)}; see `uniemox --help`")


def _overview(group: str) -> str:
    """List the commands whose name begins with the group's."""
    names = [name for name in COMMANDS if name.startswith(group)]
    width = max(map(len, names))
    lines = [f"usage: uniemox {group}{'' if group else 'COMMAND '}…", ""]
    if not group:
        lines += ["The emotion of images: train, evaluate and run UniEmoX models.", ""]
    lines += [f"  {name:<{width}}  {COMMANDS[name].summary}" for name in names]
    lines += ["", "Each command has --help, and --debug to show where an error comes from."]
    if not group:
        lines += ["`uniemox --version` tells the version."]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Command:
    """What one command takes and does."""

    summary: str
    add_flags: Callable[[Parser], None]
    run: Callable[[Namespace, Console], int]
    """Takes what the flags gave, and the console of progress and logs."""
    keeps_defaults: bool = True
    """Whether absent flags have their default in what `run` gets; otherwise they are absent there too."""


def _run_command(name: str, command: Command, words: Sequence[str]) -> int:
    from uniemox.flags import Parser

    parser = Parser(name, command.summary)
    command.add_flags(parser)
    given = parser.parse(words, defaults=command.keeps_defaults)
    from uniemox.terminal import logs_on, stderr_console

    console = stderr_console()
    with logs_on(console):
        return command.run(given, console)


def _say(result: object) -> None:
    """Print a result, if this process is the one that speaks."""
    from uniemox.terminal import is_main_process

    if is_main_process():
        print(result)


def _say_json(value: object) -> None:
    _say(json.dumps(value, allow_nan=False))


def _add_compute_flags(parser: Parser) -> None:
    parser.add_flag("--device", str, "auto, cpu, cuda or mps.", default="auto")
    parser.add_flag("--batch-size", int, "Pictures in one forward pass.", default=32)
    parser.add_flag("--num-workers", int, "Processes that decode pictures.", default=2)


def _check_compute_flags(given: Namespace) -> None:
    if given.batch_size < 1:
        raise ConfigError(f"--batch-size is {given.batch_size}, but must be at least 1")
    if given.num_workers < 0:
        raise ConfigError(f"--num-workers is {given.num_workers}, but must not be negative")


# demo


def _add_demo(parser: Parser) -> None:
    parser.add_flag(
        "--out", Path, "Folder of the demo's runs and report.", default=Path("uniemox-demo")
    )
    parser.add_flag("--device", str, "auto, cpu, cuda or mps.", default="auto")
    parser.add_flag("--seed", int, "Seed of weights, order, masks and augmentation.", default=0)


def _demo(given: Namespace, console: Console) -> int:
    from uniemox.demo.run import run_demo
    from uniemox.terminal import Display

    with Display(console) as display:
        report = run_demo(given.out, device=given.device, seed=given.seed, observer=display)
    _say(report)
    return SUCCESS


# data


def _add_data_prepare(parser: Parser) -> None:
    parser.add_words("name", str, "Data set, such as emoset, or the layout of its folders.")
    parser.add_flag("--root", Path, "Folder of the data set.", required=True)
    parser.add_flag(
        "--out", Path, "Manifest to write, a Parquet file; replaced if it exists.", required=True
    )
    parser.add_flag("--people", Path, "CSV file of people's boxes.")
    parser.add_flag(
        "--split",
        str,
        "Shares of train, val and test for a data set that has no split.",
        metavar="80/5/15",
    )
    parser.add_flag("--seed", int, "Seed of the split.", default=0)
    parser.add_switch("--strict", "Fail on the first problem instead of counting it.")
    parser.add_switch("--json", "Print JSON instead of tables.")


def parse_ratios(text: str) -> tuple[float, float, float]:
    """Turn "80/5/15" into shares of train, val and test that sum to 1.

    Raises:
        ConfigError: On anything but three numbers, or a share that is not positive where it must be.
    """
    try:
        train, val, test = (float(part) for part in text.split("/"))
    except ValueError:
        train, val, test = -1.0, 0.0, 0.0
    total = train + val + test
    if not (train > 0 and val >= 0 and test >= 0 and total < float("inf")):
        raise ConfigError(
            f"--split is {text[:40]}, but must be three shares for train, val and test, such as 80/5/15"
        )
    return train / total, val / total, test / total


def _data_prepare(given: Namespace, console: Console) -> int:
    ratios = None if given.split is None else parse_ratios(given.split)
    from uniemox.data.layouts import import_dataset
    from uniemox.data.manifest import write_manifest
    from uniemox.terminal import counts_table, problems_table, stdout_console

    result = import_dataset(
        given.name,
        given.root,
        people=given.people,
        ratios=ratios,
        seed=given.seed,
        strict=given.strict,
    )
    write_manifest(result.manifest, given.out)
    counts = _count(result.manifest)
    if given.json:
        problems = [
            {"kind": problem.kind, "count": problem.count, "example": problem.example}
            for problem in result.problems
        ]
        _say_json({"manifest": str(given.out), "pictures": counts, "problems": problems})
        return SUCCESS
    stdout = stdout_console()
    stdout.print(counts_table(counts, result.manifest.facts.classes))
    if result.problems:
        stdout.print(problems_table(result.problems))
    _say(given.out)
    return SUCCESS


def _add_data_show(parser: Parser) -> None:
    parser.add_words("manifest", Path, "Parquet file made by `uniemox data prepare`.")
    parser.add_switch("--json", "Print JSON instead of tables.")


def _data_show(given: Namespace, console: Console) -> int:
    from uniemox.data.manifest import read_manifest
    from uniemox.terminal import counts_table, facts_table, stdout_console

    manifest = read_manifest(given.manifest)
    counts = _count(manifest)
    if given.json:
        facts = asdict(manifest.facts) | {"root": str(manifest.facts.root)}
        _say_json({"facts": facts, "pictures": counts})
        return SUCCESS
    stdout = stdout_console()
    stdout.print(facts_table(manifest.facts, rows=len(manifest)))
    stdout.print(counts_table(counts, manifest.facts.classes))
    return SUCCESS


def _count(manifest: Manifest) -> dict[str, dict[str, int]]:
    """Count split to class to pictures; the class of pictures without a label is the empty text."""
    counts = {}
    for split, total in manifest.split_counts().items():
        of_class = manifest.select([split]).class_counts()
        unlabelled = total - sum(of_class.values())
        counts[split] = of_class | ({"": unlabelled} if unlabelled else {})
    return counts


# pretrain, finetune


def _add_pretrain(parser: Parser) -> None:
    from uniemox.config import PretrainConfig
    from uniemox.settings import add_settings

    parser.usage = _usage("pretrain")
    add_settings(parser, PretrainConfig)


def _add_finetune(parser: Parser) -> None:
    from uniemox.config import FinetuneConfig
    from uniemox.settings import add_settings

    parser.usage = _usage("finetune")
    add_settings(parser, FinetuneConfig)


def _usage(command: str) -> str:
    return f"uniemox {command} [--preset NAME] [--config FILE] --data PATH --out PATH [--setting VALUE …]"


def _configure(kind: type[Config], given: Namespace) -> Config | None:
    """Make the configuration; or print it, if that was asked for, and give None."""
    from uniemox import settings

    values = settings.combine(kind, given)
    if given.get("print_config"):
        print(settings.preview(kind, values), end="")
        return None
    return settings.build(kind, values)


def _pretrain(given: Namespace, console: Console) -> int:
    from uniemox.config import PretrainConfig

    config = _configure(PretrainConfig, given)
    if config is not None:
        from uniemox.terminal import Display
        from uniemox.train.run import pretrain

        with Display(console) as display:
            folder = pretrain(config, display)
        _tell_run(config.out)
        _say(folder)
    return SUCCESS


def _finetune(given: Namespace, console: Console) -> int:
    from uniemox.config import FinetuneConfig

    config = _configure(FinetuneConfig, given)
    if config is not None:
        from uniemox.terminal import Display
        from uniemox.train.run import finetune

        with Display(console) as display:
            folder = finetune(config, display)
        _tell_run(config.out)
        if config.test_split is not None:
            _tell_evaluation(
                config.out / "test", model=folder, data=config.data, split=config.test_split
            )
        _say(folder)
    return SUCCESS


def _tell_run(folder: Path) -> None:
    """Write the page of a run, in the first process."""
    from uniemox.terminal import is_main_process

    if is_main_process():
        from uniemox.report.run import write_run_report

        write_run_report(folder)


def _tell_evaluation(folder: Path, *, model: Path | str, data: Path, split: str) -> None:
    """Write the page of an evaluation, in the first process."""
    from uniemox.terminal import is_main_process

    if is_main_process():
        from uniemox.report.run import write_evaluation_report

        write_evaluation_report(folder, model=str(model), data=data, split=split)


# evaluate, predict


def _add_evaluate(parser: Parser) -> None:
    parser.add_words("model", str, "Folder of a fine-tuned model, or demo.")
    parser.add_flag("--data", Path, "Manifest made by `uniemox data prepare`.", required=True)
    parser.add_flag("--split", str, "Split of the manifest.", default="test")
    parser.add_flag("--out", Path, "Folder for the report and its pictures.")
    _add_compute_flags(parser)
    parser.add_switch("--json", "Print JSON instead of tables.")


def _evaluate(given: Namespace, console: Console) -> int:
    _check_compute_flags(given)
    from rich.text import Text

    from uniemox.evaluate import evaluate
    from uniemox.terminal import report_tables, stdout_console

    with console.status(Text(f"evaluating {given.model}")):
        report = evaluate(
            given.model,
            data=given.data,
            split=given.split,
            out=given.out,
            device=given.device,
            batch_size=given.batch_size,
            num_workers=given.num_workers,
        )
    if given.out is not None:
        _tell_evaluation(given.out, model=given.model, data=given.data, split=given.split)
    if given.json:
        _say_json(report.to_dict())
        return SUCCESS
    stdout = stdout_console()
    for table in report_tables(report):
        stdout.print(table)
    return SUCCESS


def _add_predict(parser: Parser) -> None:
    parser.add_words("model", str, "Folder of a fine-tuned model, or demo.")
    parser.add_words("paths", Path, "Pictures, and folders to search for them.", many=True)
    parser.add_flag(
        "--out",
        Path,
        "Table to write: .csv, .jsonl or .parquet, with the probabilities of all classes.",
    )
    parser.add_switch("--overwrite", "Replace the table if it exists.")
    parser.add_flag("--top-k", int, "Classes that the printed table shows.", default=3)
    _add_compute_flags(parser)
    parser.add_switch(
        "--json", "Print a JSON object in a line for each picture, instead of a table."
    )


def _check_predict_flags(given: Namespace) -> None:
    _check_compute_flags(given)
    if given.top_k < 1:
        raise ConfigError(f"--top-k is {given.top_k}, but must be at least 1")
    if given.out is None:
        return
    if given.out.suffix.lower() not in TABLE_SUFFIXES:
        raise ConfigError(f"--out is {given.out}, but must end in {', '.join(TABLE_SUFFIXES)}")
    if given.out.exists() and not given.overwrite:
        raise ConfigError(f"{given.out} exists; --overwrite replaces it")


def _predict(given: Namespace, console: Console) -> int:
    _check_predict_flags(given)
    from uniemox.predict import Predictor, find_pictures
    from uniemox.terminal import track

    paths = find_pictures(given.paths)
    predictor = Predictor.load(given.model, device=given.device)
    predictions = predictor.predict(
        paths, batch_size=given.batch_size, num_workers=given.num_workers
    )
    failed = 0

    def counted() -> Iterator[Prediction]:
        nonlocal failed
        for prediction in track(predictions, console, total=len(paths), what="pictures"):
            failed += prediction.label is None
            yield prediction

    _put_out(counted(), given, predictor.facts.classes)
    if failed:
        _complain(f"{failed} of {len(paths)} pictures could not be read")
    return FAILURE if failed == len(paths) else SUCCESS


def _put_out(predictions: Iterator[Prediction], given: Namespace, classes: Sequence[str]) -> None:
    if given.out is not None:
        from uniemox.predict import write_predictions

        count = write_predictions(predictions, given.out, classes)
        if given.json:
            _say_json({"out": str(given.out), "pictures": count})
        else:
            _say(given.out)
    elif given.json:
        for prediction in predictions:
            _say_json(prediction.to_dict())
    else:
        from uniemox.terminal import predictions_table, stdout_console

        rows = list(predictions)  # before the console, so that the bar is gone when the table comes
        stdout_console().print(predictions_table(rows, top_k=given.top_k))


COMMANDS: dict[str, Command] = {
    "demo": Command(
        "Run the whole pipeline on the embedded data, offline, and write a report.",
        _add_demo,
        _demo,
    ),
    "data prepare": Command(
        "Read a data set's folder into a manifest.", _add_data_prepare, _data_prepare
    ),
    "data show": Command("Show what a manifest holds.", _add_data_show, _data_show),
    "pretrain": Command(
        "Pretrain on scenes and persons, distilling CLIP.",
        _add_pretrain,
        _pretrain,
        keeps_defaults=False,
    ),
    "finetune": Command(
        "Train a classifier from a pretrained model or from random weights.",
        _add_finetune,
        _finetune,
        keeps_defaults=False,
    ),
    "evaluate": Command("Score a classifier on a split of a manifest.", _add_evaluate, _evaluate),
    "predict": Command(
        "Tell the emotion of pictures, of folders of them too.", _add_predict, _predict
    ),
}
