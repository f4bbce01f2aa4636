"""Explanations of answers."""

import json
import subprocess
import sys
from itertools import permutations
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from uniemox.config.training import Target as Kind
from uniemox.errors import ConfigError, DataError
from uniemox.inference.explain import COLUMNS, explain, explain_image, list_rows
from uniemox.inference.predictor import Predictor
from uniemox.inference.tables import Form
from uniemox.manifests.table import Box
from uniemox.people.hiding import WAYS
from uniemox.targets.kinds import build_target

PERSON = Box(4, 4, 12, 12)


def person_in_grey(side=32):
    image = Image.new("RGB", (side, side), (90, 90, 90))
    image.paste((255, 0, 0), (4, 4, 12, 12))
    return image


def test_where_only_the_person_counts_hiding_the_person_lowers_the_answer_and_hiding_the_scene_does_not(red_inside):
    found = explain_image(red_inside((4, 4, 12, 12)), person_in_grey(), boxes=[PERSON])
    assert found.answer["predicted"] == found.emotion == "red"
    assert max(found.changes("red")["people"].values()) < -0.005  # a blur keeps most of the colour
    assert set(found.changes("red")["scene"].values()) == {0.0}
    assert min(found.changes("other")["people"].values()) > 0.005
    assert found.agrees == {"people": True, "scene": True}
    assert found.sentence.startswith("Hiding the people lowers red from 0.998 to ")
    assert "hiding the scene does not change red at 0.998" in found.sentence
    assert np.unravel_index(found.map.argmax(), found.map.shape) in {(1, 1), (1, 2), (2, 1), (2, 2)}


def test_where_only_the_scene_counts_it_is_the_other_way_round(red_inside):
    image = Image.new("RGB", (32, 32), (255, 0, 0))
    image.paste((0, 0, 0), (4, 4, 12, 12))
    found = explain_image(red_inside((16, 16, 32, 32)), image, boxes=[PERSON], with_map=False)
    assert set(found.changes("red")["people"].values()) == {0.0}
    changes = found.changes("red")["scene"]
    assert changes["mean"] == changes["neighbours"] < -0.4  # all becomes black
    assert -0.4 < changes["blur"] < 0  # and stays red where it is blurred
    assert found.map is None


def test_a_model_of_persons_reads_the_chosen_one_and_the_change_reaches_its_crop(red_inside):
    people = [PERSON, Box(16, 16, 20, 20)]
    found = explain_image(red_inside((0, 0, 32, 32), view="person"), person_in_grey(), boxes=people)
    assert found.box == PERSON  # the largest
    changes = found.changes("red")
    assert list(changes) == ["people", "person 0", "person 1", "scene"]
    assert max(changes["person 0"].values()) < -0.005
    assert set(changes["person 1"].values()) == {0.0}


def test_another_emotion_than_the_answered_one_may_be_explained(red_inside):
    found = explain_image(red_inside(), person_in_grey(), boxes=[PERSON], emotion="other")
    assert (found.answer["predicted"], found.emotion) == ("red", "other")
    assert found.sentence.startswith("Hiding the people raises other")
    assert found.map.min() < 0


def test_an_unknown_emotion_is_named_with_those_that_are_known(red_inside):
    with pytest.raises(ConfigError, match=r"emotion is othr, but the model knows red, other; did you mean other\?"):
        explain_image(red_inside(), person_in_grey(), emotion="othr")


@pytest.mark.parametrize(
    ("boxes", "reason"),
    [
        (None, "people and scene were not compared: no boxes and no detector given"),
        ((), "no people in the image"),
        ((Box(0, 0, 32, 32),), "the people cover the whole image"),
    ],
)
def test_without_people_to_hide_there_is_an_answer_a_map_and_a_reason(red_inside, boxes, reason):
    found = explain_image(red_inside(), person_in_grey(), boxes=boxes)
    assert (found.reason, found.sentence, found.agrees) == (reason, None, {})
    assert found.answer["predicted"] == "red"
    assert found.map.max() > 0


def test_an_image_that_is_none_and_a_crowd_are_refused(red_inside):
    with pytest.raises(DataError, match="the image cannot be read: grey of 32 bits"):
        explain_image(red_inside(), Image.new("F", (9, 9)))
    with pytest.raises(DataError, match="257 people are more than 256"):
        explain_image(red_inside(), person_in_grey(), boxes=[PERSON] * 257)


def test_plain_values_go_through_json(red_inside):
    found = explain_image(red_inside(), person_in_grey(), boxes=[PERSON])
    values = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert values["predicted"] == "red"
    assert values["probabilities"] == pytest.approx(values["numbers"])
    assert np.abs(values["map"]).max() == 1
    assert np.array(values["map"]) * values["map_scale"] == pytest.approx(found.map, abs=1e-4)
    assert {(one["hidden"], one["way"]) for one in values["effects"]} == {
        (name, way) for name in ("people", "scene") for way in WAYS
    }


def test_images_are_explained_in_their_order_and_a_bad_one_has_a_reason(red_inside, tmp_path):
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    person_in_grey().save(good)
    bad.write_bytes(b"no image")
    found = list(explain(red_inside(), [bad, good], people={good: [PERSON]}, with_map=False))
    assert [one.path for one in found] == [bad, good]
    assert (found[0].answer, found[0].reason) == (None, "not an image")
    assert found[1].effects


def test_a_table_has_a_row_for_each_part_and_emotion_or_one_with_the_reason(red_inside, tmp_path):
    people = [PERSON, Box(20, 20, 28, 28)]
    rows = list(list_rows(explain_image(red_inside(), person_in_grey(), boxes=people, with_map=False)))
    assert len(rows) == 4 * 2
    assert all(set(row.cells()) == {column.name for column in COLUMNS} for row in rows)
    each = {(row.values["hidden"], row.values["emotion"]): row.values for row in rows}
    assert each["person 1", "red"]["x0"] == 20
    assert each["people", "red"]["is_explained"] is True
    assert each["people", "other"]["is_explained"] is False
    (alone,) = list_rows(explain_image(red_inside(), person_in_grey(), with_map=False))
    assert (alone.values["reason"], alone.values["hidden"]) == ("no people in the image", None)
    for suffix in (".csv", ".jsonl", ".parquet"):
        assert Form(suffix, COLUMNS).write([*rows, alone], tmp_path / f"table{suffix}") == 9


def test_an_export_is_explained_as_the_model_it_came_from(finetuned, exported, painted):
    """Both are black boxes: the same maps and effects to the accuracy of their logits."""
    row = painted.manifest.select(["test"]).spread(1)[0]
    image = Image.open(row.path)
    first, second = (
        explain_image(Predictor.load(model, device="cpu"), image, boxes=[Box(6, 6, 30, 30)])
        for model in (finetuned.model, exported)
    )
    np.testing.assert_allclose(first.map, second.map, atol=2e-5)
    for one, other in zip(first.effects, second.effects, strict=True):
        assert (one.hidden, one.way) == (other.hidden, other.way)
        assert one.changes == pytest.approx(other.changes, abs=2e-5)


def test_an_export_is_explained_without_torch(exported, painted):
    code = (
        "import sys\n"
        "from PIL import Image\n"
        "from uniemox import Box, Predictor\n"
        "from uniemox.inference.explain import explain_image\n"
        "from uniemox.inference.overlay import overlay\n"
        f"predictor = Predictor.load({str(exported)!r})\n"
        f"image = Image.open({str(next((painted.root / 'test').rglob('*.png')))!r})\n"
        "found = explain_image(predictor, image, boxes=[Box(6, 6, 30, 30)])\n"
        "overlay(image, found)\n"
        "print(len(found.effects), {'torch', 'scipy', 'captum', 'matplotlib'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "6 set()\n"


CLASSES, DIMENSIONS = ("red", "other", "more"), ("valence", "arousal")
KINDS = [(kind,) for kind in get_args(Kind)] + list(permutations(get_args(Kind), 2))


@pytest.mark.parametrize("kinds", KINDS, ids="+".join)
def test_the_answers_of_every_kind_of_model_are_explained(red_inside, kinds):
    """The first output of the first kind follows the person's red, so hiding the person lowers it and nothing else."""
    target = build_target(list(kinds))
    names = [DIMENSIONS if kind == "valence_arousal" else CLASSES for kind in kinds]
    if len(kinds) == 1:
        target = target.bind(names[0])
    else:
        target = target._join(part.bind(own) for part, own in zip(target.parts, names, strict=True))
    backend = red_inside((4, 4, 12, 12)).backend
    kept, two = target.to_facts(), backend.logits
    backend.facts.classes, backend.facts.target = target.classes, target.name
    backend.facts.kept = {"thresholds": kept["thresholds"], **kept.get("numbers", {})}
    backend.logits = lambda pixels: np.pad(two(pixels), ((0, 0), (0, target.num_outputs - 2))) / 6
    found = explain_image(Predictor(backend), person_in_grey(), boxes=[PERSON])
    assert found.emotion == target.classes[0]
    assert list(found.numbers) == list(target.classes)
    assert max(found.changes(found.emotion)["people"].values()) < 0
    assert set(found.changes(found.emotion)["scene"].values()) == {0.0}
    assert found.sentence.startswith(f"Hiding the people lowers {found.emotion} from ")
    assert np.unravel_index(found.map.argmax(), found.map.shape) in {(1, 1), (1, 2), (2, 1), (2, 2)}
    assert json.loads(json.dumps(found.to_dict()))["predicted" if "predicted" in found.answer else "emotion"]
    assert len(list(list_rows(found))) == 2 * len(target.classes)
