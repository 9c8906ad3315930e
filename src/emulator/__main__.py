"""`python -m django_tasks_cloud_tasks.emulator`."""

import sys

if __name__ == "__main__":
    try:
        from .command_line import main

        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(0)
