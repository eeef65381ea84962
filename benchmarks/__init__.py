"""The pytest-benchmark suite, and the scripts behind every published figure."""
