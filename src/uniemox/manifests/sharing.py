"""A large table in the processes that this one starts: they map one copy of it, as forked processes share it."""

import mmap
import os
import sys
import tempfile
from functools import cached_property
from typing import IO, Any, Final

import pyarrow as pa

_LARGE: Final = 2**20  # Bytes in memory from which a table is mapped; smaller ones are sent


class SharedTable:
    """A table that goes to a started process as the descriptor of a file without a name.

    The file is made when the first process asks for it, and is gone with the last that has it open, however that ends.
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    @cached_property
    def _file(self) -> IO[bytes]:
        file = tempfile.TemporaryFile(prefix="uniemox-")  # noqa: SIM115  # open as long as this object
        with pa.ipc.new_file(file, self.table.schema) as writer:
            writer.write_table(self.table)
        file.flush()
        return file

    def is_worth_it(self) -> bool:
        """Whether the table is being sent to a process that is just started, and large."""
        from multiprocessing.context import get_spawning_popen

        return sys.platform != "win32" and get_spawning_popen() is not None and self.table.nbytes >= _LARGE

    def descriptor(self) -> Any:
        """Return what pickles to a descriptor of the file in the process that is being started."""
        from multiprocessing.reduction import DupFd

        return DupFd(self._file.fileno())


def map_table(descriptor: Any) -> pa.Table:
    """Map the table of a descriptor that another process sent."""
    number = descriptor.detach()
    try:
        mapped = mmap.mmap(number, 0, access=mmap.ACCESS_READ)
    finally:
        os.close(number)
    return pa.ipc.open_file(pa.py_buffer(mapped)).read_all().combine_chunks()
