"""Tasks: a model, its data, a loss, evaluations and FLOPs make one learning problem.

`tasks.base.build_task` returns a `Task`, a handful of pure functions; the train step, the loop, the
sweeps and the planner know nothing else about a family. See `tasks.base` for the interface.
"""

TASKS: dict[str, str] = {
    "language_model": "scaling.tasks.language_model:language_model",
    "masked_language_model": "scaling.tasks.masked_language_model:masked_language_model",
    "classification": "scaling.tasks.classification:classification",
    "rating": "scaling.tasks.rating:rating",
    "next_item": "scaling.tasks.next_item:next_item",
    "translation": "scaling.tasks.translation:translation",
    "speech": "scaling.tasks.speech:speech",
    "gan": "scaling.tasks.gan:gan",
    "diffusion": "scaling.tasks.diffusion:diffusion",
    "tagging": "scaling.tasks.tagging:tagging",
    "contrastive": "scaling.tasks.contrastive:contrastive",
    "augment": "scaling.tasks.augment:augment",
    "drop_tokens": "scaling.tasks.drop_tokens:drop_tokens",
    "adversarial_training": "scaling.tasks.adversarial:adversarial_training",
}
