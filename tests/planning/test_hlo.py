import pytest
from hlo_samples import LOOP, entry

from scaling.planning import hlo


def test_a_loop_runs_as_often_as_its_condition_says():
    module = hlo.parse(LOOP)
    assert [(c.name, times) for c, times in hlo.walk(module)] == [("main", 1.0), ("body", 5.0)]


@pytest.mark.parametrize(
    ("change", "turns"),
    [
        (("%one = s32[] constant(1)", "%one = s32[] constant(2)"), 3),
        (("%zero = s32[]{:T(128)} constant(0)", "%zero = s32[]{:T(128)} constant(2)"), 3),
        (("direction=LT", "direction=LE"), 6),
        (("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"9"}}'), 9),
    ],
)
def test_start_step_direction_and_a_stated_count_are_heeded(change, turns):
    assert change[0] in LOOP
    module = hlo.parse(LOOP.replace(*change))
    assert {c.name: times for c, times in hlo.walk(module)}["body"] == turns


def test_a_loop_without_a_constant_bound_is_an_error():
    text = LOOP.replace("%bound = s32[]{:T(128)} constant(5)", "%bound = s32[]{:T(128)} iota()")
    with pytest.raises(hlo.HloError, match=r"while\.1.*condition"):
        list(hlo.walk(hlo.parse(text)))


def test_a_bound_inside_a_fused_comparison_is_found():
    text = LOOP.replace(
        "ROOT %lt = pred[]{:T(512)} compare(%i.1, %bound), direction=LT",
        "ROOT %lt = pred[]{:T(512)} fusion(%i.1, %bound), kind=kLoop, calls=%compare",
    ).replace(
        "%body (carry:",
        "%compare (a: s32[], b: s32[]) -> pred[] {\n  %a = s32[] parameter(0)\n"
        "  %b = s32[] parameter(1)\n  ROOT %c = pred[] compare(%a, %b), direction=LT\n}\n\n"
        "%body (carry:",
    )
    assert {c.name: times for c, times in hlo.walk(hlo.parse(text))}["body"] == 5


def test_types_sizes_and_memory_spaces():
    small, tuple_ = (
        hlo.arrays("bf16[4,8]{1,0:T(8,128)(2,1)S(1)}"),
        hlo.arrays("(f32[2]{0}, pred[], token[])"),
    )
    assert (small[0].bytes, small[0].in_memory) == (64, False)
    assert [array.bytes for array in tuple_] == [8, 1, 0]


def test_attributes_with_braces_and_line_breaks_are_read_whole():
    module = hlo.parse(LOOP)
    product = module.computations["body"].instructions["y"]
    assert product.attribute("calls") == "fused_dot"
    gather = module.computations["start"].root
    assert gather.attribute("dimensions") == "{0}"
    assert gather.attribute("channel_id") == "7"
    assert gather.attribute("id") == ""


def test_text_that_is_no_program():
    with pytest.raises(hlo.HloError, match="no ENTRY"):
        hlo.parse("nothing")
    with pytest.raises(hlo.HloError, match="line 5"):
        hlo.parse(entry("%x = f32[] garbage"))
