"""For those who write notebooks."""
