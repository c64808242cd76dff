"""The published data sets, each a file: its layout on disk, its lists, its class names."""
