"""The commands that make a manifest and show what is known: `data prepare`, `data datasets`, `data show`."""

from collections.abc import Iterator
from typing import Final

from uniemox.config.data import DatasetsConfig, PrepareConfig, ShowConfig
from uniemox.console.commands.command import Answer, Command, check_not_replacing
from uniemox.console.commands.people import show_people
from uniemox.errors import ConfigError


def parse_columns(text: str) -> dict[str, str]:
    """Turn "path=image,label=emotion" into what each column is; `ConfigError` on another form or a repeated role."""
    columns: dict[str, str] = {}
    for part in text.split(","):
        role, _, heading = (word.strip() for word in part.partition("="))
        if not (role and heading) or role in columns:
            wanted = "each part must name the role of one column, once, such as path=image"
            raise ConfigError(f"columns has the part {part[:40]}, but {wanted}")
        columns[role] = heading
    return columns


def _prepare(config: PrepareConfig, _: object) -> Iterator[Answer]:
    """Read a data set's folder into a manifest."""
    from uniemox.console.tables import counts_table, problems_table
    from uniemox.importers.importing import import_dataset
    from uniemox.manifests.table import write_manifest

    check_not_replacing(config.out)
    result = import_dataset(
        config.name,
        config.root,
        people=config.boxes,
        box_units=config.box_units,
        ratios=config.shares,
        seed=config.seed,
        fraction=config.fraction,
        split_list=config.split_list,
        labels=config.labels,
        table=config.table,
        columns={} if config.columns is None else parse_columns(config.columns),
        scale=config.scale,
        classes=config.classes,
        pictures=config.pictures,
        strict=config.strict,
    )
    write_manifest(result.manifest, config.out)
    notes = (f"note: {note}" for note in result.notes)
    data = {"manifest": config.out, "pictures": result.manifest.counts()}
    yield Answer(
        [counts_table(result.manifest), problems_table(result.problems), *notes, config.out],
        data | {"problems": result.problems, "notes": result.notes},
    )


def _datasets(_config: DatasetsConfig, _: object) -> Iterator[Answer]:
    """List the data sets that can be prepared."""
    from uniemox.console.tables import datasets_table
    from uniemox.importers.specs import SPECS

    known = "name title classes emotion pictures people published_split labelled_by licence url citation layout note"
    specs = SPECS.values()
    data = [{name: getattr(spec, name) for name in known.split()} for spec in specs]
    yield Answer([datasets_table(specs)], data)


def _show(config: ShowConfig, _: object) -> Iterator[Answer]:
    """Show what a manifest holds."""
    from uniemox.console.tables import counts_table, facts_table
    from uniemox.manifests.ratings import average_ratings, average_shares
    from uniemox.manifests.table import read_manifest
    from uniemox.targets.kinds import kinds_in

    manifest = read_manifest(config.manifest)
    if config.people:
        yield show_people(manifest, config)
        return
    targets = kinds_in(manifest)
    data = {
        "facts": manifest.facts,
        "pictures": manifest.counts(),
        "targets": targets,
        "ratings": {name: one._asdict() for name, one in average_ratings(manifest).items()},
        "shares": average_shares(manifest),
    }
    yield Answer([facts_table(manifest, targets=targets), counts_table(manifest)], data)


COMMANDS: Final = {
    "data prepare": Command(PrepareConfig, _prepare),
    "data datasets": Command(DatasetsConfig, _datasets),
    "data show": Command(ShowConfig, _show),
}
