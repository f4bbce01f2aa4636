"""The OpenAPI file: its examples are true, and requests made from it break nothing."""

import json
import warnings

import pytest

from uniemox.serve.app import build_app
from uniemox.serve.schema import Explained, Labels, Predictions


@pytest.fixture
def api(connect):
    return connect().get("/openapi.json").json()


def test_each_route_lists_what_it_answers(api):
    assert set(api["paths"]) == {"/v1/predict", "/v1/explain", "/v1/labels", "/health", "/ready", "/metrics"}
    for path in ("/v1/predict", "/v1/explain"):
        statuses = set(api["paths"][path]["post"]["responses"])
        assert statuses == {"200", "401", "408", "413", "415", "422", "429", "500", "503", "504"}
        assert set(api["paths"][path]["post"]["requestBody"]["content"]) == {
            *("image/*", "application/octet-stream", "multipart/form-data", "application/json")
        }


def test_the_examples_are_answered_as_the_file_describes(connect, api):
    client = connect()
    for path, kind in (("/v1/predict", Predictions), ("/v1/explain", Explained)):
        examples = api["paths"][path]["post"]["requestBody"]["content"]["application/json"]["examples"]
        assert examples
        for example in examples.values():
            response = client.post(path, json=example["value"])
            assert response.status_code == 200, response.text
            kind.model_validate(response.json())
    Labels.model_validate(client.get("/v1/labels").json())


def test_an_empty_list_of_boxes_fits_the_file(api):
    """It is a list of boxes, and one of such lists: a schema by `oneOf` would refuse it."""
    for path in ("/v1/predict", "/v1/explain"):
        content = api["paths"][path]["post"]["requestBody"]["content"]
        boxes = content["application/json"]["schema"]["properties"]["boxes"]
        assert "oneOf" not in json.dumps(content)
        assert [kind.get("minItems", 0) for kind in boxes["anyOf"][0]["anyOf"]] == [0, 0]


def try_requests(service, count):
    """Send requests that schemathesis makes from the file; return their statuses."""
    import schemathesis
    from hypothesis import HealthCheck, given, settings

    app = build_app(service)
    statuses = []
    api = schemathesis.openapi.from_asgi("/openapi.json", app)
    for result in api.get_all_operations():
        operation = result.ok()
        share = count * 3 // 8 if operation.method == "post" else count // 16

        @settings(max_examples=share, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def attempt(case):
            response = case.call()
            statuses.append(response.status_code)
            assert response.status_code < 500, (case.path, case.body, response.text)

        attempt()
    return statuses


def check_requests(service, count, least):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of schemathesis and its libraries
        statuses = try_requests(service, count)
    assert len(statuses) >= least
    assert {200, 422} <= set(statuses)


@pytest.mark.slow
def test_100_requests_made_from_the_file_meet_no_error_of_ours(make_service):
    check_requests(make_service(), 130, 100)


@pytest.mark.soak
def test_1000_requests_made_from_the_file_meet_no_error_of_ours(make_service):
    check_requests(make_service(), 1400, 1000)


def test_the_file_is_json_without_references_to_others(api):
    text = json.dumps(api)
    assert "http://" not in text
    assert "#/components/schemas/Problem" in text
