"""The frozen CLIP model that pretraining distils. The only importer of open_clip.

The teacher is no `nn.Module`, so that it can never enter a model, an optimiser or a checkpoint.
Weights come from a local file, a folder in open_clip's own layout, or a tag that open_clip knows. Only a tag can
reach for the network, and only if its file is not in the cache. No pickle is executed. The model of a folder is built
without memory first, and compared with the weights.

OpenAI's weights, and some others, were trained with a quick GELU, x·sigmoid(1.702 x), which no weight shows. open_clip
takes a local file of them with plain GELU and no warning. Here the tag decides, or else an `open_clip_config.json`
beside the file, its name, or its being a converted OpenAI archive; otherwise a warning names the setting to use:
`ViT-B-16-quickgelu` instead of `ViT-B-16`.

Letters of shapes: `B` images, `T` texts, `E` width of the embedding, `H` and `W` sides in pixels.
"""

import copy
import difflib
import hashlib
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, final

import open_clip
import torch
import torch.nn.functional as F
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from uniemox.compute.devices import does_bfloat16_well
from uniemox.config.clip_name import title_of
from uniemox.config.training import TeacherConfig
from uniemox.errors import DAMAGED, CheckpointError, ConfigError
from uniemox.files.state_dicts import read_state
from uniemox.files.weights import compare, load_copy
from uniemox.models.clip_folder import CONFIG_FILE, WEIGHT_FILES, read_clip_config, shown_to_open_clip
from uniemox.wording import reason_of

log = logging.getLogger(__name__)
_Precision = Literal["auto", "fp32", "bf16"]

_EMBEDDED = Path(__file__).parents[1] / "demo" / "assets" / "mini_clip"
# What OpenAI's archives hold besides weights (openai/CLIP, clip/model.py, build_model).
_OPENAI_FACTS = frozenset({"input_resolution", "context_length", "vocab_size"})
# In bfloat16 the cosine to float32 is .9999 for vision transformers with random weights; for the embedded teacher, a
# trained EfficientNet-lite0, .9992 on average and .995 at worst over 48 drawn images. Below this, a tower was not
# made for it.
_MIN_AGREEMENT = 0.99


@final
class Teacher:
    """A frozen CLIP: features of images and texts, never a gradient. Made by `load_teacher`.

    Attributes:
        name: Architecture and weights, without their folders.
        width: E.
        scale: Factor of the cosine similarity, exp(logit_scale).
        image_size: Side of the square image that the image tower sees, in pixels.
        preprocess: open_clip's own words for how an image is prepared: mean, std, interpolation, resize_mode.
        digest: First 16 digits of a SHA-256 of the file of weights, its architecture and its preprocessing.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, name: str, width: int, precision: _Precision, digest: str = ""
    ) -> None:
        preprocess = model.visual.preprocess_cfg
        self.preprocess: dict[str, Any] = dict(preprocess)
        self.name = name
        self.digest = digest
        self.width = width
        self.scale = float(model.logit_scale.exp())
        side = model.visual.image_size
        self.image_size = side if isinstance(side, int) else int(max(side))
        self._device = model.logit_scale.device
        self._mean, self._std = (
            torch.tensor(preprocess[key], device=self._device).view(1, 3, 1, 1) for key in ("mean", "std")
        )
        # CLIPA and MobileCLIP were trained with bilinear resizing.
        self._interpolation = "bilinear" if preprocess["interpolation"] == "bilinear" else "bicubic"
        self._tower = _choose_arithmetic(model.visual, precision, image_size=self.image_size, device=self._device)
        self._tokenizer = tokenizer
        model.visual = nn.Identity()  # the tower may be a copy in bfloat16: free the other
        self._text: Any | None = model

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Compute CLIP's image features, not normalised.

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
        """Compute CLIP's text features, not normalised. The tokenizer cuts a text that does not fit.

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

    @property
    def tower(self) -> nn.Module:
        """The image tower: normalised images (B, 3, H, W) of its size to features, in its arithmetic."""
        return self._tower

    def fits(self, text: str) -> bool:
        """Whether the text, with its start and end tokens, is within the context length."""
        if isinstance(self._tokenizer, open_clip.SimpleTokenizer):
            num_tokens = len(self._tokenizer.encode(text)) + 2
        else:
            # A tokenizer of the hub; the one more is a class token that some of open_clip's modes add.
            num_tokens = len(self._tokenizer.tokenizer(text).input_ids) + 1
        return num_tokens <= int(self._tokenizer.context_length)

    @property
    def identity(self) -> str:
        """What tells it from every other teacher: its name and its digest."""
        return f"{self.name} {self.digest}"

    def release_image_tower(self) -> None:
        """Free the image tower; `encode_images` cannot be called afterwards."""
        self._tower = nn.Identity()

    def release_text_tower(self) -> None:
        """Free the text tower; `encode_texts` cannot be called afterwards."""
        self._text = None


class ClipSource(NamedTuple):
    """Where a model and its weights are, and what is known about the weights."""

    title: str
    model: str  # in open_clip's words, an architecture; of a folder its path
    architecture: dict[str, Any]
    weights: Path
    preprocess: dict[str, Any]
    quick_gelu: bool | None  # None: unknown
    folder: dict[str, Any] | None = None  # The configuration of a folder
    is_tag: bool = False


def load_teacher(config: TeacherConfig, *, device: torch.device) -> Teacher:
    """Load a frozen CLIP onto a device.

    Raises:
        ConfigError: The architecture, the tag or the file is not known.
        CheckpointError: The weights are not available, damaged, of another model, or not finite.
    """
    source = find_source(config)
    state = read_state(source.weights)
    needs_quick_gelu = source.quick_gelu or not _OPENAI_FACTS.isdisjoint(state)
    if not source.architecture.get("quick_gelu", False):
        twin = f"{source.model}-quickgelu"
        if needs_quick_gelu:
            log.info("%s: these weights need quick GELU, which is switched on", source.title)
        elif source.quick_gelu is None and twin in open_clip.list_models():
            log.warning(
                "%s: nothing shows whether these weights need quick GELU, as those of OpenAI, MetaCLIP and DFN do; "
                "if they do, set teacher.model to %s",
                source.title,
                twin,
            )
    model, tokenizer = _build(source, state, quick_gelu=needs_quick_gelu)
    load_copy(model, _convert(model, state), f"{source.weights} ({source.title})")
    model.eval().requires_grad_(False).to(device)
    with source.weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(json.dumps([source.architecture, source.preprocess], sort_keys=True).encode())
    arguments: dict[str, Any] = {
        "name": source.title,
        "width": int(source.architecture["embed_dim"]),
        "digest": digest.hexdigest()[:16],
    }
    if source.folder is None:
        return Teacher(model, tokenizer, precision=config.precision, **arguments)
    try:
        teacher = Teacher(model, tokenizer, precision=config.precision, **arguments)
        with torch.no_grad():
            texts = model.encode_text(tokenizer(["an image"]).to(device), normalize=False)
        features = teacher.encode_images(torch.full((1, 3, 8, 8), 0.5)), texts
    except DAMAGED as error:
        step = "its configuration is not that of its weights"
        raise CheckpointError(f"{source.model} fails on an image or a text ({reason_of(error)}): {step}") from error
    if any(feature.shape != (1, teacher.width) for feature in features):
        found = " and ".join(" × ".join(map(str, feature.shape)) for feature in features)
        step = "its configuration is not that of a CLIP"
        raise CheckpointError(f"{source.model} gives features of {found} numbers, not 1 × {teacher.width}: {step}")
    return teacher


def _build(source: ClipSource, state: dict[str, Tensor], *, quick_gelu: bool) -> tuple[Any, Any]:
    """Build the model, with random weights, and its tokenizer, or raise `CheckpointError`."""
    text = source.architecture.get("text_cfg", {})
    only_here = {"local_files_only": True} if text.get("hf_tokenizer_name") and not source.is_tag else {}
    try:
        with ExitStack() as around:
            around.enter_context(_quiet())
            if not source.is_tag:
                around.enter_context(offline())
            name = source.model
            if source.folder is not None:
                name = around.enter_context(shown_to_open_clip(Path(source.model), source.folder))
                with torch.device("meta"):
                    empty = _create(source, name, quick_gelu=quick_gelu, device="meta")
                    found = compare(empty.state_dict(), _convert(empty, state))
                found.check(f"{source.weights} ({source.title})")
            return _create(source, name, quick_gelu=quick_gelu), open_clip.get_tokenizer(name, **only_here)
    except (ImportError, *DAMAGED) as error:
        named = text.get("hf_model_name") or text.get("hf_tokenizer_name")
        if named and source.folder is None and not source.is_tag and isinstance(error, OSError):
            what = f"its tokenizer {named} is not in the cache of the hub, which a file of weights does not ask"
            raise CheckpointError(f"{source.title}: {what}: fetch it once with `hf download {named}`") from error
        raise CheckpointError(f"{source.title}: open_clip cannot build the model: {reason_of(error)}") from error


def _create(source: ClipSource, name: str, *, quick_gelu: bool, device: str = "cpu") -> Any:
    return open_clip.create_model(
        name,
        device=device,
        load_weights=False,
        pretrained_text=False,
        force_quick_gelu=quick_gelu,
        force_preprocess_cfg=source.preprocess,
    )


def find_source(config: TeacherConfig) -> ClipSource:
    """Find a CLIP and its weights, which are fetched where they are not at hand; no number of them is read.

    Raises:
        ConfigError: The architecture, the tag or the file is not known.
        CheckpointError: The weights are not available, or a folder's configuration cannot be used.
    """
    if config.model == "demo":
        _refuse_pretrained("demo", config.pretrained)
        return _find_folder(_EMBEDDED)
    name, pretrained = config.model.replace("/", "-"), config.pretrained
    if name not in open_clip.list_models():
        folder = Path(config.model).expanduser()
        if not folder.is_dir():
            close = ", ".join(difflib.get_close_matches(config.model, open_clip.list_models())) or "ViT-B-16"
            raise ConfigError(
                f"teacher.model is {config.model!r}, neither a folder nor an architecture of open_clip such as {close}"
            )
        _refuse_pretrained(f"{config.model} is a folder, which", pretrained)
        return _find_folder(folder)
    if pretrained is None:
        raise ConfigError(
            f"teacher.model {name} is an architecture without weights: set teacher.pretrained to a tag or a weight file"
        )
    title, architecture = title_of(config), open_clip.get_model_config(name)
    if tag := open_clip.get_pretrained_cfg(name, pretrained):
        quick_gelu = bool(tag.get("quick_gelu", False))
        return ClipSource(title, name, architecture, _fetch(tag, title), tag, quick_gelu, is_tag=True)
    path = Path(pretrained).expanduser()
    if not path.is_file():
        known = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise ConfigError(
            f"teacher.pretrained is {pretrained!r}, neither a file nor a tag that open_clip knows for {name} "
            f"(known: {known})"
        )
    if (path.parent / CONFIG_FILE).is_file():
        facts = read_clip_config(path.parent, is_built=False)
        quick_gelu = bool(facts["model_cfg"].get("quick_gelu", False))
        return ClipSource(title, name, architecture, path, facts["preprocess_cfg"], quick_gelu)
    return ClipSource(title, name, architecture, path, {}, "openai" in path.name.lower() or None)


def _refuse_pretrained(what: str, pretrained: str | None) -> None:
    if pretrained is not None:
        step = f"set `teacher.pretrained` to null, not {pretrained!r}"
        raise ConfigError(f"teacher.model {what} brings its own weights: {step}")


def _find_folder(folder: Path) -> ClipSource:
    facts = read_clip_config(folder)
    weights = next((folder / file for file in WEIGHT_FILES if (folder / file).is_file()), None)
    if weights is None:
        raise CheckpointError(f"{folder} holds no weights: put {WEIGHT_FILES[0]} into it")
    # What the folder says about GELU and preprocessing, open_clip obeys.
    return ClipSource(folder.name, str(folder), facts["model_cfg"], weights, {}, False, facts)


def _fetch(tag: dict[str, Any], title: str) -> Path:
    """Return a tag's weight file from the hub's cache, or else from the hub, which respects HF_HUB_OFFLINE."""
    repo, _, file = str(tag.get("hf_hub", "")).rpartition("/")
    files = (str(Path(file).with_suffix(".safetensors")), file) if file else WEIGHT_FILES
    for candidate in files:
        if isinstance(cached := try_to_load_from_cache(repo, candidate), str):
            return Path(cached)
    why = ""
    for candidate in files:
        try:
            return Path(hf_hub_download(repo, candidate))
        except (OSError, ValueError, EntryNotFoundError) as error:
            why = reason_of(error)
            if isinstance(error, LocalEntryNotFoundError):
                why = "the hub is out of reach, or HF_HUB_OFFLINE is set"
                break  # the hub is out of reach: do not wait for it again
    raise CheckpointError(
        f"{title}: found no {' or '.join(files)} in the cache or in {repo} on the hub ({why}): "
        "get that file by other means and give its path, `--teacher.pretrained FILE`"
    )


def _convert(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Bring weights of the forms that open_clip reads to the names and shapes of its model."""
    expected = model.state_dict()
    state = convert_state_dict(model, {name: value for name, value in state.items() if name not in _OPENAI_FACTS})
    if "positional_embedding" not in expected:
        state = convert_to_custom_text_state_dict(state)
    # Files of transformers before 4.31 have these.
    state.pop("text.transformer.embeddings.position_ids", None)
    if state.get("logit_scale", torch.empty(0)).numel() == 1:  # () or (1,)
        state["logit_scale"] = state["logit_scale"].reshape(expected["logit_scale"].shape)
    return state


def _choose_arithmetic(tower: nn.Module, precision: _Precision, *, image_size: int, device: torch.device) -> nn.Module:
    """Return the image tower as fast as it may be: cast to bfloat16, or itself.

    open_clip's own tower, cast, is as fast as timm's equivalent. On 2 cores with AVX512-BF16, 16 images take ViT-B/16
    .89 s (timm .91 s, autocast 1.01 s, float32 3.74 s), and 32 images EfficientNet-lite0 .15 s (float32 .33 s).
    """
    tower = tower.to(memory_format=torch.channels_last)
    if precision == "fp32" or (precision == "auto" and not does_bfloat16_well(device)):
        return tower
    half = copy.deepcopy(tower).to(torch.bfloat16)
    for own, other in zip(tower.modules(), half.modules(), strict=True):
        if isinstance(own, _BatchNorm):  # a running mean far from 0 would lose too much
            other.float().load_state_dict(own.state_dict())
    noise = torch.randn(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(0)).to(device)
    try:
        agreement = F.cosine_similarity(_features(tower, noise), _features(half, noise)).min()
        if agreement >= _MIN_AGREEMENT:  # false for NaN
            return half
        reason = f"in bfloat16 the cosine is {agreement:.4f}"
    except RuntimeError as error:  # a tower that makes float32 inside
        reason = reason_of(error)
    log.info("the image tower stays in float32: %s", reason)
    return tower


def _features(tower: nn.Module, pixels: Tensor) -> Tensor:
    """Compute features (B, E) float32 of normalised pixels (B, 3, H, W), in the arithmetic of the tower."""
    dtype = next(tower.parameters()).dtype
    # An autocast around the student must not reach the teacher.
    with torch.no_grad(), torch.autocast(pixels.device.type, enabled=False):
        features = tower(pixels.to(dtype, memory_format=torch.channels_last))
    # Some towers, such as CoCa's, return their tokens as well.
    pooled: Tensor = features[0] if isinstance(features, tuple) else features
    return pooled.float()


@contextmanager
def offline() -> Iterator[None]:
    """Keep the hub's library, and transformers with it, from the network, as its own switch does for a process."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextmanager
def _quiet() -> Iterator[None]:
    """Build a model without traces.

    open_clip logs to the root logger, which gives it a handler if it has none, and warns of random weights. They are
    drawn from the global generator, then overwritten.
    """
    root, handler, refuse = logging.getLogger(), logging.NullHandler(), logging.Filter("nobody")
    root.addHandler(handler)
    root.addFilter(refuse)  # of what is logged to the root itself; other loggers' records pass
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeFilter(refuse)
        root.removeHandler(handler)
