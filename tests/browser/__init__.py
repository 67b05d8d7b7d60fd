"""The page in a real browser with a real server, as people see it. `make test-browser`."""
