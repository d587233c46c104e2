"""From section `optim` to one pure update whose hyper-parameters are arguments.

The section's own rule updates every parameter that no entry of `optim.groups` takes. A group has a
rule, a schedule, a norm and a clip of its own; its hyper-parameters are called "GROUP.key".
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from scaling.configs import Component, ConfigError, build, component
from scaling.experiment import GroupConfig, OptimConfig
from scaling.optim import OPTIMIZERS, SCHEDULES
from scaling.optim.optimizers import Frozen, Hparams, Number, Optax, Rate, UpdateRule
from scaling.parallel.sharding import PyTree

Schedule = Callable[[jax.Array, Number], jax.Array]  # (step, peak) -> value


@dataclasses.dataclass(frozen=True)
class Rule:
    """One update rule and its schedule.

    Attributes:
      rule: one of `scaling.optim.optimizers`, or another object with `transform`.
      schedule: (step, peak) -> learning rate.
    """

    rule: UpdateRule | Frozen
    schedule: Schedule

    @property
    def frozen(self) -> bool:
        """Whether the rule leaves parameters as they are."""
        return isinstance(self.rule, Frozen)

    @property
    def hparams(self) -> dict[str, float]:
        """Every float of the section by key: defaults of what `update` takes as arrays."""
        if isinstance(self.rule, Optax):
            values = dict(self.rule.arguments)
        else:
            values = {f.name: getattr(self.rule, f.name) for f in dataclasses.fields(self.rule)}
        return {name: value for name, value in values.items() if isinstance(value, float)}

    def init(self, params: PyTree, names: PyTree) -> PyTree:
        """Fresh state for these parameters."""
        return self._transform(self.hparams, lambda peak: peak, names).init(_float32(params))

    def update(
        self,
        grads: PyTree,
        norm: jax.Array,
        state: PyTree,
        params: PyTree,
        names: PyTree,
        step: jax.Array,
        h: Mapping[str, jax.Array],
    ) -> tuple[PyTree, PyTree]:
        """(updates, new state) of one step; `norm` is the gradients' global norm."""
        grads, params = _float32(grads), _float32(params)
        if "clip_norm" in h and not isinstance(self.rule, Optax):
            factor = h["clip_norm"] / jnp.maximum(norm, h["clip_norm"])
            grads = jax.tree.map(lambda g: g * factor, grads)
        rate = functools.partial(self.schedule, step)
        return self._transform(h, rate, names).update(grads, state, params)

    def learning_rate(self, step: jax.Array, h: Mapping[str, jax.Array]) -> jax.Array:
        """float32[]; the schedule's fraction of the peak for a rule without a learning rate."""
        return jnp.asarray(self.schedule(step, h.get("learning_rate", 1.0)), jnp.float32)

    def _transform(self, h: Hparams, rate: Rate, names: PyTree) -> optax.GradientTransformation:
        assert not isinstance(self.rule, Frozen), "frozen parameters are never updated"
        return self.rule.transform(h, rate, names)


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """All rules of a run, ready for `jit` and `vmap`.

    Attributes:
      rules: by group; "" is the section's own.
      axis_names: logical axis names of every parameter (a tuple or None), shaped like the
        parameters.
      groups: the group of every parameter, shaped like the parameters; None where there is one rule.
    """

    rules: Mapping[str, Rule]
    axis_names: PyTree
    groups: PyTree = None

    @property
    def hparams(self) -> dict[str, float]:
        """The hyper-parameters of all rules: "learning_rate", "GROUP.learning_rate", ..."""
        return {
            _join(group, name): value
            for group, rule in self.rules.items()
            for name, value in rule.hparams.items()
        }

    def own(self, hparams: Mapping[str, Any]) -> dict[str, Any]:
        """The part of a step's hyper-parameters that `update` takes."""
        return {name: hparams[name] for name in self.hparams}

    def trained(self, params: PyTree) -> PyTree:
        """The parameters that some rule changes; None in place of the frozen ones."""
        if self.groups is None or not any(rule.frozen for rule in self.rules.values()):
            return params
        return jax.tree.map(lambda p, g: None if self.rules[g].frozen else p, params, self.groups)

    def init(self, params: PyTree) -> PyTree:
        """Fresh state for these parameters (arrays, also traced ones); by group if there are any."""
        states = {
            group: self.rules[group].init(*self._of(group, params)) for group in self._active()
        }
        return states[""] if set(self.rules) == {""} else states

    def norms(self, grads: PyTree) -> dict[str, jax.Array]:
        """The global norm (float32[]) of each trained group's gradients, before clipping."""
        return {g: optax.global_norm(_float32(self._of(g, grads)[0])) for g in self._active()}

    def metrics(
        self, norms: Mapping[str, jax.Array], step: jax.Array, hparams: Mapping[str, jax.Array]
    ) -> dict[str, jax.Array]:
        """{"learning_rate": the first group's at this step, "grad_norm": of all gradients}.

        With groups also "learning_rate/GROUP" and "grad_norm/GROUP".
        """
        rates = {g: self.rules[g].learning_rate(step, self._hparams_of(g, hparams)) for g in norms}
        first, *others = norms
        total = norms[first]
        if others:
            total = jnp.sqrt(sum(jnp.square(n) for n in norms.values()))
        named = {f"learning_rate/{g}": rate for g, rate in rates.items() if g}
        named |= {f"grad_norm/{g}": norm for g, norm in norms.items() if g}
        return named | {"learning_rate": rates[first], "grad_norm": total}

    def update(
        self,
        grads: PyTree,
        norms: Mapping[str, jax.Array],
        opt_state: PyTree,
        params: PyTree,
        step: jax.Array,
        hparams: Mapping[str, jax.Array],
    ) -> tuple[PyTree, PyTree]:
        """One update.

        Args:
          grads: mean gradients of the parameters that are trained.
          norms: of these gradients, from `norms`.
          opt_state: from `init` or the last update.
          params: the same parameters.
          step: int32[], drives the schedules.
          hparams: a value (float32[], may be traced or batched by vmap) for each of `hparams`.

        Returns:
          (updates to add to the parameters (float32), new state).

        Raises:
          KeyError: a hyper-parameter is missing or unknown.
        """
        if set(hparams) != set(self.hparams):
            differing = sorted(set(hparams) ^ set(self.hparams))
            raise KeyError(f"hyper-parameters must be {sorted(self.hparams)}; check {differing}")
        states: dict[str, PyTree] = {}
        updates = jax.tree.map(lambda _: None, grads)
        alone = set(self.rules) == {""}
        for group in self._active():
            mine, names = self._of(group, params)
            change, states[group] = self.rules[group].update(
                self._of(group, grads)[0],
                norms[group],
                opt_state if alone else opt_state[group],
                mine,
                names,
                step,
                self._hparams_of(group, hparams),
            )
            updates = jax.tree.map(
                lambda old, new: old if new is None else new, updates, change, is_leaf=_is_none
            )
        return updates, states[""] if alone else states

    def _hparams_of(self, group: str, hparams: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        return {name: hparams[_join(group, name)] for name in self.rules[group].hparams}

    def _active(self) -> list[str]:
        """Groups that are trained and have parameters; the section's own first."""
        if set(self.rules) == {""}:
            return [] if self.rules[""].frozen else [""]
        used = set(jax.tree.leaves(self.groups))
        return [g for g, rule in self.rules.items() if g in used and not rule.frozen]

    def _of(self, group: str, tree: PyTree) -> tuple[PyTree, PyTree]:
        """A tree and the axis names with None in place of other groups' parameters."""
        if set(self.rules) == {""}:
            return tree, self.axis_names
        part = jax.tree.map(
            lambda g, x: x if g == group else None, self.groups, tree, is_leaf=_is_none
        )
        names = jax.tree.map(lambda g, n: n if g == group else None, self.groups, self.axis_names)
        return part, names


def build_optimizer(config: OptimConfig, total_steps: int, axis_names: PyTree) -> Optimizer:
    """The optimizer of a resolved section `optim`.

    Args:
      config: the section, with `schedule` and `groups` inside.
      total_steps: `train.steps`.
      axis_names: logical axis names, a tuple or None for every parameter.

    Raises:
      ConfigError: a schedule does not fit into the run; a parameter is in two groups; a group has
        no parameters; nothing is trained.
    """
    entries = config.groups or {}
    rules = {"": Rule(_rule(config), _schedule(config.schedule, total_steps, "optim"))}
    for name, entry in entries.items():
        schedule = entry.schedule if entry.schedule is not None else config.schedule
        where = f"optim.groups.{name}"
        rules[name] = Rule(_rule(entry.optimizer), _schedule(schedule, total_steps, where))
    optimizer = Optimizer(rules, axis_names, _groups(entries, axis_names) if entries else None)
    if not optimizer._active():
        raise ConfigError(
            "optim", "every parameter is frozen", "give optim.groups a rule that trains some"
        )
    return optimizer


def _rule(section: Component) -> UpdateRule | Frozen:
    rule = component(section, OPTIMIZERS)
    if hasattr(rule, "transform") or rule is Frozen:
        return build(section, OPTIMIZERS)
    skipped = ("name", "schedule", "groups")
    arguments = {key: value for key, value in section.items() if key not in skipped}
    made = rule(**arguments)
    if not isinstance(made, optax.GradientTransformation):
        raise ConfigError(
            "optim.name",
            f"{section.name} returned {type(made).__name__}",
            "return an optax.GradientTransformation, or give the class a method `transform`",
        )
    return Optax(rule, arguments)


def _schedule(section: Component, total_steps: int, where: str) -> Schedule:
    keys = {key: value for key, value in section.items() if key != "name"}
    schedule = functools.partial(component(section, SCHEDULES), total_steps=total_steps, **keys)
    # A schedule may refuse its settings when it is traced; find out now.
    jax.eval_shape(schedule, jax.ShapeDtypeStruct((), jnp.int32), 1.0)
    return schedule


def _groups(entries: Mapping[str, GroupConfig], axis_names: PyTree) -> PyTree:
    """The group of every parameter."""
    used: set[str] = set()

    def group_of(path: tuple[Any, ...], names: tuple[str | None, ...] | None) -> str:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        taking = [key for key, entry in entries.items() if _takes(key, entry, name, names)]
        if len(taking) > 1:
            raise ConfigError(
                f"optim.groups.{taking[1]}",
                f"takes {name}, which optim.groups.{taking[0]} takes too",
                "narrow match or axes of one of them",
            )
        used.update(taking)
        return taking[0] if taking else ""

    groups = jax.tree_util.tree_map_with_path(group_of, axis_names, is_leaf=_is_names)
    for key in entries:
        if key not in used:
            paths = jax.tree_util.tree_leaves_with_path(axis_names, is_leaf=_is_names)
            some = [jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in paths[:4]]
            raise ConfigError(
                f"optim.groups.{key}", "takes no parameter", f"match paths such as {some}"
            )
    return groups


def _takes(key: str, entry: GroupConfig, path: str, names: tuple[str | None, ...] | None) -> bool:
    try:
        matches = entry.match is None or re.fullmatch(entry.match, path) is not None
    except re.error as error:
        raise ConfigError(
            f"optim.groups.{key}.match", f"{entry.match!r} is not a regular expression", str(error)
        ) from error
    return matches and (not entry.axes or bool(set(entry.axes) & set(names or ())))


def _is_names(x: object) -> bool:
    return x is None or isinstance(x, tuple)


def _is_none(x: object) -> bool:
    return x is None


def _join(group: str, name: str) -> str:
    return f"{group}.{name}" if group else name


def _float32(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)
