"""The one place where onnxruntime opens and runs models, within a memory and a time. Needs no onnx.

What `onnx_walk` allows may still ask for all memory, or never end. So sessions share an allocator with a limit, nothing
is computed while a file is opened, and both opening and a run are waited for in another thread: onnxruntime is told to
stop when the time is over, when it takes memory beside the allocator, or at Ctrl-C; and left alone where it does not
listen, as within one operation.
"""

from __future__ import annotations

import contextlib
import functools
import mmap
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from uniemox.errors import CheckpointError, ConfigError
from uniemox.wording import reason_of

if TYPE_CHECKING:
    import numpy as np
    from onnxruntime import InferenceSession

    from uniemox.files.onnx_walk import Walked

SECONDS: Final = 40.0
"""Time to open a model, and for a run. Two busy cores take a third of this for what is computed at once."""
_MEMORY: Final = 3 * 2**29  # Bytes that all sessions may take between input and output
_OUT_OF_MEMORY: Final = ("bfc_arena", "bad_alloc")  # In messages of onnxruntime, which have no type of their own
_STRAY: Final = 2 * _MEMORY  # Bytes that the process may grow by, since some operations ask no allocator
_LOOK: Final = 0.05  # Seconds between looks at that
_GRACE: Final = 3.0  # Seconds to stop when told so
_CPU: Final = "CPUExecutionProvider"
_Made = TypeVar("_Made")


class Exceeded(Exception):
    """A run needs more time or memory than it may have; the text says which, after the name of a file."""


def open_session(file: Walked, *, providers: Sequence[str] = (_CPU,), then: str) -> InferenceSession:
    """Open a file that `walk` allowed in onnxruntime, which must be installed.

    Args:
        file: The file.
        providers: Of onnxruntime, the first choice first.
        then: The next step of the error.

    Raises:
        CheckpointError: onnxruntime refuses it, or does not come to an end.
    """
    import onnxruntime

    _limit_memory()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is raised as well
    settings = {
        # Threads that wait by spinning take the cores from those that decode images.
        "session.intra_op.allow_spinning": "0",
        "session.use_env_allocators": "1",
        "session.use_device_allocator_for_initializers": "1",
    }
    if "RoiAlign" in file.operations:
        # In each of its threads it takes memory that no allocator knows. Where that fails, onnxruntime frees what the
        # other threads still write to.
        options.intra_op_num_threads = 1
    for name, value in settings.items():
        options.add_session_config_entry(name, value)

    def open_it() -> InferenceSession:
        # Exports have nothing left to fold, and what a stranger's file folds is under no limit.
        return onnxruntime.InferenceSession(
            str(file.path), options, providers=list(providers), disabled_optimizers=["ConstantFolding"]
        )

    def stop() -> None:
        with contextlib.suppress(AttributeError):  # onnxruntime before 1.21
            options.set_load_cancellation_flag(True)

    try:
        # Room for the weights, and for onnxruntime's copies of them.
        return _wait_for(open_it, stop, room=_STRAY + 2 * file.num_bytes, seconds=SECONDS)
    except Exceeded as error:
        raise CheckpointError(f"{file.path} {error} to be opened: {then}") from error
    except session_errors() as error:
        raise CheckpointError(f"{file.path} is no model that onnxruntime runs ({reason_of(error)}): {then}") from error


def run_session(
    session: InferenceSession, names: Sequence[str], feed: Mapping[str, np.ndarray], *, patience: float = 1.0
) -> list[np.ndarray]:
    """Compute the outputs of those names.

    Raises:
        Exceeded: The model needs more than `patience` times `SECONDS`, or than the memory of all sessions.
        session_errors(): onnxruntime cannot compute them.
    """
    import onnxruntime

    options = onnxruntime.RunOptions()
    stop = functools.partial(setattr, options, "terminate", True)
    try:
        return _wait_for(
            lambda: session.run(list(names), dict(feed), options), stop, room=_STRAY, seconds=patience * SECONDS
        )
    except session_errors() as error:
        if any(words in str(error) for words in _OUT_OF_MEMORY):
            raise _too_large(_MEMORY) from error
        raise


def import_onnxruntime(extra: str) -> Any:
    """Import onnxruntime, or raise a `ConfigError` that names the extra that brings it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(f"models in ONNX need onnxruntime ({error}): pip install 'uniemox[{extra}]'") from error
    return onnxruntime


def session_errors() -> tuple[type[BaseException], ...]:
    """Return the exceptions of onnxruntime, which have no base of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = (
        *("EPFail", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoModel"),
        *("NoSuchFile", "NotImplemented", "RuntimeException"),
    )
    # RuntimeError and ValueError: what the binding itself raises, for example on an invalid rank.
    return (*(getattr(state, name) for name in names), RuntimeError, ValueError)


def _wait_for(work: Callable[[], _Made], stop: Callable[[], None], *, room: int, seconds: float) -> _Made:
    """Do work in another thread; in this one, a signal would be heard only at its end."""
    future: Future[_Made] = Future()
    turn, begun, given_up = threading.Lock(), False, False

    def hand_over(kind: object, error: BaseException | None, trace: object) -> bool:
        del kind, trace
        if error is not None:
            future.set_exception(error)  # raised where the result is awaited
        return True

    def do() -> None:
        nonlocal begun
        with turn:
            if given_up:
                return
            begun = True
        with contextlib.ExitStack() as stack:
            stack.push(hand_over)
            future.set_result(work())

    grace, end, most = _GRACE, time.monotonic() + seconds, _own_memory() + room
    # A daemon: work that does not stop must not keep the process alive.
    thread = threading.Thread(target=do, name="onnxruntime", daemon=True)
    try:
        thread.start()  # which a signal may interrupt before the work begins, and after
        while not wait([future], _LOOK).done:
            if time.monotonic() > end:
                raise Exceeded(f"needs more than {seconds:g} s")
            if _own_memory() > most:
                grace = 0.0  # it would go on growing
                raise _too_large(room)
        return future.result()
    finally:  # at Ctrl-C too
        with turn:
            given_up = True
        if not future.done():
            stop()
        if begun:  # one that comes back when Python has ended would end the process with a signal
            thread.join(grace)


def _too_large(room: int) -> Exceeded:
    return Exceeded(f"needs more than {room / 2**30:.2g} GiB of memory")


def _own_memory() -> int:
    """Return the bytes of memory that are resident and this process's alone; 0 where the system does not tell."""
    try:
        _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_text(encoding="ascii").split())
    except (OSError, ValueError):
        return 0
    return (resident - shared) * mmap.PAGESIZE


@functools.cache
def _limit_memory() -> None:
    """Give onnxruntime the one allocator that the sessions of this process share."""
    import onnxruntime as runtime

    runtime.create_and_register_allocator(
        runtime.OrtMemoryInfo("Cpu", runtime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, runtime.OrtMemType.DEFAULT),
        # 0: by powers of two. Pieces of what is asked for are not joined: a Mask R-CNN of 1 GiB fills 2.5 with them
        runtime.OrtArenaCfg({"max_mem": _MEMORY, "arena_extend_strategy": 0}),
    )
