"""State dicts under whatever wrapped the model: the same tensors by the same names."""

import itertools

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from uniemox.errors import CheckpointError
from uniemox.files.state_dicts import find_state, read_state, unwrap


def plain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def under(name):
    return lambda model: nn.ModuleDict({name: model})


def compiled(model):
    return torch.compile(model)  # nothing is compiled before it is called


WRAPPERS = {"DDP": under("module"), "Lightning": under("model"), "compiled": compiled, "average": AveragedModel}


@pytest.mark.parametrize(
    "names", [names for count in range(4) for names in itertools.permutations(WRAPPERS, count)], ids="-".join
)
def test_every_nesting_of_wrappers_gives_the_names_of_the_model(names):
    model = wrapped = plain()
    for name in names:
        wrapped = WRAPPERS[name](wrapped)
    tensors, taken = unwrap(wrapped.state_dict())
    assert tensors.keys() == model.state_dict().keys()
    assert all(torch.equal(tensors[name], value) for name, value in model.state_dict().items())
    assert bool(taken) == bool(names)
    assert ("n_averaged" in taken) == ("average" in names)


def test_a_part_that_was_compiled_by_itself_is_understood():
    model = plain()
    expected = model.state_dict().keys()
    model[0] = torch.compile(model[0])
    assert unwrap(model.state_dict())[0].keys() == expected


def test_names_that_would_become_one_stay():
    state = {"a.weight": torch.zeros(1), "a._orig_mod.weight": torch.ones(1)}
    assert unwrap(state) == (state, ())


def test_a_prefix_that_not_all_names_have_stays():
    state = {"module.a": torch.zeros(1), "b": torch.zeros(1)}
    assert unwrap(state) == (state, ())


STATE = {"a": torch.zeros(1)}
AVERAGE = {"n_averaged": torch.tensor(7), "module.a": torch.ones(1)}


@pytest.mark.parametrize(
    ("tree", "key", "average"),
    [
        (STATE, "", False),
        ({"model": STATE, "epoch": 3}, "model", False),
        ({"state_dict": {"module.a": torch.zeros(1)}, "arch": "vit"}, "state_dict", False),
        ({"model": STATE, "model_ema": AVERAGE, "args": None}, "model_ema", True),
        ({"state_dict": STATE, "state_dict_ema": STATE}, "state_dict_ema", True),
        ({"model": {"state_dict": AVERAGE}}, "state_dict", True),
        ({"model_state_dict": STATE, "epoch": 3}, "model_state_dict", False),
        ({"module": STATE, "epoch": 3}, "module", False),
        ({"model": STATE, "model_ema": None}, "model", False),
        ({"model": STATE, "model_ema": {}}, "model", False),
    ],
)
def test_the_state_is_found_where_scripts_keep_it_and_an_average_goes_first(tree, key, average):
    found = find_state(tree)
    assert found.tensors.keys() == {"a"}
    assert (found.key, found.is_average) == (key, average)
    assert set(found.beside) == tree.keys() - {key, "model", "a"} | ({"model"} if key == "model_ema" else set())


def endless():
    tree = {}
    tree["model"] = tree
    return tree


@pytest.mark.parametrize("tree", [{}, {"model": {}}, {"model": 3}, {"a": [1]}, endless()])
def test_what_is_no_table_of_tensors_is_none(tree):
    assert find_state(tree) is None


def test_what_was_done_is_logged_once(tmp_path, caplog):
    torch.save({"model": STATE, "model_ema": AVERAGE}, tmp_path / "a.pt")
    with caplog.at_level("INFO"):
        assert torch.equal(read_state(tmp_path / "a.pt")["a"], torch.ones(1))
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'a.pt'}: module., n_averaged: removed from the names",
        f"{tmp_path / 'a.pt'}: the average over steps is used instead of model, as in timm",
    ]


def test_a_file_without_weights_is_told(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"a\.pt holds no weights by name"):
        read_state(tmp_path / "a.pt")
