import json
import pickle
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from uniemox.config.training import ViewsConfig
from uniemox.data import stored_views
from uniemox.data.stored_views import (
    INDEX,
    ShardOfViews,
    StoredFacts,
    StoredViews,
    facts_of_run,
    open_stored_views,
    read_facts,
    shard_path,
    write_facts,
    write_shard,
)
from uniemox.errors import DataError
from uniemox.manifests.table import Facts, manifest_from_columns

ROWS, VIEWS, WIDTH = 10, 3, 4
SIZE = (40, 30)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(stored_views, "ROWS_A_SHARD", 4)


def facts_of(**changes):
    return replace(
        StoredFacts(
            manifest="0123",
            rows=ROWS,
            teacher="tiny 45",
            width=WIDTH,
            image_size=32,
            scene_scale=(0.2, 1.0),
            flip=0.5,
            views=VIEWS,
            seed=0,
        ),
        **changes,
    )


def store(folder, **changes):
    """Write views whose numbers tell their row and view: left is the row, top the view, feature 100 row + view."""
    folder.mkdir(exist_ok=True)
    facts, hashes = facts_of(**changes), []
    for number in range(facts.num_shards):
        rows = torch.arange(number * 4, min(number * 4 + 4, ROWS))
        grid = torch.stack(torch.meshgrid(rows, torch.arange(VIEWS), indexing="ij"), dim=-1)
        crops = torch.cat([grid, torch.full((len(rows), VIEWS, 2), 9), grid[..., 1:] % 2], dim=-1).int()
        features = (100 * grid[..., :1] + grid[..., 1:]).expand(-1, -1, WIDTH).half()
        sizes = torch.tensor([SIZE] * len(rows), dtype=torch.int32)
        sizes[rows == 7] = 0
        hashes.append(write_shard(folder, number, ShardOfViews(features, crops, sizes)))
    facts = replace(facts, shards=tuple(hashes))
    write_facts(folder, facts)
    return facts


def test_what_was_written_is_read_whatever_the_shard(tmp_path):
    facts = store(tmp_path)
    views = open_stored_views(tmp_path)
    assert views.facts == facts
    for row in range(ROWS):
        crop, feature = views.view(row, epoch=0)
        number = crop.top
        assert crop == (row, number, 9, 9, bool(number % 2))
        assert feature.tolist() == [100 * row + number] * WIDTH
        assert feature.dtype == torch.float16


def test_so_many_epochs_as_views_show_each_view_of_a_row_once_and_rows_start_at_others(tmp_path):
    store(tmp_path)
    views = open_stored_views(tmp_path)
    firsts = set()
    for row in range(ROWS):
        shown = [views.view(row, epoch)[0].top for epoch in range(2 * VIEWS)]
        assert sorted(shown[:VIEWS]) == list(range(VIEWS))
        assert shown[:VIEWS] == shown[VIEWS:]
        firsts.add(shown[0])
    assert firsts == set(range(VIEWS))


def test_a_worker_gets_the_folder_and_not_the_numbers(tmp_path):
    store(tmp_path)
    views = open_stored_views(tmp_path)
    before = views.view(5, 1)
    sent = pickle.dumps(views)
    assert len(sent) < 2000
    after = pickle.loads(sent).view(5, 1)
    assert after[0] == before[0]
    assert torch.equal(after[1], before[1])


def test_an_image_that_changed_or_could_not_be_read_has_no_views(tmp_path):
    store(tmp_path)
    views = open_stored_views(tmp_path)
    assert views.why_not(6, SIZE) is None
    assert views.why_not(6, (30, 40)) == (
        f"it was of 40 x 30 pixels when its views were stored in {tmp_path}: make them again"
    )
    assert views.why_not(7, SIZE).startswith("it was unreadable when")


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("damage", ["cut", "absent", "changed", "empty", "other shape", "other kind"])
def test_a_damaged_shard_is_named(tmp_path, number, damage):
    facts = store(tmp_path)
    path = shard_path(tmp_path, number)
    data = bytearray(path.read_bytes())
    rows = facts.shape(number)[0][0]
    match damage:
        case "cut":
            path.write_bytes(data[:-5])
        case "absent":
            path.unlink()
        case "changed":
            data[-1] ^= 1
            path.write_bytes(data)
        case "empty":
            path.write_bytes(b"")
        case "other shape":
            save_file({"features": torch.zeros(rows, VIEWS, 2).half()}, path)
        case "other kind":
            names = zip(ShardOfViews._fields, facts.shape(number), strict=True)
            save_file({name: torch.zeros(shape) for name, shape in names}, path)
    with pytest.raises(DataError, match=f"{path}.*delete it and repeat the `uniemox data reinforce` that made it"):
        open_stored_views(tmp_path)


def test_two_shards_in_each_others_place_are_named(tmp_path):
    store(tmp_path)
    first, second = shard_path(tmp_path, 0), shard_path(tmp_path, 1)
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(kept)
    with pytest.raises(DataError, match=f"{first} is not what was written"):
        open_stored_views(tmp_path)


def test_a_folder_that_is_unfinished_or_of_something_else_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"holds no views\.json: make stored views with `uniemox data reinforce`"):
        open_stored_views(tmp_path / "absent")
    facts = store(tmp_path)
    write_facts(tmp_path, replace(facts, shards=facts.shards[:2]))
    with pytest.raises(DataError, match="unfinished \\(2 of 3 shards\\): repeat the `uniemox data reinforce`"):
        open_stored_views(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"rows": "ten"}, {"rows": 0}, {"views": -1}, {"width": 0}, {"format": 9}, {"unknown": 1}, {"flip": None},
        {"shards": ["x"] * 9},
    ],
)  # fmt: skip
def test_an_index_that_says_nonsense_is_refused_in_one_line(tmp_path, change):
    store(tmp_path)
    path = tmp_path / INDEX
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=str(path)) as error:
        read_facts(tmp_path)
    assert "\n" not in str(error.value)


def test_an_index_that_is_no_json_is_refused(tmp_path):
    (tmp_path / INDEX).write_text("{")
    with pytest.raises(DataError, match="cannot be read as JSON"):
        read_facts(tmp_path)


def manifest_of(root, names):
    facts = Facts(name="few", title="Few", classes=("a", "b"), emotion="evoked", root=root)
    return manifest_from_columns(facts, paths=names, splits=["train"] * len(names), labels=[0] * len(names))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"names": ["b", "a", "c"]}, "manifest"),
        ({"names": ["a", "b"]}, "rows 3, and the run has 2"),
        ({"teacher": "tiny 46"}, "teacher tiny 45, and the run has tiny 46"),
        ({"image_size": 64}, "image_size 32, and the run has 64: set `model.image_size`"),
        ({"views": ViewsConfig(scene_scale=(0.5, 1.0))}, "scene_scale .*: set `views.scene_scale`"),
        ({"views": ViewsConfig(flip=0)}, "flip 0.5, and the run has 0: set `views.flip`"),
    ],
)
def test_views_of_another_manifest_teacher_size_or_crop_are_refused_by_name(tmp_path, change, named):
    run = {"names": ["a", "b", "c"], "teacher": "tiny 45", "image_size": 32, "views": ViewsConfig()}

    def facts(*, names, **of_run):
        return facts_of_run(manifest_of(tmp_path, names), **of_run)

    views = StoredViews(tmp_path, facts_of(**facts(**run)))
    views.check(**facts(**run))
    with pytest.raises(DataError, match=f"{tmp_path} holds views with {named}"):
        views.check(**facts(**run | change))


def test_the_bytes_that_are_stated_are_those_of_the_shards(tmp_path):
    facts = store(tmp_path)
    on_disk = sum(shard_path(tmp_path, number).stat().st_size for number in range(facts.num_shards))
    headers = 300 * facts.num_shards
    assert facts.num_bytes < on_disk < facts.num_bytes + headers
