"""`python -m wdm_cli` is the `wdm` command."""

from wdm_cli.cli.main import main

if __name__ == "__main__":
    main()
