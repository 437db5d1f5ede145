"""Package managers at work in a Debian root: apt, dpkg, pip and npm, from local files."""

import io
import json
import shutil
import tarfile
from pathlib import Path

from tests import debootstrap
from tests.containers import debian
from tests.containers.engines import Engine
from tests.containers.steps.registry import NotHere, step
from tests.work.test_debian import build_package

#: What is to be there beside the essential packages.
PACKAGES = ["apt", "python3", "python3-pip", "python3-setuptools", "python3-wheel", "libstdc++6"]

#: What differs from run to run: logs, caches with times and inode numbers in them.
_CHANGING = ("tmp", "var/log", "var/cache", "root", "var/lib/dpkg/lock")

_APT = """
export DEBIAN_FRONTEND=noninteractive
ldconfig
apt="apt-get -y -q -o APT::Sandbox::User=root -o Dpkg::Options::=--force-confold"
$apt install /packages/specimen_1.deb
echo 'colour = green' > /etc/specimen.conf
$apt install /packages/specimen_2.deb
dpkg --unpack /packages/specimen_1.deb
dpkg --configure -a
dpkg --verify specimen
specimen
$apt remove specimen
$apt install /packages/specimen_2.deb
mv /usr/lib/specimen /usr/lib/moved
chown -R 33:33 /usr/lib/moved
"""

#: Packages that are in use meanwhile, and run programs of theirs, are put in place once more.
_AGAIN = """
cd /var/cache/apt/archives
dpkg --force-unsafe-io --unpack base-files_*.deb base-passwd_*.deb bash_*.deb coreutils_*.deb \\
    dash_*.deb debconf_*.deb dpkg_*.deb libc6_*.deb libc-bin_*.deb login_*.deb passwd_*.deb \\
    perl-base_*.deb tar_*.deb util-linux_*.deb
dpkg --configure -a
test -z "$(dpkg --audit)"
apt-get check
"""

_PIP = """
export PYTHONDONTWRITEBYTECODE=1
pip="python3 -m pip --no-cache-dir --disable-pip-version-check"
cp -r /packages/thing /tmp/thing
$pip install --no-index --no-compile --no-build-isolation --break-system-packages \
    --root-user-action=ignore /tmp/thing
python3 -c 'import thing; print(thing.WORD)'
thing
"""

_NPM = """
mkdir -p /srv/app
cd /srv/app
echo '{"name": "app", "version": "1.0.0"}' > package.json
npm install --offline --no-audit --no-fund --logs-max=0 --cache=/tmp/npm /packages/thing.tar
node -e 'console.log(require("thing"))'
npm uninstall --offline --no-audit --no-fund --logs-max=0 --cache=/tmp/npm thing
npm install --offline --no-audit --no-fund --logs-max=0 --cache=/tmp/npm /packages/thing.tar
"""

#: npm's own files are hundreds of packages: the container uses this machine's.
_NODE = ("/usr/bin/node", "/usr/lib/node_modules")


def has_npm() -> bool:
    return all(Path(path).exists() for path in _NODE) and shutil.which("npm") == "/usr/bin/npm"


def _write_packages(place: Path) -> None:
    """A Debian package in two versions, a Python project, and a package for npm."""
    for version in ("1", "2"):
        build_package(place, version)
    project = place / "thing"
    (project / "thing").mkdir(parents=True)
    (project / "thing/__init__.py").write_text(
        "WORD = 'python'\n\n\ndef main():\n    print(WORD)\n"
    )
    (project / "pyproject.toml").write_text(
        '[project]\nname = "thing"\nversion = "1"\n'
        '[project.scripts]\nthing = "thing:main"\n'
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
    )
    files = {
        "package/package.json": json.dumps({"name": "thing", "version": "1.0.0"}),
        "package/index.js": "module.exports = 'node'\n",
        "package/lib/deep/file.js": "\n",
    }
    with tarfile.open(place / "thing.tar", "w") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(text), 0o644
            archive.addfile(info, io.BytesIO(text.encode()))


@step("apt, dpkg, pip and npm in a Debian root")
def installing(engine: Engine) -> object:
    if missing := debian.missing(PACKAGES):
        raise NotHere(f"not installed as Debian packages: {', '.join(missing)}")
    place = engine.directory("debian")
    _write_packages(place)
    shutil.copy(debian.archived_root(PACKAGES), place / "root.tar")
    engine.podman("import", "--quiet", place / "root.tar", "localhost/debian:latest")
    (place / "root.tar").unlink()
    script = _APT + _PIP
    volumes = [f"--volume={place}:/packages"]
    if has_npm():
        script += f"ln -s ../lib/node_modules/npm/bin/npm-cli.js /usr/bin/npm\n{_NPM}"
        volumes += [f"--volume={path}:{path}:ro" for path in _NODE]
    container = engine.podman("create", *volumes, "localhost/debian:latest", "sh", "-ec", script)
    said = engine.podman("start", "--attach", container, timeout=200).splitlines()
    assert [line for line in said if line == "python"] == ["python", "python"]
    assert ("node" in said) == has_npm()
    tree = engine.look_into(container)
    engine.podman("rm", container)
    engine.podman("rmi", "localhost/debian:latest")
    assert tree["usr/lib/moved/part0/0.dat"][2:4] == [33, 33]
    assert tree["usr/lib/moved/part0/0.dat"][7] == [
        "usr/lib/moved/part0/0.dat",
        "usr/lib/moved/part1/linked.dat",
    ]
    return {name: entry for name, entry in tree.items() if not name.startswith(_CHANGING)}


@step("apt and dpkg in an image of debootstrap")
def bootstrapped(engine: Engine) -> object:
    try:
        archive = debootstrap.archived_root()
    except debootstrap.Unavailable as error:
        raise NotHere(str(error)) from error
    place = engine.directory("debootstrap")
    _write_packages(place)
    shutil.copy(archive, place / "root.tar")
    engine.podman("import", "--quiet", place / "root.tar", "localhost/minbase:latest")
    (place / "root.tar").unlink()
    # What apt does with a package of ours the step above has shown, unless it could not.
    alone = bool(debian.missing(PACKAGES))
    container = engine.podman(
        "create", f"--volume={place}:/packages", "localhost/minbase:latest",
        "sh", "-ec", _APT + _AGAIN if alone else _AGAIN,
    )  # fmt: skip
    engine.podman("start", "--attach", container, timeout=400)
    tree = engine.look_into(container)
    engine.podman("rm", container)
    engine.podman("rmi", "localhost/minbase:latest")
    if alone:
        assert tree["usr/lib/moved/part0/0.dat"][2:4] == [33, 33]
    return {name: entry for name, entry in tree.items() if not name.startswith(_CHANGING)}
