import json
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from uniemox.demo import run
from uniemox.demo.drawn import DrawnData, unpack
from uniemox.demo.run import PHOTOGRAPH, finetune_config, pretrain_config, run_demo
from uniemox.errors import ConfigError
from uniemox.manifests.table import Manifest, read_manifest, write_manifest
from uniemox.settings import build as build_config
from uniemox.train.events import Message


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.headings, self.sources, self.text, self._tag = [], [], [], ""

    def handle_starttag(self, tag, attrs):
        self._tag = tag
        self.sources += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.text.append(data)
        if self._tag == "h2" and data.strip():
            self.headings.append(data.strip())


def test_a_folder_that_is_not_empty_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ConfigError, match="not empty"):
        run_demo(tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_fine_tuning_without_a_start_differs_in_what_needs_one(tmp_path):
    data = DrawnData(tmp_path / "a.parquet", tmp_path / "b.parquet")
    ours = finetune_config(data, tmp_path, "demo-pretrained", "cpu", 3)
    other = finetune_config(data, tmp_path, None, "cpu", 3)
    different = [name for name in vars(ours) if getattr(ours, name) != getattr(other, name)]
    assert different == ["init", "pool", "head", "trained_share", "optim"]
    assert replace(other.optim, base_lr=ours.optim.base_lr) == ours.optim
    assert (other.pool, other.head) == ("mean", "random")


def test_the_demo_pretrains_from_the_embedded_model_with_the_embedded_teacher(tmp_path):
    config = pretrain_config(DrawnData(tmp_path / "a", tmp_path / "b"), tmp_path, "cpu", 0)
    assert config.init == "demo-pretrained"
    assert config.teacher.model == "demo"
    assert config.max_steps == run.PRETRAIN_STEPS


def test_the_photograph_comes_with_a_library():
    assert PHOTOGRAPH.is_file()


@pytest.mark.slow
def test_the_demo_ends_in_one_page_that_needs_nothing_else(tmp_path, monkeypatch):
    """The whole path with few steps and images: what it computes is real, only shorter."""
    monkeypatch.setattr(run, "PRETRAIN_STEPS", 2)

    def unpack_some(folder):
        data = unpack(folder)
        for path in data:
            manifest = read_manifest(path)
            write_manifest(Manifest(manifest.table.take(list(range(0, len(manifest), 8))), manifest.facts), path)
        return data

    monkeypatch.setattr(run, "unpack", unpack_some)

    def shorter(kind, values):
        steps = {"max_steps": 2, "workers": 0, "log_every": 1, "optim.batch_size": 16}
        return build_config(kind, values | steps)

    monkeypatch.setattr(run, "build", shorter)
    heard = []
    report = run_demo(tmp_path / "demo", device="cpu", observer=heard.append)
    reader = Reader()
    reader.feed(report.read_text(encoding="utf-8"))
    assert reader.headings == [
        "Results",
        "The data",
        "Pretraining",
        "Fine-tuning",
        "Where it goes wrong",
        "Predictions",
    ]
    assert all(source.startswith(("data:", "#")) for source in reader.sources)
    text = " ".join(reader.text)
    assert "labels come from drawings" in text
    assert "have seen the training labels" in text
    stages = [event.text[:3] for event in heard if isinstance(event, Message)]
    assert [stage for stage in stages if stage.endswith("/5")] == ["1/5", "2/5", "3/5", "4/5", "5/5"]
    assert "of the committed benchmark" in text
    tested = len(read_manifest(tmp_path / "demo/data/drawn6.parquet").select(["test"]))
    scores = json.loads((tmp_path / "demo/finetune/test/report.json").read_text())
    assert scores["num_samples"] == tested > 48  # as many as the gallery chooses from
