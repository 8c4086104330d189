"""What a person reads: the live line during a solve, the tables after it, memory figures."""
