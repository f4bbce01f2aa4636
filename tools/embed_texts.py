"""Give the folder of a pretrained model its teacher's text features, as pretraining does at its end.

    python tools/embed_texts.py src/uniemox/demo/assets/uniemox_mini clip:demo

For folders that were made before pretraining kept them; weights stay as they are.
"""

import json
import sys
from pathlib import Path

import torch

from uniemox.checkpoints.facts import SECTION, read_config, read_facts
from uniemox.checkpoints.language import learn_language, write_language
from uniemox.config.clip_name import teacher_of
from uniemox.models.teacher import load_teacher


def embed(folder: Path, name: str) -> None:
    """Write the features, and what they are into the configuration."""
    teacher = load_teacher(teacher_of(name), device=torch.device("cpu"))
    width = read_facts(folder).pretraining["embedding_width"]
    assert teacher.width == width, f"{name} has features of {teacher.width} numbers, the model of {width}"
    language = learn_language(teacher, name)
    write_language(folder, language)
    config = read_config(folder)
    config[SECTION]["language"] = vars(language.facts)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    embed(Path(sys.argv[1]), sys.argv[2])
