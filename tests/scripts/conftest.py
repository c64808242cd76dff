"""The fixtures of tests of commands on earlier runs."""

from earlier_runs import call, runs, trained_runs  # noqa: F401
