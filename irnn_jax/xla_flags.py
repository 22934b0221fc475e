"""What XLA's compiler for CPUs should be told, for networks of a few neurons."""

# Vectors as wide as AVX-512 has them, and loops over little data compiled into one function: by
# default each of the 45 fused operations of a solver step is a call of its own, and for a hundred
# samples of seven neurons the calls take longer than the arithmetic. The second is XLA's own
# setting, not a flag with a promise; where a version does not know it, it is ignored.
CPU_XLA_FLAGS = (
    "--xla_cpu_prefer_vector_width=512 "
    "--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold=4194304"
)
