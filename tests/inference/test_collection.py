"""What tables hold all in all: against counts by hand, whatever the batches."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from uniemox.errors import ConfigError, DataError
from uniemox.inference import stored_tables
from uniemox.inference.collection import Course, Ranking, Shown, check_same, collect, cut_in_two, put_against
from uniemox.inference.stored_tables import open_stored
from uniemox.targets.clusters import compare

CLASSES = ("awe", "fear", "joy")


def table(path, paths, *, seed=0, about=None, **more):
    """A table of random answers to these paths."""
    shares = np.random.default_rng(seed).dirichlet(np.ones(3), size=len(paths))
    columns = {
        "path": list(paths),
        "predicted": [CLASSES[place] for place in shares.argmax(1)],
        "confidence": shares.max(1),
        **{f"p_{name}": shares[:, place] for place, name in enumerate(CLASSES)},
        "reason": pa.nulls(len(paths), pa.string()),
    }
    found = pa.table(columns | more)
    pq.write_table(found.replace_schema_metadata({f"uniemox.{key}": text for key, text in (about or {}).items()}), path)
    return open_stored(path), found


@pytest.fixture(params=[2**15, 7])
def rows_at_once(request, monkeypatch):
    monkeypatch.setattr(stored_tables, "_ROWS", request.param)


def shares_of(summary):
    return dict(zip(summary.reading.names, summary.whole.mix(are_shares=True).mean[0], strict=True))


@pytest.mark.usefixtures("rows_at_once")
def test_emotions_are_counted_whole_and_by_folder(tmp_path):
    paths = [f"f/{'abc'[i % 3]}/{i}.png" for i in range(60)]
    one, rows = table(tmp_path / "t.parquet", paths)
    found = collect([one], by=["folder"])
    counts = Counter(rows["predicted"].to_pylist())
    (summary,) = found.main.summaries
    assert shares_of(summary) == pytest.approx({name: counts[name] / 60 for name in CLASSES})
    part = summary.parts["folder"]
    assert set(part.codes) == {"f/a", "f/b", "f/c"}
    mix = part.sums.mix(are_shares=True)
    for letter in "abc":
        own = Counter(
            name for path, name in zip(paths, rows["predicted"].to_pylist(), strict=True) if f"/{letter}/" in path
        )
        assert mix.mean[part.codes[f"f/{letter}"]] == pytest.approx([own[name] / 20 for name in CLASSES])
    assert (found.rows, found.files, found.failed) == (60, 60, 0)
    assert summary.sure.sum() == 60


@pytest.mark.usefixtures("rows_at_once")
def test_the_first_of_rankings_are_those_of_all_rows(tmp_path):
    one, rows = table(
        tmp_path / "t.parquet",
        [f"{i}.png" for i in range(100)],
        out_of_domain=np.arange(100.0),
        is_unfamiliar=[False] * 99 + [True],
    )
    (summary,) = (population := collect([one]).main).summaries
    frame = rows.to_pydict()
    for name in CLASSES:
        own = sorted((frame["confidence"][i] for i in range(100) if frame["predicted"][i] == name), reverse=True)
        assert [row.score for row in summary.typical[name].rows] == pytest.approx(own[:12])
    leads = sorted(np.diff(np.sort([[frame[f"p_{name}"][i] for name in CLASSES] for i in range(100)])[:, 1:]).ravel())
    assert [1 - row.score for row in summary.doubtful.rows] == pytest.approx(leads[:12])
    assert [row.path for row in population.strange.rows] == [f"{i}.png" for i in range(99, 87, -1)]
    assert (population.unfamiliar, population.measured) == (1, 100)


def test_a_ranking_has_one_row_of_each_file():
    ranking = Ranking()
    scores, files = np.array([1.0, 5, 3, np.nan, 4]), np.array([0, 0, 1, 1, 2])
    ranking.add(scores, files, lambda place, score: Shown(str(files[place]), None, None, "awe", None, score))
    assert [(row.path, row.score) for row in ranking.rows] == [("0", 5), ("2", 4), ("1", 3)]
    ranking.add(np.array([9.0]), np.array([7]), lambda _, score: Shown("1", None, None, "awe", None, score))
    assert [(row.path, row.score) for row in ranking.rows] == [("1", 9), ("0", 5), ("2", 4)]


@pytest.mark.usefixtures("rows_at_once")
def test_people_and_images_are_counted_apart(tmp_path):
    paths = [f"{i // 3}.png" for i in range(30)]
    edge = [None if i % 3 == 0 else 1.0 for i in range(30)]
    one, _ = table(
        tmp_path / "t.parquet", paths, x0=edge, y0=edge, x1=[e and 5.0 for e in edge], y1=[e and 5.0 for e in edge]
    )
    found = collect([one])
    assert (found.images.rows, found.images.files) == (10, 10)
    assert (found.people.rows, found.people.files) == (20, 10)
    assert found.main is found.images
    assert found.people.summaries[0].whole.mix(are_shares=True).clusters[0] == 10
    assert found.people.summaries[0].doubtful.rows[0].box == (1, 1, 5, 5)


@pytest.mark.usefixtures("rows_at_once")
def test_failures_are_counted_by_reason(tmp_path):
    _, rows = table(tmp_path / "t.parquet", [f"{i}.png" for i in range(20)])
    answered = [i % 4 > 0 for i in range(20)]
    cut = {
        name: [v if is_answered else None for v, is_answered in zip(rows[name].to_pylist(), answered, strict=True)]
        for name in ("predicted", "confidence")
    }
    reasons = pa.array(
        [
            None if is_answered else ("empty file" if i < 12 else "not an image")
            for i, is_answered in enumerate(answered)
        ]
    )
    pq.write_table(pa.table({**rows.to_pydict(), **cut, "reason": reasons}), tmp_path / "t.parquet")
    found = collect([open_stored(tmp_path / "t.parquet")])
    assert found.failed == 5
    assert found.reasons == {"empty file": 3, "not an image": 2}
    assert found.failures == [("0.png", "empty file"), ("12.png", "not an image")]
    assert found.main.rows == 15


@pytest.mark.usefixtures("rows_at_once")
def test_images_are_counted_by_the_month_they_were_taken_in(tmp_path):
    for name, taken in (("a.jpg", "2020:05:01 10:00:00"), ("b.jpg", "2021:01:31 00:00:00"), ("c.jpg", "")):
        exif = Image.Exif()
        exif[0x8769] = {0x9003: taken}
        Image.new("RGB", (8, 8)).save(tmp_path / name, exif=exif)
    one, _ = table(tmp_path / "t.parquet", ["a.jpg", "b.jpg", "c.jpg", "absent.jpg"])
    found = collect([one], by=["date"], root=tmp_path)
    part = found.main.summaries[0].parts["date"]
    assert {label: part.sums.rows[code] for label, code in part.codes.items()} == {
        "2020-05": 1,
        "2021-01": 1,
        "no date": 2,
    }
    assert found.dated == 2


@pytest.mark.usefixtures("rows_at_once")
def test_a_column_of_two_values_is_cut_in_two(tmp_path):
    era = ["old" if i < 20 else "new" for i in range(50)]
    one, rows = table(tmp_path / "t.parquet", [f"{i}.png" for i in range(50)], era=era)
    sides = cut_in_two(collect([one], by=["era"]), "era")
    assert sides.names == ("new", "old")
    mix = sides.sums[0].mix(are_shares=True)
    old = Counter(rows["predicted"].to_pylist()[:20])
    assert mix.rows.tolist() == [30, 20]
    assert mix.mean[1] == pytest.approx([old[name] / 20 for name in CLASSES])
    with pytest.raises(ConfigError, match=r"compare is folder, which has .: 1 value, but must have two"):
        cut_in_two(collect([one], by=["folder"]), "folder")


def test_a_table_is_put_against_one_of_another_model(tmp_path):
    first, before = table(
        tmp_path / "a.parquet", [f"{i}.png" for i in range(30)], about={"digest": "1", "model": "one"}
    )
    second, after = table(
        tmp_path / "b.parquet", [f"{i}.png" for i in range(40)], seed=1, about={"digest": "2", "model": "two"}
    )
    with pytest.raises(DataError, match=r"is of the model one and .* of another, two: give one of them as `compare`"):
        check_same([first, second])
    sides = put_against(first, collect([second]))
    mix = sides.sums[0].mix(are_shares=True)
    for place, rows in enumerate((before, after)):
        counts = Counter(rows["predicted"].to_pylist())
        assert mix.mean[place] == pytest.approx([counts[name] / len(rows) for name in CLASSES])


def test_files_of_both_tables_are_compared_in_pairs(tmp_path):
    """Frames of the same videos: the error is that of a bootstrap of videos, far below that of independent ones."""
    lot = np.random.default_rng(5)
    videos = np.repeat(np.arange(200), lot.integers(1, 6, 200))
    fear = lot.random(200)[videos] + lot.normal(0, 0.05, (2, len(videos))) > 0.5
    paths = [f"{video}.mp4" for video in videos]
    for name, own in zip("ab", fear, strict=True):
        shares = np.where(own, 0.9, 0.1)
        columns = {"path": paths, "predicted": np.where(own, "fear", "joy"), "confidence": np.full(len(paths), 0.9)}
        pq.write_table(pa.table(columns | {"p_fear": shares, "p_joy": 1 - shares}), tmp_path / f"{name}.parquet")
    first, second = (open_stored(tmp_path / f"{name}.parquet") for name in "ab")
    sides = put_against(first, collect([second], keeps_files=True))
    assert sides.shared == 200
    mix, (correlation,) = sides.sums[0].mix(are_shares=True), sides.correlations
    apart = np.sqrt((mix.error**2).sum(0) - 2 * correlation * mix.error.prod(0))
    drawn = []
    for _ in range(2000):
        weights = np.bincount(lot.integers(0, 200, 200), minlength=200)[videos]
        drawn.append(((fear[1].astype(int) - fear[0]) * weights).sum() / weights.sum())
    assert apart == pytest.approx(np.std(drawn), rel=0.1)
    assert apart.max() < mix.error.min() / 2


@pytest.mark.parametrize("count", [60, 500])
def test_tables_that_never_disagree_may_differ_in_other_images(tmp_path, count):
    """About as far as Agresti and Min's interval says, of pairs to which half a one of each kind is added.

    It is no narrower than by a tenth, and wider by less than a half, since Wilson's bounds lie unevenly around a share.
    """
    one, _ = table(tmp_path / "a.parquet", [f"{i}.png" for i in range(count)])
    sides = put_against(one, collect([one], keeps_files=True))
    apart = compare(sides.sums[0].mix(are_shares=True), are_shares=True, correlation=sides.correlations[0])
    assert apart.value.tolist() == [0, 0, 0]
    assert apart.p.tolist() == [1, 1, 1]
    expected = 1.96 / (count + 2)  # one of them in each direction
    for width in (apart.high, -apart.low):
        assert ((0.9 * expected < width) & (width < 1.5 * expected)).all()


def test_other_files_are_compared_as_independent(tmp_path):
    first, _ = table(tmp_path / "a.parquet", [f"a/{i}.png" for i in range(30)])
    second, _ = table(tmp_path / "b.parquet", [f"b/{i}.png" for i in range(40)])
    sides = put_against(first, collect([second], keeps_files=True))
    assert (sides.shared, sides.correlations[0].tolist()) == (0, [0, 0, 0])


def test_tables_that_answer_otherwise_are_refused(tmp_path):
    first, _ = table(tmp_path / "a.parquet", ["a"])
    pq.write_table(pa.table({"path": ["a"], "valence": [1.0], "arousal": [2.0]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match="answer with different emotions or ratings"):
        check_same([first, open_stored(tmp_path / "b.parquet")])


def test_nothing_to_report_is_refused(tmp_path):
    one, _ = table(tmp_path / "t.parquet", [])
    with pytest.raises(DataError, match="has no row"):
        collect([one])
    failed = {"path": ["x", "y"], "predicted": pa.nulls(2, pa.string()), "confidence": pa.nulls(2, pa.float64())}
    shares = {f"p_{name}": pa.nulls(2, pa.float64()) for name in CLASSES}
    pq.write_table(pa.table({**failed, **shares, "reason": ["empty file"] * 2}), tmp_path / "f.parquet")
    with pytest.raises(DataError, match=r"no answer in its 2 rows, most often \(2\): empty file"):
        collect([open_stored(tmp_path / "f.parquet")])
    with pytest.raises(ConfigError, match=r"by names era, but .*t.parquet has no such column"):
        collect([one], by=["era"])


@pytest.mark.usefixtures("rows_at_once")
def test_ratings_are_averaged_and_some_are_kept_to_be_drawn(tmp_path):
    ratings = np.random.default_rng(0).uniform(-1, 1, (4000, 2))
    columns = {"path": [f"{i}.png" for i in range(4000)], "valence": ratings[:, 0], "arousal": ratings[:, 1]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    (summary,) = collect([open_stored(tmp_path / "t.parquet")]).main.summaries
    assert summary.whole.mix(are_shares=False).mean[0] == pytest.approx(ratings.mean(0))
    assert summary.points.shape == (1500, 2)
    assert {tuple(row) for row in summary.points.tolist()} <= {tuple(row) for row in ratings.tolist()}
    places = np.searchsorted(np.sort(ratings[:, 0]), summary.points[:, 0])  # of any part of the table alike
    assert abs(places.mean() - 2000) < 150
    assert summary.typical["highest valence"].rows[0].score == ratings[:, 0].max()


def test_the_course_of_a_long_video_keeps_its_sums():
    course, times = Course(1), np.arange(1000.0)
    values = np.random.default_rng(0).integers(0, 2, (1000, 1)).astype(float)
    for part in np.array_split(np.arange(1000), 9):
        course.add(times[part], values[part])
    assert course.span == 16
    assert course.count.sum() == 1000
    assert course.sums[:62, 0].tolist() == [values[start : start + 16].sum() for start in range(0, 992, 16)]


def test_frames_of_a_video_are_one_cluster(tmp_path):
    one, _ = table(
        tmp_path / "t.parquet", ["a.mp4"] * 30 + ["b.mp4"] * 10, time=[float(i) for i in [*range(30), *range(10)]]
    )
    (summary,) = collect([one]).main.summaries
    assert summary.whole.mix(are_shares=True).clusters[0] == 2
    assert {path: course.count.sum() for path, course in summary.courses.items()} == {"a.mp4": 30, "b.mp4": 10}


def test_many_folders_are_summed_up_as_others(tmp_path, monkeypatch):
    from uniemox.inference import collection

    monkeypatch.setattr(collection, "_MOST_CATEGORIES", 64)
    one, _ = table(tmp_path / "t.parquet", [f"{i}/x.png" for i in range(100)])
    part = collect([one]).main.summaries[0].parts["folder"]
    assert len(part.codes) == 65
    assert part.sums.rows[part.codes["others"]] == 36


def test_a_path_is_a_path(tmp_path):
    one, _ = table(tmp_path / "t.parquet", [str(Path("top") / "x.png"), "C:\\pictures\\y.png", "z.png"])
    assert set(collect([one]).main.summaries[0].parts["folder"].codes) == {"top", "C:/pictures", "."}


@pytest.mark.parametrize("time", [float("nan"), float("inf"), -1.0, 1e12])
def test_a_time_that_no_video_has_is_none(tmp_path, time):
    one, _ = table(tmp_path / "t.parquet", ["a.mp4"], time=[time])
    (summary,) = collect([one]).main.summaries
    assert [row.time for row in summary.doubtful.rows] == [None]
    assert not summary.courses


@pytest.mark.usefixtures("rows_at_once")
def test_files_are_counted_once_however_their_rows_are_sorted(tmp_path):
    sorted_, _ = table(tmp_path / "a.parquet", ["a.mp4"] * 9 + ["b.mp4"] * 9)
    mixed, _ = table(tmp_path / "b.parquet", ["a.mp4", "b.mp4"] * 9)
    assert [(found.files, found.scattered) for found in map(collect, ([sorted_], [mixed]))] == [(2, 0), (2, 16)]
    assert collect([sorted_, sorted_]).scattered == 2
