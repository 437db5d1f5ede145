# Sourced by ./demo and ./run-tests: Debian packages, a Python environment, and access to FUSE.
# Nothing is asked interactively; what is missing is said in words, with the command that helps.

set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=${UNIONFS_VENV:-$ROOT/.venv}

# What building and mounting need.
BUILD_PACKAGES=(
    fuse3 gcc libc6-dev libfuse3-dev pkg-config python3 python3-dev python3-venv
)
# What the tests compare with and run on a mount. A test whose program is missing says so.
TEST_PACKAGES=(
    acl attr btrfs-progs bubblewrap buildah busybox-static crun debootstrap dpkg-dev e2fsprogs
    fio fuse-overlayfs git libcap2-bin libpython3.11-testsuite mergerfs podman procps python3-pip
    python3-setuptools python3-wheel rsync runc sqlite3 strace uidmap unionfs-fuse util-linux
    xfsprogs xz-utils
)

say() { printf '== %s\n' "$*" >&2; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

# need_packages required|wanted PACKAGE...: install what is missing, or say how.
need_packages() {
    local kind=$1 package missing=()
    shift
    if ! command -v dpkg-query >/dev/null; then
        say "not a Debian system; needed under Debian are: $*"
        return
    fi
    for package in "$@"; do
        [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] ||
            missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    if ((EUID != 0)); then
        [[ $kind == wanted ]] || fail "packages are missing: sudo apt-get install ${missing[*]}"
        say "some tests will be skipped; to run them: sudo apt-get install ${missing[*]}"
        return
    fi
    say "installing ${missing[*]}"
    [[ ${UPDATED:-} ]] || apt-get update -qq
    UPDATED=yes
    # Packages that this release does not have must not keep the others from being installed.
    local known=()
    for package in "${missing[@]}"; do
        if apt-cache show "$package" >/dev/null 2>&1; then
            known+=("$package")
        elif [[ $kind == required ]]; then
            fail "this system has no package $package"
        else
            say "no package $package here: the tests that need it will be skipped"
        fi
    done
    ((${#known[@]})) || return 0
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${known[@]}" \
        </dev/null >&2 || fail "apt-get could not install ${known[*]}"
}

# A Python that can make an environment and build extensions. Debian's own comes first: other
# users, as whom some tests run, can reach it, which is not said of one in somebody's home.
pick_python() {
    local candidate
    for candidate in /usr/bin/python3 python3 python3.13 python3.12 python3.11; do
        if "$candidate" - 2>/dev/null <<'CHECK'
import os, sys, sysconfig, venv, ensurepip
headers = os.path.join(sysconfig.get_path("include"), "Python.h")
sys.exit(not (sys.version_info >= (3, 11) and os.path.exists(headers)))
CHECK
        then
            command -v "$candidate"
            return
        fi
    done
    fail "no Python 3.11 or later with venv and headers: install python3-venv and python3-dev"
}

# make_environment PIP-ARGUMENT...: the environment in $VENV, with what pip is told to install.
make_environment() {
    if [[ ! -x $VENV/bin/python ]]; then
        say "making a Python environment in $VENV"
        "$(pick_python)" -m venv "$VENV"
    fi
    say "building and installing"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
}

need_fuse() {
    [[ -e /dev/fuse ]] || fail "/dev/fuse does not exist: load the module (modprobe fuse)," \
        "or give the container the device (--device /dev/fuse)"
    [[ -r /dev/fuse && -w /dev/fuse ]] || fail "this user may not open /dev/fuse:" \
        "make it accessible (sudo chmod 0666 /dev/fuse), or run this as root"
}
