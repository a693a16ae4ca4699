"""Density functional theory: pseudopotentials, protocols, Quantum ESPRESSO, and a store of labels."""
