"""`python -m replctl` is `replctl`."""

from replctl.cli import main

if __name__ == "__main__":
    main()
