"""Miniature data sets, one builder for each layout, and ways to look at what an import made of them."""

import csv
import io
import json
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from uniemox.importers.specs import SPECS, get_spec

EMOSET = get_spec("emoset").classes
SPLITS = ("train", "val", "test")
# What folders of published sets are called, where not like the class.
FOLDERS = {"caer-s": {"anger": "Angry", "happiness": "Happy", "sadness": "Sad"}}


def _mapping(names):
    return {
        "label2idx": {name: i for i, name in enumerate(names)},
        "idx2label": {str(i): name for i, name in enumerate(names)},
    }


class Trees:
    """Builders; each gives the root that it was given."""

    full: ClassVar = {
        "brightness": 0.3,
        "colorfulness": 1.0,
        "scene": "amusement_park",
        "facial_expression": "happy",
        "human_action": "baby waking up",
        "object": ["Alarm clock", "Tree"],
    }

    @staticmethod
    def touch(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")  # an import looks at names only

    @staticmethod
    def edit(path, change):
        content = json.loads(path.read_text())
        result = change(content)
        path.write_text(json.dumps(content if result is None else result))

    def emoset(self, root, *, form=3, per_split=(6, 2, 3), classes=EMOSET, attributes=full):
        """An EmoSet in either of its two forms; every second image has attributes."""
        root.mkdir(parents=True, exist_ok=True)
        info = _mapping(classes)
        if form == 4:
            info = {"emotion": info, "scene": _mapping(["airfield", "alley"])}
        (root / "info.json").write_text(json.dumps(info))
        number = 0
        for split, count in zip(SPLITS, per_split, strict=True):
            rows = []
            for i in range(count):
                emotion = classes[number % len(classes)]
                name = f"{emotion}_{number:05d}"
                row = [emotion, f"image/{emotion}/{name}.jpg", f"annotation/{emotion}/{name}.json"]
                self.touch(root / row[1])
                entry = {"image_id": name, "emotion": emotion, **(attributes if i % 2 else {})}
                path = root / row[2]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(entry))
                rows.append([row[0], name, *row[1:]] if form == 4 else row)
                number += 1
            if count:
                (root / f"{split}.json").write_text(json.dumps(rows))
        return root

    def folders(self, root, classes, count=10, suffix=".jpg"):
        for name in classes:
            for i in range(count):
                self.touch(root / name / f"{name}{i:03d}{suffix}")
        return root

    def split_folders(self, root, classes, counts=(4, 2, 3)):
        for split, count in zip(SPLITS, counts, strict=True):
            if count:
                self.folders(root / split, classes, count)
        return root

    def emotion6(self, root, count=10, *, cut=False):
        """Names repeat across folders; the raters see joy everywhere, but in the first image of each folder."""
        classes = get_spec("emotion6").classes
        lines = []
        for name in classes:
            for i in range(1, count + 1):
                folder = f"{SPLITS[i % 3]}/{name}" if cut else f"images/{name}"
                self.touch(root / folder / f"{i}.jpg")
                shares = [0.0] * 7
                shares[6 if i == 1 else 3] = 0.7
                shares[classes.index(name)] += 0.3
                lines.append([f"{name}/{i}.jpg", 2.5, 3.8, *(f"{share:.6g}" for share in shares)])
        heading = [f"[prob. {name}]" for name in (*classes, "neutral")]
        self.write_tsv(root / "ground_truth.txt", [["[image_filename]", "[valence]", "[arousal]", *heading], *lines])
        return root

    @staticmethod
    def write_tsv(path, rows):
        path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))

    def ube(self, root, counts=(("cat", 10), ("old house", 20)), folder="images"):
        for name in get_spec("ube").classes:
            for thing, count in counts:
                for i in range(count):
                    self.touch(root / folder / name / thing / f"{i}.jpg")
        return root

    def caer_s(self, root, *, names="{i:04d}.png", counts=(10, 50), spelling=None):
        spelling = FOLDERS["caer-s"] if spelling is None else spelling
        for split, count in zip(("train", "test"), counts, strict=True):
            for name in get_spec("caer-s").classes:
                folder = spelling.get(name, name.title())
                for i in range(count):
                    # Five frames of each clip, some in train and some in test.
                    number = i + (counts[0] if split == "test" else 0)
                    self.touch(root / split / folder / names.format(i=i, clip=i // 5, frame=number))
        return root

    def heco(self, root, count=10, *, header=None, rows=(), people=2):
        """Every image shows people of one class, the second of them of the next class."""
        classes = [name.title() for name in get_spec("heco").classes]
        header = header or "Image,xmin,ymin,xmax,ymax,Category,Valence,Arousal,Dominance,Label_SA,Label_CA"
        lines = []
        for number in range(count * len(classes)):
            picture = f"{number:05d}.jpg"
            self.touch(root / "Data" / picture)
            for person in range(people):
                values = {
                    "Image": picture,
                    "xmin": 10 * person,
                    "ymin": 0,
                    "xmax": 10 * person + 8,
                    "ymax": 20,
                    "Category": classes[(number + person) % len(classes)],
                    "Valence": 6,
                    "Arousal": 5.5,
                    "Dominance": 4,
                }
                lines.append(values)
        lines += rows
        (root / "Labels").mkdir(exist_ok=True)
        with (root / "Labels/HECO_Labels.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, header.split(","), restval="", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(lines)
        return root

    def emotic(self, root, *, folder="emotic", annotations=None, pictures=True):
        """Two images of each split, the second with two people; what MATLAB would write."""
        content = annotations or {split: self.emotic_pictures(split) for split in SPLITS}
        (root / "Annotations").mkdir(parents=True, exist_ok=True)
        savemat(root / "Annotations/Annotations.mat", content, do_compression=True)
        for entries in content.values() if pictures else ():
            for entry in entries:
                self.touch(root / folder / entry["folder"][0] / entry["filename"][0])
        return root

    def emotic_pictures(self, split):
        """The struct array of a split."""
        kinds = [(name, object) for name in ("filename", "folder", "image_size", "person")]
        entries = np.empty(2, kinds)
        for i in range(2):
            size = {"n_col": 640, "n_row": 480}
            people = [self.emotic_person(split, number) for number in range(i + 1)]
            persons = np.empty(len(people), [(name, object) for name in people[0]])
            for number, person in enumerate(people):
                persons[number] = tuple(person.values())
            name = f"{split}_{i}.jpg"
            entries[i] = (np.array([name]), np.array(["mscoco/images"]), size, persons)
        return entries

    @staticmethod
    def emotic_person(split, number):
        names = np.array(["Peace", "Doubt/Confusion", "Engagement"][: number + 1], dtype=object)
        vad = {"valence": 5 + number, "arousal": 3, "dominance": 9}
        person = {
            "body_bbox": np.array([-5.0, 10.0, 700.0, 400.5]) + number,
            "annotations_categories": {"categories": names},
            "annotations_continuous": vad,
        }
        if split == "train":
            return person
        return {
            **person,
            "annotations_categories": {"categories": np.array(["Anger"], dtype=object)},
            "annotations_continuous": {**vad, "valence": 1},
            "combined_categories": names,
            "combined_continuous": {**vad, "valence": 6.5},
        }

    findingemo_header: ClassVar = (
        "user,image_path,reject,age,valence,arousal,emotion,dec_factors,ambiguity,fmri_candidate,datetime"
    )

    def findingemo(self, root, count=10, *, header=None, rows=(), place="data", folder="images"):
        """What the authors' program downloads, beside their file of annotations."""
        lines = []
        for name in get_spec("findingemo").classes:
            for number in range(count):
                path = f"Run_{1 + number % 2}/{name.title()} adults, work/{name} {number}.jpg"
                self.touch(root / folder / path)
                ratings = {"valence": number % 7 - 3, "arousal": number % 7}
                row = {"user": "u1", "image_path": f"/{path}", "reject": "Keep", "emotion": name.title(), **ratings}
                lines.append({**row, "age": "['Adults']", "dec_factors": '["Body language", "Staging"]'})
        path = root / place / "annotations_single.ann"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            names = (header or self.findingemo_header).split(",")
            writer = csv.DictWriter(file, names, restval="", extrasaction="ignore")
            writer.writeheader()
            writer.writerows([*lines, *rows])
        return root

    def any(self, name, root, *, cut=False):
        """The set of a name in its published form, or cut into split folders by the authors of UniEmoX."""
        spec = SPECS[name]
        if cut:
            return self.split_folders(root, spec.classes)
        builders = {
            "emoset": lambda: self.emoset(root, classes=spec.classes),
            "class_folders": lambda: self.folders(root / spec.folder, spec.classes),
            "split_folders": lambda: self.split_folders(root / spec.folder, spec.classes),
            "object_folders": lambda: self.ube(root),
            "emotion6": lambda: self.emotion6(root),
            "heco": lambda: self.heco(root),
            "emotic": lambda: self.emotic(root),
            "findingemo": lambda: self.findingemo(root),
        }
        if spec.has_clips:
            self.caer_s(root)
        else:
            builders[spec.layout]()
        return root


class Look:
    """Ways to look at an import."""

    @staticmethod
    def rows(manifest):
        return [manifest.row(i) for i in range(len(manifest))]

    def by_path(self, manifest):
        root = manifest.facts.root
        return {row.path.relative_to(root).as_posix(): row for row in self.rows(manifest)}

    @staticmethod
    def cells(manifest, column):
        return manifest.table[column].to_pylist()

    @staticmethod
    def problems(result):
        return {problem.kind: problem.count for problem in result.problems}

    @staticmethod
    def snapshot(root):
        return sorted(
            (path.as_posix(), path.lstat().st_mtime_ns, path.lstat().st_size) for path in [root, *root.rglob("*")]
        )


@pytest.fixture(scope="session")
def trees():
    return Trees()


@pytest.fixture(scope="session")
def look():
    return Look()


@pytest.fixture(scope="session")
def png():
    """The bytes of an image of one colour."""

    def make(colour, size=(4, 4)):
        buffer = io.BytesIO()
        Image.new("RGB", size, colour).save(buffer, "PNG")
        return buffer.getvalue()

    return make
