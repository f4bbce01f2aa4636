"""The command line: from words to a configuration, then one call. The only module that prints.

Results go to stdout or to files, progress and logs to stderr. Exit codes: 0 success, 1 failure, 2 wrong use, 128 + the
number of the signal that stopped it (130 for Ctrl-C). The commands themselves are in `commands`.
"""

import json
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Final

from uniemox.compute.processes import check_alone, is_first_to_report
from uniemox.console.commands.command import FAILURE, SUCCESS, WRONG_USE, Answer, Command
from uniemox.console.display import Terminal, is_main_process, stdout_console
from uniemox.console.flags import name_flags, parse
from uniemox.errors import ConfigError, UniEmoXError, exit_code
from uniemox.settings import Setting, Values, build, combine, list_settings, preview
from uniemox.version import __version__
from uniemox.wording import nearest, one_line, printable

_MODULES: Final = {
    "demo": "demo",
    "data prepare": "prepare",
    "data datasets": "prepare",
    "data show": "prepare",
    "data split": "split",
    "data merge": "split",
    "data shard": "shard",
    "data people": "people",
    "data audit": "audit",
    "data reinforce": "reinforce",
    "pretrain": "train",
    "finetune": "train",
    "probe": "probe",
    "ablate": "ablate",
    "evaluate": "predict",
    "compare": "compare",
    "transfer": "transfer",
    "predict": "predict",
    "explain": "explain",
    "search": "search",
    "report": "report",
    "checkpoint inspect": "checkpoint",
    "checkpoint convert": "checkpoint",
    "checkpoint push": "checkpoint",
    "export": "export",
    "serve": "serve",
}


class _Commands(Mapping[str, Command]):
    """The commands by name. What a line does not name is not imported: it would be half of the time of a help."""

    def __getitem__(self, name: str) -> Command:
        module = import_module(f"uniemox.console.commands.{_MODULES[name]}")
        command: Command = module.COMMANDS[name]
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(_MODULES)

    def __len__(self) -> int:
        return len(_MODULES)

    def __contains__(self, name: object) -> bool:
        return name in _MODULES


COMMANDS: Final[Mapping[str, Command]] = _Commands()
_DEBUG: Final = Setting("debug", bool, "Show where an error comes from.", default=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The words after the program's name; None takes those of this process.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    # Threads that wait by spinning take the cores from the processes that decode images. Read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if isinstance(sys.stdout, TextIOWrapper):
        # Names of files may hold what the encoding cannot express; Python sets up stderr like this itself.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = _run(words)
        if sys.stdout is not None:  # closed by whoever started us
            sys.stdout.flush()
    except SystemExit as leaving:  # --help
        return leaving.code if isinstance(leaving.code, int) else SUCCESS
    except KeyboardInterrupt as stop:
        with suppress(OSError):  # the terminal may be gone
            _complain(getattr(stop, "__notes__", ["interrupted"])[0])
        return exit_code(stop)
    except BrokenPipeError:
        # Whoever read the output, such as `head`, has enough; at exit Python must not flush into the broken pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except (UniEmoXError, OSError, MemoryError, RuntimeError) as error:
        text = _explain(error, words)
        if "--debug" in words:
            traceback.print_exc()
        _complain(f"error: {text}")
        return WRONG_USE if isinstance(error, ConfigError) else FAILURE
    return code


def _explain(error: Exception, words: Sequence[str]) -> str:
    """Describe an error of a user, with flags for settings, or too little memory; raise any other again."""
    if not isinstance(error, UniEmoXError | OSError):
        reason = str(error).partition("\n")[0][:200]
        # torch's class cannot be named here: torch is imported by the command alone.
        if isinstance(error, MemoryError) or "out of memory" in reason or "allocate memory" in reason:
            return f"not enough memory: lower the batch or the model ({reason})"
        raise error
    name = _name_of([word for word in words if word != "--debug"])
    if name is None:
        return str(error)
    text = name_flags(str(error), list_settings(COMMANDS[name].config))
    return f"{text}; see `uniemox {name} --help`" if text.endswith("must be given") else text


def _complain(text: str) -> None:
    if is_first_to_report(text):
        rank = os.environ.get("RANK", "0")
        where = "" if rank == "0" else f" (rank {rank})"
        print(f"uniemox{where}: {printable(one_line(text))}", file=sys.stderr)


def _run(words: list[str]) -> int:
    if words[:1] == ["--debug"]:
        words = [*words[1:], "--debug"]
    if not words or words[0] in ("-h", "--help"):
        print(_overview(""))
        return SUCCESS if words else WRONG_USE
    if words[0] == "--version":
        print(f"uniemox {__version__}")
        return SUCCESS
    name = _name_of(words)
    if name is not None:
        return _run_command(name, words[name.count(" ") + 1 :])
    group = f"{words[0]} "
    if subcommands := [name for name in COMMANDS if name.startswith(group)]:
        if words[1:2] in (["-h"], ["--help"]):
            print(_overview(group))
            return SUCCESS
        raise ConfigError(f"{words[0]} needs a subcommand: {' or '.join(subcommands)}")
    name = words[0][:80]
    raise ConfigError(f"unknown command {name}{nearest(name, COMMANDS)}; see `uniemox --help`")


def _name_of(words: Sequence[str]) -> str | None:
    """Find the command that the first words name."""
    names = (" ".join(words[:length]) for length in (2, 1))
    return next((name for name in names if name in COMMANDS), None)


def _overview(group: str) -> str:
    """List the commands with names that start with the group's."""
    names = [name for name in COMMANDS if name.startswith(group)]
    width = max(map(len, names))
    lines = [f"usage: uniemox {group or 'COMMAND '}…", ""]
    lines += [] if group else ["The emotion of images: train, evaluate and run UniEmoX models.", ""]
    lines += [f"  {name:<{width}}  {COMMANDS[name].summary}" for name in names]
    lines += ["", "Each command has --help, and --debug to show where an error comes from."]
    lines += [] if group else ["`uniemox --version` prints the version."]
    return "\n".join(lines)


def _run_command(name: str, words: Sequence[str]) -> int:
    command = COMMANDS[name]
    sources: Sequence[Setting] = ()
    if command.trains:
        from uniemox.console.commands.train import list_sources

        sources = list_sources(command.config)
    given, notes = parse(name, command.summary, command.config, words, also=(_DEBUG, *sources))
    given.pop("debug", None)
    for note in notes:
        _complain(note)
    if not command.in_several_processes:
        check_alone(name)
    terminal = Terminal()
    with terminal.logs():
        config = _configure(name, command, given)
        if config is None:
            return SUCCESS
        with _admitting(config):
            answers = command.run(config, terminal)
            try:
                while True:
                    _print(next(answers), as_json=getattr(config, "json", False))
            except StopIteration as end:
                return end.value or SUCCESS


def _admitting(config: Any) -> AbstractContextManager[None]:
    """Admit images as large as the settings say, if they say anything."""
    if getattr(config, "max_pixels", None) is None:
        return nullcontext()
    from uniemox.files.images import admitting  # brings Pillow, which most commands do without

    return admitting(config.max_pixels)


def _configure(name: str, command: Command, given: Values) -> Any:
    """Make the configuration; or print it, if that was asked for, and return None."""
    if not command.trains:
        return build(command.config, given)
    preset, files, is_shown = given.pop("preset", None), given.pop("config", ()), given.pop("print_config", False)
    values = combine(command.config, given, preset=preset, files=files)
    if is_shown:
        print(preview(command.config, values), end="")
        return None
    config = build(command.config, values)
    is_released = (name, preset) == ("pretrain", "released")
    if is_released and config.init is None and not config.resume:
        _complain(
            "the released runs started from MAE's ViT-L, and this one starts from random weights: give "
            "--init mae_pretrain_vit_large.pth (facebookresearch/mae) to do as they did"
        )
    return config


def _print(answer: Answer, *, as_json: bool) -> None:
    from rich.table import Table

    if not is_main_process():
        return
    if as_json:
        print(json.dumps(answer.data, allow_nan=False, default=lambda v: str(v) if isinstance(v, Path) else asdict(v)))
        return
    for part in answer.shown:
        if isinstance(part, Table):
            stdout_console().print(part)
        elif part is not None:
            print(part)
