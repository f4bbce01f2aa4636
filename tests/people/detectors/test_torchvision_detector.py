"""torchvision's detectors, with seeded weights."""

import os
import pickle
import shutil
import urllib.error
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision.models import detection
from torchvision.transforms.v2.functional import pil_to_tensor

from uniemox.config.people import Limits
from uniemox.errors import CheckpointError, DataError
from uniemox.people.detectors.choice import NICKNAMES
from uniemox.people.detectors.torchvision_detector import PERSON, TorchvisionDetector

SSD = "ssdlite320_mobilenet_v3_large"
EVERYTHING = Limits(score=0, nms_iou=0.5, max_people=1000)


def build(name, **changes):
    """Seeded weights that take much for a person; else the other ninety classes would fill the list."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(detection, name)(weights=None, weights_backbone=None, **changes)
        if name == SSD:
            # Its own first weights are so small that every image would give the same.
            for module in model.modules():
                if isinstance(module, torch.nn.Conv2d):
                    torch.nn.init.kaiming_normal_(module.weight)
    heads = (
        [block[1].bias for block in model.head.classification_head.module_list]
        if name == SSD
        else [model.roi_heads.box_predictor.cls_score.bias]
    )
    for bias in heads:
        classes = changes.get("num_classes", 91)
        bias.data.view(-1, classes)[:, PERSON] += 3
    return model.eval()


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Files of seeded weights, by the name of the detector."""
    folder = tmp_path_factory.mktemp("weights")
    paths = {}
    for name in NICKNAMES.values():
        paths[name] = str(folder / f"{name}.pth")
        torch.save(build(name).state_dict(), paths[name])
    return paths


def noisy(width, height, seed):
    generator = np.random.default_rng(seed)
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize(
    "name",
    [
        SSD,
        "fasterrcnn_mobilenet_v3_large_320_fpn",
        pytest.param("fasterrcnn_mobilenet_v3_large_fpn", marks=pytest.mark.soak),
    ],
)
def test_all_that_torchvision_itself_finds_is_found(weights, name):
    prefix = "" if name == SSD else "box_"
    model = build(name, **{f"{prefix}score_thresh": 0.0, f"{prefix}nms_thresh": 0.5})
    images = [noisy(200, 180, 0), noisy(180, 200, 1)]
    with torch.inference_mode():
        expected = [model([pil_to_tensor(image) / 255])[0] for image in images]
        other = model([pil_to_tensor(images[0]).flip(0) / 255])[0]
    # Else this would hold whatever the detector were given.
    assert not torch.equal(other["boxes"], expected[0]["boxes"])
    found = TorchvisionDetector(name, weights[name], limits=EVERYTHING, device="cpu").detect(images)
    for boxes, one in zip(found, expected, strict=True):
        sides = one["boxes"][:, 2:] - one["boxes"][:, :2]
        is_person = (one["labels"] == PERSON) & (sides > 0).all(1)
        corners = [(box.x0, box.y0, box.x1, box.y1) for box in boxes]
        assert corners == [tuple(row) for row in one["boxes"][is_person].tolist()]
        assert [box.score for box in boxes] == one["scores"][is_person].tolist()
    assert any(found)


@pytest.mark.parametrize("name", [SSD, "fasterrcnn_mobilenet_v3_large_320_fpn"])
def test_what_is_found_in_a_picture_does_not_depend_on_its_neighbours(weights, name):
    detector = TorchvisionDetector(name, weights[name], limits=EVERYTHING, device="cpu")
    images = [noisy(300, 200, 0), noisy(120, 260, 1), noisy(300, 200, 2)]
    together = detector.detect(images)
    assert together == [detector.detect([image])[0] for image in images]
    assert all(together)


def test_the_limits_are_those_of_the_person(weights):
    image = noisy(300, 200, 0)
    (everything,) = TorchvisionDetector(SSD, weights[SSD], limits=EVERYTHING, device="cpu").detect([image])
    assert len(everything) > 3
    for changes, expected in (({"max_people": 3}, everything[:3]), ({"score": 1.0}, ()), ({"min_size": 1000}, ())):
        limits = replace(EVERYTHING, **changes)
        detector = TorchvisionDetector(SSD, weights[SSD], limits=limits, device="cpu")
        assert detector.detect([image]) == [expected]


def test_no_picture_is_no_work(weights):
    assert TorchvisionDetector(SSD, weights[SSD], limits=Limits(), device="cpu").detect([]) == []


def test_a_detector_says_what_it_is(weights):
    source = TorchvisionDetector(SSD, weights[SSD], limits=Limits(), device="cpu").source
    assert source.startswith(f"{SSD} ({SSD}.pth, SHA-256 ")
    assert "torchvision 0." in source
    assert source.endswith(f"; {Limits()}")


def test_safetensors_are_read_too(weights, tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(torch.load(weights[SSD], weights_only=True), path)
    image = noisy(100, 80, 3)
    found = [
        TorchvisionDetector(SSD, file, limits=EVERYTHING, device="cpu").detect([image])
        for file in (weights[SSD], str(path))
    ]
    assert found[0] == found[1]


class Hostile:
    def __reduce__(self):
        return os.system, ("touch /tmp/uniemox-was-here",)


@pytest.mark.parametrize(
    ("save", "complaint"),
    [
        (lambda path: path.write_bytes(pickle.dumps(Hostile())), "could run code"),
        (lambda path: torch.save({"a": Hostile()}, path), "could run code"),
        (lambda path: path.write_bytes(b""), "cannot be read .it has 0 bytes"),
        (lambda path: torch.save([1], path), "holds no weights by name"),
        (lambda path: torch.save({"a": torch.zeros(1)}, path), "does not fit the model: missing backbone"),
        (lambda path: None, "cannot be read .it does not exist"),
    ],
)
def test_a_file_of_other_things_is_refused_in_one_line(tmp_path, save, complaint):
    path = tmp_path / "w.pth"
    save(path)
    with pytest.raises(CheckpointError, match=complaint) as caught:
        TorchvisionDetector(SSD, str(path), limits=Limits(), device="cpu")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_of_another_number_of_classes_are_refused(tmp_path):
    path = tmp_path / "w.pth"
    torch.save(build(SSD, num_classes=5).state_dict(), path)
    with pytest.raises(CheckpointError, match=r"head\..* has shape \(30, 672, 1, 1\), the model has"):
        TorchvisionDetector(SSD, str(path), limits=Limits(), device="cpu")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of torch's hub; whoever downloads is noted."""
    asked = []

    def download(url, path, **options):
        asked.append((url, path, options["hash_prefix"]))
        raise urllib.error.URLError("unreachable")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    return asked


def test_without_weights_nothing_is_downloaded_and_both_ways_are_told(hub):
    with pytest.raises(
        DataError, match=r"`detector_weights` default downloads 13 MB .*`detector_weights` FILE"
    ) as told:
        TorchvisionDetector(SSD, None, limits=Limits(), device="cpu")
    assert "https://download.pytorch.org/models/ssdlite320" in str(told.value)
    assert hub == []


def test_a_hub_out_of_reach_gives_the_way_by_a_file(hub):
    with pytest.raises(DataError, match=r"cannot be downloaded \(.*unreachable.*as `detector_weights`"):
        TorchvisionDetector(SSD, "default", limits=Limits(), device="cpu")
    ((url, path, mark),) = hub
    assert url.endswith(f"-{mark}.pth")
    assert path.endswith(f"hub/checkpoints/{url.rpartition('/')[2]}")


def test_weights_that_are_on_the_machine_already_are_taken(hub, tmp_path, weights):
    known = detection.SSDLite320_MobileNet_V3_Large_Weights.COCO_V1.url.rpartition("/")[2]
    path = tmp_path / "hub" / "checkpoints" / known
    path.parent.mkdir(parents=True)
    shutil.copy(weights[SSD], path)
    for words in (None, "default"):
        assert known in TorchvisionDetector(SSD, words, limits=Limits(), device="cpu").source
    assert hub == []
