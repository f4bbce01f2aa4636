"""Labels in doubt: a section for the page of an audit, and a contact sheet of the first rows of a ranking."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import quote

import numpy as np

from uniemox.files.images import Unreadable, read_image
from uniemox.report.page import Block, Page, Section, Table, Tile, TileGroup, TileGroups, show_cell, write_page
from uniemox.train.doubts import NUM_FOLDS, Doubts
from uniemox.wording import counted

ON_SHEET: Final = 100
_ON_PAGE: Final = 12
_PAIRS: Final = 10
_SHRINK_TO: Final = 200
_EXPLAINED: Final = (
    f"Each row is answered by a logistic regression on features of the other rows, in {NUM_FOLDS} folds that keep "
    "groups and look-alikes together. Rows come in the order of the probability that these answers give to their "
    "label, the least first (confident learning, Northcutt et al. 2021). This is a ranking, not a verdict: a row may "
    "come first because its label is wrong, because raters would disagree, or because the features miss what they saw. "
    "Beneath each image are its split and label, what the folds answer, and the probability that they give its label."
)


def doubts_section(doubts: Doubts) -> Section:
    """Make the section of a manifest: how many labels are in doubt, which are taken for which, and the first rows."""
    name, order = doubts.of.name, doubts.order
    if not len(order):
        return Section(f"Labels in doubt: {name}", "\n\n".join((_EXPLAINED, *doubts.notes)))
    scores = doubts.scores
    worth = ", ".join(f"{metric.title} {scores.values[metric.name]:z.3f}" for metric in scores.headline)
    count = f"For {show_cell(len(doubts.doubted))} of {show_cell(len(order))} rows the folds prefer another answer. "
    worth = f"{count}Against the labels their answers reach {worth}: the less, the less the ranking says."
    blocks: list[Block] = [TileGroups([TileGroup("", list(_tiles(doubts, _ON_PAGE)))])]
    if pairs := doubts.pairs()[:_PAIRS]:
        rows = [(label, answer, rows) for (label, answer), rows in pairs]
        blocks.append(Table(("label", "folds answer", "rows"), rows, "The most frequent pairs among them.", "half"))
    if ranked := _count_classes(doubts):
        blocks.append(Table(("label", "rows in doubt"), ranked, "Whose label is doubted.", "half"))
    link = (f"The first {min(ON_SHEET, len(order))} rows", f"labels/{quote(name)}.html")
    return Section(f"Labels in doubt: {name}", "\n\n".join((_EXPLAINED, worth, *doubts.notes)), blocks, link)


def write_doubts_sheet(doubts: Doubts, path: Path, *, model: str) -> Path:
    """Write the page of the first hundred rows, each with its image, its label and what the folds answer."""
    order = doubts.order
    shown = list(_tiles(doubts, ON_SHEET))
    section = Section("The most doubtful first", _EXPLAINED, (TileGroups((TileGroup("", shown),)),))
    lead = f"{counted(len(shown), 'row')} of {show_cell(len(order))} ranked, by features of {model}."
    return write_page(Page(f"Labels in doubt: {doubts.of.name}", lead, (section,)), path)


def _tiles(doubts: Doubts, count: int) -> Iterator[Tile]:
    target, root = doubts.of.target, doubts.of.manifest.facts.root
    for row in doubts.rows(doubts.order[:count]):
        image = read_image(root / row["path"], shrink_to=_SHRINK_TO)
        answer, label = target.in_words(row)
        of_doubted = row["probabilities"][row["doubted"]]
        yield Tile(
            image=None if isinstance(image, Unreadable) else np.asarray(image),
            name=row["path"],
            badge=row["split"],
            text=label,
            note=f"folds say {answer}; {row['doubted']} has {of_doubted:.2f}",
        )


def _count_classes(doubts: Doubts) -> list[tuple[str, int]]:
    rows = doubts.rows(doubts.doubted)
    return Counter(str(row["doubted"]) for row in rows).most_common()
