"""Read a YAML file that anybody may have written: data only, of limited size and depth, without aliases.

An alias can make a small file stand for terabytes, and a tag can name a Python class; a file of settings needs neither.
"""

from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final

import yaml

from uniemox.errors import ConfigError
from uniemox.wording import reason_of, shorten

MAX_BYTES: Final = 64 * 1024  # Maximum bytes of a file; a whole configuration with its comments has about 8,000
_MAX_DEPTH: Final = 8
_MAX_DIGITS: Final = 64  # Of a number; one of 60,000 could not even be shown in a message


class _Loader(yaml.SafeLoader):
    """Safe YAML without what a file of settings has no use for: aliases, deep nesting, a name given twice."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="aliases are not accepted", problem_mark=mark)
        if self.depth > _MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem="it is nested too deeply")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = set[str]()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in names:
                    problem = f"{shorten(key.value)} is given twice"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
                names.add(key.value)
        return super().construct_mapping(node, deep=deep)

    def construct_number(self, node: yaml.ScalarNode) -> Any:
        if len(node.value) > _MAX_DIGITS:
            problem = f"a number of {len(node.value):,} digits, more than {_MAX_DIGITS}"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        is_whole = node.tag.endswith(":int")
        return self.construct_yaml_int(node) if is_whole else self.construct_yaml_float(node)


for _tag in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _Loader.construct_number)


def read_mapping(file: Path | Traversable, *, source: str) -> dict[Any, Any]:
    """Read a file whose top level is a mapping; an empty file is an empty one.

    Args:
        file: A path, or a file of the package.
        source: What error messages call it.

    Raises:
        ConfigError: If it cannot be read, is too long, or is no such YAML.
    """
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ConfigError(f"{source} is longer than {MAX_BYTES} bytes, so it is not read")
        # `_Loader` is a SafeLoader that refuses aliases and depth: it makes nothing but plain values.
        tree = yaml.load(data.decode(), Loader=_Loader)
    except OSError as error:
        raise ConfigError(f"cannot read {source}: {reason_of(error)}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{source} is not a text file in UTF-8") from error
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{source}{line}: not plain YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: an impossible date or number
        raise ConfigError(f"{source}: not plain YAML: {shorten(error)}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{source} must be a mapping from names to values, such as `name: value`")
    return tree
