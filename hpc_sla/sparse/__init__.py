"""DSparseMatrix: its pattern, its products and their derivatives, and how it comes to be."""
