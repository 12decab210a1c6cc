"""The K lab: traces, a simulator and the score of every policy against the per-phase oracle."""
