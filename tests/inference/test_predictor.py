import errno
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
import threading
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data import create_transform, resolve_data_config

import uniemox
from uniemox.checkpoints.facts import ModelFacts
from uniemox.checkpoints.folder import save_model
from uniemox.checkpoints.open import EMBEDDED
from uniemox.config.people import PersonConfig
from uniemox.data.pixels import EvaluationViews
from uniemox.data.transforms import evaluation
from uniemox.errors import CheckpointError, ConfigError, DataError
from uniemox.files.images import Unreadable, read_image
from uniemox.inference.predictor import Named, Prediction, Predictor, find_images
from uniemox.inference.tables import SUFFIXES, write_predictions
from uniemox.manifests.table import Box
from uniemox.models.classify import TwoViewClassifier, build_classifier
from uniemox.people.regions import person_region
from uniemox.targets.valence_arousal import ValenceArousal

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
        assert prediction.predicted == CLASSES[int(np.argmax(expected))]
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
    """A backend that counts what it is asked for, and says of each image how red it is."""

    def __init__(self):
        kind = {"view": "scene", "target": "single_label", "kept": {}}
        self.facts = types.SimpleNamespace(classes=("red", "other"), views=self, **kind)
        self.domain, self.batches = None, []

    resized_side = 9

    def of(self, image, box):
        return np.array([image.getpixel((0, 0))[0]], np.float32)

    def logits(self, pixels):
        self.batches.append(len(pixels))
        return np.concatenate([pixels, 1000 - pixels], axis=1)

    def outputs(self, pixels):
        return self.logits(pixels), None


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
    assert {prediction.predicted for prediction in found} == {"other"}
    assert all(sum(prediction.probabilities.values()) == pytest.approx(1) for prediction in found)


def test_an_error_in_a_thread_comes_out(tmp_path):
    class Broken(Stub):
        def of(self, image, box):
            raise MemoryError

    with pytest.raises(MemoryError):
        list(Predictor(Broken()).predict([noisy(tmp_path / "a.png")] * 9, num_workers=2))


def test_the_module_brings_no_torch():
    code = "import sys, uniemox.inference.predictor; print({'torch', 'pyarrow', 'onnxruntime'} & set(sys.modules))"
    environment = {"PYTHONPATH": str(Path(uniemox.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
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
    assert reasons[:5] == ["empty file", None, "not an image", "no such file or directory", None]
    assert reasons[5].startswith(f"the folder {folder} has no image below it")
    assert reasons[6].startswith("damaged PNG")
    for prediction in found:
        assert (prediction.reason is None) == (prediction.predicted is not None)
        assert (prediction.probabilities is None) == (prediction.confidence is None)
        if prediction.reason is not None:
            assert prediction.predicted is None
            assert prediction.top(3) == []


def test_bad_files_alone_are_predicted_too(predictor, tmp_path):
    files = [tmp_path / f"{index}.png" for index in range(5)]
    found = list(predictor.predict(files, batch_size=2))
    assert {prediction.reason for prediction in found} == {"no such file or directory"}
    assert list(predictor.predict([])) == []


def test_the_top_is_sorted_by_probability():
    prediction = Prediction(Path("a.png"), {"probabilities": {"awe": 0.3, "fear": 0.2, "joy": 0.5}})
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
    monkeypatch.setitem(EMBEDDED, "demo", finetuned.model)
    assert Predictor.load("demo", device="cpu").facts.classes == CLASSES
    assert Predictor.load(str(finetuned.model), device="cpu").facts.dataset == "painted"
    with pytest.raises(CheckpointError, match="no model folder at"):
        Predictor.load(tmp_path / "none", device="cpu")
    with pytest.raises(ConfigError, match="device is abacus"):
        Predictor.load(finetuned.model, device="abacus")


# Kinds of images

KINDS = {
    "Path": lambda path: path,
    "str": str,
    "bytes": Path.read_bytes,
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "memoryview": lambda path: memoryview(path.read_bytes()),
    "open file": lambda path: path.open("rb"),
    "BytesIO": lambda path: io.BytesIO(path.read_bytes()),
    "opened image": Image.open,
    "RGBA image": lambda path: Image.open(path).convert("RGBA"),
    "array": lambda path: np.asarray(Image.open(path).convert("RGB")),
}
FILES = ("Path", "str")
every_kind = pytest.mark.parametrize("kind", KINDS)


def closed_file():
    file = io.BytesIO(b"")
    file.close()
    return file


class WithoutData:
    def read(self, size=-1, /):
        raise OSError(errno.EIO, "gone")


class WriteOnly:
    def read(self, size=-1, /):
        raise io.UnsupportedOperation("read")


class Camera:
    """As OpenCV has one: a read gives whether there is an image, and the image."""

    def read(self):
        return True, np.zeros((4, 5, 3), np.uint8)


class AsText:
    """As `NamedTemporaryFile("w+")` gives one, which is no stream of Python's own."""

    def read(self, size=-1, /):
        return "text"


def closed_after(inputs):
    for given in inputs:
        if isinstance(given, io.IOBase | Image.Image):
            given.close()


def shares(predictions):
    return [list(prediction.probabilities.values()) for prediction in predictions]


@every_kind
def test_one_image_of_any_kind_gives_one_prediction(predictor, pictures, kind):
    given = KINDS[kind](pictures[0])
    (found,) = predictor.predict(given)
    closed_after([given])
    (expected,) = predictor.predict([pictures[0]])
    assert found.probabilities == expected.probabilities
    assert found.path == (pictures[0] if kind in FILES else None)
    assert found.index == 0


@every_kind
@pytest.mark.parametrize("as_stream", [list, tuple, iter, lambda given: (each for each in given)])
def test_many_images_of_any_kind_are_predicted_in_order(predictor, pictures, kind, as_stream):
    given = [KINDS[kind](path) for path in pictures]
    found = list(predictor.predict(as_stream(given), batch_size=3))
    closed_after(given)
    assert shares(found) == shares(predictor.predict(pictures, batch_size=3))
    assert [prediction.index for prediction in found] == list(range(len(pictures)))


@pytest.mark.parametrize("num_workers", [0, 3])
def test_kinds_may_be_mixed_and_keep_their_order(predictor, pictures, num_workers):
    paths = [pictures[index % len(pictures)] for index in range(3 * len(KINDS))]
    given = [list(KINDS.values())[i % len(KINDS)](path) for i, path in enumerate(paths)]
    found = list(predictor.predict(given, batch_size=4, num_workers=num_workers))
    closed_after(given)
    assert shares(found) == shares(predictor.predict(paths, batch_size=4))


def test_an_array_of_images_is_many(predictor, pictures):
    images = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in pictures])
    assert shares(predictor.predict(images)) == shares(predictor.predict(pictures))
    names = np.array([str(path) for path in pictures])
    assert [prediction.path for prediction in predictor.predict(names)] == pictures


def test_one_opened_image_is_given_to_many_threads(predictor, pictures):
    with Image.open(pictures[0]) as image:
        found = list(predictor.predict([image] * 20, num_workers=4, batch_size=5))
    assert len({tuple(share) for share in shares(found)}) == 1


def test_the_exif_orientation_of_an_opened_image_is_applied_as_to_its_file(predictor, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.png"
    Image.open(noisy(tmp_path / "a.png")).save(path, exif=exif)
    with Image.open(path) as image:
        as_image = shares(predictor.predict(image))
        (in_batch,) = predictor.predict_images([image])
    assert as_image == shares(predictor.predict(path))
    assert as_image != shares(predictor.predict(tmp_path / "a.png"))
    assert list(in_batch.values()) == as_image[0]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (b"", "empty file"),
        (b"hello", "not an image"),
        (b"\xff\xd8\xff\xe0 no more", "damaged JPEG: "),
        (io.BytesIO(b"GIF"), "not an image"),
        (np.zeros((4, 5, 3)), "array of float64 and shape (4, 5, 3), but only uint8 of"),
        (np.array([["a.png"]]), "array of <U5 and shape (1, 1), but only uint8 of"),
        (np.ma.masked_array(np.zeros((4, 5, 3), np.uint8)), "a masked array: fill what is masked"),
        (closed_file(), "I/O operation on closed file"),
        (WithoutData(), "input/output error"),
        (Named(Path("x.zip/a.png"), Unreadable("encrypted")), "encrypted"),
        (Named(Path("x.zip/a.png"), lambda: b""), "empty file"),
        ("", "not a file"),
        ("none.png", "no such file or directory"),
        ("a\0b", "not a file name"),
        (300 * "a" + ".png", "file name too long"),
        (WriteOnly(), "a file that is not open for reading"),
        ("https://example.com/a.jpg", "a URL, which is not fetched: download it first"),
        ("s3://bucket/a.jpg", "a URL, which is not fetched: download it first"),
    ],
)
def test_what_cannot_be_read_is_a_row_with_its_reason_among_others(predictor, pictures, given, reason):
    first, bad, last = predictor.predict([pictures[0], given, pictures[1]])
    assert bad.reason.startswith(reason)
    assert (bad.predicted, bad.probabilities) == (None, None)
    assert first.predicted is not None
    assert last.predicted is not None
    assert json.loads(json.dumps(bad.to_dict()))["reason"] == bad.reason


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (None, "input 0 is of type NoneType, and nothing that an image is read from: give a path, "),
        (5, "input 0 is of type int, and nothing "),
        (math.nan, "input 0 is of type float, and nothing "),
        (object(), "input 0 is of type object, and nothing "),
        (io.StringIO("a.png"), "input 0 is of type StringIO, a file that is opened as text: open it with mode 'rb'"),
        (AsText(), "input 0 is of type AsText, a file that is opened as text: open it with mode 'rb'"),
        ({"a": "a.png"}, "input 0 is of type dict, a mapping: give its paths or its images"),
        (type("DataFrame", (list,), {})(), "input 0 is of type DataFrame, a table: give its column of paths"),
        (zipfile.ZipFile(io.BytesIO(), "w"), "input 0 is of type ZipFile, and nothing that an image is read from"),
        (Camera(), "input 0 is of type Camera, and nothing that an image is read from"),
        (io.BytesIO, "input 0 is of type type, and nothing that an image is read from"),
    ],
)
def test_what_can_be_no_image_is_an_error_of_one_line(predictor, given, told):
    for inputs in (given, [given]):
        with pytest.raises(DataError, match=re.escape(told)) as error:
            list(predictor.predict(inputs))
        assert "\n" not in str(error.value)
    with pytest.raises(DataError, match=re.escape(told)):
        predictor.predict_images([given])


@pytest.mark.parametrize("nested", [["b.png"], ("b.png",), {"b.png"}, []])
def test_a_list_in_a_list_is_an_error_that_says_which(predictor, pictures, nested):
    told = f"input 1 is of type {type(nested).__name__}, a list in the list of images: give one flat list"
    with pytest.raises(DataError, match=told):
        list(predictor.predict([pictures[0], nested]))


@pytest.mark.parametrize("none", [[], (), iter(()), np.zeros((0, 4, 5, 3), np.uint8)])
def test_of_no_images_there_are_no_predictions(predictor, none):
    assert list(predictor.predict(none)) == []


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_error_of_the_stream_of_images_comes_out_as_it_is(predictor, pictures, num_workers):
    def stream():
        yield from pictures[:3]
        raise OSError("the camera is gone")

    predictions = predictor.predict(stream(), batch_size=1, num_workers=num_workers)
    with pytest.raises(OSError, match="the camera is gone"):
        list(predictions)
    assert list(predictions) == []
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("read")]


class Series:
    """A column as pandas and polars have it: it can be iterated over, and is no sequence."""

    def __init__(self, *values):
        self.values = values

    def __iter__(self):
        return iter(self.values)


def test_a_column_of_a_table_is_its_values(predictor, pictures):
    column = Series(str(pictures[0]), pictures[1].read_bytes(), "none.png")
    assert [row.path for row in predictor.predict(column)] == [pictures[0], None, Path("none.png")]
    with pytest.raises(DataError, match="input 1 is of type float"):
        list(predictor.predict(Series(str(pictures[0]), math.nan)))


def test_a_column_whose_rows_are_called_read_is_its_values_too(predictor, pictures):
    column = Series(str(pictures[0]))
    column.read = "as pandas gives a label"
    assert [row.path for row in predictor.predict(column)] == [pictures[0]]


class Wrapped:
    """A file that passes on what another has, as that of `NamedTemporaryFile` does, and is its lines as well."""

    def __init__(self, file):
        self.file = file

    def __iter__(self):
        return iter(self.file)

    def __getattr__(self, name):
        return getattr(self.file, name)


def test_a_file_that_wraps_another_is_one_image(predictor, pictures):
    with pictures[0].open("rb") as file:
        assert shares(predictor.predict(Wrapped(file))) == shares(predictor.predict(pictures[0]))


def test_entries_of_a_folder_listed_by_bytes_are_paths(predictor, pictures):
    found = {row.path for row in predictor.predict(os.scandir(os.fsencode(pictures[0].parent)))}
    assert found == set(pictures[0].parent.iterdir())


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"batch_size": -1}, {"num_workers": -1}])
def test_a_size_out_of_range_is_an_error_and_not_an_empty_answer(predictor, pictures, options):
    with pytest.raises(ConfigError, match="but must be at least"):
        list(predictor.predict(pictures, **options))


def test_a_model_without_probabilities_says_so_where_they_are_asked_for(predictor, pictures, monkeypatch):
    monkeypatch.setattr(predictor, "target", ValenceArousal(("valence", "arousal")))
    with pytest.raises(ConfigError, match="the model gives valence_arousal and no probabilities: use `predict`"):
        predictor.predict_images(pictures[:1])


def test_boxes_are_as_many_as_images(predictor, pictures):
    with pytest.raises(ConfigError, match="`boxes` has 2 entries for 1 image"):
        predictor.predict_images(pictures[:1], boxes=[None, None])


class InPieces:
    """A file of another library: of one read comes a piece, as of a socket."""

    def __init__(self, data):
        self.left = io.BytesIO(data)

    def read(self, size=-1, /):
        return self.left.read(100 if size < 0 else min(size, 100))


def test_a_file_of_which_a_read_gives_a_piece_is_read_to_its_end(predictor, pictures):
    data = pictures[0].read_bytes()
    assert len(data) > 300
    assert shares(predictor.predict(InPieces(data))) == shares(predictor.predict(data))


def test_a_file_that_never_ends_is_given_up(predictor, monkeypatch):
    monkeypatch.setattr("uniemox.inference.opening.MAX_BYTES", 1000)
    with Path("/dev/zero").open("rb") as file:
        (found,) = predictor.predict(file)
    assert found.reason == "more than 1000 bytes"


class AnyPath(os.PathLike):
    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return str(self.path)


def test_whatever_is_like_a_path_is_one(predictor, pictures):
    (found,) = predictor.predict(AnyPath(pictures[0]))
    assert (found.path, found.reason) == (pictures[0], None)


# Folders


def test_a_folder_means_the_images_below_it_which_share_its_index(predictor, pictures, tmp_path, caplog):
    folder = tmp_path / "some"
    (folder / "@eaDir").mkdir(parents=True)
    (folder / "in").mkdir()
    for name in ("in/b.png", "a.png", "@eaDir/thumb.png"):
        (folder / name).write_bytes(pictures[0].read_bytes())
    (folder / "notes.txt").touch()
    found = list(predictor.predict([pictures[1], folder, "none.png"]))
    assert [(row.index, row.path) for row in found] == [
        (0, pictures[1]),
        (1, folder / "a.png"),
        (1, folder / "in" / "b.png"),
        (2, Path("none.png")),
    ]
    assert "skipped 1 folder or file that a system or a program keeps" in caplog.text
    for one in (folder, str(folder), AnyPath(folder)):
        assert [row.path for row in predictor.predict(one)] == [folder / "a.png", folder / "in" / "b.png"]


def test_a_folder_without_an_image_is_a_row_with_its_reason(predictor, pictures, tmp_path):
    (tmp_path / "empty").mkdir()
    bad, good = predictor.predict([tmp_path / "empty", pictures[0]])
    assert (bad.path, bad.index) == (tmp_path / "empty", 0)
    assert bad.reason.startswith(f"the folder {tmp_path / 'empty'} has no image below it")
    assert good.predicted is not None


def test_an_image_with_a_name_has_its_path_its_time_and_its_row_in_tables(predictor, pictures, tmp_path):
    pixels = np.asarray(Image.open(pictures[0]).convert("RGB"))
    given = [
        Named(Path("x.zip/a.png"), pictures[0].read_bytes),
        Named(Path("x.mp4"), pixels, time=1.5),
        Named(pictures[0], row=7),
        pictures[0],
    ]
    found = list(predictor.predict(given, num_workers=2))
    assert len({tuple(share) for share in shares(found)}) == 1
    assert [(row.path, row.time, row.row) for row in found] == [
        (Path("x.zip/a.png"), None, None),
        (Path("x.mp4"), 1.5, None),
        (pictures[0], None, 7),
        (pictures[0], None, None),
    ]
    assert (found[1].to_dict()["time"], found[2].cells()["row"]) == (1.5, 7)
    assert "time" not in found[0].to_dict()
    assert "row" not in found[0].to_dict()


def test_an_image_in_memory_has_no_path_in_json_and_in_tables(predictor, pictures, tmp_path):
    rows = list(predictor.predict(Image.open(pictures[0])))
    assert rows[0].to_dict()["path"] is None
    for ending in SUFFIXES:
        assert write_predictions(rows, tmp_path / f"t{ending}", predictor.target) == 1


@every_kind
def test_a_few_images_are_predicted_in_one_call(predictor, pictures, kind):
    given = [KINDS[kind](path) for path in pictures[:3]]
    found = predictor.predict_images(given)
    closed_after(given)
    assert [list(each.values()) for each in found] == shares(predictor.predict(pictures[:3]))
    assert predictor.predict_images([]) == []


def test_an_image_among_a_few_that_cannot_be_read_is_told_by_its_place(predictor, pictures):
    with pytest.raises(DataError, match="image 1 cannot be read: not an image"):
        predictor.predict_images([pictures[0], b"hello"])


# Groups


@pytest.mark.parametrize("num_workers", [0, 3])
def test_no_batch_reaches_over_the_end_of_a_group(tmp_path, num_workers):
    paths = [noisy(tmp_path / f"{index}.png", seed=index) for index in range(10)]
    stub = Stub()
    groups = [paths[:4], iter(paths[4:5]), paths[5:]]
    found = [
        [prediction.index for prediction in group]
        for group in Predictor(stub).predict_groups(groups, batch_size=3, num_workers=num_workers)
    ]
    assert found == [[0, 1, 2, 3], [4], [5, 6, 7, 8, 9]]
    assert stub.batches == [3, 1, 1, 3, 2]


def test_threads_read_ahead_over_the_ends_of_groups(tmp_path):
    path, taken = noisy(tmp_path / "a.png"), []

    def group():
        for _ in range(2):
            taken.append(path)
            yield path

    groups = Predictor(Stub()).predict_groups((group() for _ in range(100)), batch_size=2, num_workers=2)
    list(next(groups))
    assert 4 <= len(taken) <= 8


def test_what_comes_of_a_group_depends_on_it_alone(predictor, pictures):
    groups = [pictures[:5], pictures[5:]]
    together = [list(group) for group in predictor.predict_groups(groups, batch_size=2)]
    (alone,) = map(list, predictor.predict_groups(groups[1:], batch_size=2))
    assert shares(together[1]) == shares(alone)


# What a model is


def test_the_digest_is_of_what_shapes_the_answers(finetuned, exported, tmp_path):
    def digest(path):
        return Predictor.load(path, device="cpu").digest()

    first = digest(finetuned.model)
    moved = shutil.copytree(finetuned.model, tmp_path / "moved")
    config = json.loads((moved / "config.json").read_text())
    config["uniemox"]["metrics"] = {"test_top1": 0.5}
    (moved / "config.json").write_text(json.dumps(config))
    assert digest(moved) == first
    state = load_file(moved / "model.safetensors")
    name = sorted(state)[0]
    state[name].view(-1)[0] += 1
    save_file(state, moved / "model.safetensors")
    others = {digest(moved), digest(exported), digest("demo")}
    shutil.copytree(finetuned.model, tmp_path / "renamed")
    config["label_names"] = config["uniemox"]["classes"] = ["a", "b", "c"]
    (tmp_path / "renamed" / "config.json").write_text(json.dumps(config))
    others.add(digest(tmp_path / "renamed"))
    assert len(others - {first}) == 4
    assert all(re.fullmatch("[0-9a-f]{64}", each) for each in others)


@pytest.mark.parametrize("dataset", ["drawn6", "painted"])
def test_a_model_that_knows_drawings_alone_says_so_once(finetuned, tmp_path, caplog, dataset):
    folder = shutil.copytree(finetuned.model, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["uniemox"]["dataset"] = dataset
    (folder / "config.json").write_text(json.dumps(config))
    predictor = Predictor.load(folder, device="cpu")
    list(predictor.predict([b"", b""]))
    told = f"{folder} was trained on drawings alone and knows nothing of photographs: take a CLIP"
    assert caplog.text.count(told) == (dataset == "drawn6")


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
    save_model(model, folder, known)
    return Predictor.load(folder, device="cpu")


@pytest.fixture(params=["scene", "person", "both"])
def reader(request, tmp_path):
    return build_reader(request.param, tmp_path / "model")


def shares_of(reader, *views):
    """Probabilities that the model gives views, which are images or (image, box) of a crop."""
    prepared = []
    for view in views:
        image, box = view if isinstance(view, tuple) else (view, None)
        if box is None:
            prepared.append(evaluation(32)(image))
            continue
        person = EvaluationViews(size=32, view="person", person=reader.facts.person)
        region = person_region([box], reader.facts.person, width=image.width, height=image.height)
        prepared.append(torch.from_numpy(person.cut(image, region)[0]))
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
    _, left, right = reader.predict(list(people), people=people)
    for prediction, colour in ((left, (200, 0, 0)), (right, (0, 0, 200))):
        expected = shares_of(reader, Image.new("RGB", (32, 32), colour))
        assert list(prediction.probabilities.values()) == pytest.approx(expected, abs=1e-5)


class Seen:
    """A detector that finds somebody in wide images, and counts its calls."""

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
    paths[2].write_text("no image")
    detector = Seen()
    found = list(reader.predict(paths, people=detector, num_workers=num_workers, batch_size=3))
    assert sorted(detector.sizes) == [(30, 90), (50, 40), (50, 40)]
    assert [prediction.path for prediction in found if prediction.reason] == [paths[2]]
    assert [prediction.path for prediction in found if prediction.box] == [paths[0], paths[3]]
    given = {paths[0]: BOXES[:1], paths[3]: BOXES[:1]}
    assert found == list(reader.predict(paths, people=given, batch_size=3))


@pytest.mark.parametrize("key", [Path, str, lambda path: f"{path.parent}/./{path.name}"])
@pytest.mark.parametrize("given", [Path, str])
def test_people_are_found_by_paths_however_they_are_written(reader, tmp_path, key, given):
    paths = [noisy(tmp_path / f"{index}.png", seed=index) for index in range(2)]
    expected = list(reader.predict(paths, people={paths[1]: BOXES}))
    people = {key(paths[1]): BOXES}
    assert list(reader.predict(map(given, paths), people=people)) == expected
    assert any(row.box for row in expected)


def test_a_detector_looks_at_images_in_memory_and_each_row_says_whose_it_is(reader, tmp_path):
    paths = [noisy(tmp_path / f"{index}.png", seed=index) for index in range(3)]
    given = [paths[0].read_bytes(), Image.open(paths[1]), np.asarray(Image.open(paths[2]))]
    found = list(reader.predict(given, people=Seen()))
    expected = list(reader.predict(paths, people=Seen()))
    assert shares(found) == shares(expected)
    assert [(row.index, row.box) for row in found] == [(row.index, row.box) for row in expected]
    assert {row.index for row in found if row.box} == {0, 1, 2}


def test_a_box_outside_the_picture_is_a_row_with_its_reason(reader, tmp_path):
    path = noisy(tmp_path / "a.png")
    outside = Box(900, 0, 950, 10)
    *_, last = reader.predict([path], people={path: [outside]})
    assert (last.box, last.predicted, last.reason) == (outside, None, "the box lies outside the image")


def test_a_crowd_that_no_picture_shows_is_refused(reader, tmp_path):
    path = noisy(tmp_path / "a.png")
    (row,) = reader.predict([path], people={path: [BOXES[0]] * 257})
    assert row.reason == "257 people are more than 256"


def test_where_no_person_is_known_the_scene_stands_in_and_that_is_told(reader, tmp_path, caplog):
    paths = [noisy(tmp_path / f"{index}.png", seed=index) for index in range(3)]
    list(reader.predict(paths, people={paths[0]: BOXES}))
    told = "the model reads a person, and where there is no box the whole image is used instead (images: 2)"
    assert (told in caplog.text) == (reader.facts.view != "scene")
    caplog.clear()
    alone = list(reader.predict(paths))
    assert ("(images: 3)" in caplog.text) == (reader.facts.view != "scene")
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
    with pytest.raises(DataError, match=r"outside the image: Box.*the image has 50 × 40"):
        reader.predict_images([image], boxes=[Box(900, 0, 950, 10)])


# Finding


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/a.jpg",
        "http://example.com",
        "s3://bucket/a.jpg",
        "hf://datasets/org/name/a.jpg",
        "gs://bucket",
        "file:///a.jpg",
    ],
)
def test_a_url_is_named_as_one_and_not_fetched(url):
    told = re.escape(url.replace(":///", "://"))
    with pytest.raises(DataError, match=rf"{told} is a URL, which is not fetched: download it"):
        find_images([Path(url)])


def test_a_folder_that_looks_like_a_url_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "https:" / "a").mkdir(parents=True)
    noisy(tmp_path / "https:" / "a" / "b.png")
    assert find_images([Path("https://a/b.png")]) == [Path("https:/a/b.png")]


def test_folders_are_walked_in_order_and_files_are_taken_as_they_are(tmp_path):
    for name in ("b/2.png", "b/10.JPG", "a/z.webp", "a/y/x.gif", "c.bmp", "notes.txt", "b/.hidden"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    text = tmp_path / "in" / "notes.txt"
    found = find_images([text, tmp_path / "in", tmp_path / "in" / "c.bmp"])
    names = [path.relative_to(tmp_path / "in").as_posix() for path in found]
    assert names == ["notes.txt", "a/y/x.gif", "a/z.webp", "b/10.JPG", "b/2.png", "c.bmp", "c.bmp"]


def test_links_to_folders_are_not_followed(tmp_path):
    (tmp_path / "in").mkdir()
    noisy(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    assert find_images([tmp_path / "in"]) == [tmp_path / "in" / "a.png"]


def test_what_is_not_there_is_told(tmp_path):
    with pytest.raises(DataError, match=r"no file or folder at .*none\.jpg"):
        find_images([tmp_path / "none.jpg"])
    with pytest.raises(DataError, match=r"no file or folder at C:/none"):
        find_images([Path("C:/none")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty has no image below it \(looked for \.bmp, "):
        find_images([tmp_path / "empty"])


def test_a_damaged_model_is_told_before_any_picture_is_read(finetuned, tmp_path):
    folder = shutil.copytree(finetuned.model, tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        Predictor.load(folder, device="cpu")


def test_of_a_folder_what_systems_keep_is_left_out_and_told_and_what_is_not_read_has_a_row(tmp_path, caplog):
    for name in ("a.jpg", "b.HEIC", "@eaDir/a.jpg/THUMB.jpg", "sub/__MACOSX/._c.jpg", "sub/c.JXL", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with caplog.at_level("WARNING"):
        found = find_images([tmp_path])
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["a.jpg", "b.HEIC", "sub/c.JXL"]
    (line,) = caplog.messages
    assert line.startswith(f"skipped 2 folders and files that a system or a program keeps in {tmp_path}: ")


# Hiding people


def person_in_grey():
    image = Image.new("RGB", (32, 32), (90, 90, 90))
    image.paste((255, 0, 0), (4, 4, 12, 12))
    return image


def test_masked_people_are_filled_from_around_them_and_an_image_has_one_row(red_inside, tmp_path):
    path = tmp_path / "a.png"
    person_in_grey().save(path)
    Image.new("RGB", (32, 32), (90, 90, 90)).save(tmp_path / "grey.png")
    people = {path: [Box(4, 4, 12, 12)]}
    (masked,) = red_inside().predict(path, people=people, mask_people=True)
    (grey,) = red_inside().predict(tmp_path / "grey.png")
    assert masked.probabilities == grey.probabilities
    assert masked.box is None
    (covered,) = red_inside().predict(path, people={path: [Box(0, 0, 32, 32)]}, mask_people=True)
    assert (covered.answer, covered.reason) == (None, "the people cover the whole image")


def test_an_explained_row_says_what_hiding_people_and_scene_changes(red_inside, tmp_path):
    path, empty = tmp_path / "a.png", tmp_path / "b.png"
    person_in_grey().save(path)
    person_in_grey().save(empty)
    whole, person, nobody = red_inside().predict([path, empty], people={path: [Box(4, 4, 12, 12)]}, explain=True)
    assert whole.answer["hiding_people"] < -0.05
    assert whole.answer["hiding_scene"] == 0
    assert whole.answer["hiding_agrees"] is True
    assert person.box == Box(4, 4, 12, 12)
    assert nobody.answer["hiding_people"] is nobody.answer["hiding_agrees"] is None
    plain = list(red_inside().predict([path, empty], people={path: [Box(4, 4, 12, 12)]}))
    assert [one.probabilities for one in plain] == [one.probabilities for one in (whole, person, nobody)]


@pytest.mark.parametrize(
    ("view", "people", "asked", "message"),
    [
        ("scene", None, {"mask_people": True}, "`mask_people` hides people: give `people`"),
        ("scene", None, {"explain": True}, "`explain` hides people: give `people`"),
        ("scene", {}, {"mask_people": True, "explain": True}, "`explain` hides people in turn: omit `mask_people`"),
        ("person", {}, {"mask_people": True}, "the model reads persons, and `mask_people` hides them"),
    ],
)
def test_hiding_that_cannot_be_is_refused(red_inside, view, people, asked, message):
    with pytest.raises(ConfigError, match=message):
        list(red_inside(view=view).predict(person_in_grey(), people=people, **asked))
