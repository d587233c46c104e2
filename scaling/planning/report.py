"""A plan as text."""

from scaling.planning import roofline
from scaling.planning.compile import GiB, Plan
from scaling.planning.cost import RunCost


def text(plan: Plan, cost: RunCost | None) -> str:
    """The whole report."""
    mesh = ", ".join(f"{axis}={size}" for axis, size in plan.mesh.items() if size > 1)
    mesh = mesh or "one device"
    lines = [
        f"{plan.name} on {plan.target.name}: {plan.devices} x {plan.device_kind}, {mesh}",
        f"  {plan.params:,} parameters; batch {plan.batch_size} ({plan.rows:g} rows per device"
        + (f", in {plan.accumulate} microbatches" if plan.accumulate > 1 else "")
        + f"), {plan.tokens:,.0f} {plan.unit} per step; remat {plan.remat or 'none'}",
        "",
        *_verdict(plan),
        "",
        *_largest(plan),
    ]
    if plan.work is not None:
        lines += ["", *_work(plan), "", *_traffic(plan), "", *_time(plan, cost)]
    took = ", ".join(f"{name} {value:.1f} s" for name, value in plan.seconds.items())
    compiler = ", ".join(f"{name} {value}" for name, value in plan.versions.items())
    return "\n".join([*lines, "", f"took: {took}; {compiler}; plan {plan.fingerprint}"])


def _verdict(plan: Plan) -> list[str]:
    if plan.overflow is not None:
        over = plan.overflow
        need = "more" if over.required is None else f"{over.required / GiB:.2f} GiB"
        limit = f"the {over.limit / GiB:.2f} GiB there are" if over.limit else "the device has"
        verdict = f"DOES NOT FIT: needs {need} per device, {limit}"
        return [verdict, f"  compiler: {over.message[:300]}"]
    memory = plan.memory
    assert memory is not None
    verdict = "FITS" if plan.fits else "DOES NOT FIT"
    room = "" if memory.head_room is None else f", {size(memory.head_room)} to spare"
    limit = "" if memory.limit is None else f" of {size(memory.limit)}"
    rows = [
        ("parameters", memory.params),
        ("optimizer state", memory.optimizer),
        ("batch and other arguments", memory.other),
        ("activations and temporaries", memory.temporaries),
        ("peak", memory.peak),
        ("program", memory.code),
    ]
    return [
        f"{verdict}: peak {size(memory.peak)}{limit} per device{room}",
        *(f"  {name:<28}{size(count):>12}" for name, count in rows),
    ]


def _largest(plan: Plan, count: int = 8) -> list[str]:
    lines = ["largest allocations per device:"]
    for one in plan.largest[:count]:
        shape = "x".join(map(str, one.shape))
        about = "" if one.exact else " about"
        lines.append(f"  {size(one.bytes):>12}{about}  {one.name}  {one.dtype}[{shape}]")
    return lines


def _work(plan: Plan) -> list[str]:
    work = plan.work
    assert work is not None
    lines = [
        f"FLOPs per device and step: {_tera(work.flops)} compiled, {_tera(plan.model_flops)} of the "
        f"model, ratio {plan.overhead or 0:.3f}",
        f"  matmul {_tera(work.matmul_flops)}, attention kernels {_tera(work.attention_flops)} (by "
        f"formula, causal half); memory traffic {work.memory_bytes / 1e9:.3g} GB",
    ]
    if work.opaque:
        calls = ", ".join(f"{name} x{times:g}" for name, times in work.opaque.items())
        lines.append(f"  not counted: {calls}")
    return lines


def _tera(flops: float) -> str:
    return f"{flops / 1e12:.4g} T"


def size(count: float) -> str:
    """Bytes for people: GiB, or MiB where that is less than a tenth."""
    return f"{count / GiB:.2f} GiB" if abs(count) >= 0.1 * GiB else f"{count * 1024 / GiB:.2f} MiB"


def _traffic(plan: Plan) -> list[str]:
    if not plan.traffic:
        return ["no communication"]
    lines = ["communication per device and step (bytes of whole results):"]
    for one in plan.traffic:
        if one.bytes < 1e-4 * plan.traffic[0].bytes:
            continue
        where = "across slices" if one.across else "inside a slice"
        lines.append(
            f"  {one.kind:<20}{one.axes:<14}{one.count:8.0f} x {one.bytes / 1e9:10.3f} GB  {where}"
        )
    return lines


def _time(plan: Plan, cost: RunCost | None) -> list[str]:
    if plan.estimate is None:
        return [f"no time: the peak rates of {plan.device_kind} are not known"]
    estimate = plan.estimate
    parts = ", ".join(f"{name} {seconds:.3g}" for name, seconds in estimate.parts.items())
    lines = [
        f"step time {estimate.low:.3g} to {estimate.high:.3g} s (all to nothing overlapped)",
        f"  seconds at peak rates: {parts}; {estimate.bound} decides",
        f"  {roofline.RECORD}",
    ]
    if cost is not None:
        low, high = cost.chip_hours
        lines.append(
            f"{plan.steps:,} steps: {cost.hours[0]:,.1f} to {cost.hours[1]:,.1f} h, {low:,.0f} to "
            f"{high:,.0f} chip-hours, {cost.tokens_per_second[0]:,.0f} to "
            f"{cost.tokens_per_second[1]:,.0f} {plan.unit}/s"
        )
        if cost.dollars is not None and cost.price is not None:
            lines.append(
                f"  {cost.dollars[0]:,.0f} to {cost.dollars[1]:,.0f} $ at {cost.price.dollars:.2f} $ "
                f"per chip-hour ({cost.price.source}{', ' * bool(cost.price.date)}{cost.price.date})"
            )
        else:
            lines.append("  no price is known for it: give --price=DOLLARS per chip-hour")
    return lines
