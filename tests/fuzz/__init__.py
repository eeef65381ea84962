"""Damaged inputs for the commands that read them: what is refused, accepted, or ends in a traceback, hang or crash.

``python -m tests.fuzz --cases 5000 --seed 0 --json results/fuzz.json`` runs them; a case is found again by its number.
"""
