"""Scaling experiments in JAX and Flax: plan, forecast, run, fit, grade."""

__version__ = "0.1.0"
