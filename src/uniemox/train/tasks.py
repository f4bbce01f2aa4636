"""The kinds of learning: where model, loss and batch meet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from timm.data import Mixup
from torch import Tensor, nn

from uniemox.config.training import LossConfig
from uniemox.data.transforms import normalize
from uniemox.losses import PretrainLosses, contrast_loss, reconstruction_loss, similarity_loss
from uniemox.models.encoder import patchify
from uniemox.models.pretrain import PretrainOutput
from uniemox.targets.target import Target

if TYPE_CHECKING:
    from uniemox.data.batch import LabelledBatch, PretrainBatch
    from uniemox.models.teacher import Teacher


@dataclass(frozen=True, kw_only=True)
class PretrainTask:
    """UniEmoX's objective. The teacher stands outside the module, so it is never wrapped, trained or saved."""

    weights: LossConfig
    mask_ratio: float
    patch_size: int
    teacher: Teacher | None  # None where no term needs CLIP
    texts: Tensor | None  # (T, E), CLIP's feature of each distinct description, on the device; None where L1 is off
    gather: Callable[[Tensor], Tensor]
    """Joins the texts of all processes along the first dimension, or returns this one's own.

    Texts are constants, so no gradient is lost."""

    def step(self, module: nn.Module, batch: PretrainBatch) -> dict[str, Tensor]:
        """Compute the weighted sum of the terms, `loss`, and each of them."""
        scene = normalize(batch.scene)
        output: PretrainOutput = module(
            scene, normalize(batch.person), batch.scene_noise, batch.person_noise, self.mask_ratio
        )
        contrast = similarity = reconstruction = None
        if (embedding := output.embedding) is not None:
            image = self._read_teacher(batch)
            if output.mean_embedding is not None:  # both are losses' means over samples, so each counts one half
                embedding, image = torch.cat([embedding, output.mean_embedding]), image.repeat(2, 1)
            if self.weights.contrast:
                assert self.texts is not None
                contrast = contrast_loss(embedding, image, self.gather(self.texts[batch.text]))
            if self.weights.similarity:
                similarity = similarity_loss(embedding, image)
        if output.prediction is not None:
            target, hidden = patchify(scene, self.patch_size), output.hiding.hidden
            if (decoded := output.hiding.decoded) is not None:
                target = target.take_along_dim(decoded.unsqueeze(-1), dim=1)
                hidden = torch.ones_like(decoded, dtype=torch.bool)
            reconstruction = reconstruction_loss(
                output.prediction, target, hidden, normalized=self.weights.normalized_target
            )
        losses = PretrainLosses(contrast, similarity, reconstruction)
        terms = {name: term.detach() for name, term in losses.computed().items()}
        return {"loss": losses.total(self.weights), **terms}

    def _read_teacher(self, batch: PretrainBatch) -> Tensor:
        """Give the teacher's features of the scenes, (B, E) float32: the stored ones, or computed here."""
        if batch.features is not None:
            return batch.features.float()
        assert self.teacher is not None
        return self.teacher.encode_images(batch.scene.float() / 255)


@dataclass(frozen=True, kw_only=True)
class FinetuneTask:
    """Learning of one view or two, with soft labels where images are mixed or labels smoothed."""

    target: Target
    smoothing: float  # ε, as of `Target.soften`
    mixup: Mixup | None  # timm's mixing of images, whose targets are places in the batch, unsmoothed

    def step(self, module: nn.Module, batch: LabelledBatch) -> dict[str, Tensor]:
        """Compute the loss."""
        views, count, device = batch.views, len(batch.labels), batch.labels.device
        shares = torch.eye(count, device=device)  # (B, B), of each image of the batch in each mixed one
        if self.mixup is not None:
            # As channels of one image, both views get the same partner, share and box (DECISIONS 57).
            pixels, shares = self.mixup(torch.cat(views, dim=1), torch.arange(count, device=device))
            views, shares = pixels.split(3, dim=1), shares[:, :count]
        logits = module(*views).float()
        return {"loss": self.target.loss(logits, shares @ self.target.soften(batch.labels, self.smoothing))}
