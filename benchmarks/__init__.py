"""Measures: side by side with named peers (`compare`), over time (`soak`)."""
