"""The paper's experiments, one after the other, in one folder with one report."""

from experiments import pendulum, runner, scalar_neuron, xor

main = runner.command(
    "reproduce",
    scalar_neuron=scalar_neuron.EXPERIMENT,
    xor=xor.EXPERIMENT,
    pendulum=pendulum.EXPERIMENT,
)

if __name__ == "__main__":
    main()
