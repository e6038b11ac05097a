"""What exercises are checked against, a module per chapter: right answers, and mistakes that have a name.

They stand here and not in the notebooks, so that a reader does not meet the answer before the question.
``MISTAKES[exercise]`` maps what to tell the learner to the wrong function that would give the same values.
"""
