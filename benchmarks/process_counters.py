"""Counters that the Linux kernel keeps for this process."""

import pathlib


def peak_gb() -> float:
    """Returns the largest resident set of this process so far, in GB of 2**30 bytes.

    `ru_maxrss` would not do: it starts at the size of the process that started this one.
    """
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024**2


def bytes_read() -> int:
    """Returns the number of bytes that this process has requested from the system (`rchar`)."""
    return int(pathlib.Path("/proc/self/io").read_text().split()[1])
