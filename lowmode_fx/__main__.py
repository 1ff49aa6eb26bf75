"""``python -m lowmode_fx``: the command ``lowmode-fx``."""

from lowmode_fx.cli import main

if __name__ == "__main__":
    main()
