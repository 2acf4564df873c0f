"""What the operating system gives processes: signals and locks. Knows nothing of networks."""
