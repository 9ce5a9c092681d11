"""Decisions. Synchronous and pure: no socket, no sleep, no clock and no chance but those handed in."""
