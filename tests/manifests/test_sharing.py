"""Processes that a loader starts map one copy of a large table."""

import json
import pickle
import subprocess
import sys

import pytest

from uniemox.manifests.table import write_manifest

SCRIPT = """
import json, multiprocessing, sys
from pathlib import Path
import pyarrow as pa
from uniemox.manifests.table import read_manifest

def look(manifest, sender):
    rows = [repr(manifest.row(place)) for place in (0, 17, len(manifest) - 1)]
    sender.send({"rows": rows, "taken": pa.total_allocated_bytes(), "facts": repr(manifest.facts),
                 "chosen": None if manifest.chosen is None else manifest.chosen.tolist()})

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[2])
    manifest = read_manifest(Path(sys.argv[1]))
    if len(sys.argv) > 3:
        manifest = manifest.select([sys.argv[3]])
    found = []
    for _ in range(2):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=look, args=(manifest, sender))
        process.start()
        found.append(receiver.recv())
        process.join()
    print(json.dumps({"found": found, "size": manifest.table.nbytes,
                      "rows": [repr(manifest.row(place)) for place in (0, 17, len(manifest) - 1)],
                      "facts": repr(manifest.facts),
                      "chosen": None if manifest.chosen is None else manifest.chosen.tolist()}))
"""


def start(folder, *words):
    script = folder / "look.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, script, *words], check=True, capture_output=True, text=True, cwd=folder)
    return json.loads(done.stdout)


@pytest.mark.skipif(sys.platform == "win32", reason="descriptors of files go to processes on POSIX systems alone")
@pytest.mark.parametrize(("method", "split"), [("spawn", None), ("forkserver", "train")])
def test_a_started_process_has_the_rows_and_no_copy_of_its_own(tmp_path, toy, method, split):
    path = tmp_path / "m.parquet"
    write_manifest(toy.make(tmp_path, 60_000), path)
    seen = start(tmp_path, path, method, *([] if split is None else [split]))
    assert seen["size"] > 2**20
    for found in seen["found"]:
        assert {name: found[name] for name in ("rows", "facts", "chosen")} == {
            name: seen[name] for name in ("rows", "facts", "chosen")
        }
        assert found["taken"] < seen["size"] / 20


def test_a_small_table_is_sent(tmp_path, toy):
    path = tmp_path / "m.parquet"
    write_manifest(toy.make(tmp_path, 50), path)
    seen = start(tmp_path, path, "spawn")
    assert [found["rows"] for found in seen["found"]] == [seen["rows"]] * 2


def test_a_pickle_that_is_stored_holds_the_table_itself(tmp_path, toy):
    manifest = toy.make(tmp_path, 60_000)
    assert len(manifest) == len(pickle.loads(pickle.dumps(manifest)))
