"""Model folders on the Hugging Face hub: weights, configuration and card, never a pickle. Does not import torch."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from uniemox.errors import CheckpointError
from uniemox.wording import reason_of

HUB_PREFIX: Final = "hf-hub:"
_OWN: Final = ("two_views.safetensors", "class_and_mean.safetensors", "fused.safetensors")
_WEIGHTS: Final = ("model.safetensors", *_OWN, "model.onnx")
_BESIDE: Final = ("pretrain.safetensors", "texts.safetensors", "features.safetensors")
_FILES: Final = ["config.json", *_WEIGHTS, *_BESIDE, "export.json", "README.md"]
"""The files that are downloaded and uploaded; all others stay where they are."""
_INDEX: Final = "model.safetensors.index.json"
_FOREIGN: Final = ["preprocessor_config.json", _INDEX, "model-*-of-*.safetensors"]
"""What folders of others may have besides, which is only downloaded."""


def fetch(model: str) -> Path:
    """Return the folder of a model on the hub, from the cache or else from the network, or raise `CheckpointError`.

    `model` is `hf-hub:org/name`, or `hf-hub:org/name@revision` for one branch, tag or commit.
    """
    repo, revision = _split(model)
    with _explained(model):
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=[*_FILES, *_FOREIGN]))
    if not any((folder / name).exists() for name in (*_WEIGHTS, _INDEX)):
        raise CheckpointError(
            f"{model} has no model.safetensors, and pickles are not taken from the hub: choose another model or "
            "revision, or download the file yourself and give its path"
        )
    return folder


def push(folder: Path, model: str, *, private: bool = False) -> str:
    """Upload the files of a model folder to the hub; return the address of the model's page.

    Args:
        folder: A model folder; a link in it raises `CheckpointError`, as everything does that the hub refuses.
        model: `hf-hub:org/name`, which is created if absent; with `@branch` to send to a branch that exists.
        private: Whether a new repository is visible to its owner alone.
    """
    repo, revision = _split(model)
    for name in _FILES:
        if (folder / name).is_symlink():
            raise CheckpointError(f"{folder / name} is a link, which is not sent: copy the file there")
    with _explained(model):
        from huggingface_hub import HfApi

        api = HfApi()
        address = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            revision=revision,
            allow_patterns=_FILES,
            commit_message="Upload a model folder of uniemox",
        )
    return str(address)


def _split(model: str) -> tuple[str, str | None]:
    parts = re.fullmatch(r"hf-hub:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", model)
    if parts is None:
        raise CheckpointError(f"{model[:80]} is no name on the hub: write {HUB_PREFIX}org/name, with @revision or not")
    return parts[1], parts[2]


@contextmanager
def _explained(model: str) -> Iterator[None]:
    """Raise what the hub's library raises as one line for the user."""
    from huggingface_hub import constants, errors

    reasons = {
        errors.GatedRepoError: "it asks for consent: give it on the model's page, then log in with `hf auth login`",
        errors.RepositoryNotFoundError: "no such model, or it is private: log in with `hf auth login`",
        errors.RevisionNotFoundError: "it has no such revision",
    }
    try:
        yield
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        # The library raises these both offline by choice and without a network.
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
        raise CheckpointError(f"{model} is not in the cache, and {why}: go online, or give a folder") from error
    except (OSError, ValueError, errors.HTTPError) as error:  # type: ignore[attr-defined]  # its HTTP library's
        why = next((reason for kind, reason in reasons.items() if isinstance(error, kind)), reason_of(error))
        raise CheckpointError(f"{model} is not available from the hub: {why}") from error
