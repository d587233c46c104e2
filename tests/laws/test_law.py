"""Declarations: published forward values, recovery of the truth for every law, refusals."""

import math
import subprocess
import sys
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import quick
from laws.catalogue_designs import CASES, design, truth

from scaling.laws import LAWS, Law, LawError, Parameter, coefficient, exponent, fit, get_law, power
from scaling.laws.fitting import derive
from scaling.laws.law import PARAMS, bent


def test_muennighoff_forward_values():
    """Muennighoff et al. 2023, to 1e-12, at the two configurations of the paper."""
    law = get_law("data_constrained")
    found = law.evaluate(
        law.constants("muennighoff"),
        {"params": [6.34e9, 8.67e9], "tokens": [242e9, 178e9], "unique_tokens": 25e9},
    )
    np.testing.assert_allclose(found, [2.2256440889984477, 2.2269634075087867], rtol=1e-12)


def test_data_constrained_without_repeats_is_chinchilla():
    law, base = get_law("data_constrained"), get_law("chinchilla")
    p = law.constants("muennighoff")
    point = {"params": 1e8, "tokens": 1e10}
    plain = base.evaluate({k: p[k] for k in base.names}, point)
    assert law.evaluate(p, {**point, "unique_tokens": 1e10}) == pytest.approx(plain, rel=1e-14)


@pytest.mark.parametrize("name", ["data_constrained", "repetition_decay", "repetition_penalty"])
def test_less_than_one_pass_over_the_data_is_chinchilla(name):
    """Tokens that are there but not read yet are worth nothing: D < U counts as D distinct ones."""
    law, base = get_law(name), get_law("chinchilla")
    p = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}
    extra = {"R_D": 15.0, "R_N": 5.0, "tau": 4.0, "K": 1.0, "gamma": 0.5, "kappa": 1.0, "eta": 0.5}
    values = {**p, **{k: extra[k] for k in law.names if k in extra}}
    point = {"params": 1e8, "tokens": 1e10}
    found = law.evaluate(values, {**point, "unique_tokens": 5e10})
    assert found == pytest.approx(base.evaluate(p, point), rel=1e-9)


def test_kaplan_compute_exponent_is_implied():
    """a_C = 1 / (1/a_S + 1/a_B + 1/a_N) (Kaplan et al. 2020, equation 1.8)."""
    implied = 1 / (1 / 0.76 + 1 / 0.21 + 1 / 0.076)
    assert implied == pytest.approx(get_law("kaplan_c").constants()["alpha_C"], abs=0.003)


def test_m4_solves_its_equation():
    law = get_law("m4")
    x = np.geomspace(1, 1e8, 40)
    for alpha in (0.01, 0.7, 1.0, 3.0):
        p = {"e_inf": 0.1, "a": 1.5, "c": 0.4, "alpha": alpha, "x0": 50.0}
        e = law.evaluate(p, {"examples": x})
        found = derive(law, p)
        left = (e - 0.1) / (found["e0"] - e) ** alpha
        some = found["e0"] - e > 1e-5  # nearer to e0 the subtraction has lost its digits
        right = found["b"] * x**-0.4
        np.testing.assert_allclose(left[some], right[some], rtol=1e-8)


def test_m3_is_the_authors():
    """Alabdulmohsin et al. 2022: no irreducible loss beside b gamma^c."""
    p, x = {"b": 3.0, "c": 0.4, "gamma": 1e-4}, np.geomspace(1, 1e8, 9)
    found = get_law("m3").evaluate(p, {"examples": x})
    np.testing.assert_allclose(found, 3.0 * (1 / x + 1e-4) ** 0.4, rtol=1e-12)
    more = get_law("m3_offset").evaluate({**p, "e_inf": 0.2}, {"examples": x})
    np.testing.assert_allclose(more, found + 0.2, rtol=1e-12)


def test_farseer_is_the_papers_form():
    """Its value and slopes at one size are the paper's nine parameters said another way."""
    law, v = get_law("farseer"), design(get_law("farseer"), 20)
    p = truth(law)
    a1, b1, a2, b2, a3, b3 = (derive(law, p)[k] for k in ("a1", "b1", "a2", "b2", "a3", "b3"))
    n, d = v["params"], v["tokens"]
    falls = np.exp(a2 * n ** p["be"] + b2) * d ** -np.exp(a1 * n ** p["al"] + b1)
    paper = np.exp(a3 * n ** p["g"] + b3) + falls
    np.testing.assert_allclose(law.evaluate(p, v), paper, rtol=1e-12)
    # Exponents of 0, where the paper's a and b have no limit, are powers of N.
    flat = law.evaluate({**p, "g": 0.0, "be": 0.0, "al": 0.0}, v)
    near = law.evaluate({**p, "g": 1e-9, "be": -1e-9, "al": 1e-9}, v)
    np.testing.assert_allclose(flat, near, rtol=1e-6)
    at = law.evaluate(p, {"params": 1e9, "tokens": 1e10})
    assert at == pytest.approx(p["E"] + p["B"], rel=1e-12)


@pytest.mark.parametrize("z", [1e-30, 1e-12, 1e-6, 1e-3, 0.0999, 0.1001, 1.0])
@pytest.mark.parametrize("sign", [-1, 1])
def test_slopes_of_what_bends_near_an_exponent_of_0(z, sign):
    """Value, slope and curvature in the exponent against exact fractions."""
    x = 3.0
    exact = Fraction(sign * z) / 3  # the exponent
    with jax.enable_x64(True):
        slope = jax.grad(lambda e: bent(jnp.float64(x), e))
        at = jnp.float64(float(exact))
        found = [bent(jnp.float64(x), at), slope(at), jax.grad(slope)(at)]
    terms = [Fraction(3) ** (k + 1) / math.factorial(k + 1) for k in range(40)]
    e = Fraction(float(exact))
    wanted = [
        sum(c * math.perm(k, order) * e ** max(k - order, 0) for k, c in enumerate(terms))
        for order in range(3)
    ]
    np.testing.assert_allclose(found, [float(w) for w in wanted], rtol=2e-12)


def test_bnsl_sharp_break_does_not_overflow():
    law = get_law("bnsl")
    p = {"a": 0.1, "b": 2.0, "c0": 0.05, "c1": 5.0, "d1": 600.0, "f1": 0.001}
    assert np.all(np.isfinite(law.evaluate(p, {"examples": np.geomspace(1, 1e12, 50)})))


def test_every_law_loads_and_is_consistent():
    for name in LAWS:
        law = get_law(name)
        assert law.name == name
        assert law.source
        for published in law.published:
            for key, value in published.values.items():
                declared = law.parameter(key)
                assert declared.low <= value <= declared.high, (name, key)


def test_declared_linear_parameters_are_linear():
    for name in LAWS:
        law = get_law(name)
        values, points = truth(law), design(law, 5)
        base = law.evaluate(values, points)
        for parameter in law.linear:
            if parameter in law.tied or parameter in law.tied.values():
                continue
            moved = [
                law.evaluate({**values, parameter: f * values[parameter]}, points) for f in (2, 3)
            ]
            np.testing.assert_allclose(
                moved[1] - base, 2 * (moved[0] - base), rtol=1e-6, atol=1e-12
            )


FAST = ("kaplan_nd", "fine_grained_moe", "farseer")


@pytest.mark.parametrize("name", quick(CASES, *FAST))
def test_noise_free_data_are_recovered(name):
    law = get_law(name)
    values, points = truth(law), design(law)
    result = fit({**points, law.target.name: law.evaluate(values, points)}, law)
    assert np.max(np.abs(result.residuals)) < 1e-7
    for parameter in CASES[name]:
        assert result.parameters[parameter] == pytest.approx(values[parameter], rel=1e-5, abs=1e-8)


def test_refusals_name_the_nearest():
    with pytest.raises(LawError, match="did you mean 'chinchilla'"):
        get_law("chincilla")
    with pytest.raises(LawError, match="cannot be imported"):
        get_law("no.such.module:LAW")
    with pytest.raises(LawError, match=r"not a scaling\.laws\.Law"):
        get_law("math:pi")
    with pytest.raises(LawError, match="needs the variables"):
        get_law("chinchilla").evaluate(get_law("chinchilla").constants(), {"params": 1.0})


def test_bad_declarations_are_refused():
    def law(**changes):
        base = {
            "name": "x", "equation": "", "variables": (PARAMS,), "formula": lambda p, v: p.A,
            "parameters": (coefficient("A"), exponent("b")),
        }  # fmt: skip
        return Law(**{**base, **changes})

    with pytest.raises(LawError, match="'C' is not one of"):
        law(linear=("C",))
    with pytest.raises(LawError, match="twice"):
        law(parameters=(coefficient("A"), coefficient("A")))
    with pytest.raises(LawError, match="start"):
        Parameter("z", "real", (0.0, 2.0), low=0.5)
    assert float(power(2.0, 3.0)) == pytest.approx(8.0)


def test_importing_laws_starts_no_backend():
    code = (
        "import scaling.laws, scaling.fit, scaling.laws.fitting, scaling.laws.command, "
        "scaling.laws.catalogue.language, scaling.laws.catalogue.sparse\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge._backends, xla_bridge._backends"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
