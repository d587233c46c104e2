# ruff: noqa: E501 (lines as the compilers write them)
"""Programs as text, small enough to count by hand; in the notation of XLA's compilers."""

# Five turns of a loop around a product of 8x16 by 16x32, with an all-gather of the right side in
# three pieces of one asynchronous chain; the bound is a constant of the condition.
LOOP = """\
HloModule jit_step, is_scheduled=true

%fused_dot (param_0: bf16[8,16], param_1: bf16[16,32]) -> bf16[8,32] {
  %param_0 = bf16[8,16]{1,0} parameter(0)
  %param_1 = bf16[16,32]{1,0} parameter(1)
  ROOT %dot.1 = bf16[8,32]{1,0} convolution(%param_0, %param_1), dim_labels=bf_io->bf
}

%start (param_0.1: bf16[4,32]) -> bf16[16,32] {
  %param_0.1 = bf16[4,32]{1,0} parameter(0)
  ROOT %all-gather.1 = bf16[16,32]{1,0} all-gather(%param_0.1), channel_id=7, replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0'}, dimensions={0}, use_global_device_ids=true, frontend_attributes={chain_id="3"}
}

%body (carry: (s32[], bf16[8,16], bf16[4,32])) -> (s32[], bf16[8,16], bf16[4,32]) {
  %carry = (s32[]{:T(128)}, bf16[8,16]{1,0}, bf16[4,32]{1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%carry), index=0
  %one = s32[] constant(1)
  %next = s32[]{:T(128)} add(%i, %one)
  %x = bf16[8,16]{1,0} get-tuple-element(%carry), index=1
  %w = bf16[4,32]{1,0} get-tuple-element(%carry), index=2
  %f.1 = bf16[16,32]{1,0} fusion(%w), kind=kLoop, calls=%start
  %f.2 = bf16[16,32]{1,0} fusion(%w), kind=kLoop, calls=%start
  %y = bf16[8,32]{1,0} fusion(%x, %f.2), kind=kOutput, calls=%fused_dot, frontend_attributes={kernel="a
"}
  ROOT %out = (s32[]{:T(128)}, bf16[8,16]{1,0}, bf16[4,32]{1,0}) tuple(%next, %x, %w)
}

%condition (carry.1: (s32[], bf16[8,16], bf16[4,32])) -> pred[] {
  %bound = s32[]{:T(128)} constant(5)
  %carry.1 = (s32[]{:T(128)}, bf16[8,16]{1,0}, bf16[4,32]{1,0}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%carry.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i.1, %bound), direction=LT
}

ENTRY %main (p0: bf16[8,16], p1: bf16[4,32]) -> bf16[8,16] {
  %p0 = bf16[8,16]{1,0} parameter(0)
  %p1 = bf16[4,32]{1,0} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %init = (s32[]{:T(128)}, bf16[8,16]{1,0}, bf16[4,32]{1,0}) tuple(%zero, %p0, %p1)
  %while.1 = (s32[]{:T(128)}, bf16[8,16]{1,0}, bf16[4,32]{1,0}) while(%init), condition=%condition, body=%body
  ROOT %result = bf16[8,16]{1,0} get-tuple-element(%while.1), index=1
}
"""


def entry(*lines: str, before: str = "") -> str:
    """A program of one computation with these lines; the last is its result."""
    body = "\n".join(f"  {line}" for line in (*lines[:-1], f"ROOT {lines[-1]}"))
    return f"HloModule jit_step\n\n{before}\nENTRY %main (p: f32[]) -> f32[] {{\n{body}\n}}\n"
