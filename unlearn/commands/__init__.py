"""What the commands do, one file for each family; `unlearn/cli.py` holds their words."""
