"""One module per quantity: each has ``measure(setup)``, which returns comparisons."""
