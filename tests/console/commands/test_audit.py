"""The command `data audit`."""

import json

import numpy as np
import pytest
from PIL import Image

from uniemox.console import cli
from uniemox.manifests.table import Facts, manifest_from_columns, read_manifest, write_manifest


@pytest.fixture
def manifest(tmp_path):
    """Two different images in train, and one of them in test again."""
    root = tmp_path / "pictures"
    root.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 12, 16, 3), dtype=np.uint8)
    for name, index in (("a.png", 0), ("b.png", 1), ("c.png", 0)):
        Image.fromarray(pixels[index]).resize((160, 120)).save(root / name)
    facts = Facts(name="x", title="X", classes=("awe", "fear"), emotion="evoked", root=root)
    found = manifest_from_columns(
        facts,
        paths=["a.png", "b.png", "c.png", "absent.png"],
        splits=["train", "train", "test", "test"],
        labels=[0, 1, 0, 1],
    )
    path = tmp_path / "x.parquet"
    write_manifest(found, path)
    return path


def audit(manifest, tmp_path, *words):
    return ["data", "audit", manifest, "--out", tmp_path / "out", "--workers", "1", *words]


def test_an_audit_leaves_a_report_its_data_and_clean_manifests(run, manifest, tmp_path):
    code, out, _ = run(*audit(manifest, tmp_path))
    assert code == cli.SUCCESS
    assert out.endswith(f"{tmp_path / 'out' / 'report.html'}\n")
    assert (tmp_path / "out" / "report.html").stat().st_size > 1000
    clean = read_manifest(tmp_path / "out" / "clean" / "x.parquet")
    assert clean.table["path"].to_pylist() == ["b.png", "c.png"]
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["a.png", "b.png", "c.png"]


def test_an_audit_for_machines(run, manifest, tmp_path):
    code, out, err = run(*audit(manifest, tmp_path, "--json"))
    said = json.loads(out)
    assert (code, err) == (cli.SUCCESS, "")
    assert said["counts"]["leak"] == {"found": 1, "removed": 1}
    assert said["counts"]["unreadable"] == {"found": 1, "removed": 1}
    assert said["cleaned"] == [str(tmp_path / "out" / "clean" / "x.parquet")]
    saved = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert saved["counts"] == said["counts"]


def test_manifests_of_one_name_are_kept_apart(run, manifest, tmp_path):
    other = tmp_path / "other" / "x.parquet"
    other.parent.mkdir()
    write_manifest(read_manifest(manifest).select(["test"]), other)
    code, out, _ = run("data", "audit", other, *audit(manifest, tmp_path, "--json")[2:])
    assert code == cli.SUCCESS
    assert [path.rpartition("/")[2] for path in json.loads(out)["cleaned"]] == ["x.parquet", "x-2.parquet"]


def test_what_is_removed_can_be_chosen(run, manifest, tmp_path):
    run(*audit(manifest, tmp_path, "--remove", "leak,tiny"))
    clean = read_manifest(tmp_path / "out" / "clean" / "x.parquet")
    assert clean.table["path"].to_pylist() == ["b.png", "c.png", "absent.png"]


def test_a_second_audit_of_a_folder_must_be_asked_for(run, manifest, tmp_path):
    assert run(*audit(manifest, tmp_path))[0] == cli.SUCCESS
    code, _, err = run(*audit(manifest, tmp_path))
    assert code == cli.WRONG_USE
    assert "--resume" in err
    assert run(*audit(manifest, tmp_path, "--resume"))[0] == cli.SUCCESS


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--workers", "0"], "--workers is 0"),
        (["--remove", "everything"], "--remove is [everything]"),
        (["--like", "2"], "--like is 2"),
        (["--model", "clip:demo", "--target", "distribution"], "--target is distribution"),
        (["--model", "resnet18"], "--model is resnet18"),
    ],
)
def test_impossible_flags_are_refused_before_anything_is_read(run, manifest, tmp_path, words, complaint):
    code, _, err = run(*audit(manifest, tmp_path, *words))
    assert code == cli.WRONG_USE
    assert complaint in err
    assert not (tmp_path / "out").exists()


def test_labels_in_doubt_are_ranked_in_tables_a_sheet_the_page_and_the_summary(run, painted, pretrained, tmp_path):
    words = ["data", "audit", painted.path, "--out", tmp_path / "out", "--workers", "1", "--like", "1"]
    code, out, err = run(*words, "--model", pretrained.model, "--json", "--device", "cpu")
    assert code == cli.SUCCESS, err
    (labels,) = json.loads(out)["labels"]
    assert labels["ranked"] == 40
    folder = tmp_path / "out" / "labels"
    assert labels["files"] == [str(folder / f"painted.{ending}") for ending in ("csv", "parquet", "html")]
    assert len((folder / "painted.csv").read_text().splitlines()) == 41
    assert json.loads((tmp_path / "out" / "audit.json").read_text())["labels"] == [labels]
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Labels in doubt: painted" in page
    assert 'href="labels/painted.html"' in page
    first = (folder / "painted.csv").read_bytes()
    code, out, err = run(*words, "--model", pretrained.model, "--device", "cpu", "--resume")
    assert code == cli.SUCCESS, err
    assert "features of 40 images are those in" in err
    assert "label in doubt" in out
    assert (folder / "painted.csv").read_bytes() == first


def test_labels_that_cannot_be_in_doubt_are_refused_before_any_image_is_read(run, manifest, tmp_path):
    same = read_manifest(manifest)
    write_manifest(same.where(same.labels == 0), manifest)
    code, _, err = run(*audit(manifest, tmp_path, "--model", "clip:demo"))
    assert code == cli.FAILURE
    assert "all labelled rows of x are awe" in err
    assert "omit --model" in err
    assert not (tmp_path / "out").exists()
