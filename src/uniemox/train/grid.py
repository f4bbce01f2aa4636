"""Grids of runs: a YAML file of steps, arms and seeds becomes runs, all of whose settings are checked before any runs.

A grid names steps with the settings that all arms share, and arms with the settings in which they differ:

    seeds: [0, 1]
    pretrain: {preset: small}
    finetune: {preset: mae, view: scene}
    arms:
      all: {}
      without-contrast: {pretrain: {loss: {contrast: 0}}}

Steps run in the order of `STEPS`, and hand on what they make: a manifest, then a model.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, Final

from uniemox.config.ablate import AblateConfig
from uniemox.config.data import SplitConfig
from uniemox.config.inference import EvaluateConfig
from uniemox.config.probe import ProbeConfig
from uniemox.config.training import FinetuneConfig, PretrainConfig
from uniemox.errors import ConfigError
from uniemox.settings import RUNNING, Values, build, combine, layer_of, list_settings, list_values
from uniemox.validation import validate
from uniemox.wording import nearest, shorten

STEPS: Final[Mapping[str, type[Any]]] = {
    "split": SplitConfig,
    "pretrain": PretrainConfig,
    "evaluate": EvaluateConfig,
    "probe": ProbeConfig,
    "finetune": FinetuneConfig,
}
"""What a run may consist of, in order: the commands, and the settings of each."""
TEST: Final = "test"  # Name of the test that a step makes of its own data
MAKING: Final = ("split", "pretrain")  # Steps that others need, and that have no scores
_TRAINING: Final = ("pretrain", "probe", "finetune")  # What has presets and files
_OWN: Final = ("out", "resume", "overwrite", "seed", "folds", "json")  # Settings that only the grid itself gives
_NAME: Final = re.compile(r"\w[\w.+-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class _Arm:
    """Names of what an arm may give; each step is a group of settings, or false where the arm has no such step."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    seeds: tuple[int, ...] | None = None
    split: Any = None
    pretrain: Any = None
    evaluate: Any = None
    probe: Any = None
    finetune: Any = None


@dataclass(frozen=True, kw_only=True)
class _Grid(_Arm):
    """Names and types of what a grid holds."""

    arms: dict[str, dict[str, Any] | None]
    base: str | None = None
    tests: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """One command of a run."""

    name: str  # Of the command, and of the test where it has another than its own, such as finetune-unseen
    config: Any  # Settings of the command
    needs: frozenset[str] = frozenset()  # Names of the steps whose results it takes

    @property
    def command(self) -> str:
        """Which of `STEPS` it is; of a further test, evaluate."""
        return next(name for name, config in STEPS.items() if isinstance(self.config, config))


@dataclass(frozen=True)
class Run:
    """All steps of one arm with one seed."""

    arm: str
    seed: int
    folder: Path
    steps: tuple[Step, ...]

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return f"{self.arm}, seed {self.seed}"

    def settings(self) -> dict[str, Values]:
        """What shapes the result of each step, with paths of the run's own folder relative to it."""
        return {
            step.name: {name: self._plain(value) for name, value in list_values(step.config) if name not in RUNNING}
            for step in self.steps
        }

    def _plain(self, value: Any) -> Any:
        if isinstance(value, str | Path) and Path(value).is_relative_to(self.folder):
            return Path(value).relative_to(self.folder).as_posix()
        return list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value


@dataclass(frozen=True)
class Grid:
    """Runs to do, seed by seed, so that all arms have a first result early."""

    name: str
    arms: tuple[str, ...]  # The first is the one that the others are compared with
    runs: tuple[Run, ...]

    def scored(self) -> dict[str, list[tuple[Run, Step]]]:
        """List what is compared, the runs of an arm beside each other: by the step, and the test of what it made.

        By the test alone where every arm has just one step with scores, so that arms of different steps stand side by
        side.
        """
        scored = [(run, step) for run in self.runs for step in run.steps if step.command not in MAKING]
        is_single = len({(run.arm, step.name) for run, step in scored if step.name in STEPS}) == len(self.arms)
        found: dict[str, list[tuple[Run, Step]]] = {}
        for run, step in sorted(scored, key=lambda each: self.arms.index(each[0].arm)):
            command, _, test = step.name.partition("-")
            title = (test or TEST) if is_single else f"{command}, {test or TEST}"
            found.setdefault(title, []).append((run, step))
        return found


def read_grid(asked: AblateConfig) -> Grid:
    """Read a grid, and make the settings of all of its runs.

    Raises:
        ConfigError: The grid cannot be read; or a setting is unknown, missing or invalid, an arm changes nothing, or a
            name cannot be that of a folder. The message names grid, arm, step and setting.
    """
    source, tree = _read_tree(asked.grid)
    validate(_Grid, tree, source=source)
    for name, arm in tree["arms"].items():
        validate(_Arm, arm or {}, source=f"{source}: arm {shorten(name)}")
    reader = _Reader(source, tree, asked)
    arms = reader.choose_arms()
    settings: dict[str, dict[str, Values]] = {}
    for arm in arms:
        settings[arm] = reader.build(arm, 0).settings()
        if same := next((other for other in settings if other != arm and settings[other] == settings[arm]), None):
            what = "is empty" if not tree["arms"][arm] else "changes nothing"
            raise ConfigError(f"{source}: arm {arm} {what}: all of its settings are those of arm {same}")
    seeds = {arm: reader.seeds_of(arm) for arm in arms}
    every = dict.fromkeys(seed for own in seeds.values() for seed in own)
    runs = tuple(reader.build(arm, seed) for seed in every for arm in arms if seed in seeds[arm])
    return Grid(Path(asked.grid).stem, arms, runs)


def grid_names() -> tuple[str, ...]:
    """Names of the grids that are shipped."""
    return tuple(
        sorted(file.name.removesuffix(".yaml") for file in _shipped().iterdir() if file.name.endswith(".yaml"))
    )


def _shipped() -> Any:
    return resources.files("uniemox").joinpath("presets", "grids")


def _read_tree(name: str) -> tuple[str, dict[str, Any]]:
    """Read the YAML of a grid, by its name or path, and say what messages call it."""
    from uniemox.files.yaml_file import read_mapping  # not needed for a help

    if name in grid_names():
        return f"grid {name}", read_mapping(_shipped().joinpath(f"{name}.yaml"), source=f"grid {name}")
    if not Path(name).suffix:
        raise ConfigError(
            f"unknown grid {shorten(name)}{nearest(name, grid_names())}; known are "
            f"{', '.join(grid_names())}, or give a YAML file"
        )
    return name, read_mapping(Path(name), source=name)


@dataclass(frozen=True)
class _Reader:
    """What runs are made of."""

    source: str
    tree: Mapping[str, Any]
    asked: AblateConfig

    def choose_arms(self) -> tuple[str, ...]:
        """Name the arms, the base first; check the names of arms, tests and the base."""
        known, base = list(self.tree["arms"]), self.tree.get("base")
        for name in known:
            if not isinstance(name, str):
                raise ConfigError(f"{self.source}: arm {name} is no text for YAML: put its name in quotes")
        if TEST in self.tests():
            raise ConfigError(f"{self.source}: tests: {TEST} is the test of a step's own data: rename yours")
        for name in (*known, *self.tests()):
            if not _NAME.fullmatch(name):
                why = "is the name of a folder: letters, digits and . _ + - alone, a letter or digit first"
                raise ConfigError(f"{self.source}: {shorten(name)} {why}")
        if not known:
            raise ConfigError(f"{self.source}: arms is empty: name at least two settings to compare")
        for what, name in (("base", base), *(("arms", name) for name in self.asked.arms)):
            if name is not None and name not in known:
                raise ConfigError(f"{self.source}: {what}: no arm is called {shorten(name)}{nearest(name, known)}")
        return tuple(dict.fromkeys(self.asked.arms or ([] if base is None else [base]) + known))

    def seeds_of(self, arm: str) -> Sequence[int]:
        """Seeds of an arm's runs: its own, or else those that were asked for, or else the grid's."""
        own = (self.tree["arms"][arm] or {}).get("seeds")
        seeds: Sequence[int] = own or self.asked.seeds or self.tree.get("seeds") or (0,)
        return seeds

    def tests(self) -> dict[str, Path]:
        """Further manifests by the names of the tests."""
        tests = {str(name): Path(path) for name, path in self.tree.get("tests", {}).items()}
        for text in self.asked.tests:
            name, equals, path = text.partition("=")
            if not (name and equals and path):
                raise ConfigError(f"tests has {shorten(text)}, but each must be like unseen=unseen.parquet")
            tests[name] = Path(path)
        return tests

    def build(self, arm: str, seed: int) -> Run:
        """Make the settings of all steps of a run."""
        folder = self.asked.out / arm / str(seed)
        made: dict[str, Any] = {
            "data": self.asked.data,
            "model": self.asked.start,
            "cache": self.asked.out / "features",
        }
        steps: list[Step] = []
        shaping: set[str] = set()
        for name in STEPS:
            layers = self._layers(name, arm)
            if layers is None:
                continue
            out = folder / ("data.parquet" if name == "split" else name)
            step = Step(name, self._configure(name, arm, seed, out, made, layers), frozenset(shaping))
            steps.append(step)
            if name == "split":
                made["data"] = out
            elif name == "pretrain":
                made["model"] = str(out / "model")
            else:
                steps += self._tests_of(step)
            if name in MAKING:
                shaping.add(name)
        if not any(step.command not in MAKING for step in steps):
            raise ConfigError(f"{self.source}: arm {arm} has no step with scores: add evaluate, probe or finetune")
        return Run(arm, seed, folder, tuple(steps))

    def _layers(self, name: str, arm: str) -> list[tuple[str, dict[str, Any]]] | None:
        """Collect what is said of a step, the weakest first, each with its source; None if the arm has no such step."""
        own = self.tree["arms"][arm] or {}
        said = [
            (f"{self.source}: {name}", self.tree.get(name, False)),
            *(("`set`", change) for change in self._sets(name)),
        ]
        if name not in self.tree and name not in own:
            return None
        if name in own:
            said.append((f"{self.source}: arm {arm}, {name}", own[name]))
        layers = []
        for source, value in said:
            if value not in (None, False, True) and not isinstance(value, dict):
                raise ConfigError(f"{source} is {shorten(value)}, but must be a group of settings, or false")
            layers.append((source, dict(value or {}) if isinstance(value, dict) else {}))
        return None if said[-1][1] is False else layers

    def _sets(self, name: str) -> Iterator[dict[str, Any]]:
        import yaml  # not needed for a help

        for text in self.asked.set:
            step, _, rest = text.partition(".")
            setting, equals, value = rest.partition("=")
            if step not in STEPS or not (setting and equals):
                raise ConfigError(f"set has {shorten(text)}, but each must be like finetune.optim.epochs=5")
            if step == name:
                try:
                    yield {setting: yaml.safe_load(value)}
                except yaml.YAMLError as error:
                    raise ConfigError(f"set has {shorten(text)}, whose value is not plain YAML") from error

    def _configure(
        self,
        name: str,
        arm: str,
        seed: int,
        out: Path,
        made: Mapping[str, Any],
        layers: list[tuple[str, dict[str, Any]]],
    ) -> Any:
        config = STEPS[name]
        names = {setting.name for setting in list_settings(config)}
        chosen: dict[str, Any] = {"preset": None, "config": None}
        model = made["model"]
        given: Values = {"manifest": made["data"], **made, "backbone": model, "init": model}
        given = {key: value for key, value in given.items() if key in names and value is not None}
        for source, layer in layers:
            if refused := next((key for key in layer if key in _OWN), None):
                raise ConfigError(f"{source}: {refused} is what the grid itself sets for each run: omit it")
            if name in _TRAINING:
                chosen |= {key: layer.pop(key) for key in list(layer) if key in chosen}
            given |= layer_of(config, layer, source=source)
        more = {"device": self.asked.device, "workers": self.asked.workers}
        given |= {key: value for key, value in more.items() if key in names and value is not None}
        fixed = {"seed": seed, "out": out, "resume": out.exists(), "overwrite": True}
        try:
            files = [] if chosen["config"] is None else [Path(str(chosen["config"]))]
            preset = None if chosen["preset"] is None else str(chosen["preset"])
            values = combine(config, given, preset=preset, files=files)
            return build(config, values | {key: fixed[key] for key in fixed if key in names})
        except ConfigError as error:
            raise ConfigError(f"{self.source}: arm {arm}, {name}: {error}") from error

    def _tests_of(self, step: Step) -> Iterator[Step]:
        """Make the evaluations of a step's model on further manifests."""
        config = step.config
        for test, data in self.tests().items():
            name = f"{step.name}-{test}"
            changes: dict[str, Any] = {"data": data, "out": config.out.with_name(name)}
            if isinstance(config, EvaluateConfig):
                evaluation = replace(config, **changes)
            else:
                compute = {"device": config.device, "workers": config.workers, "max_pixels": config.max_pixels}
                evaluation = EvaluateConfig(
                    model=str(config.out), overwrite=True, baselines=config.baselines, **compute, **changes
                )
            yield Step(name, evaluation, step.needs | {step.name})
