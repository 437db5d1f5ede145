"""The typed face of the requests that wait for the slow path."""

class Parking:
    """The native end of the pair: what is asked of the slow path, and who waits for the answers."""

    def wait(self) -> bool:
        """Sleep until something waits and no slow path runs; False: `close` was called."""

    def attach(self, fd: int) -> None:
        """Ask the slow path that listens at the other end of `fd`, which becomes ours.

        Raises OSError if no thread can be had; `fd` is then still the caller's.
        """

    def detach(self) -> None:
        """The slow path is gone: what waits gets EIO, what comes later makes `wait` return."""

    def close(self) -> None:
        """Nothing will wait here any more."""
