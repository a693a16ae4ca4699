"""Candidates made from crystals at hand: doped and defective supercells. Knows nothing of networks or DFT."""
