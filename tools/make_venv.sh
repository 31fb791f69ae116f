#!/bin/sh
# make_venv.sh [PYTHON]: makes .venv here with a Python that TensorFlow 2.14 runs on,
# unless there is one: PYTHON if it is given, else python3, else a python3.11, 3.10 or
# 3.9 on the PATH or among pyenv's; else a Python 3.11 that uv fetches, with the uv of the
# PATH or one that python3's pip puts into .uv.

# Whether command $1 is such a Python and has module $2.
suits() {
    "$1" -c "import sys, $2; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 11))" 2>/dev/null
}

candidates() {
    echo python3
    for version in 3.11 3.10 3.9; do
        echo "python$version"
        for python in "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python; do
            echo "$python"
        done
    done
}

suits .venv/bin/python pip && exit

if [ -n "$1" ]; then
    suits "$1" ensurepip && exec "$1" -m venv --clear .venv
    echo "$1 is not a Python 3.9, 3.10 or 3.11 that can make virtual environments." >&2
    exit 1
fi

IFS='
'
for python in $(candidates); do
    suits "$python" ensurepip && exec "$python" -m venv --clear .venv
done
uv=$(command -v uv)
if [ -z "$uv" ]; then
    echo "No Python 3.9, 3.10 or 3.11 here: fetching one with uv, into .uv." >&2
    python3 -m pip install --quiet --disable-pip-version-check --target .uv uv && uv=.uv/bin/uv
fi
if [ -n "$uv" ]; then
    rm -rf .venv
    "$uv" venv --quiet --seed --python 3.11 .venv && exit
fi
echo "TensorFlow 2.14 needs Python 3.9, 3.10 or 3.11 with venv, and none was found: install one" \
    "(apt install python3.11-venv, brew install python@3.11 or pyenv install 3.11), or name" \
    "yours: make PYTHON=/path/to/python3.11." >&2
exit 1
