"""The networks of ``tests.foreign`` as a plugin."""

from tests.foreign import declare

declare()
