"""Refuse files that are too large or whose last line has no end; `pre-commit` hands in their names."""

import sys
from pathlib import Path

LIMIT = 200 * 1024  # bytes


def find_problem(path: Path) -> str | None:
    """Say what is wrong with a file, or None."""
    data = path.read_bytes()
    if len(data) > LIMIT:
        return f"{path} has {len(data)} bytes, the limit is {LIMIT}"
    if b"\0" not in data and data and not data.endswith(b"\n"):
        return f"{path} does not end with a newline"
    return None


if __name__ == "__main__":
    problems = [problem for name in sys.argv[1:] if (problem := find_problem(Path(name)))]
    sys.exit("\n".join(problems))
