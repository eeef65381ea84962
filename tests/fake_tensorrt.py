"""Stands in for ``tensorrt_rtx`` beside a GPU whose runtime refuses every engine, in the words of an H200's.

Imports nothing, so that a copy named tensorrt_rtx.py works in a process of its own.
"""

__version__ = "9.9"
WORDS = (
    "IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error (The engine cannot run on this GPU, which has "
    "compute capability 9.0.\n  Supported compute capabilities: 8.0 8.6 8.9 12.0 12.1 >12.0.\n" + "More of it. " * 80
)


class ILogger:
    class Severity:
        INTERNAL_ERROR, ERROR, WARNING = range(3)


class Runtime:
    def __init__(self, logger):
        self.logger = logger

    def deserialize_cuda_engine(self, plan):
        self.logger.log(ILogger.Severity.ERROR, WORDS)
        self.logger.log(ILogger.Severity.WARNING, "not what was wrong")
