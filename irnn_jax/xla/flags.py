"""What XLA's compiler for CPUs should be told, for networks of a few neurons."""


def cpu_xla_flags(others: str = "") -> str:
    """Flags for the environment variable XLA_FLAGS, to be set before JAX is first used.

    ```python
    os.environ["XLA_FLAGS"] = irnn_jax.cpu_xla_flags(os.environ.get("XLA_FLAGS", ""))
    ```

    Vectors as wide as AVX-512 has them, and loops over less than 8 MB compiled into one function:
    otherwise each of some 45 fused operations of a solver step is a call of its own, and for a
    hundred samples of seven neurons the calls take longer than the arithmetic. The second is a
    setting of XLA's own, without a promise; a version that does not know it ignores it.

    Args:
        others: flags that follow, and win where they contradict.
    """
    return (
        "--xla_cpu_prefer_vector_width=512 "
        f"--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold=8388608 {others}"
    ).strip()
