"""Every threshold that is there for speed, beside the command that measured it, on a CPU.

Nothing is less right on the other side of any of them.
"""

# --- `python -m benchmarks.linear_solves`: ways to factorise, in neurons ---
# Elimination by blocks, then Gauss-Jordan sweeps, then LAPACK, one call a sample.
BLOCKS_UP_TO, SWEEP_UP_TO = 16, 32
# One factorisation a sample costs less than GMRES.
DIRECT_UP_TO = 100
# Larger sums XLA hands to a library, which takes up to ten times as long for such short ones.
SUM_UP_TO = 4096
# The widest matrix whose product with a vector is written out as a sum of columns: where the
# samples share it, and where each has its own.
UNROLL_SHARED_UP_TO, UNROLL_UP_TO = 20, 64

# --- `python -m benchmarks.auto_choice`: which solver ---
# With more neurons a factorisation a sample and step costs more than products with A; with more
# samples, most steps in float32, and on a CPU in chunks.
CONTINUE_UP_TO = 24
MANY_FROM = 200

# --- `python -m benchmarks.suite --regimes b`: how a batch lies ---
# So many samples with a matrix of their own are work enough for a core: networks then come one
# after the other, since joined, each sample would need a copy of its matrix.
ALONE_FROM = 1000
# Matrices of more rows stay as they are: a copy for each sample would cost more than short loops.
JOIN_UP_TO = 24
# Numbers in the matrices of all samples of a network: of more, each network has its own chunks.
COPIED_UP_TO = 2**16
# Samples in a chunk of those that an iteration has left: the slowest keeps few waiting.
FEW = 32

# --- `python -m benchmarks.suite --regimes c`: wide networks ---
# Up to so many neurons and samples a product in rows takes half as long. More samples go in
# chunks, and the slowest of a chunk keeps fewer waiting the smaller they are.
ROWS_OF_UP_TO, ROWS_UP_TO = 200, 32
# Samples in a chunk: with more neurons, whose products are the faster the wider they are, and of
# samples with matrices of their own.
CHUNK, OWN_CHUNK = 256, 128
# Steps between two checks of samples in rows, which then cost as much as a product.
ROWS_BETWEEN_CHECKS = 3

# --- `python -m benchmarks.chord`: one linearisation for all samples ---
# A factorisation with its n solves takes as long as n/N times so many products with N samples.
FACTORISATION = 3.0
# What a chord usually takes, in products, and what is tried before it.
CHORD_EXPECTED, PLAIN_STEPS = 5, 30
# The ratio of successive changes from which on the chord is faster.
PLAIN_UP_TO = 0.5

# --- `python -m benchmarks.suite --regimes c`, on a GPU (NVIDIA H200) ---
# A check is a round trip to the host: 25 to 35 µs, where a product of a few hundred neurons takes
# 4. Products alone, and steps of several kernels.
PRODUCTS_BETWEEN_CHECKS_ON_A_GPU, STEPS_BETWEEN_CHECKS_ON_A_GPU = 6, 4
# A product of so few multiplications takes any GPU about as long as its start, in double too.
DOUBLE_UP_TO = 2**24
# NVIDIA's data-centre GPUs P100, V100, A100, H100 and B200, by compute capability: there products
# in double take once or twice as long as in single, on other GPUs 32 or 64 times.
FAST_IN_DOUBLE = ("6.0", "7.0", "8.0", "9.0", "10.0")

# --- `python -m benchmarks.suite --regimes b`: whether to look for a proof of a contraction ---
# With more neurons the products cost more than eight of A with all samples, unless there are so
# many of these.
PROVE_UP_TO, NEURONS_PER_SAMPLE = 32, 4
# Up to so many neurons products of several networks, written out, fuse with what is around.
FUSED_UP_TO = 8

# --- `python -m benchmarks.own_loop`: small loops as one function ---
# Numbers in a batch's states up to which a whole solve is compiled into one function.
ONE_FUNCTION_UP_TO = 2**14

# --- not measured: by what they cost in operations ---
# Eigenvalues of one matrix cost less than Arnoldi's method for a batch.
EIGENVALUES_UP_TO = 128
