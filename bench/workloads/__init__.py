"""The workloads that are timed, one file each."""
