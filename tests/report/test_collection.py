"""The page of a collection, of every kind of answer, and of tables that nobody should trust."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from uniemox.inference.collection import collect, cut_in_two
from uniemox.inference.stored_tables import open_stored
from uniemox.report.collection import collection_page, strip_common, summarize
from uniemox.report.page import render

EVIL = "<script>alert(1)</script>\u202e&"


def shares_table(names, count=40, *, seed=0, lists=False, **more):
    shares = np.random.default_rng(seed).dirichlet(np.ones(len(names)), size=count)
    likeliest = [names[place] for place in shares.argmax(1)]
    predicted = [[name] if row % 5 else [] for row, name in enumerate(likeliest)] if lists else likeliest
    return {
        "path": [f"{'ab'[row % 2]}/{row}.png" for row in range(count)],
        "predicted": predicted,
        **({"likeliest": likeliest} if lists else {}),
        "confidence": shares.max(1),
        **{f"p_{name}": shares[:, place] for place, name in enumerate(names)},
        **more,
    }


def page_of(tmp_path, columns, *, by=("folder",), compare=None, about=None):
    kept = {f"uniemox.{key}": text for key, text in (about or {}).items()}
    pq.write_table(pa.table(columns).replace_schema_metadata(kept), tmp_path / "t.parquet")
    found = collect([open_stored(tmp_path / "t.parquet")], by=by)
    sides = None if compare is None else cut_in_two(found, compare)
    return render(collection_page(found, title="Emotions", sides=sides)), found


def test_folders_lose_what_they_share():
    assert list(strip_common(["a/b/c", "a/b/d/e"])) == ["c", "d/e"]
    assert list(strip_common(["a/b", "a/b/c"])) == ["b", "b/c"]
    assert list(strip_common(["a/b"])) == ["a/b"]
    assert list(strip_common([".", "x"])) == [".", "x"]


def titles_of(page):
    return re.findall(r"<h2>(.*?)</h2>", page)


def test_a_page_has_a_section_for_what_a_table_holds(tmp_path):
    columns = shares_table(("awe", "fear", "joy"), out_of_domain=np.linspace(0, 1, 40), is_unfamiliar=[False] * 40)
    page, found = page_of(tmp_path, columns, compare="folder", about={"model": "demo", "notice": "Mind the law."})
    assert titles_of(page) == [
        "At a glance",
        "Emotions of images",
        "By folder",
        "A against B",
        "Most typical",
        "Most ambiguous",
        "Least familiar",
        "Origin",
    ]
    assert "Mind the law." in page
    assert summarize(found)["images"][0].keys() == {"awe", "fear", "joy"}
    assert "0 of 27 found" in page or "0 of " in page  # of the images, which do not exist


def test_a_table_that_is_not_sorted_by_file_says_that_its_ranges_are_too_narrow(tmp_path):
    columns = shares_table(("awe", "fear"))
    assert "ranges are too narrow" not in page_of(tmp_path, columns)[0]
    page, _ = page_of(tmp_path, columns | {"path": ["a.mp4", "b.mp4"] * 20})
    assert "several tables (38 times)" in page


def test_nothing_is_fetched_from_anywhere(tmp_path):
    page, _ = page_of(tmp_path, shares_table(("awe", "fear")))
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert "default-src 'none'" in page
    assert "<script" not in page


def test_what_a_table_holds_is_only_ever_text(tmp_path):
    columns = shares_table(("awe", EVIL), era=[EVIL, "old"] * 20, reason=[EVIL] * 40)
    columns["path"] = [f"{EVIL}/{row}.png" for row in range(40)]
    columns["predicted"][0] = None
    page, _ = page_of(tmp_path, columns, by=("folder", "era"), compare="era", about={"model": EVIL, "notice": EVIL})
    assert "<script" not in page
    assert "\u202e" not in page
    assert "&lt;script&gt;" in page


def test_lists_of_emotions_have_shares_that_do_not_add_up(tmp_path):
    page, found = page_of(tmp_path, shares_table(("awe", "fear", "joy"), lists=True), compare="folder")
    assert sum(one["mean"] for one in summarize(found)["images"][0].values()) == pytest.approx(0.8)
    assert "likeliest emotion has the lowest probability" in page


def test_ratings_have_a_plane(tmp_path):
    lot = np.random.default_rng(0)
    columns = {
        "path": [f"{'ab'[row % 2]}/{row}.png" for row in range(40)],
        "valence": lot.random(40),
        "arousal": lot.random(40),
    }
    page, _ = page_of(tmp_path, columns, compare="folder")
    assert "Ratings of images" in titles_of(page)
    assert "highest valence" in page
    assert "valence: unpleasant to pleasant" not in titles_of(page)


def test_one_rating_alone_has_no_plane(tmp_path):
    page, _ = page_of(tmp_path, {"path": ["a.png", "b.png"], "valence": [1.0, 2.0]})
    assert "Ratings of images" in titles_of(page)


def test_several_kinds_of_answers_have_their_own_sections(tmp_path):
    columns = shares_table(("awe", "fear"))
    second = {f"distribution_{name}": values for name, values in columns.items() if name != "path"}
    page, _ = page_of(tmp_path, columns | second | {"valence": np.ones(40), "arousal": np.zeros(40)})
    assert {"Emotions of images", "Emotions of images (distribution)", "Ratings of images"} <= set(titles_of(page))


def test_people_have_a_mix_of_their_own(tmp_path):
    edges = {edge: [None, float(place)] * 20 for place, edge in enumerate(("x0", "y0", "x1", "y1"))}
    page, _ = page_of(tmp_path, shares_table(("awe", "fear")) | edges)
    assert {"Emotions of images", "Emotions of people"} <= set(titles_of(page))


def test_videos_have_a_course(tmp_path):
    columns = shares_table(("awe", "fear"), 60, time=[float(row % 30) for row in range(60)])
    columns["path"] = ["a.mp4"] * 30 + ["b.mp4"] * 30
    page, _ = page_of(tmp_path, columns)
    assert "Videos over time" in titles_of(page)
    assert "a.mp4: 30 frames, 1 s a step." in page


def test_one_file_has_no_ranges(tmp_path):
    columns = shares_table(("awe", "fear"), 10)
    columns["path"] = ["a.mp4"] * 10
    page, _ = page_of(tmp_path, columns)
    assert "all to one file" in page


def test_many_emotions_and_folders_are_cut_short(tmp_path):
    names = tuple(f"emotion {number}" for number in range(40))
    columns = shares_table(names, 200)
    columns["path"] = [f"{row}/x.png" for row in range(200)]
    page, _ = page_of(tmp_path, columns)
    assert "20 rarer emotions omitted" in page
    assert "The 20 largest of 200 are shown." in page
    assert "others" in page


def test_months_become_years_where_there_are_many(tmp_path, monkeypatch):
    from uniemox.inference import collection

    months = iter(range(60))
    monkeypatch.setattr(
        collection._Reader, "_date", lambda *_: f"{2000 + (month := next(months)) // 12}-{month % 12 + 1:02}"
    )
    page, _ = page_of(tmp_path, shares_table(("awe", "fear"), 60), by=("date",))
    assert ">2004<" in page
    assert "2004-01" not in page
    assert page.index(">2000<") < page.index(">2004<")


@pytest.mark.soak
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="nothing says how much memory a process took")
def test_a_million_rows_make_a_small_page_in_the_memory_of_few(tmp_path):
    """What `benchmarks/collection.py` measures, as a bound that no machine should miss."""
    code = (
        "import sys, time; from uniemox.console.cli import main; start = time.process_time(); "
        "assert main(['report', sys.argv[1], '--overwrite']) == 0; "
        "peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM')); "
        "print(time.process_time() - start, int(peak.split()[1]) / 1024)"
    )
    found = {}
    for count in (10_000, 1_000_000):
        path = tmp_path / f"{count}.parquet"
        pq.write_table(pa.table(shares_table(tuple("abcdefgh"), count)), path)
        words = [sys.executable, "-c", code, path]
        ended = subprocess.run(words, check=True, capture_output=True, text=True)
        found[count] = [float(number) for number in ended.stdout.splitlines()[-1].split()]
        assert path.with_suffix(".html").stat().st_size < 5e6
    assert found[1_000_000][0] < 60
    assert found[1_000_000][1] < found[10_000][1] + 150  # MB
