"""Shards hold the same bytes and the same rows; whoever reads the manifest sees no difference but the paths."""

import hashlib
import io
import json
import shutil
import tarfile
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from uniemox.audit.audit import audit
from uniemox.audit.copies import Copies
from uniemox.audit.fingerprints import take_fingerprints
from uniemox.errors import DataError
from uniemox.files.images import read_file
from uniemox.manifests import shards
from uniemox.manifests.merge import merge_manifests
from uniemox.manifests.recut import cut_again
from uniemox.manifests.shards import write_shards
from uniemox.manifests.table import Attributes, Box, Facts, manifest_from_columns, read_manifest
from uniemox.train.finetune import finetune
from uniemox.train.pretrain import pretrain

CLASSES = ("awe", "fear", "joy")


def encode(colour, form="PNG"):
    file = io.BytesIO()
    Image.new("RGB", (9, 7), colour).save(file, form)
    return file.getvalue()


def random_manifest(root, seed, count=40):
    """Rows with and without everything that a row can have; some images have several rows."""
    generator = np.random.default_rng(seed)
    root.mkdir(exist_ok=True)
    names = [f"{'abc'[place % 3]}/{place}.{('png', 'JPG')[place % 2]}" for place in range(count)]
    for place, name in enumerate(names):
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode((place, seed, 0), ("PNG", "JPEG")[place % 2]))
    paths = sorted(generator.choice(names, count + 10).tolist())

    def some(make, share=0.6):
        return [make() if generator.random() < share else None for _ in paths]

    def box():
        corners = generator.uniform(0, 9, 4).round(3).tolist()
        return Box(*corners, score=float(generator.random()) if generator.random() < 0.5 else None)

    people = [None if draw == 0 else [box() for _ in range(draw - 1)] for draw in generator.integers(0, 5, len(paths))]
    splits = {name: str(generator.choice(["train", "val", "odd split"])) for name in names}
    labels = some(lambda: int(generator.integers(3)))
    return manifest_from_columns(
        Facts(name="my.set", title="Mine", classes=CLASSES, emotion="felt", root=root),
        paths=paths,
        splits=[splits[path] for path in paths],
        labels=labels,
        label_sets=[None if one is not None else [0, 2] for one in labels],
        attributes=some(lambda: Attributes(brightness=0.5, objects=("a dog", "Größe"))),
        people=people,
        people_reasons=["damaged" if one is None else None for one in people],
        hashes=some(lambda: "abc"),
        groups=some(lambda: "clip 1"),
        distributions=some(lambda: [0.5, 0.25, 0.25]),
        vad=some(lambda: (1.5, None, 3.0)),
    )


def columns_without_paths(manifest):
    return manifest.table.drop_columns(["path"]).to_pylist()


def samples(folder):
    """Read all shards as WebDataset does: members of one key, up to the first dot, side by side."""
    found, order = {}, []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, ending = member.name.partition(".")
                if not order or order[-1] != key:
                    assert key not in order
                    order.append(key)
                found.setdefault(key, {})[ending] = tar.extractfile(member).read()
    return found


def digests(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.glob("*.tar")}


# What survives


@pytest.mark.parametrize("seed", range(8))
def test_every_column_but_the_path_survives_boxes_with_their_scores_too(tmp_path, seed):
    manifest = random_manifest(tmp_path / "files", seed)
    written = write_shards(manifest, tmp_path / "out", shard_bytes=20_000)
    again = read_manifest(written.manifest)
    assert columns_without_paths(again) == columns_without_paths(manifest)
    assert replace(again.facts, root=manifest.facts.root) == manifest.facts
    for index in range(len(manifest)):
        assert again.row(index).boxes == manifest.row(index).boxes
        assert read_file(again.row(index).path) == manifest.row(index).path.read_bytes()
    assert written.problems == ()


def test_rows_of_one_picture_share_its_bytes(tmp_path):
    manifest = random_manifest(tmp_path / "files", 3)
    written = write_shards(manifest, tmp_path / "out")
    again = read_manifest(written.manifest)
    before, after = (m.table["path"].to_pylist() for m in (manifest, again))
    assert len(set(before)) < len(before)
    assert written.pictures == len(set(before)) == len(set(after)) == len(samples(tmp_path / "out"))
    assert len(set(zip(before, after, strict=True))) == len(set(before))


def test_shards_are_what_webdataset_reads(tmp_path):
    manifest = random_manifest(tmp_path / "files", 1)
    write_shards(manifest, tmp_path / "out", shard_bytes=15_000)
    rows = {}
    for index in range(len(manifest)):
        row = manifest.row(index)
        rows.setdefault(row.path.relative_to(manifest.facts.root).as_posix(), []).append(row)
    for key, members in samples(tmp_path / "out").items():
        assert len(key) == 8
        told = json.loads(members["json"])
        own = rows.pop(told["path"])
        picture = members["jpg"] if "jpg" in members else members["png"]
        assert picture == own[0].path.read_bytes()
        assert [row["split"] for row in told["rows"]] == [row.split for row in own]
        for said, row in zip(told["rows"], own, strict=True):
            assert said.get("label") == (None if row.label is None else CLASSES[row.label])
            assert ("labels" in said) == (row.label is None)
            assert len(said.get("people", [])) == len(row.boxes)
            for box, one in zip(said.get("people", []), row.boxes, strict=True):
                assert Box(**box) == one
            if "distribution" in said:
                assert said["distribution"] == {"awe": 0.5, "fear": 0.25, "joy": 0.25}
            assert None not in said.values()
        if len(own) == 1 and own[0].label is not None:
            assert members["cls"] == str(own[0].label).encode()
        else:
            assert "cls" not in members
    assert not rows


def test_each_split_has_shards_of_its_own_of_about_the_size_asked_for(tmp_path):
    manifest = random_manifest(tmp_path / "files", 2, count=60)
    written = write_shards(manifest, tmp_path / "out", shard_bytes=12_000)
    files = sorted(path.name for path in (tmp_path / "out").glob("*.tar"))
    assert written.shards == len(files) > 4
    assert written.num_bytes == sum(p.stat().st_size for p in (tmp_path / "out").glob("*.tar"))
    assert {name.rpartition("-")[0] for name in files} == {
        "my-set-train", "my-set-val", "my-set-odd-split"
    }  # fmt: skip
    assert all(p.stat().st_size < 12_000 + 15_000 for p in (tmp_path / "out").glob("*.tar"))
    again = read_manifest(written.manifest)
    for index in range(len(again)):
        row = again.row(index)
        assert f"-{row.split.replace(' ', '-')}-" in row.path.parts[-3]


def test_the_same_seed_gives_the_same_bytes_on_any_number_of_threads(tmp_path):
    manifest = random_manifest(tmp_path / "files", 4)
    for name, options in {"a": {}, "b": {"num_workers": 1}, "c": {"seed": 1}}.items():
        write_shards(manifest, tmp_path / name, **options)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert digests(tmp_path / "a") != digests(tmp_path / "c")
    first = [json.loads(one["json"])["path"] for one in samples(tmp_path / "a").values()]
    assert first != sorted(first)  # drawn, not in order


def test_shards_can_be_moved_and_sharded_again(tmp_path):
    manifest = random_manifest(tmp_path / "files", 5)
    write_shards(manifest, tmp_path / "out")
    shutil.rmtree(tmp_path / "files")
    (tmp_path / "out").rename(tmp_path / "moved")
    moved = read_manifest(tmp_path / "moved" / "my-set.parquet")
    written = write_shards(moved, tmp_path / "again")
    again = read_manifest(written.manifest)
    assert columns_without_paths(again) == columns_without_paths(manifest)
    for index in range(len(again)):
        assert read_file(again.row(index).path) == read_file(moved.row(index).path)


# What others make of it


@pytest.fixture(scope="module")
def sharded(painted, tmp_path_factory):
    out = tmp_path_factory.mktemp("sharded") / "out"
    return write_shards(painted.manifest, out).manifest


def test_training_on_shards_is_bit_identical_to_that_on_files(finetune_config, pretrain_config, sharded, tmp_path):
    for make, run in ((finetune_config, finetune), (pretrain_config, pretrain)):
        weights = []
        for name, changes in {"files": {}, "shards": {"data": sharded}}.items():
            out = tmp_path / f"{run.__name__}-{name}"
            folder = run(make(out, max_steps=2, workers=1, **changes))
            weights.append({p.name: p.read_bytes() for p in folder.glob("*.safetensors")})
        assert weights[0] == weights[1]


def test_an_audit_finds_the_copies_between_files_and_shards_and_reads_nothing_twice(
    painted, sharded, tmp_path, monkeypatch
):
    manifests = {"files": painted.manifest, "shards": read_manifest(sharded)}
    copies = Copies(tuple(manifests.values()))
    taken = take_fingerprints(copies.files, folder=tmp_path)
    assert taken["reason"].null_count == 80
    assert taken["sha256"].to_pylist()[:40] == taken["sha256"].to_pylist()[40:]
    found = audit(manifests, taken, copies=copies)
    assert sum(len(group.copies) == 2 for group in found.groups if group.same == "file") == 40
    monkeypatch.setattr("uniemox.audit.fingerprints.read_file", None)  # nothing left to read
    assert take_fingerprints(copies.files, folder=tmp_path).equals(taken)


def test_a_merge_of_files_and_shards_reads_both(painted, sharded):
    merged, _ = merge_manifests([painted.manifest, read_manifest(sharded)])
    assert len(merged) == 2 * len(painted.manifest)
    for index in range(0, len(merged), 7):
        assert isinstance(read_file(merged.row(index).path), bytes)


@pytest.mark.parametrize("options", [{"by": "folder"}, {"group_by": "folder"}])
def test_pictures_in_shards_have_no_folders_to_cut_by(painted, sharded, options):
    cut_again(painted.manifest, ratios=(0.6, 0.2, 0.2), seed=0, **options)
    with pytest.raises(DataError, match=r"cut by folder first, then `uniemox data shard`"):
        cut_again(read_manifest(sharded), ratios=(0.6, 0.2, 0.2), seed=0, **options)


# What goes wrong


def test_pictures_that_cannot_be_read_are_counted_and_their_rows_left_out(tmp_path):
    manifest = random_manifest(tmp_path / "files", 6)
    first, *_, second = dict.fromkeys(manifest.table["path"].to_pylist())
    (tmp_path / "files" / first).unlink()
    (tmp_path / "files" / second).write_text("not an image")
    written = write_shards(manifest, tmp_path / "out")
    (problem,) = written.problems
    assert problem.count == 2
    kept = [path not in (first, second) for path in manifest.table["path"].to_pylist()]
    expected = manifest.table.filter(pa.array(kept)).drop_columns(["path"]).to_pylist()
    assert columns_without_paths(read_manifest(written.manifest)) == expected
    with pytest.raises(DataError, match=r"2 x image that cannot be read.*omit `strict`"):
        write_shards(manifest, tmp_path / "strict", strict=True)
    assert not (tmp_path / "strict").exists()


def test_where_no_picture_can_be_read_nothing_is_written(tmp_path):
    manifest = random_manifest(tmp_path / "files", 7)
    shutil.rmtree(tmp_path / "files")
    (tmp_path / "files").mkdir()
    with pytest.raises(DataError, match="image that cannot be read"):
        write_shards(manifest, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [tmp_path / "files"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_there_is_not_overwritten(tmp_path, kind):
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / "mine").touch()
    said = "is a file, not a folder" if kind == "file" else "exists and is not empty"
    with pytest.raises(DataError, match=said):
        write_shards(random_manifest(tmp_path / "files", 0), out)


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "out").mkdir()
    write_shards(random_manifest(tmp_path / "files", 0), tmp_path / "out")
    assert (tmp_path / "out" / "my-set.parquet").is_file()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_what_is_interrupted_leaves_nothing(tmp_path, monkeypatch, error):
    manifest = random_manifest(tmp_path / "files", 0)

    def fail(*_):
        raise error

    monkeypatch.setattr(shards, "write_manifest", fail)
    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else DataError):
        write_shards(manifest, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["files"]


@pytest.mark.parametrize("kind", ["link", "here"])
def test_a_folder_that_cannot_be_replaced_is_refused_before_anything_is_read(tmp_path, monkeypatch, kind):
    folder = tmp_path / "folder"
    folder.mkdir()
    out = folder
    if kind == "link":
        out = tmp_path / "link"
        out.symlink_to(folder)
    else:
        monkeypatch.chdir(folder)
    monkeypatch.setattr(shards, "read_ahead", None)
    with pytest.raises(DataError, match="cannot be replaced"):
        write_shards(random_manifest(tmp_path / "files", 0), out)


def test_splits_whose_archives_would_have_one_name_are_refused(tmp_path):
    manifest = random_manifest(tmp_path / "files", 0)
    splits = pa.array(["a.b", "A-b"] * (len(manifest) // 2))
    place = manifest.table.schema.get_field_index("split")
    field = manifest.table.schema.field(place)
    table = manifest.table.set_column(place, field, splits.cast(field.type))
    with pytest.raises(DataError, match="would both be stored as my-set-"):
        write_shards(replace(manifest, table=table), tmp_path / "out")


def test_numbers_that_json_does_not_have_are_null_in_a_shard(tmp_path):
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.png").write_bytes(encode((1, 2, 3)))
    manifest = manifest_from_columns(
        Facts(name="set", title="S", classes=CLASSES, emotion="felt", root=tmp_path / "files"),
        paths=["a.png"],
        splits=["train"],
        labels=[0],
        vad=[(float("nan"), 2.0, float("inf"))],
        distributions=[[float("nan"), 0.5, 0.5]],
    )
    write_shards(manifest, tmp_path / "out")
    (sample,) = samples(tmp_path / "out").values()
    (row,) = json.loads(sample["json"])["rows"]
    assert "NaN" not in sample["json"].decode()
    assert row["distribution"] == {"awe": None, "fear": 0.5, "joy": 0.5}
