"""``kdbench report``: what was measured as one page, in HTML that needs no network and in Markdown."""
