"""Optimizers, schedules, and how they become one update with run-time hyper-parameters."""

OPTIMIZERS: dict[str, str] = {
    "adamw": "scaling.optim.optimizers:AdamW",
    "muon": "scaling.optim.optimizers:Muon",
    "adafactor": "scaling.optim.optimizers:Adafactor",
    "lion": "scaling.optim.optimizers:Lion",
    "sgd": "scaling.optim.optimizers:Sgd",
    "frozen": "scaling.optim.optimizers:Frozen",
}

SCHEDULES: dict[str, str] = {
    "constant": "scaling.optim.schedules:constant",
    "cosine": "scaling.optim.schedules:cosine",
    "linear": "scaling.optim.schedules:linear",
    "wsd": "scaling.optim.schedules:wsd",
    "inverse_sqrt": "scaling.optim.schedules:inverse_sqrt",
}
