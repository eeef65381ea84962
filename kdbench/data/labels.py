"""Values of a label that are no class."""

from __future__ import annotations

IGNORE = 255
"""Label of pixels that count nowhere: void, unlabelled, padding."""

MOST_CLASSES = 254
"""Of a dataset: ids from 0 to 253, below the two values that are none."""

UNLABELLED = 254
"""Label, in training alone, of the pixels of an image whose labels are not used: a teacher's opinion of them counts."""
