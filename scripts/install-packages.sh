#!/bin/sh
# Installs the Debian packages that some claims and tests use, where they are missing and apt is at hand.
# Their absence stops nothing: what needs them says so itself.
set -u
wanted=
[ -e "${PAPERWORKS_DATA:-/usr/share/datasets}/fashion-mnist" ] || wanted="$wanted dataset-fashion-mnist"
command -v chromium >/dev/null 2>&1 || wanted="$wanted chromium"
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || wanted="$wanted postgresql"
[ -n "$wanted" ] || exit 0

as_root=
[ "$(id -u)" = 0 ] || as_root='sudo -n'
if command -v apt-get >/dev/null 2>&1; then
    echo "Installing the packages$wanted ..."
    export DEBIAN_FRONTEND=noninteractive
    $as_root apt-get install -y -qq $wanted >/dev/null 2>&1 && exit 0
    $as_root apt-get update -qq >/dev/null 2>&1 && $as_root apt-get install -y -qq $wanted >/dev/null 2>&1 && exit 0
fi
for package in $wanted; do
    case $package in
    dataset-fashion-mnist)
        echo "Fashion-MNIST is not on this machine, and it could not be installed: claims that use it will say so."
        echo "Elsewhere than on Debian: put its four .gz files into a folder named fashion-mnist, and set"
        echo "PAPERWORKS_DATA to the folder above."
        ;;
    *) echo "$package is not on this machine, and it could not be installed: tests that use it are skipped." ;;
    esac
    echo "On Debian or Ubuntu:  sudo apt install $package"
done
exit 0
