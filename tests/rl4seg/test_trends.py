import numpy as np
import pytest

from rl4seg.trends import against, exponential_mean, regression_line, rolling_mean


def test_regression_line_by_hand() -> None:
    # x 0, 1, 2; y 1, 2, 2: means 1 and 5/3, slope (1 * 1/3 + 1 * 2/3) / 2 = 1/2, intercept 7/6; residuals -1/6, 1/3,
    # -1/6, squares 1/6; variance 2/3 -> r2 = 1 - 1/4
    line = regression_line([0, 1, 2], [1, 2, 2])
    assert line is not None
    assert line == pytest.approx((0.5, 7 / 6, 0.75))
    np.testing.assert_allclose(line.at([0, 2]), [7 / 6, 13 / 6])
    assert regression_line([0, 5], [2, 2]) == (0, 2, 1)
    assert regression_line([3], [1]) is None
    assert regression_line([3, 3], [1, 2]) is None


def test_means_by_hand() -> None:
    # 1; .5 * 1 + .5 * 3 = 2; .5 * 2 + .5 * 0 = 1
    np.testing.assert_allclose(exponential_mean([1, 3, 0], 0.5), [1, 2, 1])
    np.testing.assert_allclose(rolling_mean([1, 3, 8, 1], 2), [1, 2, 5.5, 4.5])
    np.testing.assert_allclose(rolling_mean([1, 3, 8], 9), [1, 2, 4])
    assert len(exponential_mean([])) == len(rolling_mean([])) == 0
    for call in (lambda: exponential_mean([1], 1.0), lambda: rolling_mean([1], 0)):
        with pytest.raises(ValueError, match="wanted"):
            call()


def test_a_difference_at_the_steps_that_both_have() -> None:
    steps, values = against([0, 2, 4], [0.5, 0.6, 0.7], [0, 4, 8], [0.5, 0.4, 1.0])
    np.testing.assert_allclose(steps, [0, 4])
    np.testing.assert_allclose(values, [0, 0.3])
    assert against([1], [1.0], [2], [1.0])[0].shape == (0,)
