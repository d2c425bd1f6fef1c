"""A run: its stages, their order and keys, and the folder it leaves."""
