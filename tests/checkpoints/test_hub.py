"""Models of the hub, without a network: a fake cache, and a hub that gives the answers of the test."""

from pathlib import Path
from typing import ClassVar

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from uniemox.checkpoints.facts import member, read_facts
from uniemox.checkpoints.hub import fetch, push
from uniemox.checkpoints.load import load_model
from uniemox.checkpoints.open import open_model
from uniemox.inference.backend import load_backend
from uniemox.inference.onnx_backend import OnnxBackend

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of the hub that holds one model as links, as the hub's library lays it out."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


def cached(cache, source, name="org--name", files=("config.json", "model.safetensors")):
    repo = cache / f"models--{name}"
    snapshot = repo / "snapshots" / COMMIT
    for folder in (repo / "refs", repo / "blobs", snapshot):
        folder.mkdir(parents=True)
    (repo / "refs" / "main").write_text(COMMIT)
    for file in files:
        (repo / "blobs" / file).write_bytes((source / file).read_bytes())
        (snapshot / file).symlink_to(Path("../../blobs") / file)
    return snapshot


def test_a_model_in_the_cache_is_found_without_a_network(cache, finetuned):
    snapshot = cached(cache, finetuned.model)
    assert open_model("hf-hub:org/name").path == snapshot
    assert open_model(f"hf-hub:org/name@{COMMIT}").path == snapshot
    assert read_facts(snapshot) == read_facts(finetuned.model)


def test_the_whole_package_takes_a_name_of_the_hub(cache, finetuned):
    from uniemox import Predictor, load_model

    cached(cache, finetuned.model)
    assert load_model("hf-hub:org/name").facts.classes == ("awe", "fear", "joy")
    assert Predictor.load("hf-hub:org/name", device="cpu").facts.dataset == "painted"


def test_a_model_with_pickles_alone_is_not_taken(cache, finetuned, refusal):
    cached(cache, finetuned.model, files=("config.json",))
    assert "has no model.safetensors, and pickles are not taken" in refusal(fetch, "hf-hub:org/name")


@pytest.mark.parametrize("offline", [True, False])
def test_a_model_that_is_not_available_is_refused_in_one_line(cache, monkeypatch, offline, refusal):
    def answer(*_, **__):
        raise errors.LocalEntryNotFoundError("a long\nexplanation")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", answer)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    why = "HF_HUB_OFFLINE is set" if offline else "the hub cannot be reached"
    assert refusal(fetch, "hf-hub:org/name") == (
        f"hf-hub:org/name is not in the cache, and {why}: go online, or give a folder"
    )


def test_offline_the_real_library_is_explained_in_one_line(cache, refusal):
    assert "HF_HUB_OFFLINE is set" in refusal(fetch, "hf-hub:org/other")
    assert "HF_HUB_OFFLINE is set" in refusal(fetch, "hf-hub:org/other@v1")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("RepositoryNotFoundError", "no such model, or it is private"),
        ("GatedRepoError", "it asks for consent"),
        ("RevisionNotFoundError", "it has no such revision"),
        ("HfHubHTTPError", "is not available from the hub: first second"),
    ],
)
def test_an_answer_of_the_hub_becomes_one_line(cache, monkeypatch, kind, said, refusal):
    class Answer(getattr(errors, kind)):
        def __init__(self):
            Exception.__init__(self, "first\nsecond")

        def __str__(self):
            return "first\nsecond"

    def answer(*_, **__):
        raise Answer

    monkeypatch.setattr(huggingface_hub, "snapshot_download", answer)
    assert said in refusal(fetch, "hf-hub:org/name")


@pytest.mark.parametrize(
    "name",
    ["hf-hub:", "hf-hub:name", "hf-hub:a/b/c", "hf-hub:../../etc", "hf-hub:a b/c", "hf-hub:a/b@",
     "hf-hub:a/b@x y", "hf-hub:/a"],
)  # fmt: skip
def test_a_name_that_is_none_is_refused(name, refusal):
    assert "is no name on the hub: write hf-hub:org/name" in refusal(fetch, name)


def test_a_name_that_the_library_refuses_is_refused_in_one_line(cache, refusal):
    refusal(fetch, "hf-hub:-a/b")
    refusal(fetch, "hf-hub:a/..")


def test_no_pickle_is_asked_for(monkeypatch, finetuned):
    asked = {}

    def answer(repo, **more):
        asked.update(more, repo=repo)
        return str(finetuned.model)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", answer)
    assert fetch("hf-hub:timm/vit_base_patch16_224.mae@v1.0") == finetuned.model
    assert (asked["repo"], asked["revision"]) == ("timm/vit_base_patch16_224.mae", "v1.0")
    assert asked["allow_patterns"] == [
        "config.json", "model.safetensors", "two_views.safetensors", "class_and_mean.safetensors", "fused.safetensors",
        "model.onnx", "pretrain.safetensors", "texts.safetensors", "features.safetensors", "export.json",
        "README.md", "preprocessor_config.json", "model.safetensors.index.json", "model-*-of-*.safetensors",
    ]  # fmt: skip


# Links in folders


def test_a_link_that_leaves_a_folder_is_not_followed(tmp_path, refusal):
    (tmp_path / "model").mkdir()
    (tmp_path / "secret").write_text("{}")
    link = tmp_path / "model" / "config.json"
    link.symlink_to(tmp_path / "secret")
    assert "a link that leaves its folder" in refusal(read_facts, tmp_path / "model")
    link.unlink()
    (tmp_path / "model" / "other.json").write_text("{}")
    link.symlink_to("other.json")
    assert member(tmp_path / "model", "config.json") == link


def test_a_link_into_other_models_of_the_cache_is_not_followed(cache, finetuned, refusal):
    snapshot = cached(cache, finetuned.model)
    other = cached(cache, finetuned.model, name="org--other")
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(other / "config.json")
    assert "a link that leaves its folder" in refusal(read_facts, snapshot)


# Sending


class Api:
    """Stands for the hub's; what it is asked is kept in the class."""

    calls: ClassVar[list] = []

    def create_repo(self, repo, **more):
        self.calls.append(("create", repo, more))
        return f"https://hub.example/{repo}"

    def upload_folder(self, **more):
        self.calls.append(("upload", more))


@pytest.fixture
def api(monkeypatch):
    monkeypatch.setattr(Api, "calls", [])
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    return Api


def test_a_folder_is_sent_without_what_is_not_the_models(api, finetuned):
    assert push(finetuned.model, "hf-hub:org/name", private=True) == "https://hub.example/org/name"
    (_, repo, made), (_, sent) = api.calls
    assert (repo, made["private"], made["exist_ok"]) == ("org/name", True, True)
    assert sent["folder_path"] == finetuned.model
    assert "*.bin" not in sent["allow_patterns"]
    assert set(sent["allow_patterns"]) >= {"config.json", "model.safetensors", "README.md"}


def test_an_export_is_sent_with_its_model_and_read_from_the_hub(api, exported, cache, refusal):
    push(exported, "hf-hub:org/name")
    sent = api.calls[-1][1]["allow_patterns"]
    assert {path.name for path in exported.iterdir()} <= set(sent)
    cached(cache, exported, files=("config.json", "model.onnx"))
    assert isinstance(load_backend("hf-hub:org/name"), OnnxBackend)
    assert "is an export without weights" in refusal(load_model, "hf-hub:org/name")


def test_a_link_is_not_sent(api, tmp_path, refusal):
    (tmp_path / "model.safetensors").symlink_to("/etc/passwd")
    assert "is a link, which is not sent" in refusal(push, tmp_path, "hf-hub:org/name")
    assert api.calls == []


def test_sending_without_a_network_is_refused_in_one_line(finetuned, monkeypatch, refusal):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def answer(*_, **__):
        raise errors.OfflineModeIsEnabled("offline")

    monkeypatch.setattr(Api, "create_repo", answer)
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert "HF_HUB_OFFLINE is set: go online" in refusal(push, finetuned.model, "hf-hub:org/name")
