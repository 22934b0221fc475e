"""Names of the Boolean functions of two inputs."""

import numpy as np

GATES: dict[tuple[int, ...], str] = {  # the answers to (0, 0), (0, 1), (1, 0), (1, 1)
    (0, 0, 0, 0): "always 0",
    (0, 0, 0, 1): "X1 AND X2",
    (0, 0, 1, 0): "X1 AND NOT X2",
    (0, 0, 1, 1): "X1",
    (0, 1, 0, 0): "X2 AND NOT X1",
    (0, 1, 0, 1): "X2",
    (0, 1, 1, 0): "X1 XOR X2",
    (0, 1, 1, 1): "X1 OR X2",
    (1, 0, 0, 0): "X1 NOR X2",
    (1, 0, 0, 1): "X1 XNOR X2",
    (1, 0, 1, 0): "NOT X2",
    (1, 0, 1, 1): "X1 OR NOT X2",
    (1, 1, 0, 0): "NOT X1",
    (1, 1, 0, 1): "X2 OR NOT X1",
    (1, 1, 1, 0): "X1 NAND X2",
    (1, 1, 1, 1): "always 1",
}


def gate(answers: np.ndarray) -> str:
    """The name of the gate that gives these answers, (4,), to (0, 0), (0, 1), (1, 0), (1, 1)."""
    return GATES[tuple(int(answer > 0.5) for answer in answers)]
