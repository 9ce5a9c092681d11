"""I/O: everything that touches a socket or the event loop performs here what policy/ says."""
