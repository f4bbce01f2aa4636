"""The frozen CLIP model that pretraining distils. The only importer of open_clip.

The teacher is no `nn.Module`, so that it can never enter a model, an optimiser or a checkpoint.
Weights come from a local file, a folder in open_clip's own layout, or a tag that open_clip knows. Only a tag can
reach for the network, and only if its file is not in the cache. No pickle is executed.

OpenAI's weights, and some others, were trained with a quick GELU, x·sigmoid(1.702 x), which no weight shows. open_clip
takes a local file of them with plain GELU and no warning. Here the tag tells, or else an `open_clip_config.json` beside
the file, its name, or its being a converted OpenAI archive; where nothing tells, a warning says how to say it:
`ViT-B-16-quickgelu` instead of `ViT-B-16`.

Letters of shapes: `B` pictures, `T` texts, `E` width of the embedding, `H` and `W` sides in pixels.
"""

from __future__ import annotations

import copy
import difflib
import json
import logging
import math
import pickle
import warnings
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, final

import open_clip
import torch
import torch.nn.functional as F
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from uniemox.devices import does_bfloat16_well
from uniemox.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from uniemox.config import TeacherConfig

log = logging.getLogger(__name__)
_Precision = Literal["auto", "fp32", "bf16"]

_EMBEDDED = Path(__file__).parents[1] / "demo" / "assets" / "mini_clip"
_CONFIG_FILE = "open_clip_config.json"
_WEIGHT_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
# What OpenAI's archives hold besides weights (openai/CLIP, clip/model.py, build_model).
_OPENAI_FACTS = frozenset({"input_resolution", "context_length", "vocab_size"})
# In bfloat16 the cosine to float32 is .9999 for vision transformers with random weights; for the embedded teacher, a
# trained EfficientNet-lite0, .9992 on average and .995 at worst over 48 drawn pictures. Below this, a tower was not
# made for it.
_LEAST_AGREEMENT = 0.99
# What safetensors and torch raise on damaged files, besides OSError.
_DAMAGED = (RuntimeError, ValueError, EOFError, KeyError, SafetensorError, zipfile.BadZipFile)


@final
class Teacher:
    """A frozen CLIP: features of pictures and texts, never a gradient. Made by `load_teacher`.

    Attributes:
        name: Architecture and weights, without the folders they lie in.
        width: E.
        scale: Factor of the cosine similarity, exp(logit_scale).
        image_size: Side of the square picture that the image tower sees, in pixels.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, name: str, width: int, precision: _Precision
    ) -> None:
        preprocess = model.visual.preprocess_cfg
        self.name = name
        self.width = width
        self.scale = float(model.logit_scale.exp())
        side = model.visual.image_size
        self.image_size = side if isinstance(side, int) else int(max(side))
        self._device = model.logit_scale.device
        self._mean, self._std = (
            torch.tensor(preprocess[key], device=self._device).view(1, 3, 1, 1)
            for key in ("mean", "std")
        )
        # CLIPA and MobileCLIP were trained with bilinear resizing.
        self._interpolation = "bilinear" if preprocess["interpolation"] == "bilinear" else "bicubic"
        self._tower = _choose_arithmetic(
            model.visual, precision, image_size=self.image_size, device=self._device
        )
        self._tokenizer = tokenizer
        model.visual = nn.Identity()  # the tower may be a copy in bfloat16: the other must not stay
        self._text: Any | None = model

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Give CLIP's image features, not normalised.

        Args:
            pixels: (B, 3, H, W) RGB in [0, 1], square; resized with antialiasing to CLIP's own size.

        Returns:
            (B, E) float32 on the teacher's device, a constant to autograd.
        """
        size = (self.image_size, self.image_size)
        pixels = pixels.detach().to(self._device, torch.float32)
        if pixels.shape[-2:] != size:
            pixels = F.interpolate(pixels, size, mode=self._interpolation, antialias=True)
        return _features(self._tower, (pixels.clamp(0, 1) - self._mean) / self._std)

    def encode_texts(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        """Give CLIP's text features, not normalised. A text that does not fit is cut by the tokenizer.

        Returns:
            (T, E) float32 on the CPU, constants to autograd.
        """
        assert self._text is not None, "the text tower was released"
        features = [torch.empty(0, self.width)]
        with torch.no_grad(), torch.autocast(self._device.type, enabled=False):
            for start in range(0, len(texts), batch_size):
                tokens = self._tokenizer(list(texts[start : start + batch_size]))
                part = self._text.encode_text(tokens.to(self._device), normalize=False)
                features.append(part.float().cpu())
        return torch.cat(features)

    def fits(self, text: str) -> bool:
        """Whether the text, with its start and end tokens, is within the context length."""
        if isinstance(self._tokenizer, open_clip.SimpleTokenizer):
            num_tokens = len(self._tokenizer.encode(text)) + 2
        else:
            # A tokenizer of the hub; the one more is a class token that some of open_clip's modes add.
            num_tokens = len(self._tokenizer.tokenizer(text).input_ids) + 1
        return num_tokens <= int(self._tokenizer.context_length)

    def release_text_tower(self) -> None:
        """Free the text tower; `encode_texts` cannot be called afterwards."""
        self._text = None


def load_teacher(config: TeacherConfig, *, device: torch.device) -> Teacher:
    """Load a frozen CLIP onto a device.

    Raises:
        ConfigError: The architecture, the tag or the file is not known.
        CheckpointError: The weights cannot be had, read or matched, or are not finite.
    """
    source = _find(config)
    state = _read_state(source.weights)
    needs_quick_gelu = source.quick_gelu or not _OPENAI_FACTS.isdisjoint(state)
    if not source.architecture.get("quick_gelu", False):
        _tell_of_gelu(source, switched_on=needs_quick_gelu)
    try:
        with _quiet():
            model = open_clip.create_model(
                source.model,
                load_weights=False,
                pretrained_text=False,
                force_quick_gelu=needs_quick_gelu,
                force_preprocess_cfg=source.preprocess,
            )
            tokenizer = open_clip.get_tokenizer(source.model)
    except (ImportError, OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{source.title}: open_clip cannot build the model: {_brief(error)}"
        ) from error
    _fill(model, state, source)
    model.eval().requires_grad_(False).to(device)
    width = int(source.architecture["embed_dim"])
    return Teacher(model, tokenizer, name=source.title, width=width, precision=config.precision)


class _Source(NamedTuple):
    """Where a model and its weights are, and what is said about the weights."""

    title: str
    model: str  # in open_clip's words: an architecture, or local-dir:FOLDER
    architecture: dict[str, Any]
    weights: Path
    preprocess: dict[str, Any]
    quick_gelu: bool | None  # None: nothing tells


def _find(config: TeacherConfig) -> _Source:
    if config.model == "demo":
        return _find_folder(str(_EMBEDDED), config.pretrained)
    name, pretrained = config.model.replace("/", "-"), config.pretrained
    if name not in open_clip.list_models():
        return _find_folder(config.model, pretrained)
    if pretrained is None:
        raise ConfigError(
            f"teacher.model {name} is an architecture without weights: set teacher.pretrained to a tag or a weight file"
        )
    title, architecture = f"{name}:{Path(pretrained).name}", open_clip.get_model_config(name)
    tag = open_clip.get_pretrained_cfg(name, pretrained)
    if tag:
        quick_gelu = bool(tag.get("quick_gelu", False))
        return _Source(title, name, architecture, _fetch(tag, title), tag, quick_gelu)
    path = Path(pretrained).expanduser()
    if not path.is_file():
        known = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise ConfigError(
            f"teacher.pretrained is {pretrained!r}, neither a file nor a tag that open_clip knows for {name} "
            f"(known: {known})"
        )
    if (path.parent / _CONFIG_FILE).is_file():
        facts = _read_config(path.parent)
        said = bool(facts["model_cfg"].get("quick_gelu", False))
        return _Source(title, name, architecture, path, facts.get("preprocess_cfg", {}), said)
    return _Source(title, name, architecture, path, {}, "openai" in path.name.lower() or None)


def _find_folder(model: str, pretrained: str | None) -> _Source:
    folder = Path(model).expanduser()
    if not folder.is_dir():
        close = ", ".join(difflib.get_close_matches(model, open_clip.list_models())) or "ViT-B-16"
        raise ConfigError(
            f"teacher.model is {model!r}, neither a folder nor an architecture of open_clip such as {close}"
        )
    if pretrained is not None:
        raise ConfigError(
            f"teacher.model {model} is a folder, which brings its own weights: set teacher.pretrained to null, "
            f"not {pretrained!r}"
        )
    architecture = _read_config(folder)["model_cfg"]
    weights = next((folder / file for file in _WEIGHT_FILES if (folder / file).is_file()), None)
    if weights is None:
        raise CheckpointError(f"{folder} holds no weights: put {_WEIGHT_FILES[0]} into it")
    # What the folder says of GELU and preprocessing, open_clip obeys.
    return _Source(folder.name, f"local-dir:{folder}", architecture, weights, {}, False)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / _CONFIG_FILE
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {_brief(error)}") from error
    if not isinstance(facts, dict) or not isinstance(facts.get("model_cfg"), dict):
        raise CheckpointError(f"{path} has no `model_cfg`: it is no configuration of open_clip")
    _check_preprocess(facts.get("preprocess_cfg", {}), path)
    return facts


def _check_preprocess(facts: Any, path: Path) -> None:
    for name in ("mean", "std"):
        values: Any = facts.get(name, [1.0] * 3) if isinstance(facts, dict) else None
        numbers = isinstance(values, list) and all(isinstance(v, int | float) for v in values)
        if not numbers or len(values) != 3 or not all(map(math.isfinite, values)):
            raise CheckpointError(f"{path}: preprocess_cfg.{name} must be three numbers")
        if name == "std" and min(values) <= 0:
            raise CheckpointError(f"{path}: preprocess_cfg.std must be greater than 0")


def _tell_of_gelu(source: _Source, *, switched_on: bool) -> None:
    """Log what becomes of an architecture with plain GELU."""
    twin = f"{source.model}-quickgelu"
    if switched_on:
        log.info("%s: these weights need quick GELU, which is switched on", source.title)
    elif source.quick_gelu is None and twin in open_clip.list_models():
        log.warning(
            "%s: nothing tells whether these weights need quick GELU, as those of OpenAI, MetaCLIP and DFN do; "
            "if they do, set teacher.model to %s",
            source.title,
            twin,
        )


def _fetch(tag: dict[str, Any], title: str) -> Path:
    """Give a tag's weight file from the hub's cache, or else from the hub, which respects HF_HUB_OFFLINE."""
    repo, _, file = str(tag.get("hf_hub", "")).rpartition("/")
    files = (str(Path(file).with_suffix(".safetensors")), file) if file else _WEIGHT_FILES
    for candidate in files:
        if isinstance(cached := try_to_load_from_cache(repo, candidate), str):
            return Path(cached)
    reason = ""
    for candidate in files:
        try:
            return Path(hf_hub_download(repo, candidate))
        except (OSError, ValueError, EntryNotFoundError) as error:
            reason = _brief(error)
            if isinstance(error, LocalEntryNotFoundError):
                break  # the hub is out of reach: do not wait for it again
    raise CheckpointError(
        f"{title}: no {' or '.join(files)} in the cache nor from {repo} on the hub ({reason}); "
        "get that file by other means and set teacher.pretrained to its path"
    )


def _read_state(path: Path) -> dict[str, Tensor]:
    """Read weights by name, and nothing that could run code."""
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            _refuse_torchscript(path)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch warns of pickles that it then refuses
                state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own message advises to switch the protection off.
        raise CheckpointError(
            f"{path} is damaged or holds more than tensors, which could run code: give a .safetensors file"
        ) from error
    except (OSError, *_DAMAGED) as error:
        raise CheckpointError(f"{path} cannot be read as weights: {_brief(error)}") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else {}
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path} holds no weights by name: give a state dict")
    return {str(name).removeprefix("module."): value for name, value in state.items()}


def _refuse_torchscript(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        if not any(name.endswith("/constants.pkl") for name in archive.namelist()):
            return
    raise CheckpointError(
        f"{path} is a TorchScript archive, as OpenAI's own files are, which could run code: "
        "take open_clip_model.safetensors of timm/vit_base_patch16_clip_224.openai (or its like) on the hub, "
        "or convert it: torch.save(torch.jit.load(FILE).state_dict(), NEW_FILE)"
    )


def _fill(model: nn.Module, state: dict[str, Tensor], source: _Source) -> None:
    """Load weights, or name what is missing, not known, of another shape or not finite."""
    expected = model.state_dict()
    state = {name: value for name, value in state.items() if name not in _OPENAI_FACTS}
    state = convert_state_dict(model, state)
    if "positional_embedding" not in expected:
        state = convert_to_custom_text_state_dict(state)
    # Files of transformers before 4.31 have these.
    state.pop("text.transformer.embeddings.position_ids", None)
    if state.get("logit_scale", torch.empty(0)).numel() == 1:  # () or (1,)
        state["logit_scale"] = state["logit_scale"].reshape(expected["logit_scale"].shape)
    problems = [f"{name} is missing" for name in expected if name not in state]
    for name, value in state.items():
        if name not in expected:
            problems.append(f"{name} is not known")
        elif value.shape != expected[name].shape:
            have, want = tuple(value.shape), tuple(expected[name].shape)
            problems.append(f"{name} has shape {have} instead of {want}")
        elif not value.isfinite().all():
            problems.append(f"{name} is not finite")
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(
            f"{source.weights} does not fit {source.title}: {'; '.join(problems[:3])}{more}; "
            "give undamaged weights and the architecture they were made for"
        )
    model.load_state_dict(state)


def _choose_arithmetic(
    tower: nn.Module, precision: _Precision, *, image_size: int, device: torch.device
) -> nn.Module:
    """Give the image tower as fast as it may be: cast to bfloat16, or itself.

    open_clip's own tower, cast, is as fast as timm's equivalent. On 2 cores with AVX512-BF16, 16 pictures take ViT-B/16
    .89 s (timm .91 s, autocast 1.01 s, float32 3.74 s), and 32 pictures EfficientNet-lite0 .15 s (float32 .33 s).
    """
    tower = tower.to(memory_format=torch.channels_last)
    if precision == "fp32" or (precision == "auto" and not does_bfloat16_well(device)):
        return tower
    half = copy.deepcopy(tower).to(torch.bfloat16)
    for own, other in zip(tower.modules(), half.modules(), strict=True):
        if isinstance(own, _BatchNorm):  # a running mean far from 0 would lose too much
            other.float().load_state_dict(own.state_dict())
    noise = torch.randn(
        2, 3, image_size, image_size, generator=torch.Generator().manual_seed(0)
    ).to(device)
    try:
        agreement = F.cosine_similarity(_features(tower, noise), _features(half, noise)).min()
    except RuntimeError as error:  # a tower that makes float32 inside
        log.info("the image tower stays in float32: %s", _brief(error))
        return tower
    if not agreement >= _LEAST_AGREEMENT:  # NaN too
        log.info("the image tower stays in float32: in bfloat16 the cosine is %.4f", agreement)
        return tower
    return half


def _features(tower: nn.Module, pixels: Tensor) -> Tensor:
    """Give (B, E) float32 of normalised pixels (B, 3, H, W), in the arithmetic of the tower."""
    dtype = next(tower.parameters()).dtype
    # An autocast around the student must not reach the teacher.
    with torch.no_grad(), torch.autocast(pixels.device.type, enabled=False):
        features = tower(pixels.to(dtype, memory_format=torch.channels_last))
    # Some towers, such as CoCa's, give their tokens too.
    pooled: Tensor = features[0] if isinstance(features, tuple) else features
    return pooled.float()


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Build a model without traces.

    open_clip logs to the root logger, which gives it a handler if there is none, and warns of random weights. They are
    drawn from the global generator, then overwritten.
    """
    root, handler = logging.getLogger(), logging.NullHandler()

    def refuse(_: logging.LogRecord) -> bool:
        return False

    root.addHandler(handler)
    root.addFilter(refuse)  # of what is logged to the root itself; other loggers' records pass
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeFilter(refuse)
        root.removeHandler(handler)
