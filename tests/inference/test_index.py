"""The stored index: what it finds against scikit-learn and NumPy, what it forgets, and what it refuses."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from sklearn.neighbors import NearestNeighbors

from uniemox.errors import ConfigError, DataError
from uniemox.inference import index as module
from uniemox.inference.index import IndexedModel, Stamp, open_index, stamp_files
from uniemox.targets.single_label import SingleLabel

CLASSES = ("awe", "fear", "joy")
COLUMNS = SingleLabel(CLASSES).columns
MODEL = IndexedModel(name="mine", digest="ab" * 32, precision="fp32", width=24)


def some(count, *, seed=0, below="/photos"):
    """Files with answers and features."""
    generator = np.random.default_rng(seed)
    files = {f"{below}/{number:05d}.jpg".encode(): Stamp(number + 1, 10**18 + number) for number in range(count)}
    shares = generator.dirichlet(np.ones(3), count)
    answers = [
        {"predicted": CLASSES[one.argmax()], "confidence": one.max()}
        | {f"p_{name}": share for name, share in zip(CLASSES, one, strict=True)}
        for one in shares
    ]
    return files, answers, generator.standard_normal((count, MODEL.width)).astype(np.float32)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "index"


def fill(folder, count=100, parts=4, **options):
    files, answers, features = some(count, **options)
    names = list(files)
    with open_index(folder, MODEL, COLUMNS) as index:
        for own in np.array_split(np.arange(count), parts):
            index.add({names[one]: files[names[one]] for one in own}, [answers[one] for one in own], features[own])
    return files, answers, features


def paths_of(index, places):
    return [path for path, _ in index.read(places)]


def test_the_nearest_are_those_of_scikit_learn(folder, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 17)  # so that the best come from several blocks
    files, _, features = fill(folder)
    query = np.random.default_rng(9).standard_normal(MODEL.width).astype(np.float32)
    query /= np.linalg.norm(query)
    oracle = NearestNeighbors(n_neighbors=12, algorithm="brute", metric="cosine").fit(features)
    distances, rows = oracle.kneighbors(query[None])
    with open_index(folder, MODEL, COLUMNS) as index:
        index.choose(files)
        found = index.nearest(query, 12)
        assert paths_of(index, found) == [list(files)[row] for row in rows[0]]
    np.testing.assert_allclose([one.score for one in found], 1 - distances[0], atol=1e-3)  # stored in fp16


def test_every_number_of_fp16_is_multiplied_as_numpy_does():
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)[:, None]
    every = every[np.isfinite(every[:, 0])]
    for one in (1.0, -0.37, 1e-4):
        query = np.array([one], np.float32)
        np.testing.assert_array_equal(module._cosines(every, query), every.astype(np.float32) @ query)


def test_cosines_are_those_of_doubles():
    generator = np.random.default_rng(0)
    units = generator.standard_normal((500, 512))
    units = (units / np.linalg.norm(units, axis=1, keepdims=True)).astype(np.float16)
    query = units[7].astype(np.float32)
    np.testing.assert_allclose(module._cosines(units, query), units.astype(np.float64) @ query, atol=1e-6)


def test_the_highest_are_those_with_the_highest_probability(folder):
    files, answers, _ = fill(folder)
    order = sorted(range(len(files)), key=lambda row: -answers[row]["p_fear"])[:10]
    with open_index(folder, MODEL, COLUMNS) as index:
        index.choose(files)
        found = index.highest("p_fear", 10)
        rows = index.read(found)
    assert [path for path, _ in rows] == [list(files)[row] for row in order]
    assert [one.score for one in found] == [answers[row]["p_fear"] for row in order]
    assert [row["predicted"] for _, row in rows] == [answers[row]["predicted"] for row in order]


def test_only_chosen_files_are_found(folder):
    files, _, features = fill(folder)
    few = list(files)[10:13]
    with open_index(folder, MODEL, COLUMNS) as index:
        index.choose(few)
        assert len(index) == 3
        assert sorted(paths_of(index, index.nearest(features[0], 50))) == few
        index.choose([b"/elsewhere"])
        assert index.nearest(features[0], 5) == index.highest("p_awe", 5) == []


def test_what_is_new_or_changed_is_read_and_what_is_gone_is_forgotten(folder):
    files, _, _ = fill(folder)
    fill(folder, 5, parts=1, below="/other")
    now = dict(list(files.items())[2:])  # two are gone
    changed, new = next(iter(now)), b"/photos/new.jpg"
    now[changed] = Stamp(now[changed].size, 5)
    now[new] = Stamp(1, 1)
    with open_index(folder, MODEL, COLUMNS) as index:
        assert index.refresh(now, [b"/photos"]) == [changed, new]
    with open_index(folder, MODEL, COLUMNS) as index:
        index.choose([*files, new, *some(5, below="/other")[0]])
        assert len(index) == 97 + 5  # what is elsewhere stays
        assert index.refresh(now, [b"/photos"]) == [changed, new]
        assert index.refresh({}, [b"/"]) == []
        assert [path.name for path in folder.glob("part-*")] == []


def test_many_small_parts_become_one_and_nothing_else_changes(folder):
    files, _, features = fill(folder, 200, parts=40)
    with open_index(folder, MODEL, COLUMNS) as index:
        index.choose(files)
        before = [(path, row) for path, row in index.read(index.nearest(features[7], 20))]
        index.tidy()
        index.choose(files)
        assert index.read(index.nearest(features[7], 20)) == before
    assert len(list(folder.glob("part-*.parquet"))) == len(list(folder.glob("part-*.safetensors"))) == 1


def test_of_two_rows_of_a_file_the_later_counts(folder):
    """As a run leaves them that is killed between the new part and the old one."""
    files, answers, features = fill(folder, 3, parts=1)
    with open_index(folder, MODEL, COLUMNS) as index:
        index.add(files, answers, -features)
    with open_index(folder, MODEL, COLUMNS) as index:
        assert index.refresh(files, [b"/photos"]) == []
        index.choose(files)
        assert len(index) == 3
        (best,) = index.nearest(-features[1] / np.linalg.norm(features[1]), 1)
        assert best.score == pytest.approx(1, abs=1e-3)


def spoil_features(folder):
    path = sorted(folder.glob("*.safetensors"))[0]
    path.write_bytes(path.read_bytes()[:-8])


def spoil_table(folder):
    path = sorted(folder.glob("*.parquet"))[0]
    path.write_bytes(path.read_bytes()[:50])


def lose_features(folder):
    sorted(folder.glob("*.safetensors"))[0].unlink()


def widen_features(folder):
    path = sorted(folder.glob("*.safetensors"))[0]
    save_file({"features": np.zeros((25, 999), np.float16)}, path)


@pytest.mark.parametrize("spoil", [spoil_features, spoil_table, lose_features, widen_features])
def test_a_damaged_part_is_read_again(folder, spoil, caplog):
    files, _, _ = fill(folder)
    spoil(folder)
    with open_index(folder, MODEL, COLUMNS) as index:
        assert len(index.refresh(files, [b"/photos"])) == 25
    assert "1 part of the index" in caplog.text
    assert "read again" in caplog.text


@pytest.mark.parametrize("damage", [np.nan, np.inf, -np.inf, 60_000])
def test_features_that_are_no_numbers_are_found_last_and_said(folder, damage, caplog):
    files, _, features = fill(folder, 10, parts=1)
    path = next(folder.glob("*.safetensors"))
    stored = load_file(path)["features"]
    stored[3] = damage
    save_file({"features": stored}, path)
    query = features[3] / np.linalg.norm(features[3])
    with open_index(folder, MODEL, COLUMNS) as index:
        index.choose(files)
        scores = {place.row: place.score for place in index.nearest(query, 10)}
    assert scores[3] == 0
    assert len(scores) == 10
    assert f"features of 1 image in the index {folder} are no numbers, and score 0: make it again" in caplog.text


def test_a_run_that_stops_before_the_table_loses_that_part_alone(folder, monkeypatch):
    files, _, _ = fill(folder, 10, parts=1)
    more, their_answers, theirs = some(5, below="/more")
    with monkeypatch.context() as patch, open_index(folder, MODEL, COLUMNS) as index:
        patch.setattr(module.pq, "write_table", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            index.add(more, their_answers, theirs)
    with open_index(folder, MODEL, COLUMNS) as index:
        assert index.refresh({**files, **more}, [b"/"]) == list(more)
    assert len(list(folder.glob("*.safetensors"))) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [({"digest": "cd" * 32}, "another model (mine, abab"), ({"precision": "bf16"}, "another precision")],
)
def test_another_model_is_refused_in_one_line_unless_it_is_made_again(folder, change, said):
    files, _, _ = fill(folder, 10)
    other = IndexedModel(**{**vars(MODEL), "name": "other", **change})
    with pytest.raises(ConfigError) as refused, open_index(folder, other, COLUMNS):
        pass
    assert said in str(refused.value)
    assert "give another `index`, or make it again with `reindex`" in str(refused.value)
    with open_index(folder, other, COLUMNS, reindex=True) as index:
        assert index.refresh(files, [b"/photos"]) == list(files)


@pytest.mark.parametrize(
    "head", ["", "[]", "{}", "[" * 10_000, json.dumps({**vars(MODEL), "width": "wide"}), json.dumps({"format": 99})]
)
def test_a_damaged_head_is_an_error_that_names_the_way_out(folder, head):
    fill(folder, 10)
    (folder / "index.json").write_text(head)
    with pytest.raises(ConfigError, match=r"index\.json is damaged \(.*make it again with `reindex`"):  # noqa: SIM117
        with open_index(folder, MODEL, COLUMNS):
            pass


def test_a_folder_of_somebody_else_stays_as_it_is(folder, tmp_path):
    folder.mkdir()
    (folder / "letter.txt").touch()
    with pytest.raises(ConfigError, match=r"letter\.txt, which is not part of an index"):  # noqa: SIM117
        with open_index(folder, MODEL, COLUMNS, reindex=True):
            pass
    assert [path.name for path in folder.iterdir()] == ["letter.txt"]
    with pytest.raises(ConfigError, match="is a file"), open_index(folder / "letter.txt", MODEL, COLUMNS):
        pass


def test_two_runs_do_not_write_one_index(folder, monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE", 0.2)
    with open_index(folder, MODEL, COLUMNS), pytest.raises(DataError, match="in use by another search"):  # noqa: SIM117
        with open_index(folder, MODEL, COLUMNS):
            pass


def test_a_model_without_features_has_an_index_of_answers(folder):
    bare = IndexedModel(**{**vars(MODEL), "width": 0})
    files, answers, _ = some(10)
    with open_index(folder, bare, COLUMNS) as index:
        index.add(files, answers, np.empty((10, 0), np.float32))
        index.refresh(dict(list(files.items())[1:]), [b"/photos"])
        index.choose(files)
        assert len(index.highest("p_awe", 20)) == 9
    assert list(folder.glob("*.safetensors")) == []


def test_a_file_is_known_by_its_path_size_and_time(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"1234")
    ((key, (given, stamp)),) = stamp_files([path]).items()
    assert (key, given, stamp) == (str(path).encode(), path, Stamp(4, path.stat().st_mtime_ns))
    assert stamp_files([tmp_path / "gone.jpg"]).popitem()[1][1] == Stamp(-1, -1)
