"""The routes of the page: what they give, and the headers that confine it."""

import io
import re
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from uniemox.serve import site as module

FOLDER = Path(module.__file__).parent / "page"


@pytest.fixture(scope="module")
def client():
    app = FastAPI()
    app.include_router(module.site())
    with TestClient(app) as client:
        yield client


def test_everything_that_the_page_names_is_served(client):
    html = client.get("/").text
    named = [name for name in re.findall(r'(?:href|src)="([^"#]+)"', html) if name.startswith("page/")]
    assert len(named) == 2 + len(module.EXAMPLES)
    for name in named:
        assert client.get(f"/{name}").status_code == 200, name


@pytest.mark.parametrize("path", ["/", "/page/style.css", "/page/page.js", "/page/examples/0.webp"])
def test_no_answer_may_load_or_run_what_is_not_the_services(client, path):
    headers = client.get(path).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


def test_files_have_their_media_types(client):
    types = {path: client.get(path).headers["content-type"] for path in ("/", "/page/style.css", "/page/page.js")}
    assert [kind.split(";")[0] for kind in types.values()] == ["text/html", "text/css", "text/javascript"]


def test_examples_are_drawings_of_the_test_split(client):
    from json import loads
    from zipfile import ZipFile

    from uniemox.demo.drawn import ARCHIVE

    with ZipFile(ARCHIVE) as archive:
        test = {path for _, path, _ in loads(archive.read("drawn6/test.json"))}
    assert {f"image/{name}.webp" for name in module.EXAMPLES} <= test
    for number in range(len(module.EXAMPLES)):
        response = client.get(f"/page/examples/{number}.webp")
        assert response.headers["content-type"] == "image/webp"
        assert Image.open(io.BytesIO(response.content)).size == (160, 160)


def test_nothing_else_of_the_folder_is_served(client):
    for path in ("/page/", "/page/index.html", "/page/../site.py", "/page/examples/9.webp", "/page/%2e%2e/site.py"):
        assert client.get(path).status_code == 404, path


def test_the_page_is_small_and_names_no_other_host():
    files = sorted(FOLDER.iterdir())
    assert {file.name for file in files} == {"index.html", *module.FILES}
    texts = [file.read_text(encoding="utf-8") for file in files]
    assert not any("//" in re.sub(r"^\s*//.*|[^:]//.*$", "", text, flags=re.MULTILINE) for text in texts)
    assert sum(text.count("\n") for text in texts) <= 400
