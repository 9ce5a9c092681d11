"""`python -m router` is the command `router`. Nothing else lives here."""

from router.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
