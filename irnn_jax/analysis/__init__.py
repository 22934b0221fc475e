"""What is known of an equilibrium beside its activities: Jacobians, stability, certificates."""
