"""From presets, files and flags to a configuration, and back to YAML.

Order of strength: preset < `--config FILE` < flags, wherever they stand on the line. A layer is a dict from the
dotted name of a setting (`optim.base_lr`) to its value; each is checked by itself, so an error names its source.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import textwrap
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, get_type_hints

import yaml

from uniemox import config as configs
from uniemox.config import FinetuneConfig, PretrainConfig
from uniemox.errors import ConfigError
from uniemox.flags import Parser, expectation, is_list, is_optional, nearest, one_line, shorten
from uniemox.version import __version__
from uniemox.yaml_file import read_mapping

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from importlib.resources.abc import Traversable

    from jsonargparse import Namespace

Config = TypeVar("Config", bound=PretrainConfig | FinetuneConfig)
Values = dict[str, Any]

_COMMANDS: Final[dict[type, str]] = {PretrainConfig: "pretrain", FinetuneConfig: "finetune"}


@dataclass(frozen=True)
class Setting:
    """One field of a configuration."""

    name: str
    """Dotted, such as `optim.base_lr`."""
    kind: Any
    """Type of its value."""
    text: str
    """What it is, as the field's docstring says."""
    default: Any
    """`dataclasses.MISSING` where it must be given."""

    @property
    def group(self) -> str:
        """Part of the name before the dot, empty at the top."""
        return self.name.rpartition(".")[0]

    @property
    def leaf(self) -> str:
        """Part of the name after the dot."""
        return self.name.rpartition(".")[2]

    @property
    def flag(self) -> str:
        """The flag that gives it."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def is_required(self) -> bool:
        """Whether it has no default."""
        return self.default is dataclasses.MISSING


def list_settings(config: type[Any]) -> tuple[Setting, ...]:
    """List the settings of a configuration, groups flattened, in the order of the fields."""
    return tuple(_walk(config, ""))


def _walk(config: type[Any], prefix: str) -> Iterator[Setting]:
    kinds = get_type_hints(config)
    for field in dataclasses.fields(config):
        kind = kinds[field.name]
        name = prefix + field.name
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            yield from _walk(kind, f"{name}.")
        else:
            yield Setting(name, kind, _field_text(config, field.name), field.default)


def _field_text(config: type[Any], field: str) -> str:
    texts = _field_texts()
    return next(
        (texts[base.__name__, field] for base in config.__mro__ if (base.__name__, field) in texts),
        "",
    )


@cache
def _field_texts() -> dict[tuple[str, str], str]:
    """Read the string under each field of the module `config`; Python itself drops them."""
    texts = {}
    for statement in ast.parse(inspect.getsource(configs)).body:
        if isinstance(statement, ast.ClassDef):
            for field, after in pairwise(statement.body):
                match field, after:
                    case (
                        ast.AnnAssign(target=ast.Name(id=name)),
                        ast.Expr(value=ast.Constant(value=str(text))),
                    ):
                        texts[statement.name, name] = one_line(text)
    return texts


def _groups(config: type[Any]) -> dict[str, str]:
    """Names of the groups of settings, with what each is."""
    kinds = get_type_hints(config)
    return {
        field.name: (inspect.getdoc(kinds[field.name]) or "").partition("\n")[0]
        for field in dataclasses.fields(config)
        if dataclasses.is_dataclass(kinds[field.name])
    }


# Flags


def add_settings(parser: Parser, config: type[Any]) -> None:
    """Add `--preset`, `--config`, `--print-config` and a flag for every setting."""
    parser.add_flag(
        "--preset",
        str,
        f"Whole set of settings to begin with: {', '.join(preset_names(config))}.",
        metavar="NAME",
    )
    parser.add_flag(
        "--config",
        str,
        "YAML file of settings, stronger than the preset and weaker than flags, wherever they stand on the line; "
        "of several, the later is stronger. Paths in it are relative to the working directory.",
        metavar="FILE",
        repeat=True,
    )
    parser.add_switch("--print-config", "Print the whole resulting YAML with comments, and leave.")
    sections = {
        name: parser.add_argument_group(f"{name}: {text.rstrip('.')}" if name else text)
        for name, text in {"": "settings of the run", **_groups(config)}.items()
    }
    for setting in list_settings(config):
        parser.add_flag(
            setting.flag,
            setting.kind,
            f"{setting.text} (required)" if setting.is_required else setting.text,
            default=None if setting.is_required else setting.default,
            group=sections[setting.group],
        )


def combine(config: type[Any], given: Namespace) -> Values:
    """Lay preset, files and flags over each other.

    Args:
        config: Class of the configuration.
        given: What a parser with these settings gave, defaults left out.

    Raises:
        ConfigError: On an unknown preset, a file that cannot be read, an unknown name or a wrong type.
    """
    values: Values = {}
    preset = given.get("preset")
    if preset is not None:
        values |= load_preset(config, preset)
    for path in given.get("config") or ():
        values |= _read_layer(config, Path(path), source=path)
    names = {setting.name for setting in list_settings(config)}
    flags = {name: value for name, value in given.items() if name in names}
    return values | _checked(config, flags, source="")


def build(config: type[Config], values: Mapping[str, Any]) -> Config:
    """Make the configuration.

    Raises:
        ConfigError: If a setting that has no default is missing, or a value is out of range.
    """
    missing = [s.flag for s in list_settings(config) if s.is_required and s.name not in values]
    if missing:
        command = _COMMANDS[config]
        raise ConfigError(f"{' and '.join(missing)} must be given; see `uniemox {command} --help`")
    made: Config = _build(config, values, "")
    return made


def _build(config: type[Any], values: Mapping[str, Any], prefix: str) -> Any:
    kinds = get_type_hints(config)
    arguments = {}
    for field in dataclasses.fields(config):
        name = prefix + field.name
        if dataclasses.is_dataclass(kinds[field.name]):
            arguments[field.name] = _build(kinds[field.name], values, f"{name}.")
        elif name in values:
            arguments[field.name] = values[name]
    return config(**arguments)


# Presets and files


def _presets(config: type[Any]) -> dict[str, Traversable]:
    folder = resources.files("uniemox").joinpath("presets", _COMMANDS[config])
    files = sorted(folder.iterdir(), key=lambda file: file.name)
    return {file.name.removesuffix(".yaml"): file for file in files if file.name.endswith(".yaml")}


def preset_names(config: type[Any]) -> tuple[str, ...]:
    """Names of the presets for a configuration."""
    return tuple(_presets(config))


def load_preset(config: type[Any], name: str) -> Values:
    """Read a preset.

    Raises:
        ConfigError: If there is none of that name.
    """
    presets = _presets(config)
    if name not in presets:
        raise ConfigError(f"there is no preset {shorten(name)}; known are {', '.join(presets)}")
    return _read_layer(config, presets[name], source=f"preset {name}")


def load_config(config: type[Config], path: Path) -> Config:
    """Read a whole configuration, such as the `config.yaml` of a run folder.

    Raises:
        ConfigError: If the file cannot be read, or something in it is missing or wrong.
    """
    return build(config, _read_layer(config, path, source=str(path)))


def _read_layer(config: type[Any], file: Path | Traversable, *, source: str) -> Values:
    flat = _flatten(config, read_mapping(file, source=source), source)
    nested: Values = {}
    for name, value in flat.items():
        group, _, leaf = name.rpartition(".")
        (nested.setdefault(group, {}) if group else nested)[leaf] = value
    parser = Parser(_COMMANDS[config], "")
    add_settings(parser, config)
    try:
        values = dict(parser.parse_values(nested).items())
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    return _checked(config, values, source=source)


def _flatten(config: type[Any], tree: dict[Any, Any], source: str) -> Values:
    groups = _groups(config)
    names = [setting.name for setting in list_settings(config)]
    flat: Values = {}
    for key, value in tree.items():
        if key not in groups:
            flat[str(key)] = value
        elif isinstance(value, dict):
            flat |= {f"{key}.{leaf}": leaf_value for leaf, leaf_value in value.items()}
        elif value is not None:  # null is a group whose lines are all commented out
            example = next(name for name in names if name.startswith(f"{key}."))
            raise ConfigError(
                f"{source}: {key} is {shorten(value)}, but must be a group of settings such as {example}"
            )
    for name in flat:
        if name not in names:
            raise ConfigError(
                f"{source}: there is no setting {shorten(name)}{nearest(name, names)}"
            )
    return flat


def _checked(config: type[Any], values: Values, *, source: str) -> Values:
    """Refuse what jsonargparse lets pass but nothing can use; make tuples of lists, as the defaults are."""
    kinds = {setting.name: setting.kind for setting in list_settings(config)}
    checked = {}
    for name, value in values.items():
        parts = value if isinstance(value, list | tuple) else [value]
        is_null = value is None and not is_optional(kinds[name])
        if is_null or any(map(_is_useless, parts)):
            shown = "null" if value is None else shorten(value)
            where = f"{source}: " if source else ""
            raise ConfigError(f"{where}{name} is {shown}, but must be {expectation(kinds[name])}")
        checked[name] = tuple(parts) if is_list(kinds[name]) and value is not None else value
    return checked


def _is_useless(part: object) -> bool:
    if isinstance(part, float):
        return not math.isfinite(part)
    return isinstance(part, str | Path) and "\0" in str(part)


# Back to YAML


def to_yaml(config: PretrainConfig | FinetuneConfig) -> str:
    """Write a configuration as commented YAML that `--config` reads back to an equal one."""
    return _dump(type(config), dict(_values(config)))


def save_config(config: PretrainConfig | FinetuneConfig, path: Path) -> None:
    """Write a configuration to a file, as `to_yaml` does."""
    path.write_text(to_yaml(config), encoding="utf-8")


def preview(config: type[Any], values: Mapping[str, Any]) -> str:
    """Write the configuration that `build` would make; what must still be given stands there as a comment.

    Raises:
        ConfigError: If a value is out of range.
    """
    required = {s.name: Path(s.name) for s in list_settings(config) if s.is_required}
    whole = dict(_values(_build(config, {**required, **values}, "")))
    for name in required.keys() - values.keys():
        del whole[name]
    return _dump(config, whole)


def _values(config: PretrainConfig | FinetuneConfig) -> Iterator[tuple[str, Any]]:
    for setting in list_settings(type(config)):
        holder = getattr(config, setting.group) if setting.group else config
        yield setting.name, getattr(holder, setting.leaf)


def _dump(config: type[Any], values: Mapping[str, Any]) -> str:
    command = _COMMANDS[config]
    lines = [f"# Settings of uniemox {__version__}, for `uniemox {command} --config FILE`.", ""]
    groups = {"": "", **_groups(config)}
    for group, text in groups.items():
        indent = "  " if group else ""
        if group:
            lines += ["", *_comment(text, ""), f"{group}:"]
        for setting in list_settings(config):
            if setting.group == group:
                lines += _comment(setting.text, indent)
                lines.append(textwrap.indent(_dump_value(setting, values), indent))
    return "\n".join(lines) + "\n"


def _dump_value(setting: Setting, values: Mapping[str, Any]) -> str:
    if setting.name not in values:
        return f"# {setting.leaf}: must be given, here or as {setting.flag}"
    value = values[setting.name]
    plain = str(value) if isinstance(value, Path) else value
    plain = list(plain) if isinstance(plain, tuple) else plain
    text: str = yaml.safe_dump(
        {setting.leaf: plain},
        default_flow_style=None if isinstance(plain, list) else False,  # lists in brackets
        width=math.inf,
        allow_unicode=True,
    )
    return text.rstrip("\n")


def _comment(text: str, indent: str) -> Iterable[str]:
    prefix = f"{indent}# "
    return textwrap.wrap(text, 100, initial_indent=prefix, subsequent_indent=prefix)
