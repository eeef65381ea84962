"""``python -m kdbench`` is the ``kdbench`` command."""

from kdbench.cli import main

if __name__ == "__main__":
    main()
