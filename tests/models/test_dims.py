import pytest

from scaling.models import dims


def test_widths_that_follow():
    assert dims.head_dim(96, 4) == 24
    assert dims.head_dim(96, 5, explicit=32) == 32
    assert dims.mlp_dim(96, "gelu") == 384
    assert dims.mlp_dim(96, "swiglu") == 256
    assert dims.mlp_dim(128, "geglu") == 384  # 341.3 rounded up to a multiple of 64
    assert dims.mlp_dim(128, "geglu", explicit=7) == 7
    assert dims.num_kv_heads(4) == 4
    with pytest.raises(ValueError, match="5 does not divide"):
        dims.head_dim(96, 5)
