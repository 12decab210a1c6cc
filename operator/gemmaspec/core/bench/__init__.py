"""Benchmarks without I/O: what is measured in which order, the figures of a measurement, what follows from them."""
