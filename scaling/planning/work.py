"""What a compiled step does on one device: matrix FLOPs, attention kernels, memory traffic.

Counted from the text with the loops' trip counts (`hlo.walk`). Element-wise work is left out of the
FLOPs, as in every published count; it shows in the memory traffic.
"""

import dataclasses
import math
import re

import numpy as np

from scaling.planning import hlo
from scaling.planning.hlo import Computation, Instruction, Module

# Products of matrices in each kernel of flash attention (forward: q k, p v; with respect to q: q k,
# do v, ds k; to k and v: q k, do v, p do, ds q). By the kernel's name in the text.
Products = tuple[tuple[str, int], ...]
KERNELS: Products = (("dkv", 4), ("dq", 3), ("fwd", 2))
CUDNN_KERNELS: Products = (("Backward", 5), ("fmha", 2))

# Instructions that move no bytes: they name what is there, or the callee is counted.
_FREE_NAMES = """
    parameter constant tuple get-tuple-element bitcast while conditional call after-all partition-id
    replica-id opt-barrier domain iota async-start async-update async-done copy-done slice-done
    collective-permute-done all-gather-done all-reduce-done send-done recv-done get-dimension-size
    add-dependency"""
_FREE = frozenset(_FREE_NAMES.split())
_NO_TRAFFIC = ("AllocateBuffer", "AssumeGatherIndicesInBound", "Sharding", "ConcatBitcast")


@dataclasses.dataclass(frozen=True)
class Work:
    """One device, one step.

    Attributes:
      matmul_flops: products of matrices and convolutions.
      attention_flops: kernels that the compiler does not see into, by formula; a causal mask halves.
      kernels: runs of such kernels, by name.
      memory_bytes: read from and written to main memory, each use once.
      opaque: custom calls that nothing is known of, by target, and their runs.
    """

    matmul_flops: float
    attention_flops: float
    kernels: dict[str, float]
    memory_bytes: float
    opaque: dict[str, float]

    @property
    def flops(self) -> float:
        """All that is counted."""
        return self.matmul_flops + self.attention_flops


def count(module: Module) -> Work:
    """Counts a program; its attention kernels by their causal half, as the text tells of no mask."""
    matmul = attention = traffic = 0.0
    kernels: dict[str, float] = {}
    opaque: dict[str, float] = {}
    for computation, times in hlo.walk(module):
        for one, scope in hlo.within(module, computation):
            matmul += times * _matmul_flops(one, scope)
        for one in computation.instructions.values():
            traffic += times * _traffic(module, computation, one)
            if one.opcode != "custom-call":
                continue
            kernel = _kernel(one, computation)
            if kernel is not None:
                name, flops = kernel
                attention += times * flops * 0.5
                kernels[name] = kernels.get(name, 0.0) + times
                continue
            target = one.attribute("custom_call_target").strip('"')
            known = target.startswith(("AsyncCollective", "__cublas")) or target in _NO_TRAFFIC
            if not known:
                opaque[target] = opaque.get(target, 0.0) + times
    return Work(matmul, attention, kernels, traffic, opaque)


def _operand(one: Instruction, index: int, scope: Computation) -> tuple[int, ...]:
    return scope.instructions[one.operands[index]].type[0].dims


def _matmul_flops(one: Instruction, scope: Computation) -> float:
    if one.opcode == "convolution":
        return _convolution_flops(one, scope)
    cublas = one.opcode == "custom-call" and "__cublas" in one.attributes
    if one.opcode != "dot" and not cublas:
        return 0.0
    left, dims = _operand(one, 0, scope), one.attribute("lhs_contracting_dims")
    if cublas:  # XLA on GPU tells it in the backend's JSON
        match = re.search(r'"lhs_contracting_dimensions":\[([^\]]*)\]', one.attributes)
        dims = match[1] if match else str(len(left) - 1)
    contracted = math.prod(left[int(dim)] for dim in re.findall(r"\d+", dims))
    return 2.0 * one.type[0].size * contracted


def _convolution_flops(one: Instruction, scope: Computation) -> float:
    """Two per multiplication with a real element: padding and dilation holes do not count.

    TPU programs hold every product of matrices as a convolution, with reshapes as windows that lie
    mostly in padding; counting whole windows would be several times too much.
    """
    left, right = _operand(one, 0, scope), _operand(one, 1, scope)
    labels = re.match(r"(\w+)_(\w+)->(\w+)", one.attribute("dim_labels"))
    if labels is None:
        raise hlo.HloError(f"{one.name}: no dim_labels")
    out = one.type[0].dims
    flops = (
        2.0 * right[labels[2].index("i")] * out[labels[3].index("f")] * out[labels[3].index("b")]
    )
    window = _window(one.attribute("window"), sum(label.isdigit() for label in labels[2]))
    for i, spatial in enumerate(sorted(label for label in labels[2] if label.isdigit())):
        flops *= _taps(left[labels[1].index(spatial)], out[labels[3].index(spatial)], **window[i])
    return flops


def _window(text: str, dims: int) -> list[dict[str, int]]:
    """Per spatial dimension: size, stride, pad (before the first element), lhs_dilate, rhs_dilate."""
    fields = dict(part.split("=") for part in text.strip("{}").split() if "=" in part)
    plain = {"size": 1, "stride": 1, "pad": 0, "lhs_dilate": 1, "rhs_dilate": 1}
    return [
        {
            key: int(fields[key].split("x")[i].split("_")[0]) if key in fields else value
            for key, value in plain.items()
        }
        for i in range(dims)
    ]


def _taps(
    length: int, outputs: int, size: int, stride: int, pad: int, lhs_dilate: int, rhs_dilate: int
) -> int:
    """Pairs (output, window element) that meet an element of the input."""
    total = 0
    extent = (length - 1) * lhs_dilate + 1
    places = np.arange(outputs, dtype=np.int64) * stride - pad
    for k in range(size):
        at = places + k * rhs_dilate
        total += int(np.sum((at >= 0) & (at < extent) & (at % lhs_dilate == 0)))
    return total


def _kernel(one: Instruction, scope: Computation) -> tuple[str, float] | None:
    """(name, FLOPs without a mask) of an attention kernel, or None."""
    target = one.attribute("custom_call_target").strip('"')
    if target == "tpu_custom_call":
        name = one.op_name() + one.name
    elif "fmha" in target:
        name = target
    else:
        return None
    table = CUDNN_KERNELS if "fmha" in target else KERNELS
    products = next((n for key, n in table if key in name), None)
    if products is None or ("splash" not in name and "fmha" not in name):
        return None
    shapes = [
        array.dims
        for operand in one.operands
        for array in scope.instructions[operand].type
        if array.dtype in ("bf16", "f16", "f32") and len(array.dims) >= 3
    ]
    if len(shapes) < 2:
        return None
    queries, keys = shapes[0], shapes[1]
    if "fmha" in target:  # (batch, time, heads, width) in memory, whatever the order of the text
        return target, products * 2.0 * math.prod(queries) * keys[1]
    kernel = re.search(r"splash_m[hq]a_(?:fwd|dq|dkv)", name)
    return (kernel[0] if kernel else "splash"), products * 2.0 * math.prod(queries) * keys[-2]


def _traffic(module: Module, scope: Computation, one: Instruction) -> float:
    """Bytes of main memory that an instruction reads and writes.

    A slice reads what it takes and not what it takes it from; an update in place writes the update.
    Arrays in on-chip memory do not count.
    """
    target = one.attribute("custom_call_target").strip('"') if one.opcode == "custom-call" else ""
    if one.opcode in _FREE or target in _NO_TRAFFIC:
        return 0.0
    operands = [
        scope.instructions[operand] for operand in one.operands if operand in scope.instructions
    ]
    if one.opcode == "fusion":
        return _fusion_traffic(module, one, operands)
    if one.opcode in ("copy-start", "slice-start"):
        moved = [array for array in one.type if array.size > 1]
        sides = {array.in_memory for array in moved}  # one side may be on the chip
        return min((array.bytes for array in moved), default=0.0) * (2.0 if len(sides) < 2 else 1.0)
    if one.opcode in ("dynamic-slice", "slice", "gather"):
        return 2.0 * one.bytes
    if one.opcode in ("dynamic-update-slice", "scatter"):
        update = operands[1 if one.opcode == "dynamic-update-slice" else -1]
        return 2.0 * update.bytes
    return one.bytes + sum(operand.bytes for operand in operands)


def _fusion_traffic(module: Module, one: Instruction, operands: list[Instruction]) -> float:
    inside = module.computations[hlo.called(one)[0]]
    users: dict[str, list[Instruction]] = {}
    for inner in inside.instructions.values():
        for operand in inner.operands:
            users.setdefault(operand, []).append(inner)
    parameters = {
        int(inner.text): inner
        for inner in inside.instructions.values()
        if inner.opcode == "parameter"
    }
    total, updated = 0.0, 0.0
    for i, source in enumerate(operands):
        if i not in parameters or not any(array.in_memory for array in source.type):
            continue
        reads, writes = _use(parameters[i].name, inside, users)
        total += source.bytes if reads is None else min(reads, source.bytes)
        updated += writes
    written = one.bytes
    if updated:  # results of in-place updates are as large as the whole: count the updates instead
        in_place = sum(
            _source(inner, inside).bytes
            for inner in _results(inside)
            if _source(inner, inside).opcode == "dynamic-update-slice"
        )
        written = max(0.0, written - in_place) + updated
    return total + written


def _use(
    name: str, inside: Computation, users: dict[str, list[Instruction]]
) -> tuple[float | None, float]:
    """(bytes read of a fusion's parameter, bytes updated in it); None: all of it is read."""
    reads, writes = 0.0, 0.0
    for user in users.get(name, []):
        if user.opcode == "bitcast":
            inner_reads, inner_writes = _use(user.name, inside, users)
            if inner_reads is None:
                return None, 0.0
            reads, writes = reads + inner_reads, writes + inner_writes
        elif user.opcode in ("dynamic-slice", "slice", "gather") and user.operands[0] == name:
            reads += sum(array.bytes for array in user.type)
        elif user.opcode == "dynamic-update-slice" and user.operands[0] == name:
            writes += inside.instructions[user.operands[1]].type[0].bytes
        else:
            return None, 0.0
    return reads, writes


def _results(inside: Computation) -> list[Instruction]:
    root = inside.root
    if root.opcode == "tuple":
        return [inside.instructions[name] for name in root.operands]
    return [root]


def _source(one: Instruction, inside: Computation) -> Instruction:
    while one.opcode == "bitcast":
        one = inside.instructions[one.operands[0]]
    return one
