from pathlib import Path

import pytest

from uniemox.config.inference import EvaluateConfig, PredictConfig
from uniemox.errors import ConfigError


@pytest.mark.parametrize(
    ("settings", "complaint"), [({"batch_size": 0}, "batch_size is 0"), ({"workers": -1}, "workers is -1")]
)
def test_impossible_ways_to_compute_are_refused(settings, complaint):
    with pytest.raises(ConfigError, match=f"^{complaint}"):
        EvaluateConfig("demo", data=Path("d"), **settings)
    with pytest.raises(ConfigError, match=f"^{complaint}"):
        PredictConfig("demo", (Path("p"),), **settings)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"top_k": 0}, "top_k is 0"),
        ({"resume": True}, "`resume` continues a table: name it with `out`"),
        ({"score": 0.9}, "`score` is about a detector"),
        ({"detector": "x.onnx", "score": 7}, "score is 7"),
        ({"detector": "x.onnx", "boxes": Path("b")}, "both give boxes"),
        ({"fps": 0}, "fps is 0, but must be between 0.001 and 1000"),
        ({"fps": float("nan")}, "fps is nan"),
    ],
)
def test_what_cannot_be_predicted_is_refused(settings, complaint):
    with pytest.raises(ConfigError, match=complaint):
        PredictConfig("demo", (Path("p"),), **settings)


def test_something_to_predict_must_be_given():
    assert PredictConfig("demo", list=Path("-")).paths == ()
    with pytest.raises(ConfigError, match="`paths` must be given"):
        PredictConfig("demo")
    with pytest.raises(ConfigError, match="`column` is about a table of paths: give one"):
        PredictConfig("demo", list=Path("-"), column="image")
