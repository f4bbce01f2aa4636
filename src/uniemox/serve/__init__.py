"""The service: predictions over HTTP, and a page to try them."""
