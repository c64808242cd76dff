"""Weight files: where they are published, how they are read without running code, and how their names become ours."""
