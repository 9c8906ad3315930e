"""`python -m django_tasks_cloud_tasks.emulator`."""

import sys

if __name__ == "__main__":
    try:
        from .command_line import main
    except ImportError as error:
        sys.exit(
            f"The emulator needs the extra [emulator], because {error.name} is missing. Run: pip "
            "install 'django-tasks-cloud-tasks[emulator]'"
        )
    except KeyboardInterrupt:
        sys.exit(0)
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(0)
