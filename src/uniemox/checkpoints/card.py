"""The model card, `README.md` of a model folder: what the weights are, for people and for the hub. Brings no torch."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

import yaml

from uniemox.data.specs import SPECS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from uniemox.checkpoints.facts import ModelFacts

NON_COMMERCIAL: Final = (
    "CC-BY-NC-4.0, as far as can be told: the file states none, and MAE's weights have it, with what follows from "
    "them, as the released weights of UniEmoX do"
)
"""Licence of weights whose form is MAE's and that say nothing themselves."""
# The hub's word for a licence, by how ours begins; the most restrictive link of a chain is what counts.
_HUB_LICENCES: Final = {
    "cc-by-nc-4.0": "cc-by-nc-4.0",
    "mit": "mit",
    "apache-2.0": "apache-2.0",
    "cc0-1.0": "cc0-1.0",
}
_PREDICT: Final = "```\nuniemox predict FOLDER photo.jpg\n```"
_CITATION: Final = """```bibtex
@article{chen2025uniemox,
  title   = {UniEmoX: Cross-modal Semantic-Guided Large-Scale Pretraining for Universal Scene Emotion Perception},
  author  = {Chen and Sun and Liu},
  journal = {IEEE Transactions on Image Processing},
  volume  = {34},
  pages   = {4691--4705},
  year    = {2025},
  note    = {arXiv:2409.18877}
}
```"""
_WHOSE: Final = {
    "evoked": "The labels say which emotion a picture **evokes** in those who see it, not what anybody in it feels.",
    "felt": "The labels say which emotion a depicted person seems to **feel**, as those who labelled it judged.",
    None: "Whether the labels say the emotion that a picture evokes or that a person in it feels is not recorded.",
}


def write_card(folder: Path, facts: ModelFacts, *, exported: str = "") -> None:
    """Write the card of a model folder; `exported` is as `build_card` has it.

    Raises:
        OSError: It cannot be written.
    """
    (folder / "README.md").write_text(build_card(facts, exported=exported), encoding="utf-8")


def build_card(facts: ModelFacts, *, exported: str = "") -> str:
    """Give the text of a card: YAML for the hub between two lines, then Markdown.

    Args:
        facts: What is known of the model.
        exported: Of an ONNX export, its numbers: fp32 or int8; empty for weights of torch.
    """
    front = yaml.safe_dump(
        _front_matter(facts, exported), sort_keys=False, allow_unicode=True, width=1000
    )
    body = "\n\n".join(_sections(facts, exported))
    return f"---\n{front}---\n\n{body}\n"


def carried_licence(start: str) -> str:
    """Say the licence of weights that follow from a start: its own, since a chain is as free as its links."""
    return f"not stated; follows from a start under: {start}" if start else ""


def _front_matter(facts: ModelFacts, exported: str) -> dict[str, Any]:
    licence = _hub_licence(facts.licence)
    front: dict[str, Any] = {"license": licence}
    if licence == "other":
        front["license_name"] = "not-stated"
    is_classifier = facts.kind == "classifier"
    readers = ["onnx"] if exported else _readers(facts)
    return front | {
        "library_name": readers[0] if readers else "uniemox",
        "pipeline_tag": "image-classification" if is_classifier else "image-feature-extraction",
        "tags": ["uniemox", "emotion", *readers],
    }


def _readers(facts: ModelFacts) -> list[str]:
    """Name the other libraries that read the folder."""
    if facts.view == "both":
        return []
    return ["timm", "transformers"] if facts.kind == "classifier" else ["timm"]


def _hub_licence(licence: str) -> str:
    text = licence.casefold()
    if "cc-by-nc-4.0" in text:
        return "cc-by-nc-4.0"
    return next((hub for ours, hub in _HUB_LICENCES.items() if text.startswith(ours)), "other")


def _sections(facts: ModelFacts, exported: str) -> Iterator[str]:
    dataset = _plain(facts.dataset)
    if facts.kind == "classifier":
        yield f"# Emotions of pictures, trained on {dataset}"
        count = len(facts.classes)
        what = f"names one of {count} emotions of a picture"
        if facts.target == "multi_label":
            what = f"says of each of {count} emotions whether a picture shows it"
        yield f"A vision transformer ({_shape(facts)}) that {what}."
    else:
        yield f"# UniEmoX, pretrained on {dataset}"
        yield (
            f"A vision transformer ({_shape(facts)}), pretrained by hiding patches. It names nothing by itself: "
            "`uniemox finetune --init FOLDER` makes a classifier of it."
        )
    if facts.classes:
        names = ", ".join(f"`{_plain(name)}`" for name in facts.classes)
        yield f"**Classes, in label order:** {names}."
        yield _WHOSE[facts.emotion]
    yield from (
        "## Use",
        _use_of_export(exported) if exported else _use(facts),
        "## Training",
        _training(facts),
        "## Measured",
        _measured(facts),
    )
    if exported:
        yield "This was measured before the export; `export.json` says how far its answers are from those."
    yield from ("## Licence", _licence(facts))
    yield from ("## Intended use, and uses to refuse", _intended(facts))
    yield from ("## Cite", _cite(facts))


def _shape(facts: ModelFacts) -> str:
    return (
        f"size {facts.size}, patches of {facts.patch_size} pixels, pictures of {facts.image_size}"
    )


def _use(facts: ModelFacts) -> str:
    if facts.kind == "pretraining":
        return '```python\nimport uniemox\n\nmodel = uniemox.load_pretraining("FOLDER").model\n```'
    ours = _PREDICT
    if facts.view == "both":
        return f"{ours}\n\nIt reads the whole picture and a person's crop of it, so it is no model of timm."
    crop = (
        " It expects the crop of a person, not a whole picture." if facts.view == "person" else ""
    )
    return (
        f"{ours}\n\n"
        f"The folder is a timm model too, so timm and transformers read it without this package.{crop}\n\n"
        '```python\nimport timm\n\nmodel = timm.create_model("local-dir:FOLDER", pretrained=True)\n```'
    )


def _use_of_export(numbers: str) -> str:
    return (
        f"{_PREDICT}\n\n`model.onnx` is enough by itself: an ONNX model in {numbers}, for onnxruntime, without torch. "
        "Its metadata say how a picture is prepared."
    )


def _training(facts: ModelFacts) -> str:
    lines = [f"- data set: {_plain(facts.dataset)}{_title(facts.dataset)}"]
    for name, value in facts.provenance.items():
        lines.append(
            f"- {_plain(name)}: {_settings(value) if name == 'settings' else _plain(value)}"
        )
    return "\n".join(lines)


def _title(dataset: str) -> str:
    spec = SPECS.get(dataset)
    return (
        ""
        if spec is None
        else f", {spec.title} <{spec.url}>"
        if "://" in spec.url
        else f", {spec.title}"
    )


def _settings(text: str) -> str:
    """Show the settings of a run, a line for each group of them."""
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError):
        return _plain(text)
    if not isinstance(settings, dict):
        return _plain(text)
    return "".join(
        f"\n  - {_plain(name)}: `{_plain(json.dumps(value))}`" for name, value in settings.items()
    )


def _measured(facts: ModelFacts) -> str:
    if not facts.metrics:
        return "Nothing was measured when this folder was written."
    rows = [f"| {_plain(name)} | {value:.4f} |" for name, value in facts.metrics.items()]
    calibrated = (
        f"\n\nThe probabilities are calibrated: a temperature of {facts.temperature:.4f}, fitted on val, is folded "
        "into the head's weights."
        if facts.temperature != 1.0
        else ""
    )
    if facts.thresholds:
        pairs = zip(facts.classes, facts.thresholds, strict=True)
        listed = ", ".join(f"{_plain(name)} {threshold:.3f}" for name, threshold in pairs)
        calibrated += f"\n\nEach emotion is given from a probability on, fitted on val: {listed}."
    return "\n".join(["| what | value |", "|---|---|", *rows]) + calibrated


def _licence(facts: ModelFacts) -> str:
    lines = [f"- weights: {_plain(facts.licence) or 'not stated by whoever made them'}"]
    spec = SPECS.get(facts.dataset)
    if spec is not None and spec.licence:
        lines.append(f"- training data, {_plain(spec.title)}: {_plain(spec.licence)}")
    if "init" in facts.provenance:
        lines.append(
            f"- start: {_plain(facts.provenance['init'])}; its licence binds these weights too"
        )
    if _hub_licence(facts.licence) == "cc-by-nc-4.0":
        lines.append("- **not for commercial use**")
    return "\n".join(lines)


def _intended(facts: ModelFacts) -> str:
    wrong = (
        "It names what people agreed to call an emotion in the pictures they labelled, with their culture and their "
        "errors; on other kinds of pictures it can be wrong with confidence."
    )
    lines = [
        "Made for research on the emotion of pictures, and for sorting or describing collections where an error harms "
        "nobody.",
        "**Refuse** any use that judges a person's inner state, or decides about people: hiring, policing, schooling, "
        "health, insurance, border control; and surveillance of any kind.",
        f"**Limits.** {wrong if facts.kind == 'classifier' else 'It learned from one data set and its labels.'}",
    ]
    if facts.kind == "pretraining":
        lines.append(
            "Where the descriptions of its training named the emotion, it has seen the labels of those splits."
        )
    return "\n\n".join(lines)


def _cite(facts: ModelFacts) -> str:
    spec = SPECS.get(facts.dataset)
    return _CITATION + (f"\n\nData set: {spec.citation}." if spec and spec.citation else "")


def _plain(text: str) -> str:
    """Bring a stranger's text into one line that Markdown and HTML leave alone."""
    return re.sub(r"[`|<>\[\]]", "'", " ".join(str(text).split()))
