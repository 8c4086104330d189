"""Multigrid's set-up on the rank's device: the same torch operations on a GPU and on the CPU.

No array of the size of a level comes to the host and no loop goes over rows. What is summed is
sorted first and summed in that order, so that a run is repeatable bit by bit.
"""
