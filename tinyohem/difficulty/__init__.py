"""Text to an order: how hard a story is to read, and which training windows come first."""
