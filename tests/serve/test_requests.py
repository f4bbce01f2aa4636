"""Bodies of every kind, as other libraries write them."""

import base64
import json
from itertools import count

import httpx
import numpy as np
import pytest
from fastapi import HTTPException

from uniemox.files.images import Unreadable
from uniemox.serve.requests import parse


def form(files=(), data=None):
    """Let httpx, which is independent of us, write a form."""
    request = httpx.Request("POST", "http://x/", files=files, data=data or {})
    return request.headers["content-type"], request.read()


def read(kind, body, query=(), max_images=4):
    return parse(kind, body, dict(query), max_images=max_images)


def refusal(*words, **options):
    with pytest.raises(HTTPException) as refused:
        read(*words, **options)
    assert "\n" not in refused.value.detail
    return refused.value.status_code, refused.value.detail


@pytest.mark.parametrize("seed", range(8))
def test_files_of_a_form_arrive_bit_by_bit(seed):
    generator = np.random.default_rng(seed)
    contents = [generator.bytes(int(generator.integers(0, 5000))) + b"\r\n--" * seed for _ in range(seed % 4 + 1)]
    names = [f"Ä {number}.png" for number in range(len(contents))]
    files = [("files", (name, content, "image/png")) for name, content in zip(names, contents, strict=True)]
    asked = read(*form(files, {"detect": "true"}))
    assert [image.content for image in asked.images] == contents
    assert [image.name for image in asked.images] == names
    assert asked.options.detect


@pytest.mark.parametrize("kind", ["image/png", "IMAGE/JPEG; x=y", "application/octet-stream"])
def test_a_body_may_be_an_image(kind):
    asked = read(kind, b"\x89PNG", {"emotion": "joy"})
    assert [image.content for image in asked.images] == [b"\x89PNG"]
    assert asked.options.emotion == "joy"


def test_json_has_texts_of_base64_and_objects():
    text = base64.b64encode(b"abc").decode()
    images = [text, f"data:image/png;base64,{text}", {"base64": text, "name": "a\nb"}, {"url": "https://x.org/"}]
    asked = read("application/json; charset=utf-8", json.dumps({"images": images, "detect": True}).encode())
    assert [image.content for image in asked.images] == [b"abc", b"abc", b"abc", None]
    assert asked.images[2].name == r"a\nb"
    assert asked.images[3].url == "https://x.org/"
    assert asked.options.detect


@pytest.mark.parametrize("image", ["%%%", "é", {}, {"base64": "YQ==", "url": "https://x.org"}, {"base64": "YQ="}])
def test_an_image_of_json_that_is_none_is_a_reason_and_not_the_end(image):
    asked = read("application/json", json.dumps({"images": [image, "YWJj"]}).encode())
    assert isinstance(asked.images[0].content, Unreadable)
    assert asked.images[1].content == b"abc"


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("", b"x", 415),
        ("text/plain", b"x", 415),
        ("image", b"x", 415),
        ("application/json", b"", 422),
        ("application/json", b"[" * 100_000, 422),
        ("application/json", b'{"images": []}', 422),
        ("application/json", b'{"images": ["\\ud800"]}', 422),
        ("application/json", b'{"images": ["YQ=="], "boxen": 1}', 422),
        ("application/json", b'{"images": ["YQ=="], "boxes": [[[0, 0, 1e999, 1]]]}', 422),
        ("application/json", json.dumps({"images": ["YQ=="] * 5}).encode(), 413),
        ("application/json", json.dumps({"images": ["YQ=="] * 500}).encode(), 413),
        ("application/json", json.dumps({"images": ["YQ=="], "boxes": [[[0, 0, 1, 1]] * 300]}).encode(), 413),
        ("image/png", b"", 422),
        ("multipart/form-data", b"x", 422),
        ("multipart/form-data; boundary=b", b"", 422),
        ("multipart/form-data; boundary=b", b"nothing", 422),
        ("multipart/form-data; boundary=b", b'--b\r\nContent-Disposition: form-data; name="files"\r\n\r\nx', 422),
        (f"multipart/form-data; boundary={'b' * 5000}", b"--b", 422),
        (*form([("files", ("a", b"x"))] * 5), 413),
        (*form([("files", ("a", b"x"))] * 50), 413),
        (*form([("files", ("a", b"x"))], {"colour": "red"}), 422),
        (*form([("files", ("a", b"x"))], {"boxes": "[["}), 422),
        (*form([("files", ("a", b"x"))], {"method": "magic"}), 422),
        (*form([("files", ("a", b"x"))], {"detect": "perhaps"}), 422),
        (*form([("other", (None, b"x"))]), 422),
    ],
    ids=count(),  # forms have a random boundary, and all test processes must find the same tests
)
def test_what_cannot_be_read_has_a_status_and_a_line(kind, body, status):
    assert refusal(kind, body)[0] == status


def test_an_error_quotes_nothing_of_the_request():
    assert "secret" not in refusal("application/json", b'{"images": ["YQ=="], "detect": "secret"}')[1]


@pytest.mark.parametrize("written", ["[[1, 2, 30, 40]]", "[[[1, 2, 30, 40]]]"])
def test_the_boxes_of_one_image_may_be_a_list(written):
    (boxes,) = read(*form([("files", ("a", b"x"))], {"boxes": written})).boxes()
    assert [(box.x0, box.y0, box.x1, box.y1) for box in boxes] == [(1, 2, 30, 40)]


def test_boxes_are_given_for_each_image_or_not_at_all():
    images = [("files", ("a", b"x"))] * 2
    assert read(*form(images)).boxes() is None
    assert [len(boxes) for boxes in read(*form(images, {"boxes": "[[], [[0, 0, 5, 5]]]"})).boxes()] == [0, 1]
    assert read(*form(images[:1], {"boxes": "[]"})).boxes() == [[]]
    for bad in ("[[]]", "[[0, 0, 5, 5]]", "[[], [[5, 5, 0, 0]]]"):
        with pytest.raises(HTTPException, match="boxes"):
            read(*form(images, {"boxes": bad})).boxes()


@pytest.mark.parametrize(
    ("boxes", "status", "words"),
    [
        ([[0, 0, 1, 1]] * 300, 413, "at most 256"),
        ([[0, 0, "x", 1]], 422, "of one image.0.2: Input should be a valid number"),
        ([[[0, 0, 1]]], 422, "of each image.0.0.3: Field required"),
        ([[[0, 0, 1, 1]]] * 300, 413, "at most 256"),
    ],
)
def test_a_wrong_box_is_named_by_its_place(boxes, status, words):
    with pytest.raises(HTTPException) as refused:
        read("application/json", json.dumps({"images": ["YQ=="], "boxes": boxes}).encode())
    assert refused.value.status_code == status
    assert words in refused.value.detail
