"""Settings of `uniemox search`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from uniemox.config.checks import TABLES, Natural, check, check_ending
from uniemox.config.inference import ComputeConfig

_LONGEST_TEXT: Final = 1000  # Characters; CLIP's towers read 77 tokens


@dataclass(frozen=True, kw_only=True)
class SearchConfig(ComputeConfig):
    """Finding images by a text, an image or an emotion."""

    paths: Sequence[Path] = field(default=(), kw_only=False)
    """Folders to search, or images."""
    text: str | None = None
    """What to look for, in words, such as "a calm evening"; needs a CLIP or the folder of a pretrained model."""
    image: Path | None = None
    """Image to find similar ones to."""
    emotion: str | None = None
    """Emotion to find the likeliest images of."""
    index: Path = Path("uniemox-index")
    """Folder for what the model found in each image, which is computed once; made if absent, and brought up to date."""
    reindex: bool = False
    """Make the index again, also where it is of another model or damaged."""
    top_k: Natural = 20
    """Number of images to find."""
    out: Path | None = None
    """Table to write: .csv, .jsonl or .parquet, with the probabilities of all classes."""
    sheet: Path | None = None
    """Contact sheet to write: .html, .jpg or .png."""
    overwrite: bool = False
    """Replace the table and the contact sheet if they exist."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(bool(self.paths), "`paths` must be given")
        asked = [name for name in ("text", "image", "emotion") if getattr(self, name) is not None]
        given = " and ".join(f"`{name}`" for name in asked) or "none of them"
        check(len(asked) == 1, f"give one of `text`, `image` and `emotion`, not {given}")
        if self.text is not None:
            check(bool(self.text.strip()), "text is empty: say what to look for")
            check(len(self.text) <= _LONGEST_TEXT, f"text has more than {_LONGEST_TEXT} characters: shorten it")
        check_ending("out", self.out, TABLES)
        check_ending("sheet", self.sheet, (".html", ".jpg", ".png"))
