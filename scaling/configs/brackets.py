"""Sequences, mappings and quoted words as typed on a command line; nothing is evaluated."""

import ast

from scaling.configs.errors import RefusedError

_BRACKETS = {"(": ")", "[": "]", "{": "}"}


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
    """The items of "(a, (b, c))", which are "a" and "(b, c)"."""
    inner = text.strip()
    if inner[:1] in ("(", "[") and _closes_at_end(inner):
        inner = inner[1:-1]
    elif not inner:
        raise RefusedError("nothing is not a sequence", "write () for the empty one")
    items = [item.strip() for item in _split(inner, ",")]
    if items and not items[-1]:  # a trailing comma, or nothing between the brackets
        items.pop()
    if any(not item for item in items):
        raise RefusedError(f"{text!r} has an empty item", "write the items as a,b,c")
    return items


def split_mapping(text: str) -> dict[str, str]:
    """The names of "{a: 1, b: (2, 3)}", each with the text of its value."""
    inner = text.strip()
    if not inner.startswith("{") or not _closes_at_end(inner):
        raise RefusedError(f"{text!r} is not a mapping", "give {name: value, ...}")
    result: dict[str, str] = {}
    for item in _split(inner[1:-1], ","):
        if not item.strip():
            continue
        name, *rest = _split(item, ":", limit=1)
        name = name.strip()
        name = unquote(name) if name[:1] in ("'", '"') else name
        if not rest or not name:
            raise RefusedError(f"{item.strip()!r} is not name: value", "give {name: value, ...}")
        if name in result:
            raise RefusedError(f"{name!r} stands twice in {text!r}", "give each name once")
        result[name] = rest[0].strip()
    return result


def _closes_at_end(text: str) -> bool:
    """Whether the bracket that opens the text closes with its last character."""
    depths = _depths(text)
    return depths[-1] == 0 and all(depth > 0 for depth in depths[:-1])


def _depths(text: str) -> list[int]:
    """Bracket depth after each character; quoted characters count as inside."""
    stack: list[str] = []
    depths = []
    for character in text:
        if stack and stack[-1] in "'\"":
            if character == stack[-1]:
                stack.pop()
        elif character in "'\"":
            stack.append(character)
        elif character in _BRACKETS:
            stack.append(_BRACKETS[character])
        elif character in _BRACKETS.values():  # noqa: SIM102 (it pops)
            if not stack or stack.pop() != character:
                raise RefusedError(f"{text!r} has a bracket too many", "balance the brackets")
        depths.append(len(stack))
    if stack:
        raise RefusedError(f"{text!r} lacks a closing {stack[-1]}", "balance the brackets")
    return depths


def _split(text: str, separator: str, limit: int = -1) -> list[str]:
    """Split at separators outside brackets and quotes."""
    pieces: list[str] = []
    start = 0
    for position, depth in enumerate(_depths(text)):
        if text[position] == separator and depth == 0 and limit != len(pieces):
            pieces.append(text[start:position])
            start = position + 1
    return [*pieces, text[start:]]
