"""Training on top of any problem: objective, step, guard, optimisers, runs."""
