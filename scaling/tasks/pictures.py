"""What tasks on images share: their shape, their two scales, and a sheet of them.

Legend: B batch, H height, W width, C channels.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from scaling.configs import ConfigError
from scaling.tasks.base import TaskContext

# Pictures of a sheet at most, and white pixels between them.
SHEET, GAP = 100, 2


def image_shape(context: TaskContext) -> tuple[int, int, int]:
    """(height, width, channels) of the data's images.

    Raises:
      ConfigError: the data are not images, or are of another number of dimensions.
    """
    context.need("images")
    shape = context.info.image_shape
    if shape is None or len(shape) != 3:
        raise ConfigError(
            "data.source", f"gives images of shape {shape}", "give (height, width, channels)"
        )
    return shape


def as_signed(images_BHWC: jax.Array) -> jax.Array:
    """uint8 pixels as float32 in [-1, 1], the scale on which generative models work."""
    return images_BHWC.astype(jnp.float32) / 127.5 - 1.0


def as_pixels(images_BHWC: jax.Array) -> jax.Array:
    """The nearest uint8 pixels of images in [-1, 1]; what is outside is cut."""
    return jnp.clip(jnp.round((images_BHWC + 1.0) * 127.5), 0, 255).astype(jnp.uint8)


def sheet(images_BHWC: np.ndarray) -> np.ndarray:
    """The first hundred images in rows, in a grid as square as it gets: uint8[H, W, 3].

    Args:
      images_BHWC: uint8, at least one; the first three channels are shown, or the first in grey.
    """
    shown = images_BHWC[:SHEET]
    count, height, width, channels = shown.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    colours = shown[..., :3] if channels >= 3 else np.repeat(shown[..., :1], 3, axis=-1)
    grid = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 255, np.uint8)
    for i, picture in enumerate(colours):
        top, left = (i // columns) * (height + GAP), (i % columns) * (width + GAP)
        grid[top : top + height, left : left + width] = picture
    return grid
