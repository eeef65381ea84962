"""Methods through backends: accuracy, latency, what seeds allow to be claimed, and the table."""
