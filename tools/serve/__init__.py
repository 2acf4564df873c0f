"""An HTTP server and its page."""
