"""Tasks: a model, its data, a loss, metrics and FLOPs make one learning problem.

`build_task(config, info, platform)` returns a `Task`, a handful of pure functions; the train step,
the loop, the sweeps and the planner know nothing else about a family. See `tasks.base` for the
interface and for how the families to come fit it.
"""

TASKS: dict[str, str] = {
    "language_model": "scaling.tasks.language_model:language_model",
    "classification": "scaling.tasks.classification:classification",
}

# What a task learns from, and a key that every model of its family has.
NEEDS: dict[str, tuple[str, str]] = {
    "language_model": ("text", "vocab_size"),
    "classification": ("images", "num_classes"),
}

# Parameters of task functions that the code supplies, not the config.
EXTERNAL = frozenset({"config", "info", "platform"})
