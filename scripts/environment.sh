# Make the private Python environments that the scripts run in: sourced by them, never run itself.
#
#   make_environment NAME EXTRAS   makes or refreshes .environments/NAME with this checkout and the
#                                  extras of pyproject.toml installed, and sets $ENVIRONMENT
#
# Nothing is activated and nothing outside the checkout is written. Works with bash 3.2 and later.
#
# With DISTGRAD_AS_INSTALLED=1 nothing is installed, for machines that reach no package index: the
# environment is the Python found, or named by DISTGRAD_PYTHON, with the packages that it has and
# those on PYTHONPATH.

CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
COMMAND=$(basename "$0")

# What a cluster's modules or a user's pip settings put here would leak into the environment.
[ "${DISTGRAD_AS_INSTALLED:-}" = 1 ] || unset PYTHONHOME PYTHONPATH
unset PIP_USER PIP_TARGET PIP_PREFIX PIP_REQUIRE_VIRTUALENV

say() { printf '%s\n' "$*"; }

fail() {
    printf '%s: %s\n' "$COMMAND" "$*" >&2
    exit 1
}

# Print the comment that the script $1 begins with.
say_usage() {
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$1"
}

# One BLAS thread a rank: ranks times threads beyond the cores make every rank slower.
use_one_thread_per_rank() {
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
    export OPENBLAS_NUM_THREADS="${OPENBLAS_NUM_THREADS:-$OMP_NUM_THREADS}"
    export MKL_NUM_THREADS="${MKL_NUM_THREADS:-$OMP_NUM_THREADS}"
}

# Open MPI refuses to run as root and on more ranks than cores; other MPIs don't read these.
let_open_mpi_run_here() {
    if [ "$(id -u)" = 0 ]; then
        export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    fi
    export PRTE_MCA_rmaps_default_mapping_policy="${PRTE_MCA_rmaps_default_mapping_policy:-:oversubscribe}"
    export OMPI_MCA_mpi_yield_when_idle="${OMPI_MCA_mpi_yield_when_idle:-1}"
    # It won't start over the files of one that was killed and had its process number.
    PRTE_MCA_prte_local_tmpdir_base=$(mktemp -d) || fail "no temporary folder can be made"
    export PRTE_MCA_prte_local_tmpdir_base
    trap 'rm -rf "$PRTE_MCA_prte_local_tmpdir_base"' EXIT
}

# Print the extra for this machine's CUDA driver; fail where there is no device.
cuda_extra() {
    if nvidia-smi -L >/dev/null 2>&1; then
        case $(nvidia-smi | sed -n 's/.*CUDA Version: \([0-9]*\).*/\1/p') in
            '' | [0-9] | 1[0-2]) say cuda12 ;;
            *) say cuda13 ;;
        esac
    elif [ -e /dev/nvidia0 ]; then
        say cuda12
    else
        return 1
    fi
}

# Set $PYTHON to the first Python that is new enough; DISTGRAD_PYTHON names one to use instead.
find_python() {
    local candidate found tried=""
    for candidate in ${DISTGRAD_PYTHON:+"$DISTGRAD_PYTHON"} \
        python3 python3.13 python3.12 python3.11 python3.14 python; do
        found=$(command -v "$candidate") || continue
        # A version manager's shim may be there and still not run: ask the interpreter itself.
        if "$found" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            PYTHON=$found
            return
        fi
        tried="$tried $found"
    done
    fail "Python 3.11 or later is needed, and none was found${tried:+ (too old or broken:$tried)};" \
        "install one, or name it: DISTGRAD_PYTHON=/path/to/python3.11 $COMMAND"
}

# Make an empty environment at $1; Debian and Ubuntu ship a Python whose venv cannot bring pip.
make_bare_environment() {
    "$PYTHON" -m venv "$1" >"$1.log" 2>&1 && return
    rm -rf "$1"
    "$PYTHON" -m virtualenv "$1" >>"$1.log" 2>&1 && return
    rm -rf "$1"
    command -v uv >/dev/null && uv venv --seed --python "$PYTHON" "$1" >>"$1.log" 2>&1 && return
    rm -rf "$1"
    cat "$1.log" >&2
    fail "$PYTHON cannot make an environment; on Debian or Ubuntu run" \
        "'apt-get install python3-venv', elsewhere '$PYTHON -m pip install virtualenv'"
}

# Make $ENVIRONMENT of the Python that is there: a `python` that finds this checkout, with its entry
# points, before its own packages. What is missing is said, and nothing brought.
take_as_installed() {
    local site="$ENVIRONMENT/site" missing
    find_python
    rm -rf "$ENVIRONMENT"
    mkdir -p "$ENVIRONMENT/bin" "$site" || fail "cannot write in $CHECKOUT"
    (cd "$CHECKOUT" && "$PYTHON" -c '
import re, sys, tomllib
from pathlib import Path
project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
version = re.search(r"__version__ = \"(.*)\"", Path("distgrad/__init__.py").read_text())[1]
info = Path(sys.argv[1]) / f"distgrad-{version}.dist-info"
info.mkdir()
(info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: distgrad\nVersion: {version}\n")
groups = project["entry-points"].items()
lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in own.items()) for group, own in groups]
(info / "entry_points.txt").write_text("\n".join(lines))
' "$site") || fail "$PYTHON cannot describe the checkout"
    printf '#!/bin/sh\nexport PYTHONPATH="%s"\nexec "%s" "$@"\n' \
        "$CHECKOUT:$CHECKOUT/backends:$site${PYTHONPATH:+:$PYTHONPATH}" "$PYTHON" \
        >"$ENVIRONMENT/bin/python"
    chmod +x "$ENVIRONMENT/bin/python"
    missing=$("$ENVIRONMENT/bin/python" -c '
import importlib.util
names = ("numpy", "optree", "pytest", "cupy")
print(*(name for name in names if importlib.util.find_spec(name) is None))') || fail "$PYTHON fails"
    say "taking $("$PYTHON" --version) as it is installed${missing:+; it has no: $missing}"
}

make_environment() {
    local name=$1 extras=$2 stamp python wanted
    ENVIRONMENT="$CHECKOUT/.environments/$name"
    stamp="$ENVIRONMENT/installed-by-distgrad"
    mkdir -p "$CHECKOUT/.environments" || fail "cannot write in $CHECKOUT"
    if [ "${DISTGRAD_AS_INSTALLED:-}" = 1 ]; then
        take_as_installed
        return
    fi
    if command -v flock >/dev/null; then
        # Two runs at once would install over each other; the second waits for the first.
        exec 9>"$ENVIRONMENT.lock"
        flock 9
    fi

    # The first line says where the environment is good at all, the second what it has installed.
    wanted=$(printf '%s\n%s %s' "$CHECKOUT" "$extras" "$(cksum <"$CHECKOUT/pyproject.toml")")
    python="$ENVIRONMENT/bin/python"
    if ! "$python" -c 'import sys, pip' >/dev/null 2>&1 ||
        [ "$(head -n 1 "$stamp" 2>/dev/null)" != "$CHECKOUT" ]; then
        find_python
        say "making the environment .environments/$name with $("$PYTHON" --version)"
        rm -rf "$ENVIRONMENT"
        make_bare_environment "$ENVIRONMENT"
        printf '%s\n' "$CHECKOUT" >"$stamp"
    fi
    if [ "$(cat "$stamp")" != "$wanted" ]; then
        printf '%s\n' "$CHECKOUT" >"$stamp"
        install_checkout "$extras"
        printf '%s\n' "$wanted" >"$stamp"
    fi
    exec 9>&-
}

# Print what pip is busy with, by the last telling line of its log $1.
pip_is_at() {
    sed -n -E -e 's/^ *Installing collected.*/unpacking/p' \
        -e 's/^ *(Collecting|Downloading) +([A-Za-z0-9_.]+(-[A-Za-z_]+)*).*/\2/p' "$1" | tail -n 1
}

# Install this checkout, editable, with the extras $1, showing that the work goes on.
install_checkout() {
    local log="$ENVIRONMENT.log" started=$SECONDS shown=0 pip
    (cd "$CHECKOUT" && exec "$ENVIRONMENT/bin/python" -m pip install --no-input \
        --disable-pip-version-check --progress-bar off -e ".[$1]" 9>&-) >"$log" 2>&1 &
    pip=$!
    trap 'kill "$pip" 2>/dev/null; exit 130' INT TERM
    while kill -0 "$pip" 2>/dev/null; do
        if [ -t 1 ]; then
            printf '\r\033[Kinstalling distgrad[%s]: %d s  %.50s' "$1" $((SECONDS - started)) \
                "$(pip_is_at "$log")"
            sleep 0.5
        else
            if [ $((SECONDS - started)) -ge "$shown" ]; then
                say "installing distgrad[$1]: $((SECONDS - started)) s"
                shown=$((shown + 15))
            fi
            sleep 0.5
        fi
    done
    if [ -t 1 ]; then printf '\r\033[K'; fi
    if ! wait "$pip"; then
        tail -n 20 "$log" >&2
        fail "pip could not install distgrad[$1]; the lines above are the end of $log"
    fi
    trap - INT TERM
    say "installed distgrad[$1] in $((SECONDS - started)) s"
}
