"""Class maps of a person's own images and videos."""
