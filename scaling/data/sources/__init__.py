"""Where data comes from.

A source is a dataclass whose fields are the keys of `data.source`, with a class attribute `kind`:

    text      documents() -> iterator of str; fingerprint(cache) -> str; held_out() -> source | None
    images    arrays(cache, split) ... see `scaling.data.images`
    tokens    windows(seq_len, held_out) -> dataset: examples made up, not read

`fingerprint` stands for the contents (a hash), `held_out` is the evaluation data that the source
names itself. Errors are `DataError`s.
"""
