"""Weight files: finding and downloading them, reading them without running code, converting names to native ones."""
