"""Handwritten digits, 8 by 8, which scikit-learn carries with it."""

import numpy as np

BRIGHTEST = 16  # of a pixel


def digits(
    *, test_fraction: float = 0.2, seed: int | None = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """1,797 images as pixels in [0, 1], (samples, 64), with their digits, (samples,) integers.

    In a random order, or, with `seed` None, as they are: other people wrote the last ones.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ModuleNotFoundError(
            "data=digits needs scikit-learn: pip install scikit-learn"
        ) from error
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction must be between 0 and 1, got {test_fraction}")
    bunch = load_digits()
    x, y = bunch.data / BRIGHTEST, bunch.target.astype(int)  # pyright: ignore
    number = round(test_fraction * len(x))
    if seed is None:
        train, test = np.split(np.arange(len(x)), [len(x) - number])
    else:
        test, train = np.split(np.random.default_rng(seed).permutation(len(x)), [number])
    return x[train], y[train], x[test], y[test]
