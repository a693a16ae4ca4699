"""SchNet, reference energies, model files."""
