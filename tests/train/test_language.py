import pytest
import torch
from torch.nn import functional as F

from uniemox.checkpoints.facts import read_facts
from uniemox.checkpoints.load import load_model, load_start
from uniemox.config.zero_shot import ZeroShotConfig
from uniemox.errors import ConfigError
from uniemox.manifests.table import read_manifest
from uniemox.train.finetune import finetune
from uniemox.train.language import encode_classes

LANGUAGE = {"pool": "fused", "head": "language"}


def test_a_head_of_language_has_what_the_start_keeps_of_its_teacher(finetune_config, pretrained, painted, tmp_path):
    config = finetune_config(tmp_path / "run", init=str(pretrained.model), **LANGUAGE)
    facts = read_manifest(painted.path).facts
    texts, scale = encode_classes(config, load_start(config.init), facts.classes, facts)
    language = read_facts(pretrained.model).language
    assert scale == pytest.approx(language.scale)
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(len(facts.classes)))


def test_a_run_whose_rate_is_nothing_is_the_zero_shot_classifier(finetune_config, pretrained, painted, tmp_path):
    optim = {"base_lr": 1e-30, "weight_decay": 0.0, "epochs": 1}
    for view in ("scene", "both"):
        config = finetune_config(tmp_path / view, init=str(pretrained.model), view=view, optim=optim, **LANGUAGE)
        trained = load_model(finetune(config))
        zero_shot = load_model(str(pretrained.model), zero_shot=ZeroShotConfig(), dataset=str(painted.path))
        pixels = torch.randn(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        views = pixels if view == "both" else pixels[:1]
        with torch.no_grad():
            expected = F.log_softmax(zero_shot.model(*views) / trained.facts.temperature, dim=1)
            found = F.log_softmax(trained.model(*views), dim=1)
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
        assert (trained.facts.pool, trained.facts.view) == ("fused", view)


def test_a_start_without_a_fused_token_is_refused(finetune_config, finetuned, tmp_path):
    config = finetune_config(tmp_path / "run", init=str(finetuned.model), **LANGUAGE)
    with pytest.raises(ConfigError, match="has no fused token, which pool fused needs"):
        finetune(config)


def test_a_teacher_of_another_width_is_refused(finetune_config, pretrained, tmp_path):
    config = finetune_config(tmp_path / "run", init=str(pretrained.model), teacher="clip:demo", **LANGUAGE)
    with pytest.raises(ConfigError, match=r"clip:demo has features of 128 numbers, but init .* of 24"):
        finetune(config)


def test_the_path_of_a_teacher_stays_out_of_the_model_folder(finetune_config, pretrained, tiny_clip, tmp_path):
    optim = {"epochs": 1}
    config = finetune_config(
        tmp_path / "run", init=str(pretrained.model), teacher=f"clip:{tiny_clip}", optim=optim, **LANGUAGE
    )
    text = (finetune(config) / "config.json").read_text()
    assert str(tiny_clip.parent) not in text
    assert read_facts(tmp_path / "run" / "model").provenance["teacher"] == f"clip:{tiny_clip.name}"


def test_a_share_of_random_weights_is_refused(finetune_config, tmp_path):
    with pytest.raises(ConfigError, match=r"trained_share is 0\.5, but without `init` the rest is random weights"):
        finetune(finetune_config(tmp_path / "run", trained_share=0.5))
