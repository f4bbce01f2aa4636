"""The command `transfer`."""

import json
from dataclasses import replace

import pytest

from uniemox.console import cli
from uniemox.demo.drawn import unpack
from uniemox.manifests.table import write_manifest


def test_the_matrix_is_printed_written_in_every_form_and_as_json(run, finetuned, painted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["transfer", "--models", finetuned.config.out, "clip:demo", "--data", painted.path, "--device", "cpu"]
    words += ["--workers", "0"]
    names = [f"matrix.{ending}" for ending in ("md", "tex", "json", "html")]
    code, out, _ = run(*words, "--cells", "cells", "--out", *names)
    assert code == cli.SUCCESS
    for text in ("Transfer: top-1 %", "clip:demo", "majority", *names):
        assert text in out
    code, out, _ = run(*words, "--cells", "cells", "--json")
    assert code == cli.SUCCESS
    assert json.loads(out) == json.loads((tmp_path / "matrix.json").read_text())
    models = [cell["model"] for cell in json.loads(out)["cells"]]
    assert models == [str(finetuned.config.out), "clip:demo", "majority"]
    code, _, err = run(*words, "--out", "matrix.md")
    assert code == cli.WRONG_USE
    assert "matrix.md exists" in err


def test_no_score_at_all_is_a_failure(run, finetuned, tmp_path, painted):
    manifest = painted.manifest
    animals = replace(manifest, facts=replace(manifest.facts, classes=("cat", "dog", "horse")))
    write_manifest(animals, tmp_path / "animals.parquet")
    words = ["--models", finetuned.model, "--data", tmp_path / "animals.parquet", "--leaks", "false"]
    code, out, _ = run("transfer", *words, "--device", "cpu", "--workers", "0", "--json")
    assert code == cli.FAILURE
    assert "no bridge" in out


@pytest.mark.slow
def test_the_embedded_models_on_both_drawn_tests(run, tmp_path):
    data = unpack(tmp_path)
    words = ["transfer", "--models", "demo", "clip:demo", "--data", data.seen, data.unseen, "--device", "cpu"]
    code, out, err = run(*words, "--workers", "0", "--json")
    assert code == cli.SUCCESS
    assert "Article 5(1)(f)" in err  # demo says what a depicted person feels
    cells = {(cell["model"], cell["data"]): cell for cell in json.loads(out)["cells"]}
    assert len(cells) == 6
    for (model, name), cell in cells.items():
        assert cell["scores"]["num_samples"] == {"drawn6": 564, "drawn6-unseen": 336}[name]
        assert not cell["not_searched"]
        worth = cells["majority", name]["scores"]["intervals"]["top1"][1]
        assert model == "majority" or cell["scores"]["intervals"]["top1"][0] > worth
