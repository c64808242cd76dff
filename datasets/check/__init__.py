"""Checks of every image before training.

inspect.py inspects one image, processes.py all of them in parallel, check.py collects the findings; bad_images.py
leaves the bad ones out of a run.
"""
