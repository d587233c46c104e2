"""The run directory and what is written into it: metrics, provenance, goodput, hardware facts."""
