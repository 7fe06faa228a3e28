#!/bin/sh
# Installs the Debian packages that are named and missing, where apt is at hand.
# Their absence stops nothing: what needs them says so itself.
set -u
wanted=
for package in "$@"; do
    case $package in
    dataset-fashion-mnist) [ -e "${PAPERWORKS_DATA:-/usr/share/datasets}/fashion-mnist" ] || [ -e /usr/share/datasets/fashion-mnist ] ;;
    chromium) command -v chromium >/dev/null 2>&1 ;;
    postgresql) ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 ;;
    *) echo "$package is not known here"; exit 2 ;;
    esac || wanted="$wanted $package"
done
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
