"""The kinds of targets by the words for them; nothing outside this room maps a word to a kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, cast

from uniemox.config.training import PromiseConfig
from uniemox.config.training import Target as Kind
from uniemox.errors import CheckpointError, ConfigError, DataError
from uniemox.targets.distribution import Distribution
from uniemox.targets.multi_label import MultiLabel
from uniemox.targets.several import JOIN, Several
from uniemox.targets.single_label import SingleLabel
from uniemox.targets.target import Numbers, Target
from uniemox.targets.valence_arousal import ValenceArousal

if TYPE_CHECKING:
    from uniemox.manifests.table import Manifest

DEFAULT: Final = SingleLabel.name  # What a model folder means that names no target
_KINDS: Final[dict[str, type[Target]]] = {
    kind.name: kind for kind in (SingleLabel, MultiLabel, Distribution, ValenceArousal)
}
KNOWN: Final = tuple(_KINDS)
ABSTAINING: Final = tuple(name for name, kind in _KINDS.items() if kind.has_guarantees)
PROBLEM_TYPES: Final[dict[str, str]] = {kind.problem_type: name for name, kind in _KINDS.items() if kind.problem_type}
"""The words for kinds by what transformers calls them."""


def build_target(kinds: Kind | Sequence[Kind]) -> Target:
    """Make the target of a setting, of one kind or of several; it has no classes yet."""
    targets = [_KINDS[kind]() for kind in ([kinds] if isinstance(kinds, str) else kinds)]
    return targets[0] if len(targets) == 1 else Several(parts=tuple(targets))


def refuse_risk(target: Target, asked: PromiseConfig) -> None:
    """Raise a `ConfigError` if a target is to abstain that cannot."""
    if asked.risk is not None and not target.has_guarantees:
        able = " and ".join(ABSTAINING)
        why = f"confidence.risk is {asked.risk:g}, but only {able} can abstain, not {target.name}"
        raise ConfigError(f"{why}: omit it")


def kind_of_data(*, has_label_sets: bool) -> str:
    """Name the kind of target that data were made for."""
    return MultiLabel.name if has_label_sets else SingleLabel.name


def kinds_in(manifest: Manifest) -> list[str]:
    """Name the kinds of labels that rows of a manifest can teach, those of split train where there is one."""
    rows = manifest.select(["train"]) if "train" in manifest.split_counts() else manifest
    found = []
    for name, kind in _KINDS.items():
        try:
            target = kind().bind_to(rows)
            target.read_labels(target.rated(rows))
        except DataError:
            continue
        found.append(name)
    return found


def find_target(name: str, classes: tuple[str, ...], numbers: Numbers = MappingProxyType({})) -> Target | None:
    """Make a target as `resolve_target` does; None where the word is unknown."""
    kinds = name.split(JOIN)
    if not all(kind in _KINDS for kind in kinds) or len(set(kinds)) < len(kinds):
        return None
    return build_target(cast("list[Kind]", kinds)).bind(classes, numbers)


def resolve_target(
    name: str, classes: tuple[str, ...], numbers: Numbers = MappingProxyType({}), *, given: Target | None = None
) -> Target:
    """Make the target of what a model folder or a report keeps.

    Args:
        name: The word for its kind.
        classes: Names, in label order.
        numbers: `ModelFacts.kept`, which come from `Target.to_facts`.
        given: The caller's own target, for a kind that is not built in.

    Raises:
        CheckpointError: The word is unknown, the given target has another name, or classes and numbers cannot be its.
    """
    if given is not None and given.name != name:
        raise CheckpointError(f"the model answers with {name}, but the target given is {given.name}")
    try:
        target = find_target(name, classes, numbers) if given is None else given.bind(classes, numbers)
    except DataError as error:
        raise CheckpointError(f"the model does not fit its target {name}: {error}") from error
    if target is None:
        raise CheckpointError(
            f"the model answers with {name!r}, and this version of uniemox knows {', '.join(KNOWN)}: pass the object "
            "that it was trained with as target=, or upgrade uniemox"
        )
    return target


def target_of(report: Mapping[str, Any], *, given: Target | None = None) -> Target:
    """Make the target of an evaluation from its `report.json`, as `resolve_target` does."""
    numbers = {name: tuple(values) for name, values in report.get("numbers", {}).items()}
    return resolve_target(report.get("target", DEFAULT), tuple(report["classes"]), numbers, given=given)
