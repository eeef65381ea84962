"""Open a dataset and look at it: images, labels, and which share of the pixels each class has."""

import numpy as np

import kdbench

scenes = kdbench.open_dataset("shapes", "val")  # or: kdbench.open_dataset("camvid", "val", "data/camvid")
sample = scenes[0]
print(f"{len(scenes)} images; '{sample.name}': image {sample.image.shape}, label {sample.label.shape}")

counts = np.zeros(256, dtype=np.int64)
for index in range(20):
    counts += np.bincount(scenes[index].label.ravel(), minlength=256)
for name, count in zip(scenes.classes, counts, strict=False):
    print(f"{name:12} {count / counts.sum():6.1%}")
print(f"{'ignored':12} {counts[255] / counts.sum():6.1%}")
