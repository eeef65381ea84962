"""The latency regression gate: two artifacts, measured side by side in one run, and a verdict with its error bounded.

Stored milliseconds are no baseline: on a shared machine the same bytes differ by more than 5% from one run to the next.
So both sides are measured again, in pairs that lie close together in time, and the test is over fresh processes.
"""
