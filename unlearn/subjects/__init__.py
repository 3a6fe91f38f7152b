"""Built-in subjects, one file each."""
