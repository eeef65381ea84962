"""Small faults put into the formulas and the files' code, one at a time: a test must notice each (``make mutation``)."""
