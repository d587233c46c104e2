"""Compiles are counted, cached ones apart; a warm program that compiles again says why."""

import jax
import jax.numpy as jnp

from scaling.track.recompile import CompileLog


def test_counts_by_name_and_stops_when_closed() -> None:
    def a_rare_name(x: jax.Array) -> jax.Array:
        return x * 2 + 1

    with CompileLog() as log:
        step = jax.jit(a_rare_name)
        step(jnp.ones(3))
        step(jnp.ones(3))
        assert log.count("a_rare_name") == 1
        assert log.seconds("a_rare_name") > 0
        step(jnp.ones(4))
        assert log.count("a_rare_name") == 2
    log.close()
    step(jnp.ones(5))
    assert log.count("a_rare_name") == 2


def test_a_warm_step_that_compiles_again_says_what_changed() -> None:
    def warm_step(state: jax.Array, batch: dict[str, jax.Array]) -> jax.Array:
        return state + batch["x"].sum()

    step = jax.jit(warm_step, donate_argnums=0)
    batches = [jnp.ones((4, 2)), jnp.ones((3, 2)), jnp.ones((3, 2), jnp.bfloat16)]
    states = [jnp.zeros(2) for _ in range(5)]
    with CompileLog() as log:
        step(states[0], {"x": batches[0]})
        assert log.late() == []
        log.warm()
        step(states[1], {"x": batches[0]})
        assert log.late() == []
        step(states[2], {"x": batches[1]})
        (told,) = log.late()
        assert "warm_step" in told
        assert "was compiled after warm-up" in told
        assert "batch['x'], now f32[3,2] and before f32[4,2]" in told
        assert log.late() == []
        step(states[3], {"x": batches[1]})
        assert log.late() == []
        step(states[4], {"x": batches[2]})
        (told,) = log.late()
        assert "now bf16[3,2] and before f32[3,2]" in told
    assert not jax.config.jax_explain_cache_misses
