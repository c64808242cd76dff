"""The version of this program: pyproject.toml, `--version`, results.json and exports read it here.

CHANGELOG.md and CITATION.cff repeat it; CONTRIBUTING.md describes how a release is made.
"""

VERSION = "0.9.0"
