"""The model card, `README.md` of a model folder, for people and for the hub. Does not import torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import yaml
from safetensors import safe_open

from uniemox.checkpoints.domain import FEATURES_NAME
from uniemox.checkpoints.notice import use_notice
from uniemox.config.training import Pool
from uniemox.importers.specs import SPECS
from uniemox.targets.domain import describe_domain
from uniemox.targets.kinds import find_target
from uniemox.wording import one_line, printable

if TYPE_CHECKING:
    from uniemox.checkpoints.facts import ModelFacts
    from uniemox.targets.robustness import Robustness
    from uniemox.targets.scores import Interval

NON_COMMERCIAL: Final = (
    "CC-BY-NC-4.0, as far as is known: the file states none, and MAE's weights have it, with what follows from "
    "them, as the released weights of UniEmoX do"
)  # Licence of weights of MAE's form that state none themselves
_NAMELESS: Final = "It names nothing by itself: `uniemox finetune --init FOLDER` makes a classifier of it."
_PREDICT: Final = "```\nuniemox predict FOLDER photo.jpg\n```"
_ZERO_SHOT: Final = "```\nuniemox predict FOLDER photo.jpg --taxonomy mikels\n```"
_CITATION: Final = """```bibtex
@article{chen2025uniemox,
  title   = {UniEmoX: Cross-modal Semantic-Guided Large-Scale Pretraining for Universal Scene Emotion Perception},
  author  = {Chen, Chuang and Sun, Xiao and Liu, Zhi},
  journal = {IEEE Transactions on Image Processing},
  volume  = {34},
  pages   = {4691--4705},
  year    = {2025},
  doi     = {10.1109/TIP.2025.3587577},
  note    = {arXiv:2409.18877}
}
```"""
_WHOSE: Final = {
    "evoked": "The labels say which emotion an image **evokes** in those who see it, not what anybody in it feels.",
    "felt": "The labels say which emotion a depicted person seems to **feel**, as those who labelled it judged.",
    None: "Whether the labels say the emotion that an image evokes or that a person in it feels is not recorded.",
}
_ASKED: Final = {
    "evoked": "Its texts are about the emotion that an image **evokes** in those who see it.",
    "felt": "Its texts are about the emotion that a depicted person seems to **feel**.",
    None: "Whether its texts are about the emotion that an image evokes or that a person in it feels is not recorded.",
}  # Of a CLIP, for which nobody labelled anything
_INTENDED: Final = (
    "Made for research on the emotion of images, and for sorting or describing collections where an error harms "
    "nobody.",
    "**Refuse** any use that judges a person's inner state, or decides about people: hiring, policing, schooling, "
    "health, insurance, border control; and surveillance of any kind.",
)
_NOT_TIMMS: Final[Mapping[Pool, str]] = {
    "mean": "It reads the whole image and a person's crop of it",
    "cls": "It reads the whole image and a person's crop of it",
    "cls_mean": "Its head reads the class token and the mean of the patches, side by side",
    "fused": "It keeps the fusion of its pretraining, whose token its head reads",
}
_LIMITS: Final = {
    "pretraining": "It learned from one data set and its labels.",
    "classifier": "It names what people agreed to call an emotion in the images they labelled, with their culture and "
    "their errors; on other kinds of images it can be wrong with confidence.",
    "clip": "It compares an image with sentences about emotions, as it learned to do from captions that others wrote, "
    "with their culture and their errors; it can be wrong with confidence.",
}


def write_card(folder: Path, facts: ModelFacts, *, exported: str = "") -> None:
    """Write the card of a model folder; `exported` is as `build_card` has it."""
    (folder / "README.md").write_text(build_card(facts, exported=exported, half=stores_half(folder)), encoding="utf-8")


def stores_half(folder: Path) -> bool:
    """Whether weights of a model folder are stored in fp16."""
    half = False
    for path in (path for path in folder.glob("*.safetensors") if path.name != FEATURES_NAME):
        with safe_open(path, framework="numpy") as file:
            half = half or any(file.get_slice(name).get_dtype() == "F16" for name in file.keys())  # noqa: SIM118
    return half


def build_card(facts: ModelFacts, *, exported: str = "", half: bool = False) -> str:
    """Build the text of a card: YAML for the hub between two lines, then Markdown.

    `exported` is empty, or names the numbers of an ONNX export, fp32 or int8; `half` means weights stored in fp16.
    """
    licence = _hub_licence(facts.licence)
    readers = ["onnx"] if exported else _readers(facts)
    front = {
        "license": licence,
        **({"license_name": "not-stated"} if licence == "other" else {}),
        "library_name": readers[0] if readers else "uniemox",
        "pipeline_tag": "image-classification" if facts.kind == "classifier" else "image-feature-extraction",
        "tags": ["uniemox", "emotion", *readers],
    }
    text = yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=1000)
    body = "\n\n".join(_sections(facts, exported, half=half))
    return f"---\n{text}---\n\n{body}\n"


def caution(facts: ModelFacts) -> str:
    """Name what a model cannot know, because of its training data; empty where nothing is known of them."""
    spec = SPECS.get(facts.dataset)
    return "was trained on drawings alone and knows nothing of photographs" if spec and spec.is_drawn else ""


def carried_licence(start: str) -> str:
    """Return the licence of weights that follow from a start; of a chain of starts, only the first's is named."""
    return f"not stated; follows from a start under: {start.rpartition('a start under: ')[2]}" if start else ""


def _readers(facts: ModelFacts) -> list[str]:
    """List the other libraries that read the folder."""
    readers = ["timm", "transformers"] if facts.kind == "classifier" else ["timm"]
    return [] if facts.view == "both" or facts.pool in ("fused", "cls_mean") else readers


def _hub_licence(licence: str) -> str:
    """Return the hub's word for a licence; the most restrictive link of a chain is what counts."""
    text = licence.casefold()
    if "cc-by-nc-4.0" in text:
        return "cc-by-nc-4.0"
    return next((word for word in ("mit", "apache-2.0", "cc0-1.0") if text.startswith(word)), "other")


def _sections(facts: ModelFacts, exported: str, *, half: bool) -> Iterator[str]:
    spec = SPECS.get(facts.dataset)
    yield from _headline(facts)
    if facts.classes:
        yield f"**Classes, in label order:** {', '.join(f'`{_plain(name)}`' for name in facts.classes)}."
        yield (_ASKED if _is_clip(facts) else _WHOSE)[facts.emotion]
    yield from ("## Use", *_use(facts, exported))
    if half:
        others = " and timm compute in fp32, and so does transformers, as `config.json` says (`torch_dtype`)"
        yield (
            "The weights are stored in half precision (fp16), which halves the file. `uniemox`"
            f"{others if _readers(facts) else ' computes in fp32'}. Whoever reads the file alone must cast it to fp32 "
            "before training: fp16 weights fail under an autocast to bf16."
        )
    yield "## Training"
    link = f" <{spec.url}>" if spec and "://" in spec.url else ""
    yield "\n".join(_training(facts, f", {spec.title}{link}" if spec else ""))
    yield from ("## Measured", *_measured(facts, exported))
    if facts.robustness is not None:
        yield from ("## Robustness", *_robust(facts.robustness))
    if exported:
        yield "This was measured before the export; `export.json` reports how far its answers are from those."
    yield from ("## Licence", "\n".join(_licence(facts)))
    yield from ("## Intended use, and uses to refuse", *_intended(facts))
    yield from ("## Cite", _CITATION)
    if spec and spec.citation:
        yield f"Data set: {spec.citation}."


def _is_clip(facts: ModelFacts) -> bool:
    return facts.size is None and not facts.is_timm


def _headline(facts: ModelFacts) -> Iterator[str]:
    """Say in a title and a sentence what the model is."""
    target = find_target(facts.target, facts.classes, facts.kept)
    does = target.summary if target else f"gives answers of the kind {_plain(facts.target)}"
    side = f"images of {facts.image_size}"
    vit = f"A vision transformer (size {facts.size}, patches of {facts.patch_size} pixels, {side})"
    other = f"{_plain(facts.architecture)} ({side} pixels)"
    if _is_clip(facts):
        yield "# Emotions of images, by a CLIP without training"
        head = "Its head is text features of the classes: nothing was trained for them"
        yield f"The image tower of a CLIP, {other}, that {does}. {head}."
    elif facts.kind == "classifier":
        yield f"# Emotions of images, trained on {_plain(facts.dataset)}"
        yield f"{vit if facts.size else f'The architecture {other}'} that {does}."
    else:
        yield f"# UniEmoX, pretrained on {_plain(facts.dataset)}"
        yield f"{vit}, pretrained by hiding patches. {_able(facts)}"


def _able(facts: ModelFacts) -> str:
    """Say how a pretrained model comes to name emotions."""
    if facts.language is None:
        return _NAMELESS
    kept = f"It was distilled from {_plain(facts.language.teacher)} and keeps its text features of words for emotions"
    return f"{kept}, so it classifies without training; `uniemox finetune --init FOLDER` continues from there."


def _use(facts: ModelFacts, exported: str) -> Iterator[str]:
    if facts.kind == "pretraining":
        if facts.language is not None:
            yield _ZERO_SHOT
        yield '```python\nimport uniemox\n\nmodel = uniemox.load_pretraining("FOLDER").model\n```'
        return
    yield _PREDICT
    if exported:
        yield (
            f"`model.onnx` is enough by itself: an ONNX model in {exported}, for onnxruntime, without torch. Its "
            "metadata describe how an image is prepared."
        )
    elif not _readers(facts):
        yield f"{_NOT_TIMMS[facts.pool]}, so it is no model of timm."
    else:
        crop = " It expects the crop of a person, not a whole image." if facts.view == "person" else ""
        yield f"The folder is a timm model too, so timm and transformers read it without this package.{crop}"
        yield '```python\nimport timm\n\nmodel = timm.create_model("local-dir:FOLDER", pretrained=True)\n```'


def _training(facts: ModelFacts, title: str) -> Iterator[str]:
    if title or not _is_clip(facts):  # a CLIP of others does not say what it learned from
        yield f"- data set: {_plain(facts.dataset)}{title}"
    for name, value in facts.provenance.items():
        yield f"- {_plain(name)}: {_settings(value) if name == 'settings' else _plain(value)}"


def _settings(text: str) -> str:
    """Show the settings of a run, a line for each group of them."""
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError):
        return _plain(text)
    if not isinstance(settings, dict):
        return _plain(text)
    return "".join(f"\n  - {_plain(name)}: `{_code(json.dumps(value))}`" for name, value in settings.items())


def _measured(facts: ModelFacts, exported: str) -> Iterator[str]:
    if not facts.metrics:
        yield "Nothing was measured when this folder was written."
        return
    rows = [f"| {_plain(name)} | {value:.4f} |" for name, value in facts.metrics.items()]
    yield "\n".join(["| what | value |", "|---|---|", *rows])
    used = ", which `uniemox` therefore computes in; the answers on val were those of fp32."
    yield f"Measured in {facts.precision}{'.' if exported or facts.precision == 'fp32' else used}"
    if facts.temperature != 1.0:
        yield (
            f"The probabilities are calibrated: a temperature of {facts.temperature:.4f}, fitted on val, is folded "
            "into the head's weights."
        )
    target = find_target(facts.target, facts.classes, facts.kept)
    if target is not None and target.fitted:
        yield _plain(target.fitted)
    if known := describe_domain(facts.numbers):
        yield known


def _robust(found: Robustness) -> Iterator[str]:
    """Show what changes of the images do."""
    first, *others = found.shifts
    yield f"Measured on {_plain(found.measured_on)}, with 95 % intervals. {_plain(found.description)}"
    metric = found.metric
    rows = [f"| {_plain(first.change)} | {_bounded(first.values.get(metric), first.interval)} | | |"]
    for one in others:
        moved, flipped = _bounded(one.difference, one.difference_interval), _bounded(one.flipped, one.flipped_interval)
        rows.append(f"| {_plain(one.title)} | {_bounded(one.values.get(metric), one.interval)} | {moved} | {flipped} |")
    yield "\n".join([f"| change | {_plain(found.title)} | difference | flipped |", "|---|---|---|---|", *rows])
    yield f"Flipped: {_plain(found.flips)}."


def _bounded(value: float | None, interval: Interval | None) -> str:
    """Show a number and its interval."""
    bounds = "" if interval is None else f" ({interval.low:.3f} to {interval.high:.3f})"
    return "" if value is None else f"{value:.3f}{bounds}"


def _licence(facts: ModelFacts) -> Iterator[str]:
    yield f"- weights: {_plain(facts.licence) or 'not stated by whoever made them'}"
    spec = SPECS.get(facts.dataset)
    if spec is not None and spec.licence:
        yield f"- training data, {_plain(spec.title)}: {_plain(spec.licence)}"
    if "init" in facts.provenance:
        yield f"- start: {_plain(facts.provenance['init'])}; its licence binds these weights too"
    if _hub_licence(facts.licence) == "cc-by-nc-4.0":
        yield "- **not for commercial use**"


def _intended(facts: ModelFacts) -> Iterator[str]:
    yield from _INTENDED
    if notice := use_notice(facts):
        yield f"**The law.** {notice}"
    yield f"**Limits.** {_LIMITS['clip' if _is_clip(facts) else facts.kind]}"
    if limit := caution(facts):
        yield f"It {limit}."
    if facts.kind == "pretraining":
        yield "Where the descriptions of its training named the emotion, it has seen the labels of those splits."


def _code(text: str) -> str:
    """Bring a text into one line that can stand between backticks, where brackets make no link."""
    return re.sub(r"[`|<>]", "'", printable(one_line(text)))


def _plain(text: str) -> str:
    """Bring a stranger's text into one line that Markdown and HTML leave alone."""
    return re.sub(r"[`|<>\[\]]", "'", printable(one_line(str(text))))
