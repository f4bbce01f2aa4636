"""Photographs, manifests of them, and an audit of both."""

from pathlib import Path

import pytest
import skimage
from PIL import Image, ImageOps

from uniemox.audit.audit import audit
from uniemox.audit.copies import Copies
from uniemox.audit.fingerprints import take_fingerprints
from uniemox.config.audit import AuditRules
from uniemox.manifests.table import Box, Facts, manifest_from_columns

CLASSES = ("awe", "fear")


@pytest.fixture(scope="session")
def photos():
    """Six real images that are nothing alike, small."""
    folder = Path(skimage.__file__).parent / "data"
    names = ("astronaut.png", "chelsea.png", "coffee.png", "coins.png", "rocket.jpg", "camera.png")
    return [ImageOps.fit(Image.open(folder / name).convert("RGB"), (200, 150)) for name in names]


@pytest.fixture
def make(tmp_path):
    """Write images and their manifest: path -> (image or bytes, split, label, boxes)."""

    def make_set(name, entries, *, classes=CLASSES):
        root = tmp_path / name
        paths, splits, labels, people = [], [], [], []
        for path, (content, split, label, *boxes) in entries:
            file = root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                file.write_bytes(content)
            elif content is not None:
                content.save(file)
            paths.append(path)
            splits.append(split)
            labels.append(label)
            people.append(tuple(Box(*box) for box in boxes))
        facts = Facts(name=name, title=name, classes=classes, emotion="evoked", root=root)
        return manifest_from_columns(facts, paths=paths, splits=splits, labels=labels, people=people)

    return make_set


@pytest.fixture
def judge(tmp_path):
    def run(*manifests, **config):
        named = {manifest.facts.name: manifest for manifest in manifests}
        copies = Copies(list(named.values()))
        fingerprints = take_fingerprints(copies.files, folder=tmp_path / "fingerprints")
        return audit(named, fingerprints, copies=copies, config=AuditRules(**config))

    return run


@pytest.fixture
def found():
    """Describe findings as (kind, manifest, path, split, path beside, removed)."""

    def describe(result, kind=None):
        rows = set()
        for finding in result.findings:
            if kind in (None, finding.kind):
                copy = result.copies[finding.copy]
                other = None if finding.other is None else result.copies[finding.other].path
                name = result.names[copy.manifest]
                rows.add((finding.kind, name, copy.path, copy.split, other, finding.removed))
        return rows

    return describe


@pytest.fixture
def kept():
    """List the paths that a cleaned manifest keeps."""
    return lambda result, number=0: result.cleaned[number].table["path"].to_pylist()
