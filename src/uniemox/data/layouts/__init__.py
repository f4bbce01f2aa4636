"""Readers of data sets as they lie on disk: from a root folder to a manifest, one function per layout.

Nothing is written under the root, and nothing outside of it is read, whatever lists and links say. What is wrong with
single pictures is counted, with one example of each kind, and the picture (or what is wrong about it) is left out; only
a root that holds no such data set at all is an error.
"""

from uniemox.data.findings import Problem
from uniemox.data.layouts.importing import Import, import_dataset

__all__ = ["Import", "Problem", "import_dataset"]
