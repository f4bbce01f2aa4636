import datetime
import tracemalloc

import pytest

from uniemox.errors import ConfigError
from uniemox.files.yaml_file import MAX_BYTES, read_mapping


@pytest.fixture
def read(tmp_path):
    def read_text(text):
        path = tmp_path / "file.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_mapping(path, source="file.yaml")

    return read_text


def test_a_mapping_comes_as_it_is(read):
    assert read("a: 1\nb: {c: [x, null, true, 0.5]}\n") == {"a": 1, "b": {"c": ["x", None, True, 0.5]}}


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n", "---\n", "null"])
def test_an_empty_file_is_an_empty_mapping(read, text):
    assert read(text) == {}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("- a\n- b\n", "must be a mapping"),
        ("text", "must be a mapping"),
        ("a: [1, 2\nb: 3\n", "line 2"),
        ("a: b: c\n", "line 1"),
        ("\ta: 1\n", "line 1"),
        ("a: 1\n---\nb: 2\n", "line 2"),
        ("a: 1\na: 2\n", "a is given twice"),
        ("b:\n  a: 1\n  a: 2\n", "a is given twice"),
        ("a: 2000-99-99\n", "not plain YAML"),
        ("a: " + "9" * 5000, "a number of 5,000 digits"),
        ("a: 0x" + "f" * 60_000, "a number of 60,002 digits"),
        ("a: 0b" + "1" * 60_000, "a number of 60,002 digits"),
        ("a: 1" + ":1" * 30_000, "digits"),
        ("a: 1" + ":1" * 30_000 + ".5", "digits"),
        ("a: ." + "9" * 60_000, "digits"),
        ("a: !!int " + "9" * 5000, "digits"),
        ("a: !!int x", "not plain YAML"),
        ("a: !!float x", "not plain YAML"),
        ("".join(f"{i}:\n" for i in range(9_000)) + "7:\n", "7 is given twice"),  # quadratic, this took 3 s
        (b"a: \xff\xfe", "UTF-8"),
        (b"a: \x00", "not plain YAML"),
        ("[" * 60_000, "nested too deeply"),
        ("{a: " * 10_000, "nested too deeply"),
        ("a: 1\n" + "#" * MAX_BYTES, "longer than"),
        ("a: &x 1\nb: *x\n", "aliases"),
        ("a: &x [*x]\n", "aliases"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", "aliases"),
    ],
    ids=lambda value: str(value)[:16],
)
def test_what_is_no_file_of_settings_is_refused_in_one_line_with_its_name(read, text, complaint):
    with pytest.raises(ConfigError) as caught:
        read(text)
    message = str(caught.value)
    assert message.startswith("file.yaml")
    assert complaint in message
    assert "\n" not in message
    assert len(message) < 250


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system [touch {}]",
        "!!python/object/new:os.system [touch {}]",
        "!!python/name:os.system",
        "!!python/module:os",
        "!unknown 1",
    ],
)
def test_a_tag_makes_no_object(read, tmp_path, tag):
    mark = tmp_path / "mark"
    with pytest.raises(ConfigError):
        read(f"a: {tag.format(mark)}\n")
    assert not mark.exists()


def test_plain_tags_make_plain_values(read):
    assert read("a: 2020-01-01\nb: !!str 1\n") == {"a": datetime.date(2020, 1, 1), "b": "1"}


def test_a_bomb_of_aliases_takes_no_memory(read):
    levels = "".join(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 12))
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError, match="aliases"):
            read("a0: &a0 lol\n" + levels)
        assert tracemalloc.get_traced_memory()[1] < 1e7
    finally:
        tracemalloc.stop()


def test_a_file_without_end_is_read_no_further_than_the_limit():
    class Endless:
        taken = 0

        def open(self, mode):
            assert mode == "rb"
            return self

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def read(self, size):
            assert 0 < size <= MAX_BYTES + 1
            return b"#" * size

    with pytest.raises(ConfigError, match="longer than"):
        read_mapping(Endless(), source="file.yaml")


def test_a_missing_file_and_a_folder_are_refused_with_the_reason(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read x: no such file"):
        read_mapping(tmp_path / "missing.yaml", source="x")
    with pytest.raises(ConfigError, match=r"cannot read x: is a directory"):
        read_mapping(tmp_path, source="x")
