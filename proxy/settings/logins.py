"""
Which login the proxy's own work uses when the file does not name one for it.

Kept in one place, because the health monitor, `headgate check --connect` and the documentation must
agree on it.
"""

from proxy.errors import SettingsError
from proxy.settings.kinds import NO_SECRET, Secret
from proxy.settings.model import Settings
from proxy.settings.users import read_users

DEFAULT_USER = "postgres"
# A secret that begins so is a verifier: it proves a client's password and logs in nowhere.
_VERIFIERS = ("md5", "SCRAM-SHA-256$")


def monitor_login(settings: Settings) -> tuple[str, Secret]:
    """
    User and password of the health monitor.

    In this order: [monitor]; the first [[database]] with a user; auth.query_user; the first console
    user, then the first user at all, that has a clear password in auth.users_file; the user
    "postgres" without a password, for servers that trust the proxy.
    """
    clear = clear_passwords(settings)
    if settings.monitor.user:
        user = settings.monitor.user
        return user, settings.monitor.password or clear.get(user, NO_SECRET)
    for database in settings.database:
        if database.user:
            return database.user, database.password or clear.get(database.user, NO_SECRET)
    if settings.auth.query_user:
        user = settings.auth.query_user
        return user, settings.auth.query_password or clear.get(user, NO_SECRET)
    for user in (*settings.admin.console_users, *clear):
        if user in clear:
            return user, clear[user]
    return DEFAULT_USER, NO_SECRET


def clear_passwords(settings: Settings) -> dict[str, Secret]:
    """The users of auth.users_file whose secret can be used to log in to a server."""
    if settings.auth.users_file is None:
        return {}
    try:
        users = read_users(settings.auth.users_file)
    except SettingsError:
        # Loading reports it; a file that broke since then must not stop the monitor.
        return {}
    return {
        name: secret
        for name, secret in users.items()
        if secret and not secret.startswith(_VERIFIERS)
    }
