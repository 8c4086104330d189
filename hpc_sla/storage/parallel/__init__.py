"""Files read by many ranks at once, each its own rows of what they hold.

What one process reads with `hpc_sla.storage.importers`, bit for bit. Everything here is
**Collective** over a `Peers`.
"""
