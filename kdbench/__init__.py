"""kdbench: fair benchmarks and proven exports for distilled segmentation models.

Heavy packages (torch, onnxruntime, tensorrt) are imported where they are used, so that
``import kdbench`` and ``kdbench --help`` stay fast.
"""

__version__ = "0.1.0"
