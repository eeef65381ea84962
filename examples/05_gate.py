"""Is a new file slower than the old one? Both are measured now, in turns, in fresh processes.

Here the new file is the old one, so that the truth is known. Ten seconds are short: the verdict may be "inconclusive".
"""

import sys
from pathlib import Path

import kdbench

runs = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/examples")
old = runs / "shapes" / "baseline" / "exports" / "onnx-fp32" / "mask.onnx"

recording = kdbench.gate(old, old, budget=10, tolerance=0.10)
verdict, reason = recording.verdict()
print(f"{verdict}: {reason}")
recording.write(runs / "gate.json")  # every call; `kdbench regress --replay` judges it again
