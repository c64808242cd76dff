"""A look at every image, and what is left out after it."""
