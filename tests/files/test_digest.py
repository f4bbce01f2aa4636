"""What a file is known by."""

import subprocess

import pytest

from uniemox.files.digest import hash_file


@pytest.mark.parametrize("content", [b"", b"emotion", bytes(2**20)], ids=len)
def test_a_file_is_known_by_what_sha256sum_says(tmp_path, content):
    path = tmp_path / "t"
    path.write_bytes(content)
    said = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True)
    assert hash_file(path) == said.stdout.split()[0]


def test_a_file_that_cannot_be_read_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        hash_file(tmp_path / "none")
