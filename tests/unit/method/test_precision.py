"""Float32 arithmetic under autocast."""

import pytest
import torch

from cliptea.method.precision import in_float32


@in_float32
def _product(left, right, scale=1.0):
    return left @ right * scale


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float32])
def test_autocast_and_input_type_leave_the_result_in_float32(dtype):
    left, right = torch.randn(4, 64).to(dtype), torch.randn(64, 3).to(dtype)
    expected = (left.double() @ right.double() * 2).float()
    with torch.autocast("cpu", torch.bfloat16):
        result = _product(left, right=right, scale=2.0)
        outside = left.float() @ right.float()
    assert outside.dtype == torch.bfloat16, "autocast has to be on for this test to mean anything"
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


def test_integers_and_masks_keep_their_type():
    @in_float32
    def types(values, labels, mask):
        return values.dtype, labels.dtype, mask.dtype

    got = types(torch.zeros(1).half(), torch.zeros(1, dtype=torch.uint8), mask=torch.ones(1, dtype=torch.bool))
    assert got == (torch.float32, torch.uint8, torch.bool)
