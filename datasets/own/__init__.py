"""The user's own pictures.

folder.py builds the data set from class folders or lists; pictures.py has the names of leftovers, which are not
pictures; lists.py and tables.py read lists (reasons.py explains why one cannot be read); name_files.py reads files of
class names (documents.py: JSON and YAML; class_numbers.py: numbers beside names); classnames.py turns names into
labels; codes.py finds names that are codes; splits.py holds out a test set or draws a long tail.
"""
