"""The published data sets, one file each: its lists, its layout on disk, its class names.

A file defines build(name, root) -> DataSet, and has a row in datasets/__init__.py. published.py fetches and verifies
lists; layout.py checks the folder of the images.
"""
