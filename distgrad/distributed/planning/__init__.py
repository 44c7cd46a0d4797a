"""How long would a step take on more ranks? Measure what messages cost, and calculate."""
