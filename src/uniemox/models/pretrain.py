"""UniEmoX: one encoder for scene and person, a decoder for the scene, and their fusion.

Letters of shapes: `B` batch, `N` patches, `M` patches that are predicted, `P` numbers of a patch, `E` width of the
embedding.
"""

from typing import NamedTuple

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from uniemox.config.training import ModelConfig
from uniemox.models.encoder import build_vit, encode_visible, fill_like_mae, grid_size, sincos_positions
from uniemox.models.fusion import build_fusion
from uniemox.models.mae import Decoder, Hiding, hide


class PretrainOutput(NamedTuple):
    """The results of one forward pass; a part that was not built is None."""

    embedding: Tensor | None  # (B, E), the fused γ in the teacher's width
    prediction: Tensor | None  # (B, N, P), the scene's patches, or (B, M, P), the share of them that `hiding` names
    hiding: Hiding  # Which patches of the scene were seen
    mean_embedding: Tensor | None = None  # (B, E), γ of the mean of the visible patches in place of the class token


class UniEmoX(nn.Module):
    """The model of pretraining. Only what a term of the objective uses is built.

    Args:
        config: Shape of encoder, decoder and fusion.
        embedding_width: Width of the teacher's embedding; None builds no embedding and no fusion.
        reconstructs: Whether to build a decoder.
        drop_path: Probability of skipping the encoder's last block in training.
        embeds_mean: Whether the mean of the patches is embedded too, by the same fusion and projection.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        embedding_width: int | None,
        reconstructs: bool = True,
        drop_path: float = 0.0,
        embeds_mean: bool = False,
    ) -> None:
        super().__init__()
        self.config, self.embeds_mean = config, embeds_mean
        self.encoder = build_vit(
            config.size, patch_size=config.patch_size, image_size=config.image_size, drop_path=drop_path
        )
        _start_like_mae(self.encoder)
        width = config.decoder_width
        self.decoder_embed = nn.Linear(self.encoder.embed_dim, width)
        fill_like_mae(self.decoder_embed)
        self.decoder = (
            Decoder(
                width=width,
                depth=config.decoder_depth,
                num_heads=config.decoder_heads,
                grid=grid_size(self.encoder),
                patch_size=config.patch_size,
            )
            if reconstructs
            else None
        )
        self.fusion: nn.Module | None = None
        self.projection: nn.Module | None = None
        if embedding_width is not None:
            if config.fusion != "none":
                self.fusion = build_fusion(config.fusion, width)
            if embedding_width != width:
                self.projection = nn.Linear(width, embedding_width)
                fill_like_mae(self.projection)
        self.embeds = embedding_width is not None

    def forward(
        self, scene: Tensor, person: Tensor | None, scene_noise: Tensor, person_noise: Tensor | None, mask_ratio: float
    ) -> PretrainOutput:
        """Encode both views in one pass, decode the scene, fuse.

        Args:
            scene: (B, 3, H, W), normalised.
            person: (B, 3, H, W), or None without a person view.
            scene_noise: (B, N); the patches with the largest numbers are hidden.
            person_noise: (B, N), or None without a person view.
            mask_ratio: Share of the patches that is hidden.
        """
        hiding = hide(scene_noise, mask_ratio, self.config.decode_share)
        scene_tokens, person_token = self._encode(scene, person, hiding, person_noise, mask_ratio)
        embedding = mean = None
        if self.embeds:
            embedding = self._fuse(self._read(scene_tokens), person_token)
            if self.embeds_mean:
                embedding, mean = embedding.chunk(2)
        prediction = self.decoder(scene_tokens, hiding.visible, hiding.decoded) if self.decoder is not None else None
        return PretrainOutput(embedding, prediction, hiding, mean)

    def _read(self, tokens: Tensor) -> Tensor:
        """Take what is embedded of tokens (B, 1 + K, W): the class tokens (B, W), or (2 B, W) with the means after."""
        return torch.cat([tokens[:, 0], tokens[:, 1:].mean(dim=1)]) if self.embeds_mean else tokens[:, 0]

    def embed(self, scene: Tensor, person: Tensor | None = None) -> Tensor:
        """Embed scene and person (B, 3, H, W), nothing hidden, in the teacher's space: (B, E), not normalised.

        Without a person both views are the scene, as in pretraining where an image has no box.
        """
        if person is None or self.fusion is None:
            return self.embed_tokens(self.encoder.forward_features(scene)[:, 0])
        return self.embed_tokens(*self.encoder.forward_features(torch.cat([scene, person]))[:, 0].chunk(2))

    def embed_tokens(self, scene: Tensor, person: Tensor | None = None) -> Tensor:
        """Embed the class tokens (B, D) of both views, or of the scene for both: (B, E)."""
        alpha = self.decoder_embed(scene)
        return self._fuse(alpha, alpha if person is None else self.decoder_embed(person))

    def _fuse(self, scene: Tensor, person: Tensor | None) -> Tensor:
        """Fuse the views' tokens (B, W) into γ (B, E)."""
        embedding = scene if self.fusion is None else self.fusion(scene, person)
        return embedding if self.projection is None else self.projection(embedding)

    def _encode(
        self, scene: Tensor, person: Tensor | None, hiding: Hiding, person_noise: Tensor | None, mask_ratio: float
    ) -> tuple[Tensor, Tensor | None]:
        """Encode the scene's tokens (B, 1 + K, W) and what is read of the person's (B or 2 B, W)."""
        if self.fusion is None:
            return self.decoder_embed(encode_visible(self.encoder, scene, hiding.visible)), None
        assert person is not None
        assert person_noise is not None
        both = torch.cat([scene, person])
        visible = torch.cat([hiding.visible, hide(person_noise, mask_ratio).visible])
        tokens = encode_visible(self.encoder, both, visible)
        count = scene.shape[0]
        return self.decoder_embed(tokens[:count]), self.decoder_embed(self._read(tokens[count:]))


def _start_like_mae(vit: VisionTransformer) -> None:
    """Set the first weights of the encoder as MAE does, positions fixed."""
    fill_like_mae(vit)
    projection = vit.patch_embed.proj
    nn.init.xavier_uniform_(projection.weight.view(projection.weight.shape[0], -1))
    nn.init.zeros_(projection.bias)
    nn.init.normal_(vit.cls_token, std=0.02)
    vit.pos_embed.data.copy_(sincos_positions(vit.embed_dim, grid_size(vit)))
    vit.pos_embed.requires_grad_(False)
