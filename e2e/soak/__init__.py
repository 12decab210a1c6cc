"""An hour of traffic on two boxes with random faults, and what has to be true after it."""
