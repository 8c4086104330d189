"""Ranks: who they are, who owns which rows, and how values move between them."""
