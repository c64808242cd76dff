"""A run on disk: its files, checkpoint, log and results."""
