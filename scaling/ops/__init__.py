"""Operations that models and losses are made of: the only model code that meets mesh and kernels.

A model names the dimensions of its arrays; here those names meet the mesh, and `auto` becomes a
kernel. `constrain` is how a model says what the dimensions of an activation are.
"""

from scaling.parallel.logical import constrain

__all__ = ["constrain"]
