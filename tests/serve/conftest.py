"""A service over a model that everybody can check: how red an image is."""

import io
import threading

import numpy as np
import pytest
from PIL import Image

KEY = "a-key-of-the-tests-0123456789"


class RedBackend:
    """Answers red or other by the mean colour; counts its batches, and waits for `gate` before each."""

    precision, domain = "fp32", None

    def __init__(self, emotion="evoked"):
        from uniemox.checkpoints.facts import ModelFacts

        self.facts = ModelFacts(
            kind="classifier",
            size="mini",
            patch_size=8,
            image_size=16,
            dataset="painted",
            emotion=emotion,
            classes=("red", "other"),
        )
        self.batches, self.gate, self.error = [], threading.Event(), None
        self.gate.set()

    def digest(self):
        return "ab" * 32

    def logits(self, pixels):
        assert self.gate.wait(30)
        self.batches.append(len(pixels))
        if self.error is not None:
            raise self.error
        red = pixels[:, 0, 0].mean((1, 2)) - pixels[:, 0, 1:].mean((1, 2, 3))
        return np.stack([red, -red], 1).astype(np.float32)

    def activation_maps(self, pixels, place, method):
        from uniemox.errors import ConfigError

        raise ConfigError("runs/secret/red.onnx is an export")

    def outputs(self, pixels):
        return self.logits(pixels), None


@pytest.fixture
def backend():
    return RedBackend()


@pytest.fixture
def make_service(backend):
    """Make a service over the red model, with settings."""
    from uniemox.config.serve import ServeConfig
    from uniemox.inference.predictor import Predictor
    from uniemox.serve.app import Service

    def make(*, detector=None, **settings):
        return Service(Predictor(backend), ServeConfig(model="runs/secret/red", **settings), detector)

    return make


@pytest.fixture
def connect(make_service):
    """Open a client of a service."""
    from contextlib import ExitStack

    from fastapi.testclient import TestClient

    from uniemox.serve.app import build_app

    with ExitStack() as stack:

        def call(*, key=None, service=None, raise_server_exceptions=True, **settings):
            app = build_app(service or make_service(**settings), key=key)
            return stack.enter_context(TestClient(app, raise_server_exceptions=raise_server_exceptions))

        yield call


def painted_bytes(colour=(220, 20, 20), size=(24, 20), form="PNG"):
    """The file of an image of one colour."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, form)
    return file.getvalue()


@pytest.fixture
def red():
    return painted_bytes()


@pytest.fixture
def blue():
    return painted_bytes((20, 20, 220))


@pytest.fixture
def make_image():
    return painted_bytes


@pytest.fixture
def key():
    return KEY
