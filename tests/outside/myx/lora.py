"""LoRA as a wrapper: the base's parameters are frozen, low-rank differences are trained."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from scaling.tasks.base import Task


def lora(context, base: Task, *, rank: int = 4) -> Task:
    def is_box(x):
        return isinstance(x, nn.Partitioned)

    def init(rng):
        frozen = base.init(rng)["params"]
        differences = {}
        for i, (path, box) in enumerate(
            jax.tree_util.tree_leaves_with_path(frozen, is_leaf=is_box)
        ):
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            if name.endswith("kernel") and box.value.ndim == 3:
                (layers, wide, out), names = box.value.shape, box.names
                a = jax.random.normal(jax.random.fold_in(rng, i), (layers, wide, rank)) / wide**0.5
                b = jnp.zeros((layers, rank, out))
                boxes = (
                    nn.Partitioned(a, (names[0], names[1], None)),
                    nn.Partitioned(b, (names[0], None, names[2])),
                )
                differences[name] = {"a": boxes[0], "b": boxes[1]}
        return {"params": differences, "frozen": frozen}

    def merged(variables):
        def add(path, kernel):
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            if name not in variables["params"]:
                return kernel
            return kernel + variables["params"][name]["a"] @ variables["params"][name]["b"]

        return {"params": jax.tree_util.tree_map_with_path(add, variables["frozen"])}

    def loss(variables, batch, context, hparams):
        return base.loss(merged(variables), batch, context, hparams)

    def logits(variables, batch, context):
        return base.functions["logits"](merged(variables), batch, context)

    evaluations = {
        name: dataclasses.replace(one, run=lambda v, *rest, one=one: one.run(merged(v), *rest))
        for name, one in base.evaluations.items()
    }
    return dataclasses.replace(
        base, init=init, loss=loss, evaluations=evaluations, functions={"logits": logits}, cost=None
    )
