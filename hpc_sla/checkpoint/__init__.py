"""When a solver saves its state, what the state belongs to, and the file that holds it."""
