import json

import pytest

from uniemox.files.journal import read_journal


def test_a_journal_that_does_not_exist_has_no_lines(tmp_path):
    assert read_journal(tmp_path / "metrics.jsonl") == []


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_line_that_a_killed_run_left_unfinished_is_left_out(tmp_path, cut):
    path = tmp_path / "metrics.jsonl"
    whole = json.dumps({"kind": "train", "step": 1, "loss": 0.5})
    path.write_text(f"{whole}\n{whole[:cut]}")
    assert read_journal(path) == [json.loads(whole)]
