"""What a person reads: the live line during a solve, and the tables after it."""
