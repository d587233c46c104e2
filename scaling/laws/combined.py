"""Several laws as one: the median of their predictions, each fitted by itself.

A combination has the parameters of all its members under prefixed names and the formula of their
median, so prediction, draws, allocation and figures need to know nothing of it. Only fitting does:
the members are fitted one by one (a joint fit would let all but the middle one wander), and with
the same resamples, so that draw r of the combination is the median of the members' draws r. As it is
there for forecasts, `fit` lets a combination lean on the large runs (`leaning.py`).
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from scaling.laws.law import Law, LawError, Namespace
from scaling.laws.problem import Array, Problem

JOIN = "+"


@functools.cache
def combine(name: str, *members: Law) -> Law:
    """The median of laws of one target and the same variables, as a law.

    Parameters and derived quantities are `member_parameter`, `chinchilla_E`. Raises LawError for
    fewer than two laws, for one twice, or for laws that are not about the same.
    """
    first = members[0]
    names = [member.name for member in members]
    if len(members) < 2 or len(set(names)) < len(names):
        raise LawError(f"law {name} combines {names}: give at least two laws, each once")
    for member in members:
        if member.members:
            raise LawError(f"law {name}: {member.name} is a combination itself; name its laws")
        ours, theirs = ({v.name for v in law.variables} for law in (first, member))
        if ours != theirs or first.target.name != member.target.name:
            raise LawError(
                f"law {name}: {first.name} is {first.target.name} of {sorted(ours)}, {member.name} "
                f"{member.target.name} of {sorted(theirs)}; combine laws of the same"
            )
    return Law(
        name=name,
        equation=f"median of {', '.join(names)}",
        variables=first.variables,
        target=first.target,
        parameters=tuple(
            dataclasses.replace(p, name=f"{member.name}_{p.name}")
            for member in members
            for p in member.parameters
        ),
        formula=functools.partial(_median, members=members),
        tied={
            f"{member.name}_{k}": f"{member.name}_{v}"
            for member in members
            for k, v in member.tied.items()
        },
        derived={
            f"{member.name}_{k}": functools.partial(_derived, member=member, function=function)
            for member in members
            for k, function in member.derived.items()
        },
        space=first.space,
        source="; ".join(f"{member.name}: {member.source}" for member in members),
        members=members,
    )


def _median(p: Namespace, v: Namespace, members: Sequence[Law]) -> jax.Array:
    size = jnp.ones_like(getattr(v, members[0].variables[0].name))
    each = jnp.stack([member.formula(_own(p, member), v) * size for member in members])
    return jnp.median(each, axis=0)


def _own(p: Namespace, member: Law) -> Namespace:
    return Namespace(**{name: getattr(p, f"{member.name}_{name}") for name in member.names})


def _derived(p: Namespace, member: Law, function: Callable[[Namespace], float]) -> float:
    return function(_own(p, member))


def parts(problem: Problem) -> list[tuple[Problem, Array]]:
    """The problem of each member, and where its slots stand in that of the combination.

    Raises LawError where a tie joins parameters of two members: they are fitted one by one.
    """
    split, start = [], 0
    for member in problem.law.members:
        own = np.array(problem.slots[start : start + len(member.parameters)])
        others = {*problem.slots[:start], *problem.slots[start + len(member.parameters) :]}
        start += len(member.parameters)
        where = np.unique(own)
        if others & set(where.tolist()):
            raise LawError(
                f"law {problem.law.name}: a parameter of {member.name} is tied to another law's, "
                f"but each is fitted by itself; tie within one law"
            )
        prefix = len(member.name) + 1
        part = dataclasses.replace(
            problem,
            law=member,
            names=tuple(problem.names[i][prefix:] for i in where),
            slots=tuple(int(i) for i in np.searchsorted(where, own)),
            kinds=tuple(problem.kinds[i] for i in where),
            **{k: getattr(problem, k)[where] for k in ("low", "high", "start", "free", "base")},
        )
        split.append((part, where))
    return split


def joined(problem: Problem, vectors: Sequence[Array]) -> Array:
    """Vectors of the members, each [..., p_i], as vectors of the combination, [..., p]."""
    whole = np.empty((*vectors[0].shape[:-1], len(problem.names)))
    for (_, where), vector in zip(parts(problem), vectors, strict=True):
        whole[..., where] = vector
    return whole
