"""The command line: words to a configuration, then one call. The only module that prints.

Results go to stdout or to files, progress and logs to stderr. Exit codes: 0 success, 1 failure, 2 wrong use, 130
interrupted. The commands themselves stand in `commands`.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from dataclasses import dataclass
from io import TextIOWrapper
from typing import TYPE_CHECKING

from uniemox.commands import (
    audit,
    checkpoint,
    demo,
    export,
    people,
    predict,
    prepare,
    shard,
    split,
    train,
)
from uniemox.commands.command import FAILURE, INTERRUPTED, SUCCESS, WRONG_USE
from uniemox.errors import ConfigError, UniEmoXError
from uniemox.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console, RenderableType

    from uniemox.commands.command import Command


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
class _Output:
    """Prints what commands say."""

    console: Console

    def say(self, result: object) -> None:
        from uniemox.terminal import is_main_process

        if is_main_process():
            print(result)

    def say_text(self, text: str) -> None:
        print(text, end="")

    def say_json(self, value: object) -> None:
        self.say(json.dumps(value, allow_nan=False))

    def show(self, picture: RenderableType) -> None:
        from uniemox.terminal import stdout_console

        stdout_console().print(picture)

    def complain(self, text: str) -> None:
        _complain(text)


def _run_command(name: str, command: Command, words: Sequence[str]) -> int:
    from uniemox.flags import Parser

    parser = Parser(name, command.summary)
    command.add_flags(parser)
    given = parser.parse(words, defaults=command.keeps_defaults)
    from uniemox.terminal import logs_on, stderr_console

    console = stderr_console()
    with logs_on(console):
        return command.run(given, _Output(console))


COMMANDS: dict[str, Command] = {
    **demo.COMMANDS,
    **prepare.COMMANDS,
    **split.COMMANDS,
    **shard.COMMANDS,
    **people.COMMANDS,
    **audit.COMMANDS,
    **train.COMMANDS,
    **predict.COMMANDS,
    **checkpoint.COMMANDS,
    **export.COMMANDS,
}
