"""What every command line here shares: how it ends, what it says, how it shows progress."""
