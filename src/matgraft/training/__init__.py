"""One training loop, recipes and transfer schemes."""
