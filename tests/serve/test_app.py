"""The routes: the same answers as in Python, and a status for everything else."""

import base64
import io
import json
import threading
import time
from concurrent.futures import CancelledError

import numpy as np
import pytest
from PIL import Image

from uniemox.files.images import Unreadable
from uniemox.inference.predictor import Predictor
from uniemox.serve.app import name_of
from uniemox.serve.requests import Options

PNG = {"Content-Type": "image/png"}


def test_every_kind_of_request_gets_the_answer_of_python(connect, backend, red):
    (expected,) = Predictor(backend).predict(red)
    client = connect()
    text = base64.b64encode(red).decode()
    answers = [
        client.post("/v1/predict", content=red, headers=PNG),
        client.post("/v1/predict", files={"files": ("a.png", red)}),
        client.post("/v1/predict", json={"images": [text]}),
        client.post("/v1/predict", json={"images": [{"base64": text, "name": "a.png"}]}),
    ]
    for response in answers:
        assert response.status_code == 200
        found = response.json()
        assert (found["model"], found["notice"]) == ("red", None)
        (row,) = found["predictions"]
        assert {name: row[name] for name in expected.answer} == dict(expected.answer)
        assert (row["index"], row["reason"], row["box"]) == (0, None, None)
    assert [r.json()["predictions"][0]["name"] for r in answers] == ["image", "a.png", "image", "a.png"]


def test_among_several_images_an_unreadable_one_is_a_row(connect, red, blue):
    files = [("files", (name, data)) for name, data in (("a", red), ("b", b"text"), ("c", blue))]
    rows = connect().post("/v1/predict", files=files).json()["predictions"]
    assert [(row["name"], row["predicted"], row["reason"]) for row in rows] == [
        ("a", "red", None),
        ("b", None, "not an image"),
        ("c", "other", None),
    ]


def test_an_unreadable_image_alone_is_422(connect):
    response = connect().post("/v1/predict", content=b"text", headers=PNG)
    assert (response.status_code, response.json()) == (422, {"detail": "the image cannot be read: not an image"})


def test_boxes_give_a_row_for_each_person(connect, red):
    response = connect().post(
        "/v1/predict", files={"files": ("a", red)}, data={"boxes": "[[0, 0, 9, 9], [50, 50, 60, 60]]"}
    )
    rows = response.json()["predictions"]
    assert [row["predicted"] for row in rows] == ["red", "red", None]
    assert rows[1]["box"]["x1"] == 9
    assert rows[2]["reason"] == "the box lies outside the image"


class Detector:
    """Finds one person in the left half."""

    source = "half"

    def detect(self, images):
        from uniemox.manifests.table import Box

        return [[Box(0, 0, image.width / 2, image.height)] for image in images]


def test_people_are_detected_where_that_is_asked_for(connect, red):
    client = connect(detector=Detector())
    assert len(client.post("/v1/predict", content=red, headers=PNG).json()["predictions"]) == 1
    rows = client.post("/v1/predict?detect=true", content=red, headers=PNG).json()["predictions"]
    assert [row["box"] and row["box"]["x1"] for row in rows] == [None, 12]
    assert client.get("/v1/labels").json()["detects"]
    refused = connect().post("/v1/predict?detect=true", content=red, headers=PNG)
    assert refused.status_code == 422
    assert "without a detector" in refused.json()["detail"]


def test_an_explanation_has_numbers_a_map_and_an_overlay(connect, make_image):
    half = Image.new("RGB", (32, 32), (20, 20, 220))
    half.paste((220, 20, 20), (0, 0, 16, 32))
    file = io.BytesIO()
    half.save(file, "PNG")
    data = {"boxes": "[[0, 0, 16, 32]]", "emotion": "red", "method": "occlusion"}
    found = connect().post("/v1/explain", files={"files": ("a.png", file.getvalue())}, data=data).json()
    assert found["emotion"] == "red"
    people = [effect["changes"]["red"] for effect in found["effects"] if effect["hidden"] == "people"]
    assert people
    assert all(change < 0 for change in people)
    heat = np.array(found["map"])
    assert heat[:, : heat.shape[1] // 2].mean() > heat[:, heat.shape[1] // 2 :].mean()
    assert Image.open(io.BytesIO(base64.b64decode(found["overlay"]))).format == "PNG"
    assert "path" not in found


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"emotion": "blue"}, "knows red, other"), ({"method": "gradcam"}, "occlusion"), ({"method": "x"}, "method")],
)
def test_an_explanation_that_cannot_be_made_is_422(connect, red, fields, words):
    response = connect().post("/v1/explain", files={"files": ("a", red)}, data=fields)
    assert response.status_code == 422
    assert words in response.json()["detail"]
    assert "secret" not in response.text


def test_few_explanations_wait_and_predictions_go_on(connect, make_service, monkeypatch, red):
    from uniemox.serve import app as module

    monkeypatch.setattr(module, "_MOST_EXPLAINED", 1)
    service, gate = make_service(), threading.Event()
    explain_now = service._explain_now
    service._explain_now = lambda *asked: gate.wait(20) and explain_now(*asked)
    client, answers = connect(service=service), []
    first = threading.Thread(target=lambda: answers.append(client.post("/v1/explain", content=red, headers=PNG)))
    first.start()
    while not service._num_explained:
        time.sleep(0.01)
    refused = client.post("/v1/explain", content=red, headers=PNG)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert client.post("/v1/predict", content=red, headers=PNG).status_code == 200
    gate.set()
    first.join()
    assert answers[0].status_code == 200


def test_an_explanation_that_runs_out_of_time_stops(connect, make_service, backend, red):
    service = make_service(timeout=1)
    client = connect(service=service)
    backend.gate.clear()
    boxes = [[place, 0, place + 1, 20] for place in range(20)]  # 20 people and more in 3 ways: batches of 32
    asked = {"files": {"files": ("a", red)}, "data": {"boxes": str(boxes)}}
    assert client.post("/v1/explain", **asked).status_code == 504
    backend.gate.set()
    time.sleep(0.2)
    assert len(backend.batches) <= 1  # what it was waiting for
    assert client.post("/v1/explain", content=red, headers=PNG).status_code == 200


def test_nothing_is_decoded_for_an_explanation_that_nobody_waits_for(make_service, red, monkeypatch):
    from uniemox.serve import app as module

    given_up, decoded = threading.Event(), []
    monkeypatch.setattr(module, "decode_image", lambda content: decoded.append(content))
    given_up.set()
    with pytest.raises(CancelledError):
        make_service()._explain_now(red, None, Options(), given_up)
    assert decoded == []


def test_the_people_of_an_explanation_wait_in_the_queue_too(connect, red):
    client = connect(queue=4)
    for count, status in ((3, 200), (4, 413)):
        asked = {"files": {"files": ("a", red)}, "data": {"boxes": str([[0, 0, 9, 9]] * count)}}
        for path in ("/v1/predict", "/v1/explain"):
            assert client.post(path, **asked).status_code == status


def test_an_emotion_that_turns_the_direction_of_writing_is_named_by_its_escapes(connect, red):
    answer = connect().post("/v1/explain", files={"files": ("a", red)}, data={"emotion": "joy\u202e"})
    assert "joy\\u202e" in answer.json()["detail"]


def test_one_image_is_explained_at_a_time(connect, red):
    client = connect()
    assert client.post("/v1/explain", files=[("files", ("a", red))] * 2).status_code == 413
    assert client.post("/v1/explain", content=b"text", headers=PNG).status_code == 422


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v2/predict", 404), ("GET", "/v1/predict", 405)])
def test_an_address_that_is_none_is_answered_in_a_sentence(connect, method, path, status):
    answer = connect().request(method, path)
    assert answer.status_code == status
    assert answer.json()["detail"].startswith(("nothing is at this address:", "this address takes another method:"))
    assert ("allow" in answer.headers) == (status == 405)
    assert answer.headers["cache-control"] == "no-store"


def test_labels_describe_the_model_and_the_limits(connect):
    found = connect(max_bytes=5000, max_images=3).get("/v1/labels").json()
    assert found["classes"] == ["red", "other"]
    assert found["limits"] == {"max_bytes": 5000, "max_pixels": 89478485, "max_images": 3}
    assert (found["model"], found["emotion"], found["target"]) == ("red", "evoked", "single_label")


def test_a_model_of_what_people_feel_carries_the_notice(connect, backend, red):
    type(backend).__init__(backend, emotion="felt")
    client = connect()
    notice = client.get("/v1/labels").json()["notice"]
    assert "AI Act" in notice
    assert client.post("/v1/predict", content=red, headers=PNG).json()["notice"] == notice
    assert client.post("/v1/explain", content=red, headers=PNG).json()["notice"] == notice


@pytest.mark.parametrize(
    ("model", "name"),
    [("/home/me/runs/mood", "mood"), ("clip:ViT-B-32=/home/me/w.pt", "clip:ViT-B-32"), ("hf-hub:a/b", "hf-hub:a/b")],
)
def test_a_model_is_named_without_its_place(model, name):
    assert name_of(model) == name


# Limits


def test_too_many_bytes_are_413_whether_declared_or_streamed(connect):
    client = connect(max_bytes=2000)

    def stream():
        for _ in range(5):
            yield b"x" * 1000

    for content in (b"x" * 2001, stream()):
        response = client.post("/v1/predict", content=content, headers=PNG)
        assert response.status_code == 413
        assert "2000" in response.json()["detail"]


def test_too_many_images_are_413(connect, red):
    files = [("files", ("a", red))] * 3
    assert connect(max_images=2).post("/v1/predict", files=files).status_code == 413


def test_too_many_pixels_are_a_reason(connect, make_image):
    from uniemox.files.images import admitting

    with admitting(500):
        client = connect()
        response = client.post("/v1/predict", content=make_image(size=(30, 30)), headers=PNG)
    assert response.status_code == 422
    assert "over the limit of 500" in response.json()["detail"]


def test_another_media_type_is_415(connect):
    assert connect().post("/v1/predict", content="a", headers={"Content-Type": "text/plain"}).status_code == 415
    assert connect().post("/v1/predict").status_code == 415


def test_a_full_queue_is_429_and_loses_nothing(connect, backend, red):
    client = connect(queue=4, batch_size=1)
    backend.gate.clear()
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(client.post("/v1/predict", content=red, headers=PNG)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 10
    while "uniemox_images_waiting 4.0" not in client.get("/metrics").text and time.monotonic() < until:
        time.sleep(0.01)
    refused = client.post("/v1/predict", content=red, headers=PNG)
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    backend.gate.set()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [200] * 4
    assert client.post("/v1/predict", content=red, headers=PNG).status_code == 200


def test_an_answer_that_takes_too_long_is_504_and_the_next_is_answered(connect, backend, red):
    client = connect(timeout=1)
    backend.gate.clear()
    assert client.post("/v1/predict", content=red, headers=PNG).status_code == 504
    backend.gate.set()
    assert client.post("/v1/predict", content=red, headers=PNG).status_code == 200


def test_a_service_that_stops_is_not_ready_but_answers_what_reaches_it(connect, make_service, red):
    service = make_service()
    client = connect(service=service)
    assert client.get("/ready").status_code == 200
    service.is_stopping = True
    assert client.get("/ready").status_code == 503
    assert client.get("/health").status_code == 200
    assert client.post("/v1/predict", content=red, headers=PNG).status_code == 200


def test_a_model_short_of_memory_is_503(connect, backend, red):
    backend.error = MemoryError()
    refused = connect().post("/v1/predict", content=red, headers=PNG)
    assert (refused.status_code, "retry-after" in refused.headers) == (503, True)


@pytest.mark.parametrize("error", [RuntimeError("/secret/place"), KeyError("secret"), ValueError("secret")])
def test_an_error_shows_neither_path_nor_trace(connect, backend, red, error):
    backend.error = error
    response = connect(raise_server_exceptions=False).post("/v1/predict", content=red, headers=PNG)
    assert response.status_code == 500
    assert set(response.json()) == {"detail"}
    assert not any(word in response.text for word in ("secret", "Traceback", "Error", "/"))


def test_an_error_nobody_expected_is_a_sentence_too(connect, make_service, monkeypatch):
    service = make_service()
    monkeypatch.setattr(service, "labels", lambda: 1 / 0)
    response = connect(service=service, raise_server_exceptions=False).get("/v1/labels")
    assert (response.status_code, response.json()) == (500, {"detail": "the service failed; its log says why"})
    assert response.headers["x-content-type-options"] == "nosniff"


# URLs


def test_urls_are_fetched_only_where_that_is_allowed(connect, make_service, red, blue):
    images = {"images": [{"url": "https://example.org/a.png"}, base64.b64encode(blue).decode()]}
    rows = connect().post("/v1/predict", json=images).json()["predictions"]
    assert "does not fetch" in rows[0]["reason"]
    service, asked = make_service(allow_urls=True), []
    service.fetch = lambda url, max_bytes: asked.append((url, max_bytes)) or red
    client = connect(service=service)
    rows = client.post("/v1/predict", json=images).json()["predictions"]
    assert [row["predicted"] for row in rows] == ["red", "other"]
    assert asked == [("https://example.org/a.png", 20 * 2**20)]
    service.fetch = lambda url, max_bytes: Unreadable("no")
    assert client.post("/v1/predict", json={"images": images["images"][:1]}).status_code == 422


def test_an_inner_address_is_refused_by_the_service_too(connect):
    client = connect(allow_urls=True)
    for url in ("http://127.0.0.1:1/", "http://[::ffff:127.0.0.1]/", "http://169.254.169.254/latest/meta-data/"):
        response = client.post("/v1/predict", json={"images": [{"url": url}]})
        assert response.status_code == 422
        assert "not a public one" in response.json()["detail"]


# Hostile images


def mutate(data, generator):
    """Cut, flip or repeat some of the bytes of a file."""
    data = bytearray(data)
    for _ in range(int(generator.integers(1, 12))):
        place = int(generator.integers(0, max(1, len(data))))
        match int(generator.integers(0, 4)):
            case 0:
                data[place : place + 1] = bytes([int(generator.integers(0, 256))])
            case 1:
                del data[place : place + int(generator.integers(1, 40))]
            case 2:
                data[place:place] = data[place : place + int(generator.integers(1, 40))]
            case _:
                data[place : place + 4] = generator.bytes(4)
    return bytes(data)


def test_200_mutated_images_are_all_answered(connect, backend, make_image):
    generator = np.random.default_rng(15)
    originals = [make_image(form=form, size=(40, 30)) for form in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")]
    mutated = [mutate(originals[place % len(originals)], generator) for place in range(200)]
    client = connect()
    expected = list(Predictor(backend).predict(mutated))
    for start in range(0, 200, 20):
        files = [("files", (str(place), mutated[place])) for place in range(start, start + 20)]
        response = client.post("/v1/predict", files=files)
        assert response.status_code == 200
        rows = response.json()["predictions"]
        assert [row["reason"] for row in rows] == [row.reason for row in expected[start : start + 20]]
        assert [row["predicted"] for row in rows] == [row.predicted for row in expected[start : start + 20]]
    assert 20 < sum(row.reason is not None for row in expected) < 200
    for data in mutated[:20]:
        status = client.post("/v1/predict", content=data, headers=PNG).status_code
        assert status in (200, 422)


def test_names_and_numbers_survive_json(connect, red):
    response = connect().post("/v1/predict", files={"files": ("\u202eevil😀.png", red)}, data={})
    assert response.status_code == 200
    json.dumps(response.json(), allow_nan=False)
    assert "\u202e" not in response.json()["predictions"][0]["name"]
