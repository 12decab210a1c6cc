"""Benchmarks: what measures an engine, and the report. Run by the command line, and by the operator's Job."""
