"""What every request passes, whatever answers it."""

import json
import logging

import pytest

GUARDED = [("POST", "/v1/predict"), ("POST", "/v1/explain"), ("GET", "/v1/labels"), ("GET", "/metrics")]
OPEN = ["/health", "/ready", "/", "/openapi.json"]


@pytest.mark.parametrize(("method", "path"), GUARDED)
@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer x", "Basic {key}", "Bearer {key}x", "{key}", "é"])
def test_without_the_key_nothing_is_answered(connect, key, method, path, given):
    headers = {} if given is None else {"Authorization": given.format(key=key).encode()}
    response = connect(key=key).request(method, path, headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert key not in response.text


@pytest.mark.parametrize("path", OPEN)
def test_what_shows_nothing_needs_no_key(connect, key, path):
    assert connect(key=key).get(path).status_code == 200


@pytest.mark.parametrize(("method", "path"), GUARDED)
def test_a_service_below_another_path_is_guarded_as_well(connect, make_service, key, method, path):
    from fastapi import FastAPI
    from fastapi.testclient import TestClient

    from uniemox.serve.app import build_app

    outer = FastAPI()
    outer.mount("/below", build_app(make_service(), key=key))
    assert TestClient(outer).request(method, f"/below{path}").status_code == 401


def test_the_key_opens(connect, key, red):
    client = connect(key=key)
    headers = {"Authorization": f"Bearer {key}"}
    assert client.get("/metrics", headers=headers).status_code == 200
    assert client.post("/v1/predict", content=red, headers={"Content-Type": "image/png", **headers}).status_code == 200


def test_answers_forbid_to_be_sniffed_framed_or_kept(connect):
    headers = connect().get("/v1/labels").headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "access-control-allow-origin" not in headers


def test_no_other_site_is_let_in(connect, red):
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    client = connect()
    assert client.options("/v1/predict", headers=asked).status_code == 405
    response = client.post("/v1/predict", content=red, headers={"Content-Type": "image/png", **asked})
    assert not any(name.startswith("access-control") for name in response.headers)


def test_a_line_of_json_a_request_without_what_it_held(connect, red, caplog):
    caplog.set_level(logging.INFO, "uniemox.requests")
    client = connect()
    files = [("files", ("my-private-name.png", red)), ("files", ("b.png", b"broken"))]
    numbers = [client.post("/v1/predict", files=files).headers["x-request-id"]]
    numbers.append(client.get("/nowhere/../../etc/passwd?token=private").headers["x-request-id"])
    lines = [json.loads(record.getMessage()) for record in caplog.records if record.name == "uniemox.requests"]
    assert [line["id"] for line in lines] == numbers
    assert [(line["route"], line["status"], line["images"]) for line in lines] == [
        ("/v1/predict", 200, 2),
        ("other", 404, 0),
    ]
    assert all(set(line) == {"time", "id", "route", "status", "ms", "images"} for line in lines)
    assert "private" not in caplog.text


def test_requests_are_counted_by_route_and_status(connect, red):
    client = connect()
    client.post("/v1/predict", content=red, headers={"Content-Type": "image/png"})
    client.post("/v1/predict", content=b"x", headers={"Content-Type": "image/png"})
    client.get("/unknown-1")
    client.get("/unknown-2")
    counted = client.get("/metrics").text
    assert 'uniemox_requests_total{route="/v1/predict",status="200"} 1.0' in counted
    assert 'uniemox_requests_total{route="/v1/predict",status="422"} 1.0' in counted
    assert 'uniemox_requests_total{route="other",status="404"} 2.0' in counted
    assert 'uniemox_images_total{outcome="answered"} 1.0' in counted
    assert 'uniemox_images_total{outcome="unreadable"} 1.0' in counted
    assert "unknown" not in counted
