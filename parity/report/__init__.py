"""What a finished check looks like: as text for a person, as JSON for a program."""
