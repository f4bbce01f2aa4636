"""The head that starts from language: text features of the classes, in the space that the start was distilled into."""

from torch import Tensor

from uniemox.checkpoints.load import Start
from uniemox.checkpoints.zero_shot import Asked, class_texts
from uniemox.config.training import FinetuneConfig
from uniemox.config.zero_shot import ZeroShotConfig
from uniemox.manifests.facts import Facts


def encode_classes(config: FinetuneConfig, start: Start, names: tuple[str, ...], facts: Facts) -> tuple[Tensor, float]:
    """Return a text feature of length 1 for each of the classes `names` of the data, (C, E), and the teacher's scale.

    Raises:
        ConfigError: The teacher is not known, or is not that of the start.
        CheckpointError: Its weights are not at hand, or cannot be read.
    """
    return class_texts(
        Asked(names, facts.emotion or "evoked", facts.name),
        ZeroShotConfig(),
        language=start.language,
        teacher=config.teacher,
        width=start.shape["embedding_width"],
        what=f"init {config.init}",
    )
