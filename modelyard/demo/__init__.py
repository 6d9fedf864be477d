"""`modelyard demo`: the tour on real models."""
