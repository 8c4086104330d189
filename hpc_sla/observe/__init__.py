"""What a run does, told to whoever watches: log, heartbeat, profile."""
