"""What single chapters draw and prepare: figures and set-up that would hide the idea in the notebook."""
