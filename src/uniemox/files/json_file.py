"""Reading a JSON file that a stranger may have made."""

import json
from pathlib import Path
from typing import Any, Final

from uniemox.errors import CheckpointError
from uniemox.wording import reason_of

_MAX_BYTES: Final = 4 * 2**20  # The configuration of a model has a few thousand


def read_json(path: Path, *, max_bytes: int = _MAX_BYTES) -> dict[str, Any]:
    """Read a JSON object in UTF-8, with a byte order mark or without, or raise `CheckpointError`."""
    try:
        if not path.is_file():  # anything else may block or never end
            missing = "it is no regular file" if path.exists() else "it does not exist"
            raise CheckpointError(f"{path} cannot be read as JSON ({missing}): copy the file there")
        if path.stat().st_size > max_bytes:
            raise CheckpointError(f"{path} is larger than {max_bytes} bytes: it is refused")
        tree = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({reason_of(error)})") from error
    if not isinstance(tree, dict):
        raise CheckpointError(f"{path} must hold a JSON object: copy the folder again")
    return tree
