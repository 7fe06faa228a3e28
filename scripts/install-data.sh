#!/bin/sh
# Installs the Debian package that carries Fashion-MNIST where it is missing and apt is at hand.
# Its absence stops nothing: the claims that need it say so themselves.
set -u
package=dataset-fashion-mnist
folder=${PAPERWORKS_DATA:-/usr/share/datasets}/fashion-mnist
[ -e "$folder" ] && exit 0
dpkg -s "$package" >/dev/null 2>&1 && exit 0

as_root=
[ "$(id -u)" = 0 ] || as_root='sudo -n'
if command -v apt-get >/dev/null 2>&1; then
    echo "Installing the data package $package ..."
    export DEBIAN_FRONTEND=noninteractive
    $as_root apt-get install -y -qq "$package" >/dev/null 2>&1 && exit 0
    $as_root apt-get update -qq >/dev/null 2>&1 && $as_root apt-get install -y -qq "$package" >/dev/null 2>&1 && exit 0
fi
cat <<MESSAGE
Fashion-MNIST is not on this machine, and it could not be installed: claims that use it will say so.
On Debian or Ubuntu:  sudo apt install $package
Elsewhere: put its four .gz files into a folder named fashion-mnist and set PAPERWORKS_DATA to the folder above.
MESSAGE
