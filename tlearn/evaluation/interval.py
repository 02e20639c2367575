"""How sure an accuracy is; known without torch."""

import math


def accuracy_interval(accuracy: float, count: int) -> tuple[float, float]:
    """Wilson's interval of 95% for an accuracy of `count` images; its ends differ though there is no mistake."""
    z = 1.96
    centre = accuracy + z * z / (2 * count)
    half = z * math.sqrt(accuracy * (1 - accuracy) / count + (z / (2 * count)) ** 2)
    low, high = (round((centre + sign * half) / (1 + z * z / count), 9) for sign in (-1, 1))
    return max(0.0, low), min(1.0, high)
