"""Sizes that follow from other sizes; shared by the modules and by the FLOP counts. No JAX."""

GATED = ("swiglu", "geglu")


def head_dim(model_dim: int, num_heads: int, explicit: int | None = None) -> int:
    """Width of one attention head: `explicit`, or model_dim / num_heads.

    Raises:
      ValueError: model_dim does not divide by num_heads and no head_dim is given.
    """
    if explicit is not None:
        return explicit
    if model_dim % num_heads:
        raise ValueError(
            f"model.model_dim={model_dim} does not divide by model.num_heads={num_heads}: "
            "change one of them or set model.head_dim"
        )
    return model_dim // num_heads


def num_kv_heads(num_heads: int, explicit: int | None = None) -> int:
    """Key/value heads: `explicit`, or as many as query heads.

    Raises:
      ValueError: the query heads do not divide into groups, one for each key/value head.
    """
    if explicit is None:
        return num_heads
    if num_heads % explicit:
        raise ValueError(
            f"model.num_heads={num_heads} does not divide by model.num_kv_heads={explicit}: "
            "each key/value head serves the same number of query heads"
        )
    return explicit


def mlp_dim(model_dim: int, mlp: str, explicit: int | None = None) -> int:
    """Hidden width of the feed-forward block: `explicit`, or by the usual rule.

    Four times the width; for gated forms 8/3 of it, so that three matrices hold what two did
    (Shazeer 2020, 2002.05202), rounded up to a multiple of 64 to fill matrix units.
    """
    if explicit is not None:
        return explicit
    if mlp in GATED:
        return -(-8 * model_dim // (3 * 64)) * 64
    return 4 * model_dim
