import json
import zipfile

import numpy as np
import pytest

from uniemox.audit.audit import audit
from uniemox.audit.copies import Copies
from uniemox.audit.fingerprints import take_fingerprints
from uniemox.config.audit import AuditRules
from uniemox.demo.drawn import ARCHIVE, unpack
from uniemox.errors import DataError
from uniemox.files.images import Unreadable, read_image
from uniemox.importers.specs import SPECS
from uniemox.manifests.table import read_manifest


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return unpack(tmp_path_factory.mktemp("drawn"))


def test_the_embedded_pictures_are_as_many_as_their_lists_say(data):
    with zipfile.ZipFile(ARCHIVE) as archive:
        listed = {split: len(json.loads(archive.read(f"drawn6/{split}.json"))) for split in ("train", "val", "test")}
    assert read_manifest(data.seen).split_counts() == listed
    assert sum(listed.values()) == SPECS["drawn6"].pictures


def test_no_class_is_more_than_twice_as_frequent_as_another(data):
    manifest = read_manifest(data.seen)
    for split in ("train", "val", "test"):
        counts = manifest.select([split]).class_counts().values()
        assert max(counts) <= 2 * min(counts)


def test_every_picture_has_the_box_of_one_person_inside_it(data):
    for path in data:
        manifest = read_manifest(path)
        for index in range(0, len(manifest), 7):
            row = manifest.row(index)
            image = read_image(row.path)
            assert not isinstance(image, Unreadable)
            (box,) = row.boxes
            assert 0 <= box.x0 < box.x1 <= image.width
            assert 0 <= box.y0 < box.y1 <= image.height


def test_no_picture_of_a_test_is_also_a_training_picture(data):
    seen, unseen = read_manifest(data.seen), read_manifest(data.unseen)

    def contents(manifest):
        return {manifest.row(i).path.read_bytes() for i in range(len(manifest))}

    train = contents(seen.select(["train", "val"]))
    assert train.isdisjoint(contents(seen.select(["test"])))
    assert train.isdisjoint(contents(unseen))


def test_the_emotion_cannot_be_told_from_scene_and_light(data):
    """The backgrounds were drawn independently of the label: each scene's commonest class is near chance."""
    manifest = read_manifest(data.seen)
    rows = [manifest.row(index) for index in range(len(manifest))]
    counts = {}
    for row in rows:
        counts.setdefault(row.attributes.scene, np.zeros(6))[row.label] += 1
    best = sum(count.max() for count in counts.values()) / len(rows)
    assert best < 0.25  # chance is 0.167, and the largest of six noisy counts lies above it


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        unpack(tmp_path / "file" / "below")


@pytest.mark.soak
def test_an_audit_finds_no_bad_picture_and_links_what_was_drawn_alike(data, tmp_path):
    """A character's heads agree in their details whatever they show: the usual likeness is made for photographs."""
    manifests = {path.stem: read_manifest(path) for path in data}
    copies = Copies(list(manifests.values()))
    fingerprints = take_fingerprints(copies.files, folder=tmp_path / "out")
    result = audit(manifests, fingerprints, copies=copies)
    found = {kind: count["found"] for kind, count in result.counts().items()}
    for kind in ("unreadable", "tiny", "blank", "placeholder", "box"):
        assert found[kind] == 0
    assert {group.same for group in result.groups} == {"look"}
    leaks = [finding for finding in result.findings if finding.kind == "leak"]
    assert 150 <= len(leaks) <= 210  # of 2,808; another processor rounds otherwise
    assert {copies.manifest[finding.other] for finding in leaks} == {0}  # unseen characters are
    other_emotion = [f for f in leaks if copies.label[f.copy] != copies.label[f.other]]
    assert len(other_emotion) > len(leaks) / 2
    strict = audit(manifests, fingerprints, copies=copies, config=AuditRules(like=0.95))
    assert strict.counts()["leak"]["found"] <= 20
