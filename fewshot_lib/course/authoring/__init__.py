"""For those who write notebooks: the rules that all of these keep, and storing what a reader sees."""
