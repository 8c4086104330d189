"""What ranks say to each other over a bare communicator: no World, no tensors."""
