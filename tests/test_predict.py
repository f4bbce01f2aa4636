import csv
import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config

import uniemox
from uniemox.checkpoints import facts
from uniemox.checkpoints.bundle import save_classifier
from uniemox.checkpoints.facts import ModelFacts
from uniemox.config import PersonConfig
from uniemox.data.boxes import read_boxes
from uniemox.data.images import read_image
from uniemox.data.manifest import Box
from uniemox.data.pixels import EvaluationViews
from uniemox.data.transforms import evaluation
from uniemox.errors import CheckpointError, ConfigError, DataError
from uniemox.models.classify import TwoViewClassifier, build_classifier
from uniemox.predict import Prediction, Predictor, find_pictures, write_predictions

CLASSES = ("awe", "fear", "joy")


@pytest.fixture(scope="module")
def predictor(finetuned):
    return Predictor.load(finetuned.model, device="cpu")


@pytest.fixture
def pictures(painted):
    return sorted((painted.root / "test").rglob("*.png"))


def noisy(path, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_probabilities_are_those_that_timm_gives(predictor, finetuned, pictures):
    model = timm.create_model(f"local-dir:{finetuned.model}", pretrained=True).eval()
    transform = create_transform(**resolve_data_config({}, model=model))
    for prediction in predictor.predict(pictures, batch_size=3):
        with torch.no_grad():
            logits = model(transform(Image.open(prediction.path))[None])
        expected = logits.double().softmax(1)[0].tolist()
        assert list(prediction.probabilities) == list(CLASSES)
        assert list(prediction.probabilities.values()) == pytest.approx(expected, abs=1e-6)
        assert prediction.label == CLASSES[int(np.argmax(expected))]
        assert prediction.confidence == max(prediction.probabilities.values())
        assert sum(prediction.probabilities.values()) == pytest.approx(1, abs=1e-12)
        assert prediction.reason is None


@pytest.mark.parametrize("num_workers", [0, 2])
def test_predictions_come_in_the_order_of_the_files(predictor, pictures, num_workers):
    backwards = pictures[::-1]
    found = list(predictor.predict(backwards, batch_size=2, num_workers=num_workers))
    assert [prediction.path for prediction in found] == backwards


def test_predictions_come_as_they_are_made(predictor, pictures):
    stream = predictor.predict([*pictures, Path("none.png")], batch_size=1)
    assert next(stream).path == pictures[0]


class Stub:
    """A backend that counts what it is asked for, and says of each picture how red it is."""

    facts = types.SimpleNamespace(classes=("red", "other"), view="scene", target="single_label")

    def __init__(self):
        self.prepared = 0
        self.batches = []

    def prepare(self, image):
        self.prepared += 1
        return np.array([image.getpixel((0, 0))[0]], np.float32)

    def logits(self, pixels):
        self.batches.append(len(pixels))
        return np.concatenate([pixels, 1000 - pixels], axis=1)


def test_threads_read_ahead_and_no_more_than_two_batches(tmp_path):
    path, stub, taken = noisy(tmp_path / "a.png"), Stub(), []

    def endless():
        while True:
            taken.append(path)
            yield path

    stream = Predictor(stub).predict(endless(), batch_size=3, num_workers=2)
    next(stream)
    assert len(taken) == 3 + 3 + 2  # one comes in the place of each that went, but for the last
    stream.close()
    assert stub.batches == [3]


@pytest.mark.parametrize("num_workers", [0, 3])
def test_any_logits_give_probabilities_and_the_last_batch_may_be_small(tmp_path, num_workers):
    paths = [noisy(tmp_path / f"{index}.png", seed=index) for index in range(7)]
    stub = Stub()
    found = list(Predictor(stub).predict(paths, batch_size=3, num_workers=num_workers))
    assert stub.batches == [3, 3, 1]
    assert [prediction.path for prediction in found] == paths
    assert {prediction.label for prediction in found} == {"other"}
    assert all(sum(prediction.probabilities.values()) == pytest.approx(1) for prediction in found)


def test_an_error_in_a_thread_comes_out(tmp_path):
    class Broken(Stub):
        def prepare(self, image):
            raise MemoryError

    with pytest.raises(MemoryError):
        list(Predictor(Broken()).predict([noisy(tmp_path / "a.png")] * 9, num_workers=2))


def test_the_module_brings_no_torch():
    code = (
        "import sys, uniemox.predict; print({'torch', 'pyarrow', 'onnxruntime'} & set(sys.modules))"
    )
    environment = {"PYTHONPATH": str(Path(uniemox.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    )
    assert done.stdout == "set()\n"


def test_a_bad_file_is_a_row_with_its_reason(predictor, pictures, tmp_path):
    empty, text, folder = tmp_path / "empty.jpg", tmp_path / "text.png", tmp_path / "folder.png"
    empty.write_bytes(b"")
    text.write_text("hello")
    folder.mkdir()
    cut = tmp_path / "cut.png"
    cut.write_bytes(pictures[0].read_bytes()[:100])
    files = [empty, pictures[0], text, tmp_path / "none.png", pictures[1], folder, cut]
    found = list(predictor.predict(files, batch_size=3))
    assert [prediction.path for prediction in found] == files
    reasons = [prediction.reason for prediction in found]
    assert reasons[:6] == [
        "empty file",
        None,
        "not a picture",
        "no such file or directory",
        None,
        "not a file",
    ]
    assert reasons[6].startswith("damaged PNG")
    for prediction in found:
        assert (prediction.reason is None) == (prediction.label is not None)
        assert (prediction.probabilities is None) == (prediction.confidence is None)
        if prediction.reason is not None:
            assert prediction.label is None
            assert prediction.top(3) == []


def test_bad_files_alone_are_predicted_too(predictor, tmp_path):
    files = [tmp_path / f"{index}.png" for index in range(5)]
    found = list(predictor.predict(files, batch_size=2))
    assert {prediction.reason for prediction in found} == {"no such file or directory"}
    assert list(predictor.predict([])) == []


def test_the_top_is_sorted_by_probability():
    prediction = Prediction(Path("a.png"), "joy", 0.5, {"awe": 0.3, "fear": 0.2, "joy": 0.5})
    assert prediction.top(2) == [("joy", 0.5), ("awe", 0.3)]
    assert [name for name, _ in prediction.top(9)] == ["joy", "awe", "fear"]
    assert prediction.top(0) == []


def test_pictures_in_memory_are_predicted_like_files(predictor, pictures):
    images = [Image.open(path) for path in pictures[:3]]
    images[0] = images[0].convert("RGBA")
    found = predictor.predict_images(images)
    for probabilities, prediction in zip(found, predictor.predict(pictures[:3]), strict=True):
        assert probabilities == pytest.approx(prediction.probabilities, abs=1e-6)


def test_a_model_is_loaded_by_its_folder_or_its_embedded_name(finetuned, monkeypatch, tmp_path):
    monkeypatch.setitem(facts.EMBEDDED, "demo", finetuned.model)
    assert Predictor.load("demo", device="cpu").facts.classes == CLASSES
    assert Predictor.load(str(finetuned.model), device="cpu").facts.dataset == "painted"
    with pytest.raises(CheckpointError, match="there is no model folder"):
        Predictor.load(tmp_path / "none", device="cpu")
    with pytest.raises(ConfigError, match="device is abacus"):
        Predictor.load(finetuned.model, device="abacus")


# People


def build_reader(view, folder):
    """An untrained predictor whose head is far from 0."""
    torch.manual_seed(0)
    plain = build_classifier("mini", patch_size=8, image_size=32, num_classes=3, head_std=0.5)
    both = view == "both"
    known = ModelFacts(
        kind="classifier",
        size="mini",
        patch_size=8,
        image_size=32,
        dataset="painted",
        emotion=None,
        classes=CLASSES,
        view=view,
        fusion="scaled_sum" if both else "none",
        person=PersonConfig(margin=0.2, shape="squeeze"),
    )
    model = TwoViewClassifier(plain, "scaled_sum") if both else plain
    save_classifier(model, folder, known)
    return Predictor.load(folder, device="cpu")


@pytest.fixture(params=["scene", "person", "both"])
def reader(request, tmp_path):
    return build_reader(request.param, tmp_path / "model")


def shares_of(reader, *views):
    """Probabilities that the model gives views, which are pictures or (picture, box) of a crop."""
    prepared = []
    for view in views:
        image, box = view if isinstance(view, tuple) else (view, None)
        if box is None:
            prepared.append(evaluation(32)(image))
            continue
        person = EvaluationViews(size=32, view="person", person=reader.facts.person)
        prepared.append(torch.from_numpy(person(image, [box])[0]))
    with torch.no_grad():
        logits = reader.backend.model(*(view[None] for view in prepared))
    return logits.double().softmax(1)[0].tolist()


BOXES = (Box(4, 6, 20, 38, 0.9), Box(25, 0, 48, 40))


def test_a_picture_gives_a_row_for_the_scene_and_one_for_each_person(reader, tmp_path):
    paths = [noisy(tmp_path / f"{index}.png", seed=index) for index in range(3)]
    people = {paths[0]: BOXES, paths[2]: BOXES[1:]}
    found = list(reader.predict(paths, people=people, batch_size=2))
    scene = () if reader.facts.view == "person" else (None,)
    boxes = [*scene, *BOXES, None, *scene, BOXES[1]]
    assert [prediction.box for prediction in found] == boxes
    rows = [paths[0]] * (len(scene) + 2) + [paths[1]] + [paths[2]] * (len(scene) + 1)
    assert [prediction.path for prediction in found] == rows
    for prediction in found:
        image = read_image(prediction.path)
        person = (image, prediction.box)
        match reader.facts.view:
            case "scene" if prediction.box is not None:
                continue  # below
            case "both":
                expected = shares_of(reader, image, person)
            case _:
                expected = shares_of(reader, person)
        assert list(prediction.probabilities.values()) == pytest.approx(expected, abs=1e-6)


def test_a_model_of_scenes_reads_a_person_as_a_picture_of_it_alone(tmp_path):
    reader = build_reader("scene", tmp_path / "model")
    image = Image.new("RGB", (60, 40), (200, 0, 0))
    image.paste((0, 0, 200), (30, 0, 60, 40))
    image.save(tmp_path / "halves.png")
    people = {tmp_path / "halves.png": [Box(0, 0, 24, 40), Box(36, 0, 60, 40)]}
    _, left, right = reader.predict(people, people=people)
    for prediction, colour in ((left, (200, 0, 0)), (right, (0, 0, 200))):
        expected = shares_of(reader, Image.new("RGB", (32, 32), colour))
        assert list(prediction.probabilities.values()) == pytest.approx(expected, abs=1e-5)


class Seen:
    """A detector that finds somebody in wide pictures, and counts its calls."""

    source = "a test"

    def __init__(self):
        self.sizes = []

    def detect(self, images):
        self.sizes += [image.size for image in images]
        return [BOXES[:1] if image.width == 50 else () for image in images]


@pytest.mark.parametrize("num_workers", [0, 3])
def test_a_detector_sees_each_readable_picture_once_at_its_own_size(reader, tmp_path, num_workers):
    paths = [noisy(tmp_path / f"{index}.png", seed=index) for index in range(4)]
    Image.new("RGB", (30, 90)).save(paths[1])
    paths[2].write_text("no picture")
    detector = Seen()
    found = list(reader.predict(paths, people=detector, num_workers=num_workers, batch_size=3))
    assert sorted(detector.sizes) == [(30, 90), (50, 40), (50, 40)]
    assert [prediction.path for prediction in found if prediction.reason] == [paths[2]]
    assert [prediction.path for prediction in found if prediction.box] == [paths[0], paths[3]]
    given = {paths[0]: BOXES[:1], paths[3]: BOXES[:1]}
    assert found == list(reader.predict(paths, people=given, batch_size=3))


def test_a_box_outside_the_picture_is_a_row_with_its_reason(reader, tmp_path):
    path = noisy(tmp_path / "a.png")
    outside = Box(900, 0, 950, 10)
    *_, last = reader.predict([path], people={path: [outside]})
    assert (last.box, last.label, last.reason) == (
        outside,
        None,
        "the box lies outside the picture",
    )


def test_a_crowd_that_no_picture_shows_is_refused(reader, tmp_path):
    path = noisy(tmp_path / "a.png")
    (row,) = reader.predict([path], people={path: [BOXES[0]] * 257})
    assert row.reason == "257 people are more than 256"


def test_where_no_person_is_known_the_scene_stands_in_and_that_is_told(reader, tmp_path, caplog):
    paths = [noisy(tmp_path / f"{index}.png", seed=index) for index in range(3)]
    list(reader.predict(paths, people={paths[0]: BOXES}))
    told = "the model reads a person, and where there is no box the scene stands in (pictures: 2)"
    assert (told in caplog.text) == (reader.facts.view != "scene")
    caplog.clear()
    alone = list(reader.predict(paths))
    assert ("(pictures: 3)" in caplog.text) == (reader.facts.view != "scene")
    image = read_image(paths[0])
    views = (image, image) if reader.facts.view == "both" else (image,)
    expected = shares_of(reader, *views)
    assert list(alone[0].probabilities.values()) == pytest.approx(expected, abs=1e-6)


def test_people_of_pictures_in_memory_are_predicted_like_those_of_files(reader, tmp_path):
    path = noisy(tmp_path / "a.png")
    rows = [row for row in reader.predict([path], people={path: BOXES}) if row.box]
    image = read_image(path)
    found = reader.predict_images([image, image, image], boxes=[*BOXES, None])
    for shares, row in zip(found, rows, strict=False):
        assert shares == pytest.approx(row.probabilities, abs=1e-6)
    with pytest.raises(DataError, match=r"outside the picture: Box.*the picture has 50 × 40"):
        reader.predict_images([image], boxes=[Box(900, 0, 950, 10)])


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_tables_carry_the_boxes(reader, tmp_path, ending):
    path = noisy(tmp_path / "a.png")
    rows = [row for row in reader.predict([path], people={path: BOXES}) if row.box]
    rows.append(Prediction(path, "awe", 1.0, dict.fromkeys(CLASSES, 0.0)))
    out = tmp_path / f"table{ending}"
    write_predictions(rows, out, CLASSES, people=True)
    if ending == ".jsonl":
        found = [json.loads(line)["box"] for line in out.read_text().splitlines()]
        assert found[0] == {"x0": 4, "y0": 6, "x1": 20, "y1": 38, "score": 0.9}
        assert found[1]["score"] is None
        assert found[2] is None
        return
    names = ["x0", "y0", "x1", "y1", "box_score"]
    if ending == ".parquet":
        found = pq.read_table(out).to_pylist()
    else:
        with out.open(newline="") as file:
            read = list(csv.DictReader(file))
        found = [{k: float(row[k]) if row[k] else None for k in names} for row in read]
    assert [found[0][name] for name in names] == [4, 6, 20, 38, 0.9]
    assert [found[1][name] for name in names] == [25, 0, 48, 40, None]
    assert [found[2][name] for name in names] == [None] * 5


def test_a_table_of_people_is_a_file_of_their_boxes(reader, tmp_path):
    paths = [noisy(tmp_path / f"{name}.png", seed=seed) for seed, name in enumerate("abc")]
    paths[2].write_text("no picture")
    people = {paths[0]: BOXES}
    out = tmp_path / "table.csv"
    write_predictions(reader.predict(paths, people=people), out, CLASSES, people=True)
    read = read_boxes(out)
    assert read.people == {str(paths[0]): [*BOXES], str(paths[1]): []}
    assert [problem.kind for problem in read.problems] == ["picture that could not be read"]


# Finding


def test_folders_are_walked_in_order_and_files_are_taken_as_they_are(tmp_path):
    for name in ("b/2.png", "b/10.JPG", "a/z.webp", "a/y/x.gif", "c.bmp", "notes.txt", "b/.hidden"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    text = tmp_path / "in" / "notes.txt"
    found = find_pictures([text, tmp_path / "in", tmp_path / "in" / "c.bmp"])
    names = [path.relative_to(tmp_path / "in").as_posix() for path in found]
    assert names == ["notes.txt", "a/y/x.gif", "a/z.webp", "b/10.JPG", "b/2.png", "c.bmp", "c.bmp"]


def test_links_to_folders_are_not_followed(tmp_path):
    (tmp_path / "in").mkdir()
    noisy(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    assert find_pictures([tmp_path / "in"]) == [tmp_path / "in" / "a.png"]


def test_what_is_not_there_is_told(tmp_path):
    with pytest.raises(DataError, match=r"there is no file or folder .*none\.jpg"):
        find_pictures([tmp_path / "none.jpg"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty has no picture below it \(looked for \.bmp, "):
        find_pictures([tmp_path / "empty"])


# Writing

HOSTILE = [
    "plain.png",
    'quo"te.png',
    "com,ma;.png",
    "line\nbreak\r.png",
    "=cmd|' .png",
    "ünïcödé 漢字.png",
    os.fsdecode(b"latin1-\xe9\xff.png"),
]


@pytest.fixture
def hostile(predictor, tmp_path):
    """Predictions of files with every kind of name, one of which is no picture."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    paths = [noisy(folder / name, seed=index) for index, name in enumerate(HOSTILE)]
    bad = folder / "bad.png"
    bad.write_bytes(b"")
    return list(predictor.predict([*paths, bad]))


def test_a_table_of_commas_keeps_every_name(hostile, tmp_path):
    out = tmp_path / "table.csv"
    assert write_predictions(hostile, out, CLASSES) == len(hostile)
    with out.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "label", "confidence", "p_awe", "p_fear", "p_joy", "reason"]
    assert [row["path"] for row in rows] == [str(prediction.path) for prediction in hostile]
    for row, prediction in zip(rows[:-1], hostile, strict=False):
        assert row["label"] == prediction.label
        assert float(row["p_fear"]) == prediction.probabilities["fear"]
        assert row["reason"] == ""
    assert list(rows[-1].values())[1:] == ["", "", "", "", "", "empty file"]


def test_lines_of_json_keep_every_name(hostile, tmp_path):
    out = tmp_path / "table.JSONL"
    assert write_predictions(hostile, out, CLASSES) == len(hostile)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert rows == [prediction.to_dict() for prediction in hostile]
    assert rows[-1] == {
        "path": str(hostile[-1].path),
        "label": None,
        "confidence": None,
        "probabilities": None,
        "reason": "empty file",
        "box": None,
    }


def test_parquet_keeps_types_and_every_name_that_is_text(hostile, tmp_path):
    out = tmp_path / "table.parquet"
    assert write_predictions(iter(hostile), out, CLASSES) == len(hostile)
    table = pq.read_table(out)
    assert [str(field.type) for field in table.schema] == ["string"] * 2 + ["double"] * 4 + [
        "string"
    ]
    paths = table["path"].to_pylist()
    assert paths[:6] == [str(prediction.path) for prediction in hostile[:6]]
    assert paths[6].endswith("latin1-\ufffd\ufffd.png")
    assert table["confidence"].to_pylist() == [prediction.confidence for prediction in hostile]


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_an_empty_table_has_its_columns(tmp_path, ending):
    out = tmp_path / f"table{ending}"
    assert write_predictions([], out, CLASSES) == 0
    if ending == ".csv":
        assert out.read_text().strip() == "path,label,confidence,p_awe,p_fear,p_joy,reason"
    if ending == ".parquet":
        assert pq.read_table(out).num_columns == 7


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_table_is_whole_or_not_there(hostile, tmp_path, ending, error):
    out = tmp_path / f"table{ending}"
    out.write_text("the old table")

    def broken():
        yield hostile[0]
        raise error

    expected = DataError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as told:
        write_predictions(broken(), out, CLASSES)
    if expected is DataError:
        assert str(told.value) == (
            f"{out} cannot be written ([Errno 28] No space left on device): free space or choose another --out"
        )
    assert out.read_text() == "the old table"
    assert {path.name for path in tmp_path.iterdir()} == {"pictures", out.name}


def test_another_ending_is_refused(tmp_path):
    for name, said in (("table.xlsx", r"ends in \.xlsx"), ("table", "ends in nothing")):
        with pytest.raises(
            DataError, match=rf"{said}, but must end in \.csv, \.jsonl or \.parquet"
        ):
            write_predictions([], tmp_path / name, CLASSES)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(DataError, match=r"none/table\.csv cannot be written"):
        write_predictions([], tmp_path / "none" / "table.csv", CLASSES)


def test_a_damaged_model_is_told_before_any_picture_is_read(finetuned, tmp_path):
    folder = shutil.copytree(finetuned.model, tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        Predictor.load(folder, device="cpu")
