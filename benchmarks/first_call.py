"""From nothing to the first result: what compiling costs, in CPU seconds of a process of its own.

Each program is run in a new process, without a compilation cache and without flags for XLA: CPU
seconds (user and system) from after the imports, the inputs made, until the first result is there;
the least of some repetitions. They are set beside what optimistix's Newton method needs for its
first gradient of 100-5-2, mapped over 32 samples. Then, with `jax_compilation_cache_dir` set and
filled by a first process, the seconds that a second one needs.

    python -m benchmarks.first_call                       # all, in minutes
    python -m benchmarks.first_call --only 100-5-2 --repetitions 1
"""

import argparse
import inspect
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# Run by its path, this file is the measured process: nothing here may import `benchmarks`, whose
# flags a user does not have, nor anything that would be imported before the clock is started.

UNIT = "optimistix Newton, gradient of 100-5-2"
GOALS = {  # program: times the unit
    UNIT: None,
    "gradient of 100-5-2": 1.1,
    "gradient of 100-5-2, not jitted": None,
    "training step of 100-5-2": 1.7,
    "gradient of 784-256-10 x 128": 1.5,
    "training step of 784-256-10 x 128": 2.2,
    "gradient of a convolutional cell": 1.2,
}
CACHED_GOAL = 1.0  # seconds
LIMIT = 20.0  # CPU seconds, beyond which nothing is repeated
SMALL, WIDE = ((100, 5, 2), 32), ((784, 256, 10), 128)
IMAGES = (8, 14, 64)  # channels, side, batch


# --- the measured process -------------------------------------------------------------------


def network(sizes, batch):
    import jax

    import irnn_jax as irnn

    net = irnn.init(jax.random.key(0), sizes=sizes)
    return net, jax.random.normal(jax.random.key(1), (batch, sizes[0]))


def gradient(sizes, batch, *, jit=True):
    import jax
    import jax.numpy as jnp

    import irnn_jax as irnn

    net, x = network(sizes, batch)
    function = jax.grad(lambda net, x: jnp.mean(irnn.apply(net, x) ** 2))
    return jax.jit(function) if jit else function, (net, x)


def training_step(sizes, batch):
    import jax.numpy as jnp

    import irnn_jax as irnn

    net, x = network(sizes, batch)
    rates = {"feedforward": 0.01, "lateral": 0.003, "feedback": 0.003, "bias": 0.01}
    optimizer = irnn.adam(rates)
    step = irnn.make_train_step(irnn.squared_error, optimizer)
    state = irnn.TrainState.create(net, optimizer)
    return step, (state, (x, jnp.zeros((batch, sizes[-1]))))


def newton(sizes, batch):
    import jax
    import jax.numpy as jnp
    import optimistix as optx

    from irnn_jax.networks.dense import connections, drive

    net, x = network(sizes, batch)

    def residual(y, args):
        matrix, b = args
        return jax.nn.sigmoid(matrix @ y + b) - y

    def loss(net, x):
        matrix, b = connections(net, x.dtype), drive(net, x)
        solver = optx.Newton(rtol=1e-10, atol=1e-10)

        def one(b):
            return optx.root_find(residual, solver, jnp.zeros_like(b), args=(matrix, b)).value

        return jnp.mean(jax.vmap(one)(b)[:, -sizes[-1] :] ** 2)

    return jax.jit(jax.grad(loss)), (net, x)


def convolution(channels, side, batch):
    """In float32, as convolutions are used; plain iteration takes about 15 steps."""
    import jax
    import jax.numpy as jnp

    import irnn_jax as irnn

    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (batch, side, side, 3), jnp.float32)
    params = {
        "kernel": jax.random.normal(keys[1], (3, 3, 3, channels), jnp.float32) / 27**0.5,
        "lateral": 0.2 * jax.random.normal(keys[2], (3, 3, channels, channels), jnp.float32),
        "bias": jnp.zeros(channels, jnp.float32),
    }
    params["lateral"] /= (9 * channels) ** 0.5
    y0 = jnp.zeros((batch, side, side, channels), jnp.float32)

    def conv(y, kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(y, kernel, (1, 1), "SAME", dimension_numbers=layout)

    def cell(params, y, x):
        return jnp.tanh(conv(y, params["lateral"]) + conv(x, params["kernel"]) + params["bias"])

    def mapped(params, x, y0):
        one = lambda params, y, x: cell(params, y[None], x[None])[0]  # noqa: E731
        solve = lambda x, y0: irnn.fixed_point(one, params, x, y0).activities  # noqa: E731
        return jnp.mean(jax.vmap(solve)(x, y0) ** 2)

    def batched(params, x, y0):
        options: dict[str, Any] = {"batched": True}
        return jnp.mean(irnn.fixed_point(cell, params, x, y0, **options).activities ** 2)

    has_batched = "batched" in inspect.signature(irnn.fixed_point).parameters
    return jax.jit(jax.grad(batched if has_batched else mapped)), (params, x, y0)


PROGRAMS = {
    UNIT: lambda: newton(*SMALL),
    "gradient of 100-5-2": lambda: gradient(*SMALL),
    "gradient of 100-5-2, not jitted": lambda: gradient(*SMALL, jit=False),
    "training step of 100-5-2": lambda: training_step(*SMALL),
    "gradient of 784-256-10 x 128": lambda: gradient(*WIDE),
    "training step of 784-256-10 x 128": lambda: training_step(*WIDE),
    "gradient of a convolutional cell": lambda: convolution(*IMAGES),
}


def first_result(name: str) -> dict[str, float]:
    """CPU and wall seconds to it, in this process."""
    import jax
    import optimistix  # noqa: F401  # imported before the clock starts, by all

    import irnn_jax  # noqa: F401

    jax.config.update("jax_enable_x64", True)
    function, args = PROGRAMS[name]()
    jax.block_until_ready(args)
    cpu, wall = time.process_time(), time.perf_counter()
    jax.block_until_ready(function(*args))
    return {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}


# --- the command ----------------------------------------------------------------------------


def user_environment(**variables: str) -> dict[str, str]:
    """This process's, without what `benchmarks` sets, and so that `irnn_jax` is this one."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **variables}
    for name in ("XLA_FLAGS", "OPENBLAS_THREAD_TIMEOUT"):
        environment.pop(name, None)
    return environment


def in_process(name: str, **variables: str) -> dict[str, float]:
    """`first_result` of a new process."""
    command = [sys.executable, "-P", __file__, "--child", name]
    environment = user_environment(JAX_ENABLE_COMPILATION_CACHE="false", **variables)
    if "JAX_COMPILATION_CACHE_DIR" in variables:
        environment.pop("JAX_ENABLE_COMPILATION_CACHE")
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def least(name: str, repetitions: int) -> dict[str, float]:
    """The repetition of least CPU seconds."""
    best = in_process(name)
    for _ in range(repetitions - 1):
        if best["cpu"] < LIMIT:
            best = min(best, in_process(name), key=lambda seconds: seconds["cpu"])
    return best


def cached(name: str) -> float:
    """Seconds to the first result of a second process that shares a compilation cache."""
    with tempfile.TemporaryDirectory() as folder:
        in_process(name, JAX_COMPILATION_CACHE_DIR=folder)
        return in_process(name, JAX_COMPILATION_CACHE_DIR=folder)["wall"]


def measured(names: list[str], repetitions: int, with_cache: bool) -> list[dict]:
    """A row for each program; the unit's is the first."""
    rows = []
    for name in [UNIT, *(name for name in names if name != UNIT)]:
        row = {"program": name, "goal": GOALS[name], **least(name, repetitions)}
        row["times"] = row["cpu"] / (rows[0]["cpu"] if rows else row["cpu"])
        row["second"] = cached(name) if with_cache else None
        rows.append(row)
        print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return rows


def show(rows: list[dict]) -> None:
    from rich.console import Console
    from rich.table import Table

    from benchmarks.timing import machine

    table = Table(title="To the first result, in a process of its own")
    table.add_column("program", no_wrap=True)
    for column in ("CPU s", "× optimistix", "goal", "seconds", "with a cache s", "goal "):
        table.add_column(column, justify="right")
    for row in rows:
        goal = "" if row["goal"] is None else f"≤ {row['goal']}"
        second = ("", "")
        if row["second"] is not None:
            second = (f"{row['second']:.2f}", f"≤ {CACHED_GOAL:g}")
        numbers = (f"{row['cpu']:.2f}", f"{row['times']:.2f}", goal, f"{row['wall']:.2f}")
        table.add_row(row["program"], *numbers, *second)
    console = Console(width=120)
    console.print(table)
    console.print(machine())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--child", choices=PROGRAMS, help=argparse.SUPPRESS)
    parser.add_argument("--only", nargs="+", help="only programs with one of these in the name")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--no-cache", action="store_true", help="leave the second processes out")
    parser.add_argument("--json", type=Path, help="where to save the rows")
    args = parser.parse_args()
    if args.child:
        print(json.dumps(first_result(args.child)))
        return
    names = [n for n in PROGRAMS if not args.only or any(word in n for word in args.only)]
    rows = measured(names, args.repetitions, not args.no_cache)
    show(rows)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
