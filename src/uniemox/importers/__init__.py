"""Readers of data sets as they lie on disk: from a root folder to a manifest, one function per layout.

Readers write nothing under the root, and read nothing outside of it, whatever lists and links name. Problems of single
images are counted, with one example of each kind, and the image (or its invalid part) is skipped; only a root that
holds no such data set at all is an error.
"""
