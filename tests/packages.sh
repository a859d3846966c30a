# Installs Debian or Ubuntu packages where they are missing. To be sourced, not run.
#
#     install_missing zstd:zstd openssl/libssl-dev postgresql
#
# COMMAND:PACKAGE is missing when there is no such command, LIBRARY/PACKAGE when pkg-config does not know the
# library, and `postgresql` or `sshd` when there is no such server. No system service is started.

have_postgresql() {
    [[ -n ${PGBAK_TEST_PG_BIN:-} ]] || compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null ||
        command -v postgres >/dev/null
}

# Debian keeps it where only root's PATH looks.
have_sshd() {
    [[ -x /usr/sbin/sshd ]] || command -v sshd >/dev/null
}

missing_packages() {
    local need
    for need in "$@"; do
        case $need in
        *:*) command -v "${need%%:*}" >/dev/null || echo "${need#*:}" ;;
        */*) pkg-config --exists "${need%%/*}" 2>/dev/null || echo "${need#*/}" ;;
        postgresql) have_postgresql || echo postgresql ;;
        sshd) have_sshd || echo openssh-server ;;
        esac
    done
}

as_root() {
    if [[ $(id -u) -eq 0 ]]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        echo "$0: \"$*\" needs root: run it yourself, or install sudo" >&2
        return 1
    fi
}

apt_install() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" >&2
}

# Debian's package makes and starts a cluster of its own, which nobody here asked for. Where the package is new,
# it is told not to, for as long as the installation takes.
install_postgresql() {
    local settings=/etc/postgresql-common/createcluster.conf installed=0
    if [[ -e $settings ]]; then
        apt_install postgresql
        return
    fi
    apt_install postgresql-common
    as_root cp --preserve "$settings" "$settings.before-pgbak"
    as_root sh -c "echo 'create_main_cluster = false' >>'$settings'"
    apt_install postgresql || installed=$?
    as_root mv "$settings.before-pgbak" "$settings"
    return "$installed"
}

# Debian's package starts the service, now and at each boot, and so opens the machine to the network. Where the package
# is new, `policy-rc.d` forbids the first for as long as the installation takes, and the second is undone.
install_sshd() {
    local policy=/usr/sbin/policy-rc.d installed=0
    if [[ -e $policy ]]; then
        as_root mv "$policy" "$policy.before-pgbak"
    fi
    as_root sh -c "printf '#!/bin/sh\nexit 101\n' >'$policy' && chmod 755 '$policy'"
    apt_install openssh-server || installed=$?
    as_root rm "$policy"
    if [[ -e $policy.before-pgbak ]]; then
        as_root mv "$policy.before-pgbak" "$policy"
    fi
    if command -v systemctl >/dev/null; then
        as_root systemctl disable ssh.service ssh.socket >/dev/null 2>&1 || true
    fi
    as_root update-rc.d ssh disable >/dev/null 2>&1 || true
    return "$installed"
}

install_missing() {
    local packages
    mapfile -t packages < <(missing_packages "$@" | sort -u)
    ((${#packages[@]})) || return 0
    echo "$0: installing ${packages[*]}" >&2
    if ! command -v apt-get >/dev/null; then
        echo "$0: there is no apt-get here: install ${packages[*]} (or what brings the same)" >&2
        return 1
    fi
    as_root apt-get update -qq >&2
    if [[ " ${packages[*]} " == *" postgresql "* ]]; then
        install_postgresql
    fi
    if [[ " ${packages[*]} " == *" openssh-server "* ]]; then
        install_sshd
    fi
    apt_install "${packages[@]}"
}

# Installs nothing: whoever wants Rust has a way of their own to get it.
check_rust() {
    if ! command -v cargo >/dev/null; then
        echo "$0: there is no cargo: install Rust first, see https://rustup.rs" >&2
        return 1
    fi
    local wanted found
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    found=$(rustc --version | cut -d ' ' -f 2)
    if [[ $(printf '%s\n' "$wanted" "${found%%-*}" | sort --version-sort | head -n 1) != "$wanted" ]]; then
        echo "$0: Rust $found is older than $wanted: run \`rustup update\`" >&2
        return 1
    fi
}
