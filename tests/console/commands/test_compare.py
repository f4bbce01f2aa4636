"""The command `compare`."""

import json

import numpy as np
import pytest

from uniemox.console import cli


@pytest.fixture
def folders(store):
    right = np.random.default_rng(0).random((2, 60)) < [[0.5], [0.9]]
    return [store(name, one) for name, one in zip(("plain", "better"), right, strict=True)]


def test_tables_are_printed_and_written(run, folders, tmp_path):
    files = [tmp_path / f"found{ending}" for ending in (".md", ".tex", ".json", ".html")]
    code, out, err = run("compare", *folders, *(word for file in files for word in ("--out", file)))
    assert (code, err) == (cli.SUCCESS, "")
    assert "Differences" in out
    assert out.splitlines()[-4:] == [str(file) for file in files]
    assert all(file.stat().st_size > 500 for file in files)
    assert "better" in files[0].read_text(encoding="utf-8")


def test_json_is_what_is_written_too(run, folders, tmp_path):
    _, out, _ = run("compare", *folders, "--json", "--out", tmp_path / "found.json")
    assert json.loads(out) == json.loads((tmp_path / "found.json").read_text())
    assert json.loads(out)["arms"][1]["differences"]["top1"]["value"] > 0


def test_a_file_is_replaced_only_if_asked(run, folders, tmp_path):
    out = tmp_path / "found.md"
    run("compare", *folders, "--out", out)
    code, _, err = run("compare", *folders, "--out", out)
    assert (code, err) == (cli.WRONG_USE, f"uniemox: error: {out} exists; --overwrite replaces it\n")
    assert run("compare", *folders, "--out", out, "--overwrite")[0] == cli.SUCCESS


def test_bad_input_is_one_line_with_what_to_do(run, folders, tmp_path):
    code, _, err = run("compare", folders[0], tmp_path / "nothing")
    assert code == cli.WRONG_USE
    assert err.endswith("nothing is no folder: to compare a model, give the --data that it is evaluated on\n")
    code, _, err = run("compare", *folders, "--base", "bettr")
    assert err == "uniemox: error: --base is bettr, which is none of those compared; did you mean better?\n"
