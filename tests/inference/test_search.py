"""Searches of a folder against open_clip alone, and what they refuse."""

import os
import shutil
from dataclasses import replace

import numpy as np
import open_clip
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from uniemox.config.zero_shot import ZeroShotConfig
from uniemox.errors import CheckpointError, ConfigError, DataError
from uniemox.inference.index import open_index, stamp_files
from uniemox.inference.search import Hit, Searcher
from uniemox.models.teacher import _EMBEDDED as MINI_CLIP


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Drawings, in a folder."""
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for number in range(12):
        pixels = generator.integers(0, 256, (4, 6, 3), np.uint8).repeat(20, 0).repeat(20, 1)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return folder


@pytest.fixture(scope="module")
def clip():
    return Searcher.load("clip:demo", device="cpu")


def search(searcher, folder, query, place, *, count=20):
    files = stamp_files(sorted(folder.iterdir()))
    with open_index(place, searcher.model, searcher.columns) as index:
        missing = index.refresh({key: stamp for key, (_, stamp) in files.items()}, [os.fsencode(folder)])
        unreadable = searcher.fill(index, ((key, *files[key]) for key in missing), total=len(missing), batch_size=5)
        paths = {key: path for key, (path, _) in files.items()}
        return searcher.search(index, paths, query, count=count), unreadable, len(missing)


@torch.no_grad()
def cosines_by_open_clip(paths, text):
    """The feature of a text, and the cosines of images to it, by open_clip alone."""
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{MINI_CLIP}")
    model.eval()
    words = model.encode_text(open_clip.get_tokenizer(f"local-dir:{MINI_CLIP}")([text]))[0]
    words /= words.norm()
    pixels = torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])
    features = model.encode_image(pixels)
    features /= features.norm(dim=-1, keepdim=True)
    return words.numpy(), (features.half().float() @ words).numpy()  # as an index stores them


def test_a_text_is_that_of_open_clip_and_orders_images_as_it_does(clip, photos, tmp_path):
    query = clip.query_text("a calm evening")
    hits, unreadable, _ = search(clip, photos, query, tmp_path / "index")
    words, cosines = cosines_by_open_clip([hit.path for hit in hits], "a calm evening")
    np.testing.assert_allclose(query, words, atol=1e-5)
    np.testing.assert_allclose([hit.score for hit in hits], cosines, atol=1e-4)
    assert cosines.tolist() == sorted(cosines, reverse=True)
    assert (len(hits), unreadable) == (12, [])


def test_a_second_search_reads_nothing_but_what_is_new(clip, photos, tmp_path):
    folder = shutil.copytree(photos, tmp_path / "photos")
    query = clip.query_text("a calm evening")
    first, _, read = search(clip, folder, query, tmp_path / "index")
    assert read == 12
    again, _, read = search(clip, folder, query, tmp_path / "index")
    assert (again, read) == (first, 0)
    shutil.copyfile(folder / "03.png", folder / "new.png")
    (folder / "00.png").unlink()
    last, _, read = search(clip, folder, query, tmp_path / "index")
    assert (len(last), read) == (12, 1)


def test_an_image_is_nearest_to_itself_and_then_to_its_copy(clip, photos, tmp_path):
    folder = shutil.copytree(photos, tmp_path / "photos")
    Image.open(folder / "05.png").save(folder / "copy.bmp")
    hits, _, _ = search(clip, folder, clip.query_image(photos / "05.png"), tmp_path / "index", count=3)
    assert {hit.path.name for hit in hits[:2]} == {"05.png", "copy.bmp"}
    assert [hit.score for hit in hits[:2]] == pytest.approx([1, 1], abs=1e-3)
    assert hits[2].score < hits[1].score


def test_an_emotion_orders_images_by_what_a_prediction_says_of_them(clip, photos, tmp_path):
    hits, _, _ = search(clip, photos, clip.find_emotion("Awed"), tmp_path / "index", count=4)
    said = {one.path: one for one in clip.predictor.predict(sorted(photos.iterdir()))}
    expected = sorted(said, key=lambda path: -said[path].probabilities["awe"])[:4]
    assert [hit.path for hit in hits] == expected
    assert [hit.score for hit in hits] == pytest.approx(
        [said[path].probabilities["awe"] for path in expected], abs=1e-6
    )
    assert [hit.prediction.predicted for hit in hits] == [said[path].predicted for path in expected]


def test_what_cannot_be_read_has_its_reason_and_is_tried_again(clip, photos, tmp_path):
    folder = shutil.copytree(photos, tmp_path / "photos")
    (folder / "bad.jpg").write_bytes(b"no image")
    (folder / "empty.jpg").touch()
    for _ in range(2):
        hits, unreadable, _ = search(clip, folder, "awe", tmp_path / "index")
        assert [(one.path.name, bool(one.reason)) for one in unreadable] == [("bad.jpg", True), ("empty.jpg", True)]
        assert len(hits) == 12
    shutil.copyfile(folder / "00.png", folder / "bad.jpg")
    assert len(search(clip, folder, "awe", tmp_path / "index")[0]) == 13


def test_a_pretrained_model_finds_by_text_as_its_teacher_reads_it(photos, tmp_path):
    searcher = Searcher.load("demo-pretrained", device="cpu")
    query = searcher.query_text("a calm evening")
    np.testing.assert_allclose(query, cosines_by_open_clip([photos / "00.png"], "a calm evening")[0], atol=1e-5)
    assert len(search(searcher, photos, query, tmp_path / "index")[0]) == 12


@pytest.mark.parametrize("kind", ["folder", "export"])
def test_a_classifier_finds_by_image_or_emotion_and_says_what_finds_by_text(
    kind, finetuned, exported, photos, tmp_path
):
    searcher = Searcher.load(
        finetuned.model if kind == "folder" else exported, device="auto" if kind == "export" else "cpu"
    )
    with pytest.raises(ConfigError, match="shares with texts" if kind == "folder" else "an export, which has no texts"):
        searcher.query_text("a calm evening")
    assert search(searcher, photos, searcher.find_emotion("joy"), tmp_path / "index")[0]
    if searcher.model.width:
        hits, _, _ = search(searcher, photos, searcher.query_image(photos / "00.png"), tmp_path / "index")
        assert hits[0].path.name == "00.png"


def test_a_model_without_features_names_what_it_can_do(clip, photos, monkeypatch):
    monkeypatch.setitem(clip.__dict__, "model", replace(clip.model, width=0))
    with pytest.raises(ConfigError, match="gives no features, so images cannot be compared: give an emotion"):
        clip.query_image(photos / "00.png")


def test_bad_queries_are_named(clip, photos, tmp_path):
    with pytest.raises(ConfigError, match=r"longer than clip:demo reads: shorten it"):
        clip.query_text("calm " * 90)
    with pytest.raises(DataError, match=r"the image .*gone\.jpg cannot be read"):
        clip.query_image(tmp_path / "gone.jpg")
    with pytest.raises(ConfigError, match="did you mean contentment"):
        clip.find_emotion("contentement")
    with pytest.raises(ConfigError, match="it has amusement, awe"):
        clip.find_emotion("zzz")


def test_a_teacher_that_is_not_at_hand_is_an_error_and_no_download(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="RN50"):
        Searcher.load("clip:RN50/openai", device="cpu")


def test_what_was_found_is_a_table_with_scores_and_the_model(clip, photos, tmp_path):
    hits, _, _ = search(clip, photos, "awe", tmp_path / "index", count=3)
    for ending in ("csv", "jsonl", "parquet"):
        clip.write(hits, tmp_path / f"t.{ending}")
    table = pq.read_table(tmp_path / "t.parquet")
    assert table.column_names[:3] == ["path", "score", "predicted"]
    assert table["score"].to_pylist() == [hit.score for hit in hits]
    assert table["p_awe"].to_pylist() == [hit.score for hit in hits]
    assert table.schema.metadata[b"uniemox.model"] == b"clip:demo"
    assert (tmp_path / "t.csv").read_text().startswith("path,score,predicted,confidence,")
    assert hits[0].to_dict()["score"] == hits[0].score
    assert isinstance(hits[0], Hit)


def test_a_model_of_ratings_finds_by_image_but_has_no_emotion(clip, monkeypatch):
    monkeypatch.setattr(type(clip), "columns", ())
    with pytest.raises(ConfigError, match="gives no probabilities of emotions: look for a text or an image"):
        clip.find_emotion("joy")


def test_classes_that_are_given_are_kept(tmp_path):
    searcher = Searcher.load("clip:demo", device="cpu", zero_shot=ZeroShotConfig(classes=("calm", "tense")))
    assert searcher.emotions == ("calm", "tense")
