"""The exerciser: one file reached in every way at once, and what it must contain."""

import errno
import fcntl
import mmap
import os
import random
from collections import Counter, deque
from collections.abc import Callable

from tests.posix import calls
from tests.posix.calls import (
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    FALLOC_FL_ZERO_RANGE,
)

BLOCK = 4096

#: How often each operation is chosen, relative to the others.
WEIGHTS = {
    "read": 20,
    "write": 20,
    "append": 5,
    "truncate_down": 4,
    "truncate_up": 4,
    "map_read": 8,
    "map_write": 10,
    "sync_map": 2,
    "unmap": 2,
    "punch": 4,
    "zero": 4,
    "allocate": 3,
    "copy_range": 5,
    "direct_read": 4,
    "direct_write": 4,
    "flags_taken_back": 3,
    "aio_write": 2,
    "seek": 3,
    "fsync": 2,
    "drop_pages": 1,
    "rename": 1,
    "set_times": 2,
    "reopen": 2,
    "reopen_truncated": 0.3,
}

#: What leaves alone the mtime that set_times has set.
KEEPS_MTIME = {"read", "map_read", "sync_map", "unmap", "direct_read", "seek", "fsync"}
KEEPS_MTIME |= {"drop_pages", "rename", "set_times", "reopen", "remount", "drop_caches"}


class Mismatch(Exception):
    """The file is not what it must be; the message ends with the operations that led there."""


class Exerciser:
    """Does random operations on a file and compares every result with a model.

    The file is open through several descriptors at a time - for reading since long ago, for
    writing, appending and O_DIRECT - and mapped, so that each way has to see what the others do.
    `initial` is the content the file has already; without it the file is created. `remount` is
    called about every ten thousand operations with nothing open, `drop_caches` more often. Without
    `seek_sees_mappings` the mapping is flushed before SEEK_DATA and SEEK_HOLE are tried.
    """

    def __init__(
        self,
        path: str,
        seed: int,
        *,
        initial: bytes | None = None,
        limit: int = 1 << 18,
        seek_sees_mappings: bool = True,
        remount: Callable[[], object] | None = None,
        drop_caches: Callable[[], object] | None = None,
    ) -> None:
        self.path = path
        self.seed = seed
        self.counts: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._limit = limit
        self._model = bytearray(initial or b"")
        self._log: deque[str] = deque(maxlen=10_000)
        self._done = 0
        self._remount, self._drop_caches = remount, drop_caches
        self._seek_sees_mappings = seek_sees_mappings
        self._direct_works = True
        self._mapping: mmap.mmap | None = None
        self._mtime: int | None = None  # as it was set, until something may move it
        self._memory = mmap.mmap(-1, limit + BLOCK)  # aligned, for O_DIRECT
        self._operations: dict[str, Callable[[], None]] = {
            name: getattr(self, f"_{name}") for name in WEIGHTS
        }
        if initial is None:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        self._open()

    def run(self, operations: int) -> None:
        """Do so many operations and compare the whole file at the end; raises Mismatch."""
        names = self._random.choices(list(WEIGHTS), list(WEIGHTS.values()), k=operations)
        for name in names:
            self._done += 1
            if self._remount and self._random.random() < 1e-4:
                name = "remount"
                self._whole_anew("remount", self._remount)
            elif self._drop_caches and self._random.random() < 1e-3:
                name = "drop_caches"
                self._note("drop_caches")
                self._drop_caches()
            else:
                try:
                    self._operations[name]()
                except OSError as error:
                    raise self._mismatch(f"{name} fails: {error}") from error
            self.counts[name] += 1
            if name not in KEEPS_MTIME:
                self._mtime = None
            st = os.fstat(self._fd)
            if st.st_size != len(self._model):
                raise self._mismatch(f"the size is {st.st_size}, it must be {len(self._model)}")
            if self._mtime not in (None, st.st_mtime_ns):
                raise self._mismatch(f"mtime is {st.st_mtime_ns}, it was set to {self._mtime}")
        self._reopen()

    def close(self) -> None:
        self._close()
        self._memory.close()

    # -- reports ------------------------------------------------------------------------------

    def _note(self, text: str) -> None:
        self._log.append(f"{self._done}: {text}")

    def _mismatch(self, what: str) -> Mismatch:
        log = f"{self.path}.{self.seed}.log"
        try:
            with open(log, "w") as file:
                file.write("\n".join(self._log) + "\n")
            note = f"(the last {len(self._log)} operations are in {log})"
        except OSError as error:
            note = f"(the log cannot be written: {error})"
        last = "\n  ".join(list(self._log)[-60:])
        return Mismatch(f"seed {self.seed}, operation {self._done}: {what} {note}\n  {last}")

    def _expect(self, how: str, start: int, seen: bytes, length: int) -> None:
        """Compare what was read at `start` with the model."""
        wanted = bytes(self._model[start : start + length])
        if seen == wanted:
            return
        if len(seen) != len(wanted):
            raise self._mismatch(f"{how} at {start} gives {len(seen)} bytes, not {len(wanted)}")
        first = next(i for i in range(len(seen)) if seen[i] != wanted[i])
        count = sum(a != b for a, b in zip(seen, wanted, strict=True))
        raise self._mismatch(
            f"{how}: {count} of {len(seen)} bytes differ, the first at {start + first} "
            f"({seen[first]:#04x} instead of {wanted[first]:#04x})"
        )

    # -- opening and closing ------------------------------------------------------------------

    def _open(self, flags: int = 0) -> None:
        self._early = os.open(self.path, os.O_RDONLY)
        self._fd = os.open(self.path, os.O_RDWR | flags)
        self._appender = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        self._direct = -1
        if self._direct_works:
            try:
                self._direct = os.open(self.path, os.O_RDWR | os.O_DIRECT)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._direct_works = False  # a filesystem without it, as tmpfs once was

    def _close(self) -> None:
        self._unmap()
        for fd in (self._early, self._fd, self._appender, self._direct):
            if fd >= 0:
                os.close(fd)

    def _whole_anew(self, name: str, between: Callable[[], object]) -> None:
        self._note(name)
        self._close()
        between()
        self._open()
        self._expect("reading all", 0, os.pread(self._early, self._limit + 1, 0), self._limit + 1)

    def _reopen(self) -> None:
        self._whole_anew("reopen", lambda: None)

    def _reopen_truncated(self) -> None:
        self._note("open with O_TRUNC")
        self._close()
        self._model.clear()
        self._open(os.O_TRUNC)

    # -- choosing -----------------------------------------------------------------------------

    def _length(self, most: int) -> int:
        """Small lengths and whole blocks are as likely as large ones."""
        if most <= 0:
            return 0
        kind = self._random.random()
        if kind < 0.3:
            return self._random.randint(1, min(most, 100))
        if kind < 0.5:
            return min(most, BLOCK * self._random.randint(1, 8))
        return self._random.randint(1, most)

    def _start(self, most: int) -> int:
        start = self._random.randint(0, most)
        return start - start % BLOCK if self._random.random() < 0.3 else start

    def _range(self, end: int) -> tuple[int, int]:
        """A start and a length that stays before `end`."""
        start = self._start(max(0, end - 1))
        return start, self._length(min(end - start, 1 << 16))

    def _put(self, start: int, data: bytes) -> None:
        """Write into the model; what lies between is zero."""
        if start > len(self._model):
            self._model.extend(bytes(start - len(self._model)))
        self._model[start : start + len(data)] = data

    # -- operations ---------------------------------------------------------------------------

    def _read(self) -> None:
        start, length = self._range(self._limit)
        fd = self._random.choice((self._fd, self._early))
        self._note(f"read {start} +{length} {'early' if fd == self._early else ''}")
        self._expect("read", start, os.pread(fd, length, start), length)

    def _write(self) -> None:
        start, length = self._range(self._limit)
        data = self._random.randbytes(length)
        self._note(f"write {start} +{length}")
        done = os.pwrite(self._fd, data, start)
        if done != length:
            raise self._mismatch(f"write wrote {done} of {length}")
        if length:
            self._put(start, data)

    def _append(self) -> None:
        length = self._length(min(self._limit - len(self._model), 10_000))
        data = self._random.randbytes(length)
        self._note(f"append {length} at {len(self._model)}")
        os.write(self._appender, data)
        self._model += data

    def _truncate(self, size: int) -> None:
        by_path = self._random.random() < 0.5
        self._note(f"truncate {'path' if by_path else 'descriptor'} to {size}")
        if by_path:
            os.truncate(self.path, size)
        else:
            os.ftruncate(self._fd, size)
        if size < len(self._model):
            del self._model[size:]
        else:
            self._model.extend(bytes(size - len(self._model)))

    def _truncate_down(self) -> None:
        self._truncate(self._start(len(self._model)))

    def _truncate_up(self) -> None:
        self._truncate(self._random.randint(len(self._model), self._limit))

    def _mapped(self) -> mmap.mmap | None:
        """A mapping that covers something; an old one is used as long as it lives."""
        if self._mapping is None and self._model:
            self._note(f"map {len(self._model)}")
            self._mapping = mmap.mmap(self._fd, len(self._model))
        return self._mapping

    def _mapped_range(self) -> tuple[mmap.mmap, int, int] | None:
        mapping = self._mapped()
        if mapping is None:
            return None
        # Behind the last page of the file a mapping is SIGBUS; it may be older than that end.
        end = min(len(mapping), len(self._model))
        if not end:
            return None
        return mapping, *self._range(end)

    def _map_read(self) -> None:
        if found := self._mapped_range():
            mapping, start, length = found
            self._note(f"map_read {start} +{length}")
            self._expect("map_read", start, mapping[start : start + length], length)

    def _map_write(self) -> None:
        if found := self._mapped_range():
            mapping, start, length = found
            data = self._random.randbytes(length)
            self._note(f"map_write {start} +{length}")
            mapping[start : start + length] = data
            self._put(start, data)

    def _sync_map(self) -> None:
        if self._mapping is not None:
            self._note("msync")
            self._mapping.flush()

    def _unmap(self) -> None:
        if self._mapping is not None:
            self._note("unmap")
            self._mapping.close()
            self._mapping = None

    def _hollow(self, name: str, mode: int) -> None:
        start, length = self._range(self._limit)
        if not length:
            return
        self._note(f"{name} {start} +{length}")
        calls.fallocate(self._fd, mode | FALLOC_FL_KEEP_SIZE, start, length)
        end = min(start + length, len(self._model))
        if end > start:
            self._model[start:end] = bytes(end - start)

    def _punch(self) -> None:
        self._hollow("punch", FALLOC_FL_PUNCH_HOLE)

    def _zero(self) -> None:
        self._hollow("zero", FALLOC_FL_ZERO_RANGE)

    def _allocate(self) -> None:
        start, length = self._range(self._limit)
        if not length:
            return
        keep = self._random.random() < 0.5
        self._note(f"allocate {start} +{length} {'keep' if keep else ''}")
        calls.fallocate(self._fd, FALLOC_FL_KEEP_SIZE if keep else 0, start, length)
        if not keep and start + length > len(self._model):
            self._model.extend(bytes(start + length - len(self._model)))

    def _copy_range(self) -> None:
        source, length = self._range(len(self._model))
        target = self._start(self._limit - length)
        if not length or abs(source - target) < length:
            return
        self._note(f"copy_range {source} +{length} to {target}")
        data = bytes(self._model[source : source + length])
        done = 0
        while done < length:
            count = os.copy_file_range(
                self._fd, self._fd, length - done, source + done, target + done
            )
            if not count:
                raise self._mismatch(f"copy_file_range stops at {done}")
            done += count
        self._put(target, data)

    def _direct_range(self) -> tuple[int, int]:
        blocks = self._limit // BLOCK
        start = self._random.randrange(blocks)
        return start * BLOCK, self._random.randint(1, min(blocks - start, 8)) * BLOCK

    def _direct_read(self) -> None:
        if self._direct < 0:
            return
        start, length = self._direct_range()
        self._note(f"direct_read {start} +{length}")
        with memoryview(self._memory)[:length] as view:
            done = os.preadv(self._direct, [view], start)
            self._expect("direct_read", start, bytes(view[:done]), length)

    def _aio_write(self) -> None:
        """Asynchronous, and read through the page cache while it is under way."""
        if self._direct < 0:
            return
        start, length = self._direct_range()
        data = self._random.randbytes(length)
        self._note(f"aio_write {start} +{length}")
        self._memory[:length] = data
        ring = calls.Aio()
        ring.submit(ring.WRITE, self._direct, self._memory, length, start)
        os.pread(self._early, length, start)
        done = ring.wait(1)[0]
        ring.close()
        if done != length:
            raise self._mismatch(f"aio_write wrote {done} of {length}")
        self._put(start, data)
        self._expect("read", start, os.pread(self._early, length, start), length)

    def _direct_write(self) -> None:
        if self._direct < 0:
            return
        start, length = self._direct_range()
        data = self._random.randbytes(length)
        self._note(f"direct_write {start} +{length}")
        with memoryview(self._memory)[:length] as view:
            view[:] = data
            done = os.pwritev(self._direct, [view], start)
        if done != length:
            raise self._mismatch(f"direct_write wrote {done} of {length}")
        self._put(start, data)

    def _flags_taken_back(self) -> None:
        """What was opened with O_APPEND or O_DIRECT writes anywhere without it (fcntl(F_SETFL))."""
        fd = self._random.choice((self._appender, self._direct))
        if fd < 0:
            return
        start, length = self._range(self._limit)
        data = self._random.randbytes(length)
        self._note(f"{'append' if fd == self._appender else 'direct'}er writes {start} +{length}")
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        fcntl.fcntl(fd, fcntl.F_SETFL, flags & ~(os.O_APPEND | os.O_DIRECT))
        done = os.pwrite(fd, data, start)
        fcntl.fcntl(fd, fcntl.F_SETFL, flags)
        if done != length:
            raise self._mismatch(f"it wrote {done} of {length}")
        if length:
            self._put(start, data)

    def _seek(self) -> None:
        """What SEEK_HOLE calls a hole reads as zeros; the two lead to the end of the file."""
        if self._mapping is not None and not self._seek_sees_mappings:
            self._mapping.flush()
        position, size = self._start(len(self._model)), len(self._model)
        self._note(f"seek from {position}")
        while position < size:
            data = self._data_from(position)
            if not position <= data <= size:
                raise self._mismatch(f"SEEK_DATA from {position} gives {data} of {size}")
            if any(self._model[position:data]):
                raise self._mismatch(f"SEEK_DATA calls {position}..{data} a hole")
            if data == size:
                return
            position = os.lseek(self._fd, data, os.SEEK_HOLE)
            if position == data and self._data_from(data) > data:
                # A clean page over space that is only allocated is data (ext4, xfs) until
                # somebody drops the caches, as here between the two questions.
                continue
            if not data < position <= size:
                raise self._mismatch(f"SEEK_HOLE from {data} gives {position} of {size}")

    def _data_from(self, position: int) -> int:
        try:
            return os.lseek(self._fd, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return len(self._model)

    def _fsync(self) -> None:
        self._note("fsync")
        self._random.choice((os.fsync, os.fdatasync))(self._random.choice((self._fd, self._early)))

    def _drop_pages(self) -> None:
        self._note("fsync, POSIX_FADV_DONTNEED")
        os.fsync(self._fd)
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def _set_times(self) -> None:
        """Stores that the mapping has made before may not move them when they are written out."""
        self._mtime = self._random.randrange(10**18)
        self._note(f"set mtime {self._mtime}")
        os.utime(self._fd, ns=(0, self._mtime))

    def _rename(self) -> None:
        self._note("rename away and back")
        os.rename(self.path, self.path + ".away")
        os.rename(self.path + ".away", self.path)
