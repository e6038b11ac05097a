"""For those who teach: the students' edition, the grading of what they hand in, and slides."""
