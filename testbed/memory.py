"""What a process holds in memory."""

from pathlib import Path


def private_memory(pid: int) -> int:
    """The memory that it shares with nobody, and that would be free again if it ended, in bytes.

    Private_Clean, Private_Dirty and Private_Hugetlb of /proc/PID/smaps_rollup (proc(5)).
    """
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))
