#!/bin/sh
# Install this checkout as a service of a Debian machine, or bring it up to date. As root:
#
#   sh deploy/install.sh
#
# Makes /opt/shoal (a virtual environment with the locked dependencies), the user `shoal` and its
# home /var/lib/shoal, and the unit shoal.service. It starts nothing that does not run already.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
prefix=/opt/shoal
home=/var/lib/shoal

say() { echo "install.sh: $*"; }
fail() { echo "install.sh: $*" >&2; exit 1; }

[ "$(id -u)" = 0 ] || fail "run it as root"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "Python 3.11 or later is needed"
python3 -c 'import ensurepip' 2>/dev/null || fail "the package python3-venv is needed: apt install python3-venv"

[ -x "$prefix/bin/python" ] || python3 -m venv "$prefix"
"$prefix/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r "$root/deploy/requirements.lock"
"$prefix/bin/pip" install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
    --force-reinstall "$root"
rm -rf "$root/build" "$root/shoal.egg-info"

id shoal >/dev/null 2>&1 ||
    useradd --system --user-group --no-create-home --home-dir "$home" --shell /usr/sbin/nologin shoal
install -d -m 0700 -o shoal -g shoal "$home"
install -d -m 0755 /etc/shoal
[ -e /etc/shoal/environment ] || install -m 0600 /dev/null /etc/shoal/environment
install -m 0644 "$root/deploy/shoal.service" /etc/systemd/system/shoal.service
ln -sf "$prefix/bin/shoal" /usr/local/bin/shoal
say "$("$prefix/bin/shoal" --version) is installed in $prefix"

if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    systemctl try-restart shoal
fi
say "start it: systemctl enable --now shoal"
say "its invite: sudo -u shoal shoal --home $home invite"
