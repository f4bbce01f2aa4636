"""The page of an audit, made of generated images."""

import numpy as np
import pytest
from PIL import Image

from uniemox.audit.audit import audit
from uniemox.audit.copies import Copies
from uniemox.audit.fingerprints import take_fingerprints
from uniemox.manifests.table import Box, Facts, manifest_from_columns
from uniemox.report import audit as page_of_audit
from uniemox.report.audit import audit_page, write_audit_report
from uniemox.report.page import Notice, Table, TileGroups, render

ATTACK = "<script>alert(1)</script>"


def picture(seed):
    """Coarse noise: detail enough to be known again, and like no other."""
    small = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((160, 120), Image.Resampling.BICUBIC)


@pytest.fixture
def result(tmp_path):
    """One of everything that can be wrong, and a class that train lacks."""
    root = tmp_path / "pictures"
    root.mkdir()
    contents = {
        "leak.png": (picture(0), "train", 0),
        "held out.jpg": (picture(0), "test", 0),
        "one label.png": (picture(1), "train", 0),
        f"other label{ATTACK[:8]}.png": (picture(1), "train", 1),
        "again.png": (picture(2), "train", 0),
        "again 2.png": (picture(2), "train", 0),
        "both.png": (picture(5), "test", 0),
        "both 2.png": (picture(5), "unseen", 0),
        "tiny.png": (picture(3).resize((9, 9)), "train", 0),
        "blank.png": (Image.new("RGB", (90, 90), "red"), "train", 0),
        "broken.png": (None, "train", 0),
        **{f"gone {n}.png": (picture(4), "train", 0) for n in range(6)},
    }
    for name, (image, _, _) in contents.items():
        if image is not None:
            image.save(root / name)
    facts = Facts(name="x", title=ATTACK, classes=("awe", "fear", "joy"), emotion="felt", root=root)
    manifest = manifest_from_columns(
        facts,
        paths=list(contents),
        splits=[split for _, split, _ in contents.values()],
        labels=[label for _, _, label in contents.values()],
        people=[[Box(500, 0, 600, 90)], *([[]] * (len(contents) - 1))],
    )
    copies = Copies([manifest])
    return audit({"x": manifest}, take_fingerprints(copies.files, folder=tmp_path / "fingerprints"), copies=copies)


def section(page, title):
    (found,) = [section for section in page.sections if section.title == title]
    return found


def comparison(page, title):
    (found,) = [block for block in section(page, title).blocks if isinstance(block, TileGroups)]
    return found


def test_every_kind_of_finding_has_its_section(result):
    titles = [section.title for section in audit_page(result).sections]
    kinds = [title for title, _ in page_of_audit._SECTIONS.values()]
    assert titles == ["What was found", *kinds, "Classes", "Origin"]


def test_a_leak_stands_beside_the_copy_that_is_held_out(result):
    (group,) = comparison(audit_page(result), "Leaks").groups
    leak, held_out = group.tiles
    assert (leak.name, leak.badge, leak.text) == ("leak.png", "train", "awe")
    assert (held_out.name, held_out.badge) == ("held out.jpg", "test")
    assert leak.is_struck
    assert not held_out.is_struck
    assert leak.note.startswith("likeness")
    table = section(audit_page(result), "Leaks").blocks[0]
    assert table.rows == [("x, train", "x, test", 1)]


def test_conflicting_copies_show_their_labels(result):
    (group,) = comparison(audit_page(result), "Conflicting labels").groups
    assert {tile.text for tile in group.tiles} == {"awe", "fear"}
    assert group.title == "The same file"


def test_a_file_that_is_no_picture_is_listed_with_its_reason(result):
    (table,) = section(audit_page(result), "Unreadable files").blocks
    assert table.rows == [("broken.png", "x", "train", "no such file or directory")]


def test_classes_that_are_absent_are_told(result):
    notices = [b.text for b in section(audit_page(result), "Classes").blocks if isinstance(b, Notice)]
    assert "x, train: no row is labelled joy." in notices
    (table,) = [b for b in section(audit_page(result), "Classes").blocks if isinstance(b, Table)]
    assert table.columns == ("class", "train", "kept", "test", "kept", "unseen", "kept")


def test_a_class_that_is_ten_times_as_frequent_is_told():
    (text,) = page_of_audit._lopsided("x", {"train": {"awe": 100, "fear": 10}, "test": {"awe": 9, "fear": 1}})
    assert "awe is 10 times as frequent as fear" in text


def test_what_is_not_shown_is_said(result, monkeypatch):
    monkeypatch.setattr(page_of_audit, "_GROUPS", 4)
    monkeypatch.setattr(page_of_audit, "_TILES", 1)
    page = audit_page(result)
    assert comparison(page, "Leaks").groups[0].more == 1
    assert comparison(page, "Placeholders").groups[0].more == 4
    monkeypatch.setattr(page_of_audit, "_GROUPS", 0)
    assert comparison(audit_page(result), "Leaks").caption == "0 of 1 groups; audit.json has all."


def test_the_page_is_written_whole_with_its_pictures_and_without_scripts(result, tmp_path):
    path = write_audit_report(result, tmp_path / "out")
    html = path.read_text(encoding="utf-8")
    assert html.count("data:image/webp") >= 10
    assert "<script" not in html
    assert "http" not in html.replace("http-equiv", "")


def test_a_clean_data_set_has_a_page(tmp_path):
    root = tmp_path / "pictures"
    root.mkdir()
    picture(0).save(root / "1.png")
    facts = Facts(name="x", title="X", classes=("awe",), emotion=None, root=root)
    manifest = manifest_from_columns(facts, paths=["1.png"], splits=["train"], labels=[0])
    copies = Copies([manifest])
    result = audit({"x": manifest}, take_fingerprints(copies.files, folder=tmp_path / "f"), copies=copies)
    page = audit_page(result)
    assert [section.title for section in page.sections] == ["What was found", "Classes", "Origin"]
    assert "no row is labelled" not in render(page)
