"""`python -m proxy` is the command `headgate`."""

from proxy.cli.main import main

if __name__ == "__main__":
    main()
