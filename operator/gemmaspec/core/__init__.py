"""Pure decisions: functions of values, without I/O, clock or randomness."""
