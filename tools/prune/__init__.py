"""Cut channels, measure, fine-tune, tabulate."""
