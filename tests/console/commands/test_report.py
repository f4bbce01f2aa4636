"""The command `report`."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from uniemox.console import cli

NOTICE = "This model says what a depicted person seems to feel."


def write(path, count=12, **about):
    predicted = ["awe" if row % 3 else "fear" for row in range(count)]
    columns = {
        "path": [f"{'ab'[row % 2]}/{row}.png" for row in range(count)],
        "predicted": predicted,
        "confidence": [0.8] * count,
        "p_awe": [0.8 if name == "awe" else 0.2 for name in predicted],
        "p_fear": [0.2 if name == "awe" else 0.8 for name in predicted],
    }
    kept = {f"uniemox.{key}": text for key, text in about.items()}
    pq.write_table(pa.table(columns).replace_schema_metadata(kept), path)
    return path


def test_a_table_becomes_a_page_beside_it(run, tmp_path):
    table = write(tmp_path / "t.parquet")
    code, out, err = run("report", table)
    assert (code, err) == (cli.SUCCESS, "")
    assert out == f"{tmp_path / 't.html'}\n"
    assert "67 % awe and 33 % fear" in (tmp_path / "t.html").read_text(encoding="utf-8")


def test_the_numbers_are_printed_as_json(run, tmp_path):
    _, out, _ = run("report", write(tmp_path / "t.parquet"), "--json")
    found = json.loads(out)
    assert found["files"] == 12
    assert found["images"][0]["awe"]["mean"] == pytest.approx(8 / 12)
    assert found["images"][0]["awe"]["low"] < 8 / 12 < found["images"][0]["awe"]["high"]
    assert found["people"] == []


def test_a_page_is_replaced_only_if_asked(run, tmp_path):
    table = write(tmp_path / "t.parquet")
    run("report", table)
    code, _, err = run("report", table)
    assert code == cli.WRONG_USE
    assert err == f"uniemox: error: {tmp_path / 't.html'} exists; --overwrite replaces it\n"
    assert run("report", table, "--overwrite")[0] == cli.SUCCESS


def test_the_notice_of_a_model_is_printed_and_shown(run, tmp_path):
    table = write(tmp_path / "t.parquet", notice=NOTICE, emotion="felt")
    _, _, err = run("report", table)
    assert err.splitlines().count(NOTICE) == 1
    assert NOTICE in (tmp_path / "t.html").read_text(encoding="utf-8")


def test_tables_of_two_models_are_compared_and_not_mixed(run, tmp_path):
    first = write(tmp_path / "a.parquet", digest="1", model="one")
    second = write(tmp_path / "b.parquet", 30, digest="2", model="two")
    code, _, err = run("report", first, second)
    assert code == cli.FAILURE
    assert "give one of them as --compare" in err
    code, _, err = run("report", second, "--compare", first)
    assert (code, err) == (cli.SUCCESS, "")
    assert "A against B" in (tmp_path / "b.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("words", [["--compare", "folder"], ["--by", "folder,table", "--compare", "folder"]])
def test_two_folders_are_compared(run, tmp_path, words):
    code, _, err = run("report", write(tmp_path / "t.parquet"), *words)
    assert (code, err) == (cli.SUCCESS, "")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["absent.parquet"], "no file at absent.parquet"),
        (["."], ". is a folder: name the --model that predicts its images first"),
        (["t.parquet", "--by", "year"], "--by names year, but t.parquet has no such column"),
        (["t.parquet", "--compare", "table"], "--compare is table, which has t.parquet: 1 value, but must have two"),
        (["t.parquet", "--compare", "absent.csv"], "--compare is absent.csv, but no file and no column has this name"),
        (["t.parquet", "--out", "x.pdf"], "--out is x.pdf, but must end in .html"),
    ],
)
def test_what_cannot_be_reported_is_one_line(run, tmp_path, monkeypatch, words, complaint):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "t.parquet")
    code, out, err = run("report", *words)
    assert code != cli.SUCCESS
    assert out == ""
    assert complaint in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_a_folder_is_predicted_first(run, exported, painted, tmp_path):
    code, out, _ = run(
        "report", painted.root / "test", "--model", exported, "--out", tmp_path / "r.html", "--workers", "0"
    )
    assert code == cli.SUCCESS
    assert out == f"{tmp_path / 'r.html'}\n"
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "data:image/webp" in page
    assert pq.read_table(tmp_path / "r.parquet").num_rows == len(list((painted.root / "test").rglob("*.png")))
