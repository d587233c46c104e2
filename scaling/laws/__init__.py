"""Scaling laws: declare a law, fit it to a table of runs, know how sure the answer is.

    table of runs -> Problem -> batched fit -> Result -> intervals, allocation, figures, report

A `Law` (`law.py`) is a declaration: formula, parameters with bounds, variables with units, the
parameters in which it is linear, published constants with their source; `catalogue/` holds those
of the literature. `Table` (`table.py`, `readers.py`) turns CSV, JSON lines or a sweep directory
into valid columns and records every row it refuses. `Problem` (`problem.py`) lays both out as
float64 arrays and one search vector, with fixed, tied, bounded and log-transformed parameters.
`fit` (`fitting.py`) searches globally by variable projection (`screen.py`), then polishes all
starts in one jitted program (`solver.py`). From its `Result`: resampling (`resample.py`), profile
and sandwich intervals (`profiles.py`), compute-optimal allocation (`allocation.py`), predictions
that say how far outside the data they are (`forecasting.py`), comparison of laws
(`comparison.py`), the non-parametric approaches 1 and 2 (`isoflop.py`), `figures.py`, `report.py`.

Laws read tables and never models. Float64 is scoped to the calls in here: importing or using this
package changes nothing for training code in the same process.
"""

from scaling import lazy

__getattr__, __all__ = lazy.names(
    __name__,
    {
        "allocation": "optimum",
        "backend": "use_device",
        "catalogue": "LAWS get_law",
        "comparison": "compare",
        "fitting": "Result fit",
        "forecasting": "forecast",
        "law": "Law LawError Parameter Published Variable coefficient exponent offset power shape",
        "losses": "Loss",
        "profiles": "profile sandwich",
        "readers": "read_table",
        "resample": "bootstrap",
        "table": "Table",
    },
)
