"""Sequences, mappings and quoted words as typed on a command line; nothing is evaluated."""

import ast
import os

from scaling.configs.errors import RefusedError

_CLOSING = {"(": ")", "[": "]", "{": "}"}


def unquote(text: str) -> str:
    """The string inside matching quotes, escapes resolved."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = None
    if not isinstance(value, str):
        raise RefusedError(f"{text} has a quote without its partner", "close or drop the quote")
    return value


def split_items(text: str) -> list[str]:
    """The items of "(a, (b, c))", which are "a" and "(b, c)".

    The path of a file that is there is one item as it stands, whatever signs are in it.
    """
    if os.path.isfile(os.path.expanduser(text)):
        return [text]
    pieces = _split(text, ",")
    if not text.strip():
        raise RefusedError("an empty text is not a sequence", "write () for the empty sequence")
    if len(pieces) == 1 and pieces[0][:1] in ("(", "["):
        pieces = _split(pieces[0][1:-1], ",")
    if not pieces[-1]:  # a trailing comma, or nothing between the brackets
        pieces.pop()
    if "" in pieces:
        raise RefusedError(f"{text!r} has an empty item", "write the items as a,b,c")
    return pieces


def split_mapping(text: str) -> dict[str, str]:
    """The names of "{a: 1, b: (2, 3)}", each with the text of its value."""
    pieces = _split(text, ",")
    if len(pieces) > 1 or pieces[0][:1] != "{":
        raise RefusedError(f"{text!r} is not a mapping", "give {name: value, ...}")
    result: dict[str, str] = {}
    for item in filter(None, _split(pieces[0][1:-1], ",")):
        name, *rest = _split(item, ":", limit=1)
        name = unquote(name) if name[:1] in ("'", '"') else name
        if not rest or not name:
            raise RefusedError(f"{item!r} is not name: value", "give {name: value, ...}")
        if name in result:
            raise RefusedError(f"{name!r} stands twice in {text!r}", "give each name once")
        result[name] = rest[0]
    return result


def _split(text: str, separator: str, limit: int = -1) -> list[str]:
    """Split at separators outside brackets and quotes; at most `limit` times."""
    pieces: list[str] = []
    open_, start = [""], 0  # what closes each bracket or quote that is open
    for position, character in enumerate(text):
        if character == open_[-1]:
            open_.pop()
        elif open_[-1] in ("'", '"'):
            continue
        elif character in "'\"":
            open_.append(character)
        elif character in _CLOSING:
            open_.append(_CLOSING[character])
        elif character in _CLOSING.values():
            raise RefusedError(f"{text!r} has a bracket too many", "balance the brackets")
        elif character == separator and len(open_) == 1 and len(pieces) != limit:
            pieces.append(text[start:position].strip())
            start = position + 1
    if len(open_) > 1:
        remedy = "close it, or put an item that holds such a sign into quotes of the other kind"
        raise RefusedError(f"{text!r} lacks a closing {open_[-1]}", remedy)
    return [*pieces, text[start:].strip()]
