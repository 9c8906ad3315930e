"""`python -m django_tasks_cloud_tasks.emulator`."""

import sys

from .command_line import main

sys.exit(main(sys.argv[1:]))
