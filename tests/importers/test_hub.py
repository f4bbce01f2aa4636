"""Folders of Hugging Face datasets, made here without that library."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from uniemox.errors import ConfigError, DataError
from uniemox.importers.importing import import_dataset
from uniemox.manifests.table import Box, write_manifest

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
FEATURES = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["joy", "awe"]}}


def arrow_table(rows, *, features=FEATURES, image=IMAGE):
    names = list(rows[0])
    types = {"image": image, "label": pa.int64()}
    arrays = [pa.array([row[name] for row in rows], types.get(name)) for name in names]
    table = pa.table(dict(zip(names, arrays, strict=True)))
    if features is None:
        return table
    note = json.dumps({"info": {"features": features}})
    return table.replace_schema_metadata({"huggingface": note})


def save_split(folder, table, name=None):
    """What save_to_disk writes for one split."""
    folder.mkdir(parents=True)
    with pa.ipc.new_stream(str(folder / "data-00000-of-00001.arrow"), table.schema) as writer:
        writer.write_table(table)
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": name}
    (folder / "state.json").write_text(json.dumps(state))


@pytest.fixture
def rows(png):
    """Three images of a split, each of a colour of its own."""

    def make(split, count=3):
        number = ["train", "validation", "test"].index(split)
        return [
            {"image": {"bytes": png((number * 50, i * 20, 0)), "path": f"{i}.png"}, "label": i % 2}
            for i in range(count)
        ]

    return make


@pytest.fixture
def forms(rows):
    """The same data set in each form on disk."""

    def make(form, root):
        splits = ("train", "validation", "test")
        if form == "saved dict":
            for split in splits:
                save_split(root / split, arrow_table(rows(split)), split)
            (root / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
        else:
            for split in splits:
                name = {
                    "shards": f"data/{split}-00000-of-00001-0a1b2c.parquet",
                    "converted": f"default/{split}/0000.parquet",
                }[form]
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                pq.write_table(arrow_table(rows(split)), root / name)
        return root

    return make


@pytest.mark.parametrize("form", ["saved dict", "shards", "converted"])
def test_every_form_gives_the_same_manifest(forms, look, tmp_path, png, form):
    root = forms(form, tmp_path / "set")
    before = look.snapshot(root)
    result = import_dataset("hf", root, pictures=tmp_path / "out")
    assert result.problems == ()
    manifest = result.manifest
    assert manifest.facts.classes == ("joy", "awe")
    assert manifest.facts.root == tmp_path / "out"
    assert manifest.split_counts() == {"train": 3, "val": 3, "test": 3}
    assert look.cells(manifest, "label") == [0, 1, 0] * 3
    assert manifest.row(4).path.read_bytes() == png((50, 20, 0))
    assert look.snapshot(root) == before


def test_a_single_saved_split_is_cut_where_it_has_no_name(tmp_path, rows):
    save_split(tmp_path / "a", arrow_table(rows("train", 10)), "train")
    save_split(tmp_path / "b", arrow_table(rows("train", 10)))
    options = {"pictures": tmp_path / "out"}
    assert import_dataset("hf", tmp_path / "a", **options).manifest.split_counts() == {"train": 10}
    with pytest.raises(ConfigError, match="give `ratios`"):
        import_dataset("hf", tmp_path / "b", **options)
    manifest = import_dataset("hf", tmp_path / "b", ratios=(0.6, 0.2, 0.2), **options).manifest
    assert manifest.split_counts() == {"train": 6, "val": 2, "test": 2}


def test_pictures_are_written_once_and_by_content(forms, look, tmp_path):
    forms("shards", tmp_path / "set")
    first = import_dataset("hf", tmp_path / "set", pictures=tmp_path / "out").manifest
    before = look.snapshot(tmp_path / "out")
    again = import_dataset("hf", tmp_path / "set", pictures=tmp_path / "out").manifest
    assert look.snapshot(tmp_path / "out") == before
    assert again.table == first.table


@pytest.mark.parametrize("form", ["shards", "converted", "saved dict"])
@pytest.mark.parametrize("place", ["m.parquet", "train.parquet"])
def test_a_manifest_beside_the_shards_is_none_of_them(forms, tmp_path, form, place):
    root = forms(form, tmp_path / "set")
    first = import_dataset("hf", root, pictures=tmp_path / "out")
    write_manifest(first.manifest, root / place)
    again = import_dataset("hf", root, pictures=tmp_path / "out")
    assert again.problems == ()
    assert again.manifest.table == first.manifest.table


def test_a_half_written_picture_is_written_again(forms, tmp_path):
    forms("shards", tmp_path / "set")
    path = import_dataset("hf", tmp_path / "set", pictures=tmp_path / "out").manifest.row(0).path
    whole = path.read_bytes()
    path.write_bytes(whole[:5])
    import_dataset("hf", tmp_path / "set", pictures=tmp_path / "out")
    assert path.read_bytes() == whole


def test_pictures_need_a_folder_outside_of_the_set(forms, tmp_path):
    root = forms("shards", tmp_path / "set")
    with pytest.raises(ConfigError, match=r"lie in its tables: name a folder .* `pictures`"):
        import_dataset("hf", root)
    (tmp_path / "link").symlink_to(root)
    for inside in (root, root / "out", tmp_path / "link" / "out"):
        with pytest.raises(ConfigError, match="inside of the data set: name a folder elsewhere"):
            import_dataset("hf", root, pictures=inside)


def test_notes_beside_the_files_are_read_and_old_names_of_lists(tmp_path, png):
    for note in ({"_type": "Sequence", "feature": FEATURES["label"]}, [FEATURES["label"]]):
        root = tmp_path / note.__class__.__name__
        rows = [{"img": {"bytes": png("red"), "path": None}, "tags": [1, 0]}]
        save_split(root, arrow_table(rows, features=None), "test")
        (root / "dataset_info.json").write_text(json.dumps({"features": {"img": {"_type": "Image"}, "tags": note}}))
        manifest = import_dataset("hf", root, pictures=tmp_path / "out").manifest
        assert manifest.facts.classes == ("joy", "awe")
        assert manifest.table["label_set"].to_pylist() == [[0, 1]]


def test_without_notes_the_headings_and_the_caller_say_what_columns_are(tmp_path, png):
    rows = [
        {"photo": png("red"), "mood": "joy", "xmin": 1, "ymin": 2, "xmax": 3, "ymax": 4},
        {"photo": png("blue"), "mood": "awe", "xmin": 1, "ymin": 2, "xmax": 3, "ymax": 4},
    ]
    (tmp_path / "set").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "set" / "train.parquet")
    columns = {"path": "photo", "label": "mood"}
    manifest = import_dataset("hf", tmp_path / "set", columns=columns, pictures=tmp_path / "out").manifest
    assert manifest.facts.classes == ("awe", "joy")
    assert manifest.row(0).boxes == (Box(1, 2, 3, 4),)


@pytest.mark.parametrize("per_split", [True, False])
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_an_imagefolder_is_read_where_it_lies(trees, tmp_path, suffix, per_split):
    for split in ("train", "test"):
        folder = f"{split}/" if per_split else ""
        entries = [{"file_name": f"pics/{split}{i}.jpg", "label": ("awe", "joy")[i]} for i in range(2)]
        for entry in entries:
            trees.touch(tmp_path / folder / entry["file_name"])
        lines = [json.dumps(entry) for entry in entries]
        if suffix == "csv":
            lines = ["file_name,label", *(",".join(entry.values()) for entry in entries)]
        (tmp_path / folder / f"metadata.{suffix}").write_text("\n".join(lines))
    manifest = import_dataset("hf", tmp_path, ratios=None if per_split else (1, 0, 0)).manifest
    assert manifest.facts.root == tmp_path
    assert manifest.facts.classes == ("awe", "joy")
    assert manifest.split_counts() == ({"train": 2, "test": 2} if per_split else {"train": 2})
    assert all(manifest.row(i).path.is_file() for i in range(len(manifest)))


def test_what_is_wrong_with_pictures_is_counted(trees, look, tmp_path, png):
    trees.touch(tmp_path / "set" / "beside.jpg")
    pictures = [
        {"bytes": png("red"), "path": "a.png"},
        {"bytes": b"no image", "path": "b.png"},
        {"bytes": b"<svg/>", "path": "b.svg"},
        {"bytes": None, "path": "/etc/passwd"},
        {"bytes": None, "path": "beside.jpg"},
        {"bytes": None, "path": None},
        None,
        {"bytes": png("red"), "path": "again.png"},
    ]
    rows = [{"image": picture, "label": 0} for picture in pictures]
    pq.write_table(arrow_table(rows), tmp_path / "set" / "train.parquet")
    result = import_dataset("hf", tmp_path / "set", pictures=tmp_path / "out")
    assert look.problems(result) == {
        "image that cannot be read": 2,
        "path that leaves the root": 1,
        "row without an image": 2,
        "image listed twice": 1,
        "image outside of the tables, skipped": 1,
        "class without an image": 1,
    }
    assert len(result.manifest) == 1


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("dataset_dict.json", b"{", "cannot read .*dataset_dict"),
        ("dataset_dict.json", b'{"splits": ["train"]}', r"train/state\.json does not exist"),
        ("dataset_dict.json", b'{"splits": ["../../x"]}', "does not exist"),
        ("state.json", b"{}", "saved by an old version of datasets"),
        ("state.json", b'{"_data_files": [3]}', "is not a folder of Hugging"),
        ("state.json", b'{"_data_files": [{"filename": "../x"}]}', "is not a folder of Hugging"),
        ("train.parquet", b"PAR1", "cannot read .*train.parquet"),
        ("readme.md", b"", r"looked for dataset_dict\.json, state\.json.*found readme.md"),
    ],
)
def test_a_damaged_folder_is_one_line(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        import_dataset("hf", tmp_path)
    assert "\n" not in str(caught.value)


def test_a_cut_stream_is_one_line(tmp_path, rows):
    save_split(tmp_path / "set", arrow_table(rows("train")), "train")
    path = next((tmp_path / "set").glob("*.arrow"))
    whole = path.read_bytes()
    for end in (0, 10, 300, len(whole) - 200):
        path.write_bytes(whole[:end])
        with pytest.raises(DataError, match="cannot read"):
            import_dataset("hf", tmp_path / "set", pictures=tmp_path / "out")


def test_broken_notes_are_counted(look, tmp_path, rows):
    table = arrow_table(rows("train")).replace_schema_metadata({"huggingface": "[" * 100_000})
    save_split(tmp_path / "set", table, "train")
    result = import_dataset("hf", tmp_path / "set", pictures=tmp_path / "out")
    assert look.problems(result) == {"notes about columns that cannot be read": 1}
    assert result.manifest.facts.classes == ("0", "1")
