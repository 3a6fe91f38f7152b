"""Built-in scenarios, one file each."""
