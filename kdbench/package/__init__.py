"""What ``kdbench package`` ships: a chosen artifact with all that running it elsewhere needs, and without kdbench."""
