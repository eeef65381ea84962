"""Train a small student on generated scenes and export it: what the other examples use. Half a minute on two cores.

Training and exporting are commands; their results are files in the folder given as argument (default runs/examples).
"""

import subprocess
import sys

runs = sys.argv[1] if len(sys.argv) > 1 else "runs/examples"


def kdbench(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "kdbench", *arguments, "--runs", runs, "--quiet"], check=True)


kdbench("train", "--method", "baseline", "--dataset", "shapes", "--recipe", "demo", "--epochs", "1")
# So short a training leaves classes close to each other, where 8 bits may change more than an export may.
kdbench("export", "--method", "baseline", "--format", "onnx", "--precision", "fp32,int8", "--allow-drift")
