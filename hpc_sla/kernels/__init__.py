"""The few hot loops. Each has a plain torch version that serves as its oracle."""
