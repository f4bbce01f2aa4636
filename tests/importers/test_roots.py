"""What is said of a wrong folder."""

import pytest

from uniemox.errors import DataError
from uniemox.importers.importing import import_dataset
from uniemox.importers.specs import SPECS

NAMED = [spec for spec in SPECS.values() if spec.classes]


@pytest.mark.parametrize("spec", NAMED, ids=lambda spec: spec.name)
def test_a_wrong_root_says_what_was_sought_and_found_where_to_get_it_and_on_which_terms(trees, tmp_path, spec):
    for name in ("b.txt", "a"):
        trees.touch(tmp_path / name)
    with pytest.raises(DataError) as caught:
        import_dataset(spec.name, tmp_path)
    text = str(caught.value)
    assert f"{tmp_path} is not {spec.title}: looked for " in text
    assert ", found a, b.txt;" in text
    where = f"see {spec.url} for the data set" if spec.name != "drawn6" else "; it comes with uniemox"
    assert where in text
    assert f" (licence: {spec.licence})" in text
    assert "\n" not in text


@pytest.mark.parametrize("below", ["unpacked", "data/unpacked"])
@pytest.mark.parametrize("spec", NAMED, ids=lambda spec: spec.name)
def test_the_right_folder_below_a_wrong_one_is_told(trees, tmp_path, spec, below):
    trees.any(spec.name, tmp_path / below)
    with pytest.raises(DataError) as caught:
        import_dataset(spec.name, tmp_path)
    assert f"did you mean {tmp_path / below}" in str(caught.value)


def test_a_neighbour_with_like_classes_is_not_taken_for_the_right_folder(trees, tmp_path):
    trees.any("caer-s", tmp_path / "CAER-S")
    trees.any("heco", tmp_path / "HECO")
    with pytest.raises(DataError) as caught:
        import_dataset("heco", tmp_path)
    assert str(caught.value).endswith(f"did you mean {tmp_path / 'HECO'}?")


@pytest.mark.parametrize("name", ["fi", "heco"])
def test_the_right_folder_of_a_set_that_was_cut_is_told(trees, tmp_path, name):
    trees.any(name, tmp_path / "sets" / "mine", cut=True)
    with pytest.raises(DataError, match=r"did you mean .*/sets/mine\?"):
        import_dataset(name, tmp_path)


def test_control_characters_of_names_are_escaped(trees, tmp_path):
    trees.touch(tmp_path / "\x1b[2J")
    with pytest.raises(DataError, match=r"found \\x1b\[2J"):
        import_dataset("fi", tmp_path)


def test_a_root_of_one_class_is_doubted(trees, tmp_path):
    trees.folders(tmp_path / "FI", ["awe", "fear"])
    result = import_dataset("folders", tmp_path, ratios=(1, 0, 0))
    assert result.notes == ("all are of one class, FI: check `root`, or the table of labels",)


def test_of_many_names_the_first_are_shown_and_the_others_counted(trees, tmp_path):
    for i in range(10):
        trees.touch(tmp_path / f"file{i}.txt")
    with pytest.raises(DataError, match=r"found file0\.txt, .*file5\.txt and 4 more;"):
        import_dataset("fi", tmp_path)
