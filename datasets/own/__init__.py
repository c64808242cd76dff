"""One's own pictures: folders, lists, class names, splits."""
