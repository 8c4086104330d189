"""What the commands do: one module per command, loaded when it runs (see `hpc_sla.cli`)."""
