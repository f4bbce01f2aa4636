"""Which epoch is kept, and what scores it."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

import uniemox.train.selection as selection_module
from uniemox.checkpoints.facts import read_facts
from uniemox.checkpoints.load import load_model
from uniemox.inference.outputs import Outputs
from uniemox.train.engine import Engine
from uniemox.train.finetune import finetune
from uniemox.train.selection import Selection


def report_of(**scores):
    return SimpleNamespace(kept=scores, values=scores, computed_in="fp32")


@pytest.mark.parametrize(("select_by", "best"), [("top1", "1"), ("balanced_accuracy", "2"), ("macro_f1", "1")])
def test_the_best_epoch_is_chosen_by_the_named_metric_and_the_first_of_equals(
    finetune_config, tmp_path, monkeypatch, heard, select_by, best
):
    scores = [(0.9, 0.3), (0.1, 0.8), (0.2, 0.5), (0.9, 0.8)]  # of epochs, and of what is left
    reports = iter([report_of(top1=top1, balanced_accuracy=ba, macro_f1=0.5) for top1, ba in scores])
    monkeypatch.setattr(Outputs, "score", lambda *_, **__: next(reports))
    kept = {}
    after = Selection.after_epoch

    def keep(self, engine):
        kept[str(engine.epoch)] = {name: t.clone() for name, t in engine.weights_module.state_dict().items()}
        return after(self, engine)

    monkeypatch.setattr(Selection, "after_epoch", keep)
    config = finetune_config(tmp_path / "run", select_by=select_by, test_split=None, optim={"epochs": 3})
    folder = finetune(config, heard)
    facts = read_facts(folder)
    assert facts.provenance["best_epoch"] == best
    assert facts.metrics.keys() == {f"val_{select_by}"}
    chosen = load_model(folder).model.state_dict()
    for name, tensor in kept[best].items():
        if name.startswith("head."):
            torch.testing.assert_close(chosen[name] * facts.temperature, tensor)
        else:
            assert torch.equal(chosen[name], tensor)
    assert not (tmp_path / "run" / "test").exists()


def test_the_moving_average_is_what_fine_tuning_scores_and_leaves(finetune_config, tmp_path, monkeypatch):
    scored, outputs = [], selection_module.compute_outputs

    def spy(model, *args, **settings):
        scored.append(model)
        return outputs(model, *args, **settings)

    monkeypatch.setattr(selection_module, "compute_outputs", spy)
    engines, run = [], Engine.run
    monkeypatch.setattr(Engine, "run", lambda self: (engines.append(self), run(self))[1])
    finetune(finetune_config(tmp_path / "run", optim={"ema_decay": 0.9, "epochs": 1}))
    assert len(scored) == 5  # val after the epoch, val for the temperature, train, val after it, test
    read = [getattr(model, "model", model) for model in scored]  # some give distances too
    assert all(model is engines[0].ema.module for model in read)


def test_a_run_ends_once_val_has_not_improved_for_as_long_as_it_is_patient(
    finetune_config, tmp_path, monkeypatch, heard
):
    values = [0.3, 0.5, 0.4, 0.5, 0.5]  # of epochs, and of what is left
    monkeypatch.setattr(Outputs, "score", lambda *_, **__: report_of(top1=values.pop(0)))
    config = finetune_config(tmp_path / "run", patience=2, optim={"epochs": 20}, test_split=None)
    folder = finetune(config, heard)
    assert values == []
    assert read_facts(folder).provenance["best_epoch"] == "2"
    assert any("stopped after epoch 4 of 20: val has not improved" in text for text in heard.texts)
    values += [0.45, 0.6, 0.5, 0.5, 0.5, 0.5, 0.6]
    finetune(dataclasses.replace(config, patience=4, resume=True))
    assert values == []
    assert read_facts(folder).provenance["best_epoch"] == "6"
