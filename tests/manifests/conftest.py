"""A manifest of toy rows, known by their number, for the tests of its table, columns and facts."""

import json
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from uniemox.manifests.table import Attributes, Box, Facts, Row, manifest_from_columns


class Toy:
    """What row number i of a toy manifest holds, and how to make one."""

    classes = ("awe", "fear", "joy")

    @staticmethod
    def facts_at(root, **changes):
        return replace(
            Facts(
                name="toy",
                title="A toy",
                classes=Toy.classes,
                emotion="evoked",
                root=root,
                licence="CC0",
                url="https://example.org",
                citation="Nobody 2020",
                layout="class_folders",
            ),
            **changes,
        )

    @staticmethod
    def attributes_of(i):
        return Attributes(
            brightness=0.1 * (i % 11) if i % 2 else None,
            colorfulness=0.0 if i % 3 else None,
            scene=f"scene {i % 4}" if i % 5 else None,
            facial_expression="sad" if i % 7 == 0 else None,
            human_action="äöü" if i % 3 == 0 else None,
            objects=tuple(f"object {k}" for k in range(i % 4)),
        )

    @staticmethod
    def boxes_of(i):
        return tuple(Box(k + 0.3, k, k + i + 1, 7.25, None if k else i / 10) for k in range(i % 3))

    @staticmethod
    def label_of(i):
        return i % 3 if i % 4 else None

    @staticmethod
    def split_of(i):
        return ("train", "val", "test", "extra")[i % 4 if i % 5 else 0]

    @staticmethod
    def make(root, count=50, **changes):
        rows = range(count)
        columns = {
            "paths": [f"a/{i:03d}.jpg" for i in rows],
            "splits": [Toy.split_of(i) for i in rows],
            "labels": [Toy.label_of(i) for i in rows],
            "attributes": [Toy.attributes_of(i) if i % 6 else None for i in rows],
            "people": [Toy.boxes_of(i) for i in rows],
        }
        return manifest_from_columns(Toy.facts_at(root), **{**columns, **changes})

    @staticmethod
    def expected(root, i, index=None):
        known = Toy.attributes_of(i) if i % 6 else Attributes()
        path, place = root / f"a/{i:03d}.jpg", i if index is None else index
        return Row(place, path, Toy.label_of(i), Toy.split_of(i), known, Toy.boxes_of(i))

    @staticmethod
    def change_facts(path, change):
        table = pq.read_table(path)
        entries = json.loads(table.schema.metadata[b"uniemox"])
        text = change(entries)
        text = json.dumps(entries) if text is None else text
        pq.write_table(table.replace_schema_metadata({b"uniemox": text}), path)


@pytest.fixture
def toy():
    return Toy
