"""Compiled programs as text, read into computations, and how often each of them runs.

The text of a compiled program (`jax.stages.Compiled.as_text`) is the only complete account of what a
step does. XLA's own `cost_analysis` counts the body of a loop once, whatever its trip count, so for
a model whose layers are scanned it is wrong by the depth. Here trip counts are read from the loops.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

_DTYPES = {
    0.5: "s4 u4",
    1: "pred s8 u8 f8e4m3fn f8e5m2",
    2: "s16 u16 f16 bf16",
    4: "s32 u32 f32",
    8: "s64 u64 f64 c64",
    16: "c128",
}
BYTES = {dtype: size for size, dtypes in _DTYPES.items() for dtype in dtypes.split()}
_ARRAY = re.compile(r"([a-z]+\d*[a-z0-9]*)\[([\d,]*)\](\{[^}]*\})?")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{\s*$")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_NAME = re.compile(r"%([\w.\-]+)")
_INTEGER = re.compile(r"^\s*(-?\d+)\s*$")


class HloError(ValueError):
    """A program whose text cannot be read; names the line."""


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of a type: dtype, dimensions, and whether it lives in main memory.

    On TPU a layout with `S(1)` and the like is on-chip memory; everything else is HBM.
    """

    dtype: str
    dims: tuple[int, ...]
    in_memory: bool = True

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> float:
        """Bytes without padding; 0 for tokens and other types without elements."""
        return self.size * BYTES.get(self.dtype, 0)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      type: arrays of the result; more than one for a tuple.
      opcode: "fusion", "while", "dot", ...
      operands: names of instructions of the same computation.
      text: everything between the parentheses of the operands (a constant's value).
    """

    name: str
    type: tuple[Array, ...]
    opcode: str
    operands: tuple[str, ...]
    text: str
    attributes: str
    root: bool

    @property
    def bytes(self) -> float:
        """Bytes of the result in main memory."""
        return sum(array.bytes for array in self.type if array.in_memory)

    def attribute(self, key: str) -> str:
        """The value of `key=`: a name, a number, or what is between braces; "" where absent."""
        match = re.search(rf"(?:^|[ ,]){key}=", self.attributes)
        if match is None:
            return ""
        rest = self.attributes[match.end() :]
        if rest.startswith("{"):
            return rest[: _closing(rest, "{", "}") + 1]
        return re.split(r"[,\s]", rest, maxsplit=1)[0].lstrip("%")

    def op_name(self) -> str:
        """The path of the model code behind it: `jit(step)/.../layers/mlp/up/dot_general`."""
        match = re.search(r'op_name="([^"]*)"', self.attributes)
        return match[1] if match else ""


@dataclasses.dataclass(frozen=True)
class Computation:
    """Instructions in the order of the text, which is the schedule where there is one."""

    name: str
    instructions: dict[str, Instruction]

    @property
    def root(self) -> Instruction:
        """The instruction whose result is the computation's."""
        return next(i for i in reversed(self.instructions.values()) if i.root)


@dataclasses.dataclass(frozen=True)
class Module:
    """A program: computations by name, and which of them runs first."""

    computations: dict[str, Computation]
    entry: str


def parse(text: str) -> Module:
    """Reads a compiled program."""
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for number, line in _logical_lines(text):
        if current is not None and line.startswith("}"):
            current = None
        elif current is not None:
            instruction = _instruction(line, number)
            if instruction is not None:
                computations[current].instructions[instruction.name] = instruction
        elif match := _HEADER.match(line):
            current = match[2]
            computations[current] = Computation(current, {})
            entry = current if match[1] else entry
    if not entry:
        raise HloError("the text of the compiled program has no ENTRY computation")
    return Module(computations, entry)


def walk(module: Module) -> Iterator[tuple[Computation, float]]:
    """Every computation that runs by itself (not inside a fusion), and how many times in a call.

    A computation that is called from several places comes once for each. Of a conditional every
    branch counts.
    """

    def visit(name: str, times: float) -> Iterator[tuple[Computation, float]]:
        computation = module.computations[name]
        yield computation, times
        for one in computation.instructions.values():
            if one.opcode == "while":
                yield from visit(
                    one.attribute("body"), times * trip_count(module, computation, one)
                )
            elif one.opcode in ("call", "async-start", "conditional"):
                for callee in called(one):
                    yield from visit(callee, times)

    yield from visit(module.entry, 1.0)


def within(module: Module, computation: Computation) -> Iterator[tuple[Instruction, Computation]]:
    """Instructions in order, for a fusion those inside it; and the computation that each stands in."""
    for one in computation.instructions.values():
        if one.opcode != "fusion":
            yield one, computation
            continue
        for name in called(one):
            yield from within(module, module.computations[name])


def called(instruction: Instruction) -> list[str]:
    """Names of the computations that a call, fusion or conditional runs."""
    names: list[str] = []
    for key in ("calls", "to_apply", "true_computation", "false_computation"):
        if value := instruction.attribute(key):
            names += _NAME.findall(value) if value.startswith("{") else [value]
    return names + _NAME.findall(instruction.attribute("branch_computations"))


def trip_count(module: Module, computation: Computation, loop: Instruction) -> int:
    """Iterations of a `while` that counts with an integer up to a constant, else HloError.

    XLA says it in `known_trip_count` on some backends. Else it follows from the condition (counter <
    bound), the counter's start in the operand, and its increment in the body; a start that cannot be
    read counts as 0, an increment as 1.
    """
    known = re.search(r'known_trip_count\D*"n":"(\d+)"', loop.attributes)
    if known:
        return int(known[1])
    condition = module.computations[loop.attribute("condition")]
    bound, index = _bound(module, condition)
    if bound is None:
        raise HloError(f"loop {loop.name}: no constant bound in {condition.name}")
    start, step = 0, 1
    if index is not None:
        start = _initial(computation, loop, index)
        step = _increment(module.computations[loop.attribute("body")], index)
    return max(0, math.ceil((bound - start) / step))


def _bound(module: Module, condition: Computation) -> tuple[int | None, int | None]:
    """(constant that the counter is compared with, the counter's place in the loop's tuple)."""
    root = condition.root
    constants = [_constant(condition, name) for name in root.operands]
    bound = next((value for value in constants if value is not None), None)
    if bound is None:  # the comparison is fused: the constant may stand outside or inside
        inside = [module.computations[name] for name in called(root) if name in module.computations]
        values = [
            _constant(c, i.name) for c in (condition, *inside) for i in c.instructions.values()
        ]
        bound = max((value for value in values if value is not None), default=None)
    if root.attribute("direction") == "LE" and bound is not None:
        bound += 1
    index = None
    for name in root.operands:
        source = condition.instructions.get(name)
        while source is not None and source.opcode in ("copy", "bitcast", "convert"):
            source = condition.instructions.get(source.operands[0])
        if source is not None and source.opcode == "get-tuple-element":
            index = int(source.attribute("index"))
    return bound, index


def _initial(computation: Computation, loop: Instruction, index: int) -> int:
    source = computation.instructions.get(loop.operands[0])
    if source is None or source.opcode != "tuple":
        return 0
    value = _constant(computation, source.operands[index])
    return 0 if value is None else value


def _increment(body: Computation, index: int) -> int:
    root = body.root
    if root.opcode != "tuple":
        return 1
    update = body.instructions.get(root.operands[index])
    if update is None or update.opcode != "add":
        return 1
    values = [_constant(body, name) for name in update.operands]
    return next((value for value in values if value), 1)


def _constant(computation: Computation, name: str) -> int | None:
    source = computation.instructions.get(name)
    while source is not None and source.opcode in ("copy", "bitcast", "convert"):
        source = computation.instructions.get(source.operands[0])
    if source is None or source.opcode != "constant":
        return None
    match = _INTEGER.match(source.text)
    return int(match[1]) if match else None


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Numbered lines; one that an attribute's own line breaks have split is put together again."""
    whole, first = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        starts = line.startswith("  ") or not line or line.rstrip() == "}" or _HEADER.match(line)
        if starts or not whole.startswith("  "):
            if whole:
                yield first, whole
            whole, first = line, number
        else:
            whole += line
    if whole:
        yield first, whole


def _instruction(line: str, number: int) -> Instruction | None:
    match = _LINE.match(line)
    if match is None:
        return None  # a comment, or the rest of a long constant
    rest = line[match.end() :]
    end = _closing(rest, "(", ")") + 1 if rest.startswith("(") else rest.find(" ")
    kind, rest = rest[:end], rest[end:].lstrip()
    opcode, paren, _ = rest.partition("(")
    if not paren:
        raise HloError(f"line {number} of the compiled program is not understood: {line[:120]!r}")
    arguments = rest[len(opcode) :]
    close = _closing(arguments, "(", ")")
    inside = arguments[1:close]
    return Instruction(
        name=match[2],
        type=arrays(kind),
        opcode=opcode,
        operands=tuple(_NAME.findall(inside)),
        text=inside,
        attributes=arguments[close + 1 :].lstrip(", "),
        root=bool(match[1]),
    )


def arrays(text: str) -> tuple[Array, ...]:
    """The arrays of a type, a tuple's in their order."""
    return tuple(
        Array(
            dtype=kind,
            dims=tuple(int(n) for n in dims.split(",") if n),
            in_memory=not re.search(r"S\([1-9]\d*\)", layout or ""),
        )
        for kind, dims, layout in _ARRAY.findall(text)
    )


def _closing(text: str, opening: str, closing: str) -> int:
    """Index of the bracket that closes the one at 0; brackets inside quotes do not count."""
    depth, quoted = 0, False
    for i, character in enumerate(text):
        if character == '"':
            quoted = not quoted
        elif not quoted and character == opening:
            depth += 1
        elif not quoted and character == closing:
            depth -= 1
            if not depth:
                return i
    return len(text) - 1
