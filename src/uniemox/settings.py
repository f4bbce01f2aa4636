"""From presets, files and given values to a configuration, and back to YAML.

Order of strength: preset < settings of the run that is resumed < files < given values. A layer is a dict from the
dotted name of a setting (`optim.base_lr`) to its value; each is checked by itself, so an error names its source. Ranges
are checked once, when all layers are joined.
"""

import ast
import dataclasses
import inspect
import logging
import math
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from itertools import pairwise
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, get_args, get_origin, get_type_hints

from uniemox.errors import CheckpointError, ConfigError
from uniemox.files.whole import write_whole
from uniemox.validation import make_adapter
from uniemox.version import __version__
from uniemox.wording import nearest, one_line, shorten

if TYPE_CHECKING:
    from uniemox.config.probe import ProbeConfig
    from uniemox.config.training import FinetuneConfig, PretrainConfig

Made = TypeVar("Made")
Config = TypeVar("Config", bound="PretrainConfig | FinetuneConfig | ProbeConfig")
Values = dict[str, Any]

log = logging.getLogger(__name__)

RUN_CONFIG: Final = "config.yaml"  # The settings of a run, in its folder
RUNNING: Final = frozenset(
    {"out", "resume", "overwrite", "json", "cache", "device", "workers", "compile", "activation_checkpointing"}
    | {"log_every", "save_every", "save_minutes", "baselines"}
)  # Settings of how a run is done, which change nothing of what is learned
RENAMED: Final = {"num_workers": "workers"}  # What settings were called before; files with the old names are still read
_COMMANDS: Final = {"PretrainConfig": "pretrain", "FinetuneConfig": "finetune", "ProbeConfig": "probe"}
_FOLLOWING: Final = {"select_by": "target"}
"""Settings that a preset gives for its own value of another: where that is changed, they are as if nobody gave them."""
_MOST: Final = 2**63 - 1  # Of a whole number; what it counts or seeds takes 64 bits
_SHOWN: Final = 80  # Parts of a list that a message is made of
_WORDS: Final = {int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}


@dataclasses.dataclass(frozen=True)
class Setting:
    """One field of a configuration."""

    name: str  # Dotted, such as `optim.base_lr`
    kind: Any  # Type of its value; that of the list's parts, if it is a list
    text: str  # What it is, from the string under the field
    default: Any = None  # `dataclasses.MISSING` if it must be given
    is_optional: bool = False  # Whether it takes null
    is_list: bool = False  # Whether it takes any number of values
    is_positional: bool = False  # Whether it is given by place
    metavar: str | None = None  # What help and errors show as its value; None for a word for its type

    @property
    def group(self) -> str:
        """Part of the name before the dot, empty at the top."""
        return self.name.rpartition(".")[0]

    @property
    def leaf(self) -> str:
        """Part of the name after the dot."""
        return self.name.rpartition(".")[2]

    @property
    def is_required(self) -> bool:
        """Whether it has no default."""
        return self.default is dataclasses.MISSING

    @property
    def expectation(self) -> str:
        """What values it takes, in words."""
        words = _WORDS.get(self.kind, "text")
        if get_origin(self.kind) is Literal:
            words = f"one of {', '.join(get_args(self.kind))}"
        elif get_origin(self.kind) is tuple:
            how = f"such as {self.metavar}" if self.metavar else "in brackets"
            words = f"{len(get_args(self.kind))} numbers {how}"
        words = f"a list in brackets, each part {words}" if self.is_list else words
        return f"{words}, or null" if self.is_optional else words


def list_settings(config: type[Any], prefix: str = "") -> tuple[Setting, ...]:
    """List the settings of a configuration, groups flattened, in the order of the fields."""
    kinds, groups = get_type_hints(config), list_groups(config)
    settings: list[Setting] = []
    for field in dataclasses.fields(config):
        kind, name = kinds[field.name], prefix + field.name
        if field.name in groups:
            settings += list_settings(kind, f"{name}.")
            continue
        is_optional = NoneType in get_args(kind)
        if is_optional:
            (kind,) = (part for part in get_args(kind) if part is not NoneType)
        is_list = get_origin(kind) is Sequence
        home = next(base for base in config.__mro__ if field.name in inspect.get_annotations(base))
        settings.append(
            Setting(
                name=name,
                kind=get_args(kind)[0] if is_list else kind,
                text=_field_texts(home.__module__)[home.__name__, field.name],
                default=field.default,
                is_optional=is_optional,
                is_list=is_list,
                is_positional=field.kw_only is False,
                metavar=field.metadata.get("metavar"),
            )
        )
    return tuple(settings)


@cache
def _field_texts(module: str) -> dict[tuple[str, str], str]:
    """Read the string under each field of a module; Python itself drops them."""
    texts = {}
    for statement in ast.parse(inspect.getsource(sys.modules[module])).body:
        if isinstance(statement, ast.ClassDef):
            for field, after in pairwise(statement.body):
                match field, after:
                    case (ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text)))):
                        texts[statement.name, name] = one_line(text)
    return texts


def list_groups(config: type[Any]) -> dict[str, type[Any]]:
    """Names of the groups of settings, with the class of each."""
    kinds = get_type_hints(config)
    return {f.name: kinds[f.name] for f in dataclasses.fields(config) if dataclasses.is_dataclass(kinds[f.name])}


def summary_of(config: type[Any]) -> str:
    """First line of what a configuration or a group of settings is."""
    return (config.__doc__ or "").partition("\n")[0]


def convert(setting: Setting, value: Any, *, source: str = "") -> Any:
    """Bring a value of YAML or a flag to a setting's type (lists become tuples); `ConfigError` names the source."""
    if value is None and setting.is_optional:
        return None
    if setting.is_list and isinstance(value, str) and get_origin(setting.kind) is Literal:
        value = [value]  # one of the choices, as settings say that were written when there could be one alone
    try:
        if not setting.is_list:
            return _convert(setting.kind, value)
        if isinstance(value, list | tuple):
            return tuple(_convert(setting.kind, part) for part in value)
    except ValueError:  # pydantic's errors are ValueErrors
        pass
    listed = (
        f"[{', '.join(shorten(part) or 'empty' for part in value[:_SHOWN])}]"
        if isinstance(value, list | tuple)
        else value
    )
    shown = "null" if value is None else shorten(listed) or "empty"
    where = f"{source}: " if source else ""
    raise ConfigError(f"{where}{setting.name} is {shown}, but must be {setting.expectation}")


def _convert(kind: Any, value: Any) -> Any:
    if kind in (str, Path) and isinstance(value, str):
        # An empty word is mostly a shell variable that is not set; as a path it would be the working directory.
        if "\0" in value or not value:
            raise ValueError
        return kind(value)
    made = make_adapter(kind, only_finite=True).validate_python(value)
    if isinstance(made, bool) is not isinstance(value, bool) and not isinstance(value, str):
        raise ValueError  # Python's true is 1; a user's is not
    if isinstance(made, int) and abs(made) > _MOST:
        raise ValueError
    return made


def build(config: type[Made], values: Mapping[str, Any]) -> Made:
    """Make a configuration of converted values; a `ConfigError` if one is missing or out of range."""
    if missing := _name_missing(config, values):
        raise ConfigError(f"{missing} must be given")
    parts: Values = {name: value for name, value in values.items() if "." not in name}
    for group, kind in list_groups(config).items():
        start = f"{group}."
        parts[group] = build(
            kind, {name.removeprefix(start): values[name] for name in values if name.startswith(start)}
        )
    return config(**parts)


def _name_missing(config: type[Any], values: Mapping[str, Any]) -> str:
    return " and ".join(f"`{s.name}`" for s in list_settings(config) if s.is_required and s.name not in values)


def combine(
    config: type[Any], given: Mapping[str, Any], *, preset: str | None = None, files: Sequence[Path] = ()
) -> Values:
    """Lay preset, files and given values over each other; a run that is resumed lays its own settings over the preset.

    Args:
        config: Class of the configuration.
        given: Values that are stronger than all others.
        preset: Name of the weakest layer.
        files: YAML files; of several, the later is stronger.

    Raises:
        ConfigError: On an unknown preset, a file that cannot be read, an unknown name or a value of another type; or if
            no run exists to resume, and what a new one needs is missing.
    """
    chosen = {} if preset is None else load_preset(config, preset)
    run = given["out"] / RUN_CONFIG if given.get("resume") and "out" in given else None
    own = _read_layer(config, run, str(run)) if run is not None and run.is_file() else {}
    above = {name: value for path in files for name, value in _read_layer(config, path, str(path)).items()}
    if own and any(own.get(name) != value for name, value in chosen.items() if name not in {**above, **given}):
        log.warning("%s continues with its own settings, which differ from the preset %s", given["out"], preset)
    stronger = {**own, **above, **given}
    for name, other in _FOLLOWING.items():
        if other in stronger and stronger[other] != chosen.get(other):
            chosen.pop(name, None)
    values = {**chosen, **stronger}
    missing = _name_missing(config, values)
    if missing and run is not None:
        out = run.parent
        reason = f"holds no {RUN_CONFIG}" if out.is_dir() else "is a file" if out.exists() else "does not exist"
        raise ConfigError(
            f"{out} {reason}, so there is no run to resume: check `out`, or give {missing} to start a new run"
        )
    return values


def _presets(config: type[Any]) -> dict[str, Traversable]:
    folder = resources.files("uniemox").joinpath("presets", _COMMANDS[config.__name__])
    files = sorted(folder.iterdir(), key=lambda file: file.name)
    return {file.name.removesuffix(".yaml"): file for file in files if file.name.endswith(".yaml")}


def preset_names(config: type[Any]) -> tuple[str, ...]:
    """Names of the presets for a configuration."""
    return tuple(_presets(config))


def load_preset(config: type[Any], name: str) -> Values:
    """Read a preset over those that it extends; a `ConfigError` if no preset has that name."""
    presets = _presets(config)
    if name not in presets:
        raise ConfigError(f"unknown preset {shorten(name)}{nearest(name, presets)}; known are {', '.join(presets)}")
    return _read_layer(config, presets[name], f"preset {name}", is_preset=True)


def load_config(config: type[Config], path: Path) -> Config:
    """Read a whole configuration, such as a run folder's `config.yaml`; a `ConfigError` names what is invalid."""
    return build(config, _read_layer(config, path, str(path)))


def _read_layer(config: type[Any], file: Path | Traversable, source: str, *, is_preset: bool = False) -> Values:
    from uniemox.files.yaml_file import read_mapping  # not needed for a help

    tree = read_mapping(file, source=source)
    base = tree.pop("extends", None) if is_preset else None
    layer = layer_of(config, tree, source=source)
    return layer if base is None else load_preset(config, base) | layer


def layer_of(config: type[Any], tree: Mapping[str, Any], *, source: str) -> Values:
    """Flatten what YAML holds, and bring each value to the type of its setting; `ConfigError` names the source."""
    settings = {setting.name: setting for setting in list_settings(config)}
    groups = list_groups(config)
    flat: Values = {}
    for key, value in tree.items():
        if key not in groups:
            flat[str(key)] = value
        elif isinstance(value, dict):
            flat |= {f"{key}.{leaf}": leaf_value for leaf, leaf_value in value.items()}
        elif value is not None:  # null is a group with all its lines commented out
            example = next(name for name in settings if name.startswith(f"{key}."))
            raise ConfigError(f"{source}: {key} is {shorten(value)}, but must be a group of settings such as {example}")
    for old in flat.keys() & RENAMED.keys():
        log.info("%s: %s is now called %s", source, old, RENAMED[old])
        flat[RENAMED[old]] = flat.pop(old)
    for name in flat:
        if name not in settings:
            raise ConfigError(f"{source}: unknown setting {shorten(name)}{nearest(name, settings)}")
    return {name: convert(settings[name], value, source=source) for name, value in flat.items()}


# Back to YAML


def save_config(config: "PretrainConfig | FinetuneConfig | ProbeConfig", path: Path) -> None:
    """Write a configuration to a file as commented YAML that `--config` reads back to an equal one."""
    with write_whole(path, CheckpointError, elsewhere="choose another `out`") as beside:
        beside.write_text(_dump(type(config), dict(list_values(config))), encoding="utf-8")


def preview(config: type[Any], values: Mapping[str, Any]) -> str:
    """Write the configuration that `build` would make as YAML; what must still be given becomes a comment."""
    required = {s.name: s.kind(s.name) for s in list_settings(config) if s.is_required}  # texts and paths
    whole = dict(list_values(build(config, {**required, **values})))
    return _dump(config, {name: whole[name] for name in whole if name in values or name not in required})


def list_values(config: Any) -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the value of every setting."""
    for setting in list_settings(type(config)):
        holder = getattr(config, setting.group) if setting.group else config
        yield setting.name, getattr(holder, setting.leaf)


def _dump(config: type[Any], values: Mapping[str, Any]) -> str:
    import yaml  # not needed for a help

    lines = [f"# Settings of uniemox {__version__}, for `uniemox {_COMMANDS[config.__name__]} --config FILE`.", ""]
    group = ""
    for setting in sorted(list_settings(config), key=lambda setting: bool(setting.group)):  # the top first
        if setting.group != group:
            group = setting.group
            lines += ["", *_comment(summary_of(list_groups(config)[group])), f"{group}:"]
        text = f"# {setting.leaf}: must be given, here or as --{setting.name.replace('_', '-')}"
        if setting.name in values:
            value = values[setting.name]
            plain = str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
            flow = None if isinstance(plain, list) else False  # lists in brackets
            leaf = {setting.leaf: plain}
            text = yaml.safe_dump(leaf, default_flow_style=flow, width=math.inf, allow_unicode=True).rstrip("\n")
        indent = "  " if group else ""
        lines += [*_comment(setting.text, indent), textwrap.indent(text, indent)]
    return "\n".join(lines) + "\n"


def _comment(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, 100, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
