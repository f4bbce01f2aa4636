"""The command `search`, by the embedded CLIP."""

import json
import re
import shutil
import subprocess
import sys

import pytest
from PIL import Image

from uniemox.console import cli
from uniemox.inference import search as searching


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, colour in enumerate([(250, 0, 0), (240, 20, 0), (0, 0, 250), (0, 250, 0)]):
        Image.new("RGB", (64, 48), colour).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def loaded():
    return searching.Searcher.load("clip:demo", device="cpu")


@pytest.fixture
def search(run, loaded, tmp_path, monkeypatch):
    """Run a search by `clip:demo` in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(searching.Searcher, "load", lambda *_, **__: loaded)
    return lambda *words: run("search", "clip:demo", *words)


def test_images_are_found_and_the_index_is_where_the_help_says(search, photos, tmp_path):
    code, out, err = search(photos, "--image", photos / "0.png", "--top-k", "2", "--json")
    assert (code, err) == (cli.SUCCESS, "")
    found = json.loads(out)
    assert [hit["path"] for hit in found["hits"]] == [str(photos / "0.png"), str(photos / "1.png")]
    assert found["hits"][0]["score"] == pytest.approx(1, abs=1e-3)
    assert (found["images"], found["unreadable"]) == (4, [])
    assert (tmp_path / "uniemox-index" / "index.json").is_file()
    code, out, _ = search(photos, "--text", "a calm evening", "--index", tmp_path / "uniemox-index")
    assert len(re.findall(r"│ \S+\.png +│ +-?\d\.\d{3} │ \w+ \d", out)) == 4


def test_what_cannot_be_read_is_counted_with_a_reason_and_alone_is_a_failure(search, photos, tmp_path):
    (photos / "bad.jpg").write_text("no image")
    code, out, err = search(photos, "--emotion", "awe", "--json")
    assert code == cli.SUCCESS
    assert re.search(r"1 of 5 images could not be read: .*bad\.jpg: not an image", err)
    (gone,) = json.loads(out)["unreadable"]
    assert gone["reason"].startswith("not an image")
    lone = tmp_path / "lone"
    lone.mkdir()
    shutil.move(photos / "bad.jpg", lone)
    code, _, err = search(lone, "--emotion", "awe")
    assert code == cli.FAILURE
    assert re.search(r"none of 1 image can be read: .*bad\.jpg: not an image", err)


def test_tables_and_sheets_are_written_and_not_replaced_unasked(search, photos, tmp_path):
    files = [tmp_path / name for name in ("t.csv", "s.html", "s.jpg")]
    asked = ["--emotion", "awe", "--out", files[0], "--sheet"]
    for sheet in files[1:]:
        code, out, _ = search(photos, *asked, sheet, "--overwrite")
        assert code == cli.SUCCESS
        assert str(sheet) in out
    assert len(files[0].read_text().splitlines()) == 5
    assert "4 images of 4, by clip:demo" in files[1].read_text()
    with Image.open(files[2]) as sheet:
        assert sheet.size[0] > 900
    code, _, err = search(photos, *asked, files[1])
    assert code == cli.WRONG_USE
    assert "t.csv exists; --overwrite replaces it" in err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--text", "a"], cli.FAILURE, "has no image below it"),
        (["--text", " "], cli.WRONG_USE, "--text is empty"),
        (["--text", "calm " * 100], cli.WRONG_USE, "longer than clip:demo reads"),
        (["--emotion", "contentement"], cli.WRONG_USE, "did you mean contentment?"),
        (["--image", "gone.png"], cli.FAILURE, "the image gone.png cannot be read"),
        ([], cli.WRONG_USE, "give one of --text, --image and --emotion"),
    ],
)
def test_what_cannot_be_answered_is_one_line_and_makes_no_index(search, photos, tmp_path, words, code, said):
    (tmp_path / "empty").mkdir()
    found, _, err = search("empty" if "below" in said else photos, *words)
    assert found == code
    assert said in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "uniemox-index").exists()


def test_an_index_of_another_model_is_refused_with_flags(search, photos, tmp_path):
    search(photos, "--emotion", "awe")
    head = tmp_path / "uniemox-index" / "index.json"
    head.write_text(json.dumps(json.loads(head.read_text()) | {"digest": "0" * 64, "name": "another"}))
    code, _, err = search(photos, "--emotion", "awe")
    assert code == cli.WRONG_USE
    assert "the index of another model (another, 0000" in err
    assert "give another --index, or make it again with --reindex" in err
    assert search(photos, "--emotion", "awe", "--reindex")[0] == cli.SUCCESS


def test_an_interrupted_run_keeps_what_it_has_and_the_next_one_goes_on(search, photos, monkeypatch, tmp_path):
    for number in range(100):
        shutil.copyfile(photos / "0.png", photos / f"more{number:03d}.png")
    seen, embed = [], searching.Searcher._embed

    def stop_late(self, paths, **options):
        seen.extend(paths)
        if len(seen) == 104:
            raise KeyboardInterrupt
        return embed(self, paths, **options)

    with monkeypatch.context() as patch:
        patch.setattr(searching.Searcher, "_embed", stop_late)
        patch.setattr(searching, "choose_part_size", lambda *_: 52)
        code, _, err = search(photos, "--emotion", "awe")
    assert code == 130
    assert "interrupted: 52 of 104 images are kept in uniemox-index. Run the command again to continue" in err
    read = []
    monkeypatch.setattr(searching.Searcher, "_embed", lambda self, p, **o: read.extend(p) or embed(self, p, **o))
    assert search(photos, "--emotion", "awe")[0] == cli.SUCCESS
    assert len(read) == 52


def test_help_and_settings_bring_no_library_of_arrays():
    code = (
        "import sys; from uniemox.console.cli import main; main(['search', '--help']); "
        "assert not {'torch', 'numpy', 'pyarrow', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
