import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms.v2 import RandomResizedCrop

from uniemox.config.people import PersonConfig
from uniemox.config.training import AugmentConfig, ViewsConfig
from uniemox.data import transforms
from uniemox.data.corruptions import CORRUPTIONS
from uniemox.data.dataset import AugmentedDataset, EvaluationDataset, Place, PretrainDataset, read_or_next
from uniemox.data.pixels import EvaluationViews, cut_region
from uniemox.data.transforms import evaluation, normalize, seed_of, seeded
from uniemox.errors import DataError
from uniemox.files.images import read_image
from uniemox.manifests.table import Box, Facts, manifest_from_columns
from uniemox.people.regions import person_region
from uniemox.targets.multi_label import MultiLabel
from uniemox.targets.single_label import SingleLabel

ONE, SEVERAL = SingleLabel(), MultiLabel()
AUGMENT = AugmentConfig()
RED, GREEN, BLUE = (200, 0, 0), (0, 200, 0), (0, 0, 200)


def pretrain_dataset(manifest, *, seed=0, texts=None, person=None, **views):
    return PretrainDataset(
        manifest,
        np.arange(len(manifest)) if texts is None else texts,
        views=ViewsConfig(**views),
        person=person or PersonConfig(),
        size=32,
        num_patches=16,
        seed=seed,
    )


def augmented_dataset(manifest, augment=AUGMENT, *, seed=0, view="scene", target=ONE, **person):
    return AugmentedDataset(
        manifest, augment, size=32, seed=seed, view=view, person=PersonConfig(**person), target=target
    )


def evaluation_dataset(manifest, *, size=32, view="scene", target=ONE, **person):
    return EvaluationDataset(manifest, EvaluationViews(size=size, view=view, person=PersonConfig(**person)), target)


def pictures(root, *, count=4, broken=(), labels=None, boxes=None, size=(40, 30)):
    """A manifest of images, each of a colour of its own; some are no images."""
    root.mkdir(exist_ok=True)
    for index in range(count):
        path = root / f"{index}.png"
        if index in broken:
            path.write_text("not an image")
        else:
            Image.new("RGB", size, (20 * index, 0, 255 - 20 * index)).save(path)
    facts = Facts(name="few", title="Few", classes=("a", "b"), emotion="evoked", root=root)
    return manifest_from_columns(
        facts,
        paths=[f"{index}.png" for index in range(count)],
        splits=["train"] * count,
        labels=[index % 2 for index in range(count)] if labels is None else labels,
        people=boxes,
    )


def is_of_colour(pixels, index):
    return (pixels == torch.tensor([20 * index, 0, 255 - 20 * index]).view(3, 1, 1)).all()


def test_the_person_view_is_the_crop_of_the_box_and_not_the_scene(painted):
    manifest = painted.manifest
    dataset = pretrain_dataset(manifest, person=PersonConfig(margin=0))
    with_box = [index for index in range(len(manifest)) if manifest.row(index).boxes]
    assert len(with_box) > 20
    for index in with_box:
        sample = dataset[Place(0, index)]
        colour = torch.tensor(painted.colours[manifest.labels[index]]).view(3, 1, 1)
        assert (sample.person == colour).all()
        assert not (sample.scene == colour).all()


def test_the_margin_shows_what_is_around_the_person(painted):
    dataset = pretrain_dataset(painted.manifest, person=PersonConfig(margin=0.5))
    person = dataset[Place(0, 0)].person
    colour = torch.tensor(painted.colours[0]).view(3, 1, 1)
    assert (person[:, 14:18, 14:18] == colour).all()
    assert not (person[:, :, -1] == colour).all()


@pytest.mark.parametrize(("choice", "colour"), [("largest", RED), ("confident", GREEN), ("central", BLUE)])
def test_the_person_view_shows_the_person_that_was_chosen(tmp_path, choice, colour):
    image = Image.new("RGB", (100, 60))
    boxes = (Box(0, 0, 40, 40, 0.6), Box(80, 40, 100, 60, 0.9), Box(46, 26, 54, 34, 0.5))
    manifest = pictures(tmp_path / "few", count=1, boxes=[boxes])
    for box, paint in zip(boxes, (RED, GREEN, BLUE), strict=True):
        image.paste(paint, (int(box.x0), int(box.y0), int(box.x1), int(box.y1)))
    image.save(tmp_path / "few" / "0.png")
    person = PersonConfig(choice=choice, margin=0)
    seen = pretrain_dataset(manifest, person=person)[Place(0, 0)].person
    assert (seen == torch.tensor(colour).view(3, 1, 1)).all()


def test_a_padded_person_keeps_its_aspect(tmp_path):
    image = Image.new("RGB", (200, 100), GREEN)
    image.paste(RED, (80, 0, 120, 80))
    manifest = pictures(tmp_path / "few", count=1, boxes=[(Box(80, 0, 120, 80),)])
    image.save(tmp_path / "few" / "0.png")
    person = PersonConfig(margin=0, shape="pad")
    seen = pretrain_dataset(manifest, person=person)[Place(0, 0)].person
    red = (seen[0] > 100).sum().item() / seen[0].numel()
    assert red == pytest.approx(0.5, abs=0.05)  # 40 of 80 columns; squeezed it would be all


def test_boxes_are_those_of_the_sample_and_not_of_another(tmp_path):
    boxes = [(Box(0, 0, 10, 10),), (), (Box(-20, -20, -5, -5),), (Box(500, 0, 600, 10),)]
    dataset = pretrain_dataset(pictures(tmp_path / "few", boxes=boxes))
    for index in range(4):
        sample = dataset[Place(0, index)]
        assert is_of_colour(sample.scene, index)
        assert is_of_colour(sample.person, index)


@pytest.mark.parametrize("index", [3, 7])
def test_the_scene_stands_in_where_there_is_no_box(painted, index):
    assert not painted.manifest.row(index).boxes
    sample = pretrain_dataset(painted.manifest)[Place(0, index)]
    assert torch.equal(sample.person, sample.scene)


def test_the_scene_stands_in_where_the_box_lies_outside_of_the_picture(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    manifest = pictures(tmp_path / "few", count=1, boxes=[(Box(41, 0, 60, 20),)])
    Image.fromarray(image).save(tmp_path / "few" / "0.png")
    sample = pretrain_dataset(manifest)[Place(0, 0)]
    assert torch.equal(sample.person, sample.scene)


@pytest.mark.parametrize("view", ["scene", "none"])
def test_boxes_can_be_ignored(painted, view):
    dataset = PretrainDataset(
        painted.manifest,
        np.arange(40),
        views=ViewsConfig(person=view),
        person=PersonConfig(),
        size=32,
        num_patches=16,
        seed=0,
    )
    sample = dataset[Place(0, 0)]
    assert torch.equal(sample.person, sample.scene)


def test_scene_and_person_are_hidden_independently(painted):
    sample = pretrain_dataset(painted.manifest)[Place(0, 0)]
    assert sample.scene_noise.shape == sample.person_noise.shape == (16,)
    assert not torch.equal(sample.scene_noise.argsort(), sample.person_noise.argsort())


def sample_of(kind, manifest, place, seed=0):
    if kind == "pretrain":
        sample = pretrain_dataset(manifest, seed=seed)[place]
        return torch.cat([sample.scene.flatten().float(), sample.scene_noise, sample.person_noise])
    return augmented_dataset(manifest, seed=seed)[place].pixels


@pytest.mark.parametrize("kind", ["pretrain", "augmented"])
def test_the_randomness_of_a_sample_is_a_function_of_seed_epoch_and_row(painted, kind):
    manifest = painted.manifest
    first = sample_of(kind, manifest, Place(2, 5))
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)
    assert torch.equal(sample_of(kind, manifest, Place(2, 5)), first)
    for other in (
        sample_of(kind, manifest, Place(3, 5)),
        sample_of(kind, manifest, Place(2, 6)),
        sample_of(kind, manifest, Place(2, 5), seed=1),
    ):
        assert not torch.equal(other, first)


@pytest.mark.parametrize("row", range(6))
def test_a_sample_is_what_the_libraries_draw_and_cut_one_after_the_other(painted, row):
    """Written as a recipe would be, with Pillow's resize and all three generators seeded."""
    manifest, person = painted.manifest, PersonConfig(shape="squeeze")
    sample = pretrain_dataset(manifest, person=person)[Place(2, row)]
    image = Image.open(manifest.row(row).path).convert("RGB")
    with seeded(seed_of(0, 2, row)):
        crop = RandomResizedCrop(32, scale=ViewsConfig().scene_scale, ratio=(3 / 4, 4 / 3)).make_params([image])
        is_mirrored = torch.rand(()).item() < 0.5
        noise = torch.rand(2, 16)
    left, top = crop["left"], crop["top"]
    scene = image.crop((left, top, left + crop["width"], top + crop["height"])).resize(
        (32, 32), Image.Resampling.BICUBIC
    )
    region = person_region(manifest.row(row).boxes, person, width=image.width, height=image.height)
    views = [scene, scene if region is None else cut_region(image, region, size=32, shape="squeeze")]
    for view, found in zip(views, (sample.scene, sample.person), strict=True):
        expected = np.asarray(ImageOps.mirror(view) if is_mirrored else view).astype(int)
        assert np.abs(found.permute(1, 2, 0).numpy() - expected).max() <= 3
    assert torch.equal(torch.stack([sample.scene_noise, sample.person_noise]), noise)


def test_a_pretraining_sample_seeds_one_generator_and_resizes_without_pillow(painted, monkeypatch):
    """What cost most is named, so that no change brings it back."""
    dataset = pretrain_dataset(painted.manifest)
    with monkeypatch.context() as patch:
        patch.setattr(random, "setstate", lambda _: pytest.fail("Python's generator was restored"))
        patch.setattr(np.random, "set_state", lambda _: pytest.fail("NumPy's generator was restored"))
        patch.setattr(Image.Image, "resize", lambda *_, **__: pytest.fail("Pillow resized a view"))
        dataset[Place(0, 0)]


@pytest.mark.parametrize("kind", ["pretrain", "augmented"])
def test_a_sample_leaves_the_global_generators_as_they_were(painted, kind):
    def states():
        numpy = np.random.get_state()[1]  # noqa: NPY002
        return random.getstate(), numpy.tolist(), torch.get_rng_state().tolist()

    before = states()
    sample_of(kind, painted.manifest, Place(0, 0))
    assert states() == before


def test_a_sample_has_the_description_of_its_row(painted):
    texts = np.arange(100, 140)
    dataset = pretrain_dataset(painted.manifest, texts=texts)
    assert [dataset[Place(0, row)].text for row in (0, 5, 39)] == [100, 105, 139]
    assert len(dataset) == 40


def test_an_unreadable_picture_is_replaced_by_the_next_and_named(tmp_path):
    manifest = pictures(tmp_path / "few", broken={1, 2})
    sample = pretrain_dataset(manifest)[Place(0, 1)]
    assert is_of_colour(sample.scene, 3)
    assert sample.text == 3
    assert [(skipped.path, skipped.reason) for skipped in sample.skipped] == [
        (str(tmp_path / "few" / "1.png"), "not an image"),
        (str(tmp_path / "few" / "2.png"), "not an image"),
    ]


def test_a_replaced_picture_brings_its_own_label(tmp_path):
    manifest = pictures(tmp_path / "few", broken={3})
    dataset = augmented_dataset(manifest)
    sample = dataset[Place(0, 3)]
    assert (sample.label, sample.row) == (0, 0)  # after the last comes the first
    assert len(sample.skipped) == 1
    assert dataset[Place(0, 1)].skipped == ()
    assert len(dataset) == 4


def test_training_gives_up_where_no_picture_can_be_read(tmp_path):
    manifest = pictures(tmp_path / "few", broken={0, 1, 2, 3})
    with pytest.raises(DataError, match=r"4 images in sequence cannot be read.*2\.png.*few$"):
        read_or_next(manifest, 2)


def test_training_gives_up_after_a_hundred_pictures(tmp_path):
    facts = Facts(name="x", title="X", classes=("a",), emotion=None, root=tmp_path)
    names = [f"{index}.png" for index in range(102)]
    manifest = manifest_from_columns(facts, paths=names, splits=["train"] * 102, labels=[0] * 102)
    Image.new("RGB", (4, 4)).save(tmp_path / "101.png")
    with pytest.raises(DataError, match="100 images in sequence"):
        read_or_next(manifest, 1)
    row, _image, skipped = read_or_next(manifest, 2)
    assert (row.index, len(skipped)) == (101, 99)


def test_evaluation_sees_each_picture_as_it_is(painted):
    manifest = painted.manifest
    dataset = evaluation_dataset(manifest)
    assert len(dataset) == len(manifest)
    for index in (0, 17):
        sample = dataset[index]
        image = Image.open(manifest.row(index).path)
        assert torch.equal(sample.pixels, evaluation(32)(image))
        assert (sample.label, sample.row, sample.skipped) == (manifest.labels[index], index, ())


def test_an_unreadable_picture_of_evaluation_keeps_its_row_and_says_why(tmp_path):
    manifest = pictures(tmp_path / "few", broken={1})
    sample = evaluation_dataset(manifest)[1]
    assert (sample.label, sample.row) == (1, 1)
    assert not sample.pixels.any()
    assert sample.pixels.shape == (3, 32, 32)
    assert sample.skipped == ((str(tmp_path / "few" / "1.png"), "not an image"),)


@pytest.mark.parametrize(
    "use",
    [
        lambda manifest, target: augmented_dataset(manifest, target=target),
        lambda manifest, target: evaluation_dataset(manifest, target=target),
    ],
    ids=["augmented", "evaluation"],
)
@pytest.mark.parametrize("target", [ONE, SEVERAL])
def test_rows_without_a_label_are_refused_and_the_first_is_named(tmp_path, use, target):
    manifest = pictures(tmp_path / "few", labels=[0, None, None, 1])
    with pytest.raises(DataError, match=r"2 of 4 rows have no label.*1\.png"):
        use(manifest, target)


# Views of a classifier

PLAIN = AugmentConfig(scale=(1, 1), flip=0, rand_augment=None, erase=0, mixup=0, cutmix=0)


def has_colour(pixels, colour):
    expected = normalize(torch.tensor(colour, dtype=torch.uint8).view(3, 1, 1))
    return (pixels - expected).abs().max() < 1e-5


def with_box(manifest):
    return [index for index in range(len(manifest)) if manifest.row(index).boxes]


@pytest.mark.parametrize("view", ["person", "both"])
@pytest.mark.parametrize("shape", ["squeeze", "pad"])
def test_a_classifier_reads_the_persons_own_pixels(painted, view, shape):
    manifest = painted.manifest
    training = augmented_dataset(manifest, PLAIN, view=view, margin=0.0, shape=shape)
    evaluating = evaluation_dataset(manifest, view=view, margin=0.0, shape=shape)
    for index in with_box(manifest):
        colour = painted.colours[manifest.labels[index]]
        for sample in (training[Place(0, index)], evaluating[index]):
            person = sample.pixels if view == "person" else sample.person
            assert has_colour(person, colour)
            assert (sample.person is None) == (view == "person")
            assert view == "person" or not has_colour(sample.pixels, colour)


def test_the_scene_of_both_views_is_that_of_the_scene_alone(painted):
    manifest = painted.manifest
    alone, both = (evaluation_dataset(manifest, view=view) for view in ("scene", "both"))
    for index in range(8):
        assert torch.equal(alone[index].pixels, both[index].pixels)
    assert alone[0].person is None


def test_the_scene_stands_in_for_a_person_that_is_not_there(painted):
    manifest = painted.manifest
    (index,) = {3} - set(with_box(manifest))
    for dataset, place in (
        (evaluation_dataset(manifest, view="both"), index),
        (augmented_dataset(manifest, view="both"), Place(0, index)),
    ):
        sample = dataset[place]
        assert torch.equal(sample.pixels, sample.person)
    alone = evaluation_dataset(manifest, view="scene")[index]
    assert torch.equal(evaluation_dataset(manifest, view="person")[index].pixels, alone.pixels)


def test_a_box_outside_the_picture_is_told_in_training_and_no_reason_to_leave_out_in_evaluation(tmp_path):
    manifest = pictures(tmp_path / "few", boxes=[(Box(500, 0, 600, 10),)] * 4)
    sample = augmented_dataset(manifest, view="both")[Place(0, 0)]
    assert torch.equal(sample.pixels, sample.person)
    assert "they lie outside the image" in sample.skipped[0].reason
    assert augmented_dataset(manifest, view="scene")[Place(0, 0)].skipped == ()
    assert evaluation_dataset(manifest, view="both")[0].skipped == ()


@pytest.mark.parametrize("view", ["person", "both"])
def test_an_unreadable_picture_is_zeros_in_every_view(tmp_path, view):
    manifest = pictures(tmp_path / "few", broken={1})
    sample = evaluation_dataset(manifest, view=view)[1]
    assert sample.skipped
    for pixels in (sample.pixels, sample.person)[: 2 if view == "both" else 1]:
        assert pixels.shape == (3, 32, 32)
        assert not pixels.any()


def test_each_row_of_a_shared_picture_shows_its_own_person_in_the_same_scene(tmp_path):
    image = Image.new("RGB", (40, 30), (90, 90, 90))
    image.paste((200, 0, 0), (0, 0, 12, 30))
    image.paste((0, 0, 200), (25, 5, 35, 30))
    image.save(tmp_path / "two.png")
    facts = Facts(name="two", title="Two", classes=("a", "b"), emotion="felt", root=tmp_path)
    manifest = manifest_from_columns(
        facts,
        paths=["two.png"] * 2,
        splits=["train"] * 2,
        labels=[0, 1],
        people=[(Box(0, 0, 12, 30),), (Box(25, 5, 35, 30),)],
    )
    first, second = (evaluation_dataset(manifest, view="both", margin=0.0)[index] for index in (0, 1))
    assert torch.equal(first.pixels, second.pixels)
    assert has_colour(first.person, (200, 0, 0))
    assert has_colour(second.person, (0, 0, 200))


def test_the_randomness_of_both_views_is_a_function_of_seed_epoch_and_row(painted):
    dataset = augmented_dataset(painted.manifest, view="both")
    first, again, other = (dataset[Place(epoch, 0)] for epoch in (0, 0, 1))
    assert torch.equal(first.pixels, again.pixels)
    assert torch.equal(first.person, again.person)
    assert not torch.equal(first.pixels, other.pixels)
    assert not torch.equal(first.person, other.person)


# Several labels


def several(root, label_sets, labels=None):
    facts = Facts(name="many", title="Many", classes=("a", "b", "c"), emotion="felt", root=root)
    count = len(label_sets)
    root.mkdir(exist_ok=True)
    for index in range(count):
        Image.new("RGB", (40, 30)).save(root / f"{index}.png")
    return manifest_from_columns(
        facts,
        paths=[f"{index}.png" for index in range(count)],
        splits=["train"] * count,
        labels=labels,
        label_sets=label_sets,
    )


def test_several_labels_where_one_is_wanted_are_refused_with_the_way_to_train_on_them(tmp_path):
    manifest = several(tmp_path, [[0, 1]])
    with pytest.raises(DataError, match=r"many gives several labels.*`target` multi_label"):
        ONE.read_labels(manifest)


@pytest.mark.parametrize("make", [augmented_dataset, evaluation_dataset])
def test_a_sample_of_several_labels_says_of_each_class_whether_it_applies(tmp_path, make):
    manifest = several(tmp_path, [[0, 2], None, [], [1]], labels=[None, 2, None, None])
    dataset = make(manifest, target=SEVERAL)
    places = [Place(0, i) for i in range(4)] if make is augmented_dataset else range(4)
    found = torch.stack([dataset[place].label for place in places])
    expected = [[1, 0, 1], [0, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert torch.equal(found, torch.tensor(expected, dtype=torch.bool))


# Transforms that fail


@pytest.mark.parametrize(
    ("make", "place", "transform"),
    [
        (pretrain_dataset, Place(0, 5), "the pretraining views"),
        (augmented_dataset, Place(0, 5), "the augmentation"),
        (evaluation_dataset, 5, "the evaluation views"),
    ],
    ids=["pretrain", "augmented", "evaluation"],
)
@pytest.mark.parametrize("fault", [ValueError("bad size"), AttributeError("no AFFINE"), OSError("x")])
def test_a_transform_that_fails_is_one_line_with_the_image_the_transform_and_the_reason(
    painted, monkeypatch, make, place, transform, fault
):
    def fail(*arguments, **others):
        raise fault

    manifest = painted.manifest
    dataset = make(manifest)
    monkeypatch.setattr(Image.Image, "resize", fail)
    monkeypatch.setattr(transforms, "interpolate", fail)  # of the pretraining views
    before = random.getstate()
    with pytest.raises(DataError) as caught:
        dataset[place]
    assert str(caught.value) == (
        f"{manifest.row(5).path}: {transform} failed: {fault} ({type(fault).__name__}); --debug shows where"
    )
    assert caught.value.__cause__ is fault
    assert random.getstate() == before


def test_an_operation_of_the_augmentation_that_fails_is_named(painted, monkeypatch):
    def fail(*arguments, **others):
        raise ValueError("bits must be 1 to 8")

    monkeypatch.setattr(ImageOps, "posterize", fail)
    words = "rand-m9-mstd0.5-inc1"
    manifest = painted.manifest
    dataset = augmented_dataset(manifest, AugmentConfig(rand_augment=words))
    errors = {}
    for row in range(len(manifest)):
        try:
            dataset[Place(0, row)]
        except DataError as error:
            errors[row] = error
    assert 0 < len(errors) < len(manifest)
    for row, error in errors.items():
        assert str(error).startswith(
            f"{manifest.row(row).path}: the augmentation ({words}, PosterizeIncreasing) failed: bits must be 1 to 8"
        )
        assert str(error.__cause__) == "bits must be 1 to 8"


def test_want_of_memory_is_no_fault_of_an_image(painted, monkeypatch):
    def starve(*arguments, **others):
        raise MemoryError

    dataset = evaluation_dataset(painted.manifest)
    monkeypatch.setattr(Image.Image, "resize", starve)
    with pytest.raises(MemoryError):
        dataset[0]


@pytest.mark.parametrize("view", ["scene", "both"])
def test_each_row_is_as_many_samples_as_changes_with_the_person_cut_from_the_changed_image(painted, view):
    manifest = painted.manifest.select(["test"])
    views = EvaluationViews(size=32, view=view, person=PersonConfig())
    data = EvaluationDataset(manifest, views, ONE, CORRUPTIONS)
    assert len(data) == len(CORRUPTIONS) * len(manifest)
    for index in range(3 * len(CORRUPTIONS)):
        place, which = divmod(index, len(CORRUPTIONS))
        row, sample = manifest.row(place), data[index]
        image, boxes = CORRUPTIONS[which](
            Image.open(row.path).convert("RGB"), row.boxes, row=int(manifest.places[place])
        )
        expected = views(image, boxes)
        assert torch.equal(sample.pixels, torch.from_numpy(expected[0]))
        assert view == "scene" or torch.equal(sample.person, torch.from_numpy(expected[1]))
        assert (sample.row, int(sample.label)) == (index, manifest.labels[place])


def test_an_image_is_decoded_once_for_all_its_changes_unless_it_is_large(painted, monkeypatch):
    decoded = []
    monkeypatch.setattr("uniemox.data.dataset.read_image", lambda path: decoded.append(path) or read_image(path))
    manifest = painted.manifest.select(["test"])
    views = EvaluationViews(size=32, view="scene", person=PersonConfig())
    for side, times in ((2**22, 2), (100, 2 * len(CORRUPTIONS))):
        monkeypatch.setattr("uniemox.data.dataset._KEPT", side)
        decoded.clear()
        data = EvaluationDataset(manifest, views, ONE, CORRUPTIONS)
        for index in range(2 * len(CORRUPTIONS)):
            data[index]
        assert len(decoded) == times
