"""What NAM's gates do and what the network looks at."""
