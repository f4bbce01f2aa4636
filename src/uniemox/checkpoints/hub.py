"""Model folders on the Hugging Face hub: weights, configuration and card, never a pickle. Brings no torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from uniemox.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable

HUB_PREFIX: Final = "hf-hub:"
_WEIGHTS: Final = ("model.safetensors", "two_views.safetensors", "model.onnx")
FILES: Final = ("config.json", *_WEIGHTS, "pretrain.safetensors", "export.json", "README.md")
"""What is taken from the hub and put there; everything else of a folder or a repository is left where it is."""
_Answer = TypeVar("_Answer")
_NAME = re.compile(r"hf-hub:(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")


def fetch(model: str) -> Path:
    """Give the folder of a model of the hub, from the cache or else from the network.

    Args:
        model: `hf-hub:org/name`, or `hf-hub:org/name@revision` for one branch, tag or commit.

    Raises:
        CheckpointError: The name is wrong, or the model is neither in the cache nor to be had.
    """
    repo, revision = _split(model)

    def download() -> Path:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(FILES)))

    folder = _ask(model, download)
    if not any((folder / name).exists() for name in _WEIGHTS):
        raise CheckpointError(
            f"{model} has no model.safetensors, and pickles are not taken from the hub: choose another model or "
            "revision, or get the file by other means and give its path"
        )
    return folder


def push(folder: Path, model: str, *, private: bool = False) -> str:
    """Put a model folder on the hub, where a repository is made if there is none.

    Args:
        folder: A model folder; its `FILES` are sent and nothing else.
        model: `hf-hub:org/name`; with `@branch` to send to a branch that is there.
        private: Whether a repository that is made is seen by its owner alone.

    Returns:
        The address of the model's page.

    Raises:
        CheckpointError: The name is wrong, a file is a link, or the hub cannot be reached or refuses.
    """
    repo, revision = _split(model)
    for name in FILES:
        if (folder / name).is_symlink():
            raise CheckpointError(
                f"{folder / name} is a link, which is not sent: copy the file there"
            )

    def upload() -> str:
        from huggingface_hub import HfApi

        api = HfApi()
        address = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            revision=revision,
            allow_patterns=list(FILES),
            commit_message="Upload a model folder of uniemox",
        )
        return str(address)

    return _ask(model, upload)


def _split(model: str) -> tuple[str, str | None]:
    parts = _NAME.fullmatch(model)
    if parts is None:
        raise CheckpointError(
            f"{model[:80]} is no name on the hub: write {HUB_PREFIX}org/name, or {HUB_PREFIX}org/name@revision"
        )
    return parts["repo"], parts["revision"]


def _ask(model: str, call: Callable[[], _Answer]) -> _Answer:
    """Call the hub; what it answers when it cannot becomes one line."""
    from huggingface_hub import constants, errors

    try:
        return call()
    except errors.GatedRepoError as error:
        reason = (
            "it asks for consent: give it on the model's page, then log in with `hf auth login`"
        )
        raise CheckpointError(f"{model} cannot be had: {reason}") from error
    except errors.RepositoryNotFoundError as error:
        reason = "there is none of this name, or it is private: log in with `hf auth login`"
        raise CheckpointError(f"{model} cannot be had: {reason}") from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(f"{model} cannot be had: it has no such revision") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        # The hub's library says this whether it was told to stay offline or found no way out.
        offline = constants.HF_HUB_OFFLINE
        why = "HF_HUB_OFFLINE is set" if offline else "the hub cannot be reached"
        raise CheckpointError(
            f"{model} is not in the cache, and {why}: go online, or give a folder"
        ) from error
    except (OSError, ValueError, errors.HTTPError) as error:  # type: ignore[attr-defined]  # its HTTP library's
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{model} cannot be had from the hub ({reason})") from error
