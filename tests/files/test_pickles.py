"""What a pickle would make, told without making it; whole files are in test_weights.py."""

import argparse
import io
import pickle
from collections import Counter, OrderedDict
from pathlib import Path

import pytest
import torch

from uniemox.errors import CheckpointError
from uniemox.files.pickles import check_pickle

HONEST = [
    None,
    {"words": 1, 2: "numbers", -3: 2**40, 0.5: True, None: [1, [2.5], (3, "four", ())]},
    OrderedDict(a=1, b=OrderedDict()),
    argparse.Namespace(lr=1e-3, betas=(0.9, 0.95), device=torch.device("cpu"), type=torch.bfloat16),
    [torch.Size((1, 2)), {str(index): [index] * 3 for index in range(3000)}],
]


@pytest.mark.parametrize("value", HONEST)
def test_what_stands_beside_weights_is_let_through(value):
    check_pickle(io.BytesIO(pickle.dumps(value, protocol=2)), Path("a.pth"))


def told_by(pickled):
    with pytest.raises(CheckpointError) as told:
        check_pickle(io.BytesIO(pickled), Path("a.pth"))
    return str(told.value)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (bytearray(3), "asks for "),  # by its content, through an encoding
        ({1, 2}, "asks for __builtin__.set"),
        (Counter("aab"), "asks for collections.Counter"),
        (1 + 2j, "asks for __builtin__.complex"),
        (2**64, "a number of many digits"),
        ({(1, 2): 3}, "a table whose keys are neither words nor numbers"),
        ({(1, 2): 3, (1, 3): 4}, "a table whose keys are neither words nor numbers"),
        ({"a": 1, torch.Size((1, 2)): 3}, "a table whose keys are neither words nor numbers"),
    ],
)
def test_what_weights_have_no_need_of_is_refused(value, said):
    assert said in told_by(pickle.dumps(value, protocol=2))


@pytest.mark.parametrize(
    ("pickled", "said"),
    [
        (b"\x80\x02c_codecs\nencode\nX\1\0\0\0aX\x08\0\0\0punycode\x86R.", "_codecs.encode"),
        (b"\x80\x02ccollections\nOrderedDict\n]\x85R.", "a table that is made of a list"),
        (b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\n.", "_rebuild_from_type_v2"),
        (b"\x80\x02}K\1K\2\x86q\1K\3sh\1K\4s.", "neither words nor numbers"),
        (b"\x80\x02}h\7K\1s.", "neither words nor numbers"),  # from a place that was never filled
    ],
)
def test_what_no_honest_writer_makes_is_refused(pickled, said):
    assert said in told_by(pickled)


def test_pickles_that_follow_each_other_are_walked_one_by_one():
    file = io.BytesIO(pickle.dumps({"a": 1}, protocol=2) + pickle.dumps({(1,): 2}, protocol=2))
    check_pickle(file, Path("a.pth"))
    with pytest.raises(CheckpointError, match="neither words nor numbers"):
        check_pickle(file, Path("a.pth"))


def test_a_word_that_is_longer_than_any_pickle_is_not_read():
    class Endless(io.BytesIO):
        def read(self, size=-1):
            assert 0 <= size < 2**21
            return super().read(size)

    file = Endless(pickle.dumps("a" * 2**22, protocol=2))
    with pytest.raises(CheckpointError, match="a pickle of more than 1048576 bytes"):
        check_pickle(file, Path("a.pth"))


def test_a_pickle_that_is_cut_off_is_no_long_one():
    with pytest.raises(ValueError, match="exhausted"):
        check_pickle(io.BytesIO(pickle.dumps([1, 2], protocol=2)[:-1]), Path("a.pth"))
