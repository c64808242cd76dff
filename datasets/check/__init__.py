"""A look at every image before training.

inspect.py looks at one image, processes.py at all of them at once, check.py collects the findings; bad_images.py leaves
the bad ones out of a run.
"""
