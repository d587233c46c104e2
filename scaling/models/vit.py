"""Vision Transformer (Dosovitskiy et al. 2020, 2010.11929): the Transformer's blocks over patches.

Legend: B batch, H height, W width, C channels, P side of a patch, T tokens, D model width, L layers,
K classes.
"""

from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from scaling.configs.errors import ConfigError
from scaling.configs.types import Fraction, PositiveInt
from scaling.models.block import Remat, make_norm
from scaling.models.cost import Cost
from scaling.models.layers import Classifier, Dense, fan_in
from scaling.models.transformer import Transformer
from scaling.ops import constrain
from scaling.ops.attention import Implementation


class Size(NamedTuple):
    """Layers, width and heads; the feed-forward blocks are four times as wide."""

    num_layers: int
    model_dim: int
    num_heads: int


# B and L of 2010.11929, table 1; S and Ti of Touvron et al. 2020 (2012.12877), table 1.
SIZES = {
    "Ti": Size(12, 192, 3),
    "S": Size(12, 384, 6),
    "B": Size(12, 768, 12),
    "L": Size(24, 1024, 16),
}


class ViT(Classifier):
    """Patches and their positions, pre-norm blocks, norm, class token or mean, a linear head.

    GELU is the tanh form. The head is one matrix, as after fine-tuning.

    Attributes:
      size: by the usual name: L, D and heads where the keys below do not say them.
      num_layers: L.
      model_dim: D.
      num_heads: of attention.
      mlp_dim: width of the feed-forward blocks; None is 4 D.
      patch_size: P; must divide H and W.
      pool: what the head reads: a `class` token that stands before the patches, or the `mean` of the
        patches (Beyer et al. 2022, 2205.01580).
      position: a `learned` table, or fixed sines and cosines of both coordinates (`sincos`; likewise).
      dropout: rate after the positions and after each half block.
      stochastic_depth: rate at which the last block's two branches are left out for an image in
        training; earlier blocks in proportion to their place, the first never (2012.12877).
      remat: what a block keeps for the backward pass; see `Transformer`.
      unroll: layers that run inside one turn of the loop; see `Transformer`.
      attention: kernel, see `scaling.ops.attention`.
    """

    size: Literal["Ti", "S", "B", "L"] = "Ti"
    num_layers: PositiveInt | None = None
    model_dim: PositiveInt | None = None
    num_heads: PositiveInt | None = None
    mlp_dim: PositiveInt | None = None
    patch_size: PositiveInt = 16
    pool: Literal["class", "mean"] = "class"
    position: Literal["learned", "sincos"] = "learned"
    dropout: Fraction = 0.0
    stochastic_depth: Fraction = 0.0
    remat: Remat = "none"
    unroll: PositiveInt | Literal["auto"] = "auto"
    attention: Implementation = "auto"

    @nn.compact
    def __call__(self, images_BHWC: jax.Array, *, train: bool) -> jax.Array:
        """Logits float32 [B, K] of images with values in [0, 1], which it moves to [-1, 1]."""
        dtype, encoder = self.compute_dtype, self._encoder()
        config, depth = encoder.block_config(), encoder.num_layers
        patches_BTJ = self._patches(2.0 * images_BHWC - 1.0).astype(dtype)
        axes, init = (None, "embed"), fan_in(self.init_scale)
        embed = Dense(encoder.model_dim, axes, init, True, dtype, name="patches")
        x_BTD = self._positioned(embed(patches_BTJ), self._grid(images_BHWC.shape[1:3]))
        x_BTD = nn.Dropout(self.dropout, deterministic=not train)(x_BTD.astype(dtype))
        x_BTD = constrain(x_BTD, ("batch", "length", "embed"))
        rates_L = None
        if self.stochastic_depth:
            rates_L = jnp.linspace(0.0, self.stochastic_depth, depth, dtype=jnp.float32)
        layers = encoder.stack()(config=config, name="layers")
        x_BTD, _ = layers(x_BTD, None, None, train, rates_L, None)
        x_BTD = make_norm(config, "final_norm")(x_BTD)
        x_BD = x_BTD[:, 0] if self.pool == "class" else jnp.mean(x_BTD, axis=1)
        return self.classify(x_BD, "embed")

    def cost(self, image_shape: tuple[int, int, int]) -> Cost:
        """What an image of (height, width, channels) passes through."""
        encoder, (rows, columns) = self._encoder(), self._grid(image_shape[:2])
        patches, width = rows * columns, encoder.model_dim
        token = 1 if self.pool == "class" else 0
        length = patches + token
        blocks = encoder.cost(length)
        assert blocks is not None
        patch, head = self.patch_size**2 * image_shape[2] * width, width * self.classes
        return Cost(
            body=blocks.body + patch + width + token * width + head + self.classes,
            matmul=length * blocks.matmul + patches * patch + head,
            embedding=length * width if self.position == "learned" else 0,
            attention=length * blocks.attention,
            attention_causal=length * blocks.attention,
            first=patches * patch,
        )

    def _encoder(self) -> Transformer:
        """What gives the blocks and their cost: a Transformer of these sizes, itself never run."""
        sizes = {key: getattr(self, key) or n for key, n in SIZES[self.size]._asdict().items()}
        same = ("mlp_dim", "dropout", "dtype", "remat", "unroll", "init_scale", "attention")
        return Transformer(
            vocab_size=1,
            norm="layernorm",
            position="none",
            mlp="gelu",
            bias=True,
            tie_embeddings=True,
            causal=False,
            platform=self.platform,
            parent=None,
            **sizes,
            **{key: getattr(self, key) for key in same},
        )

    def _grid(self, sides: tuple[int, ...]) -> tuple[int, int]:
        """Rows and columns of patches."""
        for side in sides:
            if side % self.patch_size:
                raise ConfigError(
                    "model.patch_size",
                    f"{self.patch_size} does not divide images of {sides[0]} x {sides[1]}",
                    "give a divisor of both sides",
                )
        return sides[0] // self.patch_size, sides[1] // self.patch_size

    def _patches(self, images_BHWC: jax.Array) -> jax.Array:
        """[B, T, P * P * C]: row by row, each patch flattened."""
        batch, *sides, channels = images_BHWC.shape
        (rows, columns), side = self._grid(tuple(sides)), self.patch_size
        x = images_BHWC.reshape(batch, rows, side, columns, side, channels)
        return jnp.swapaxes(x, 2, 3).reshape(batch, rows * columns, side**2 * channels)

    def _positioned(self, x_BTD: jax.Array, grid: tuple[int, int]) -> jax.Array:
        """The patches with their positions, behind the class token if there is one."""
        width, token = x_BTD.shape[-1], self.pool == "class"
        if token:
            init = nn.with_partitioning(nn.initializers.zeros, ("embed",))
            token_D = self.param("class_token", init, (width,), jnp.float32)
            first_B1D = jnp.broadcast_to(token_D, (len(x_BTD), 1, width)).astype(x_BTD.dtype)
            x_BTD = jnp.concatenate([first_B1D, x_BTD], axis=1)
        if self.position == "learned":
            init = nn.initializers.normal(0.02 * self.init_scale)
            table_TD = self.param(
                "positions",
                nn.with_partitioning(init, ("positions", "embed")),
                (x_BTD.shape[1], width),
                jnp.float32,
            )
        else:
            table_TD = jnp.pad(sincos(*grid, width), ((int(token), 0), (0, 0)))
        return x_BTD + table_TD[None]


def sincos(rows: int, columns: int, width: int) -> np.ndarray:
    """Fixed positions of a grid, row by row: float32[rows * columns, width].

    A quarter each of sine and cosine of the column, sine and cosine of the row, with wavelengths
    from 2 pi to 10,000 times that (Chen et al. 2021, 2104.02057, as in 2205.01580).

    Raises:
      ConfigError: the width does not divide by four.
    """
    if width % 4:
        raise ConfigError(
            "model.model_dim",
            f"{width} does not divide by 4, as model.position=sincos needs",
            f"give {width // 4 * 4 + 4}, or --config.model.position=learned",
        )
    quarter = width // 4
    rate_Q = 10_000.0 ** -(np.arange(quarter) / max(quarter - 1, 1))
    y_T, x_T = (axis.reshape(-1) for axis in np.mgrid[:rows, :columns])
    angles = [x_T[:, None] * rate_Q, y_T[:, None] * rate_Q]
    parts = [f(angle) for angle in angles for f in (np.sin, np.cos)]
    return np.concatenate(parts, axis=1).astype(np.float32)
