"""`LakehouseClient`: accounts, market data, time travel and SQL over one data folder."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, Self, TypedDict, Unpack
from urllib.parse import urlparse

from hfthot_platform.app.caller import Caller
from hfthot_platform.app.installation import Installation
from hfthot_platform.core.errors import BadRequestError, HfthotError, InvalidTokenError, PermissionDeniedError
from hfthot_platform.core.time import utc_now
from hfthot_platform.domain.access.authorisation import (
    AccountTarget,
    Action,
    authorise,
)
from hfthot_platform.domain.access.plans import ROLES, TIERS
from hfthot_platform.interfaces.client import arguments
from hfthot_platform.interfaces.client.boundary import sealed
from hfthot_platform.interfaces.client.market import Market
from hfthot_platform.interfaces.client.results import AuditLog, Rows, UserExport
from hfthot_platform.interfaces.client.versions import SymbolVersion, Version, versions_of_symbol
from hfthot_platform.services.accounts.records import Secret

if TYPE_CHECKING:
    from hfthot_platform.core.settings import Settings
    from hfthot_platform.domain.access.plans import Role, TierName
    from hfthot_platform.services.accounts.accounts import Accounts
    from hfthot_platform.services.accounts.records import ApiKey, ApiKeys, QueryStats, Session, Usage, User
    from hfthot_platform.services.privacy.certificate import ErasureCertificate
    from hfthot_platform.services.privacy.export import ExportFormat
    from hfthot_platform.services.privacy.hits import ErasureHit
    from hfthot_platform.services.sql.gateway import QueryLimits, QueryResult
    from hfthot_platform.storage.lakehouse import Lakehouse

__all__ = ["LakehouseClient", "settings_of_folder"]

_ACCOUNTS: Final = "accounts"
_SYMBOL: Final = "market/"
#: Words for actions, as the product's documents name them, and the actions that each stands for.
_ACTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "register": ("user.register",),
    "login": ("session.login",),
    "logout": ("session.logout",),
    "update_api_keys": ("api_key", "api_keys.save"),
    "query_api": ("usage.count",),
    "upgrade_tier": ("user.upgrade_tier",),
    "export_data": ("privacy.export", "privacy.export_ready"),
    "delete_data": ("user.delete", "privacy.erasure_request", "subject.destroy"),
}


class UserChanges(TypedDict, total=False):
    """What `update_user` changes: only what is given."""

    username: str
    email: str
    first_name: str | None
    last_name: str | None
    preferences: Mapping[str, Any] | None


@sealed
class LakehouseClient:
    """Accounts, market data, time travel, SQL and the rights of the person over one data folder.

    The data folder holds everything: `lake`, and beside it `accounts` (the operational store), `keys`, `exports`,
    `certificates`, `scratch`.  The lake's own folder may be named as well; then the folder around it is meant.  All
    other settings come from the environment and hfthot.toml as everywhere.

    With an API key or the token of a session the caller is that account: it sees and changes itself, reads market data
    as far back as its tier goes, and an account with the role admin may do everything.  Key or token is verified at
    each call, so that whatever changes for the account holds at once, and its plan's requests per minute are counted,
    durably and for all processes together.  Without either the caller is trusted code of the platform.

    Every call is audited; those of trusted code on market data are not, since they concern nobody.  Safe to use from
    several threads; close it, or use it in a `with` block.

    Example:
        >>> with LakehouseClient(folder) as trusted:
        ...     trusted.market("ALPHA-USDT").ohlcv("1h").tail(2).collect().height
        2

    Raises:
        LakeMissingError: there is no installation in the folder; `create=True` makes one.  Where the folder is named
            absolutely, so that no working folder can mislead, the first `register` makes it, too.
        StoreMissingError: there is a lake without accounts, and an account is asked for.
        InvalidTokenError, RevokedTokenError, InactiveAccountError: the API key is not (or no longer) good.
        BadRequestError: the folder is on an object store: use `from_settings`.

    Every call of an account can raise QuotaExceededError (`retry_after` has the seconds) when the requests of its plan
    are used up; administrators are not limited.
    """

    def __init__(
        self,
        base_path: str | Path,
        api_key: str | Secret | None = None,
        *,
        session_token: str | Secret | None = None,
        create: bool = False,
    ) -> None:
        settings = settings_of_folder(base_path)
        absolute = Path(base_path).expanduser().is_absolute()
        self._start(Installation(settings, create=create), api_key, session_token, owned=True, creating=absolute)
        if create:
            self._installation.install()

    @classmethod
    def create(cls, base_path: str | Path) -> LakehouseClient:
        """Make a new installation in a folder (lake, accounts, keys), unless it has one, and return a client of it.

        Example:
            >>> with LakehouseClient.create(folder) as client:
            ...     client.list_users() is not None
            True
        """
        return cls(base_path, create=True)

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        api_key: str | Secret | None = None,
        *,
        session_token: str | Secret | None = None,
        clock: Callable[[], datetime] = utc_now,
        create: bool = False,
    ) -> LakehouseClient:
        """Return a client of the installation that the settings describe, wherever its lake and its store are.

        With `create`, or where the settings were made with absolute `lake_root` and `accounts` (or `accounts_url`) as
        arguments, a new installation is made there if need be; otherwise there has to be one.

        Example:
            >>> from hfthot_platform.core.settings import load_settings
            >>> LakehouseClient.from_settings(load_settings(lake_root=f"{folder}/lake"))
            LakehouseClient(...)
        """
        client = cls.__new__(cls)
        installation = Installation(settings, clock, create=create or settings.names_places)
        client._start(installation, api_key, session_token, owned=True)  # noqa: SLF001 - made here
        if create:
            installation.install()
        return client

    @classmethod
    def of(
        cls,
        installation: Installation,
        api_key: str | Secret | None = None,
        *,
        session_token: str | Secret | None = None,
    ) -> LakehouseClient:
        """Return a client of an installation that is open already, and stays open when the client is closed.

        Example:
            >>> from hfthot_platform import Installation
            >>> from hfthot_platform.core.settings import load_settings
            >>> with Installation.open(load_settings(lake_root=f"{folder}/lake")) as installation:
            ...     LakehouseClient.of(installation).get_user(user.user_id).username == username
            True
        """
        client = cls.__new__(cls)
        client._start(installation, api_key, session_token, owned=False)  # noqa: SLF001 - made here
        return client

    def _start(
        self,
        installation: Installation,
        api_key: str | Secret | None,
        session_token: str | Secret | None,
        *,
        owned: bool,
        creating: bool = False,
    ) -> None:
        self._installation = installation
        #: Whether closing the client closes the installation.
        self._owned = owned
        # A wrong place is told when the client is made; the SQL models' files are read with the first table.
        local = installation.storage.local is not None
        #: Whether the installation begins with its first account.
        self._creating = creating and local and not installation.exists()
        if local and not self._creating:
            installation.require()
        self._network: tuple[str | None, str | None] = (None, None)
        self._identify(api_key, session_token)
        if self._key is not None or self._token is not None:
            try:
                self._identified()
            except BaseException:
                self.close()
                raise

    def _identify(self, api_key: str | Secret | None, session_token: str | Secret | None) -> None:
        if api_key is not None and session_token is not None:
            raise BadRequestError(
                "both are given", where="arguments 'api_key' and 'session_token'", hint="Give one of them."
            )
        self._key = None if api_key is None else Secret(_clear(api_key, "api_key"))
        self._token = None if session_token is None else Secret(_clear(session_token, "session_token"))

    def for_request(
        self,
        ip: str | None = None,
        user_agent: str | None = None,
        *,
        api_key: str | Secret | None = None,
        session_token: str | Secret | None = None,
    ) -> LakehouseClient:
        """Return the same client on behalf of somebody's request: the audit log then says where it came from.

        Address and program are personal data and stored encrypted.  With a key or a session's token the caller is that
        account, so that a web application acts with the rights of whoever signed in, not with its own.  It shares
        everything with this client, and is not closed itself.

        Example:
            >>> here = client.for_request(ip="192.0.2.7", user_agent="curl/8")
            >>> here.login(username, password).user_id == user.user_id
            True
        """
        other = type(self).__new__(type(self))
        vars(other).update(vars(self))
        other._network = (  # noqa: SLF001 - made here
            arguments.optional_text(ip, "ip", least=0, most=1000),
            arguments.optional_text(user_agent, "user_agent", least=0, most=10_000),
        )
        if api_key is not None or session_token is not None:
            other._identify(api_key, session_token)  # noqa: SLF001 - made here
        return other

    # -- accounts -----------------------------------------------------------------------------------------

    def register(
        self,
        username: str,
        email: str,
        password: str,
        first_name: str | None = None,
        last_name: str | None = None,
        tier: TierName = "free",
    ) -> User:
        """Make an account and return it.

        Trusted code registers whom it likes; of accounts only administrators do.

        Example:
            >>> new = client.register("ada", "ada@example.org", "correct horse battery", first_name="Ada")
            >>> new.username, new.tier, new.role
            ('ada', 'free', 'registered')

        Raises:
            DuplicateAccountError: the username or the address is taken; `field` says which.
            BadRequestError: an argument is not what it should be.
        """
        arguments.text(username, "username", most=1000)
        arguments.text(email, "email", most=2000)
        arguments.text(password, "password", most=10_000)
        arguments.optional_text(first_name, "first_name", least=0, most=1000)
        arguments.optional_text(last_name, "last_name", least=0, most=1000)
        level = arguments.choice(tier, TIERS, "tier")
        if self._creating:
            self._creating = False
            self._installation.install()
        caller = self._caller()
        caller.authorise(Action.USER_REGISTER)
        return self._accounts.register(username, email, password, first_name, last_name, level, request=caller.request)

    def login(self, username: str, password: str) -> Session:
        """Sign in with a username or an e-mail address; the session's `token` is given out here alone.

        Takes the same time whether or not the account exists.

        Example:
            >>> session = client.login(username, password)
            >>> session.token
            Secret('**********')
            >>> client.verify_token(session.token.get_secret_value()).user_id == user.user_id
            True

        Raises:
            InvalidCredentialsError: name or password is wrong; which one is not said.
            TooManyAttemptsError: there were too many failures; `retry_after` says for how long.
            InactiveAccountError: the account waits for approval, was rejected, closed or deleted.
        """
        arguments.text(username, "username", most=2000)
        arguments.text(password, "password", most=10_000)
        return self._accounts.login(username, password, request=self._caller().request)

    def logout(self, token: str | Secret) -> None:
        """End the session of a token, and no other.

        Example:
            >>> session = client.login(username, password)
            >>> client.logout(session.token)

        Raises:
            InvalidTokenError, RevokedTokenError: there is no such session, or it was ended before.
        """
        caller = self._caller()
        clear = _clear(token, "token")
        if not caller.principal.trusted:
            whose = self._accounts.verify_token(clear, request=caller.request).user_id
            self._require_own(caller, Action.SESSION_LOGOUT, whose, "session token")
        self._accounts.logout(clear, request=caller.request)

    def verify_token(self, token: str | Secret) -> Session:
        """Return the session of a token: one indexed read.

        Example:
            >>> session = client.login(username, password)
            >>> client.verify_token(session.token).session_id == session.session_id
            True

        Raises:
            InvalidTokenError: it was never issued, or was altered.
            ExpiredTokenError, RevokedTokenError: the session is over.
            InactiveAccountError: the account is closed or deleted.
        """
        caller = self._caller()
        session = self._accounts.verify_token(_clear(token, "token"), request=caller.request)
        self._require_own(caller, Action.SESSION_VERIFY, session.user_id, "session token")
        return session

    def change_password(
        self, user_id: str, old_password: str, new_password: str, *, token: str | Secret | None = None
    ) -> None:
        """Change a password and end every session but the one of `token`.

        Example:
            >>> client.change_password(user.user_id, password, "another good password")
            >>> client.login(username, "another good password").user_id == user.user_id
            True

        Raises:
            InvalidCredentialsError, TooManyAttemptsError: the old password is wrong, or was wrong too often.
            BadRequestError: the new password is too short, or the old one.
        """
        arguments.identifier(user_id)
        arguments.text(old_password, "old_password", most=10_000)
        arguments.text(new_password, "new_password", most=10_000)
        kept = None if token is None else _clear(token, "token")
        request = self._caller().request
        self._accounts.change_password(user_id, old_password, new_password, token=kept, request=request)

    def approve_user(self, user_id: str) -> User:
        """Let an account sign in that waits for it, was rejected or was closed; for administrators.

        Example:
            >>> client.approve_user(user.user_id).active
            True
        """
        return self._accounts.approve_user(arguments.identifier(user_id), request=self._caller().request)

    def reject_user(self, user_id: str) -> User:
        """Turn a waiting registration down; for administrators.

        Example:
            >>> client.reject_user(waiting.user_id).role
            'guest'

        Raises:
            BadRequestError: the account does not wait for approval.
        """
        return self._accounts.reject_user(arguments.identifier(user_id), request=self._caller().request)

    def deactivate_user(self, user_id: str) -> User:
        """Close an account until `approve_user`: its sessions end, its keys are refused; for administrators.

        Example:
            >>> client.deactivate_user(user.user_id).active
            False
        """
        return self._accounts.deactivate(arguments.identifier(user_id), request=self._caller().request)

    def get_user(self, user_id: str) -> User:
        """Return an account, decrypted, also a softly deleted one.

        Example:
            >>> client.get_user(user.user_id).email == email
            True

        Raises:
            UnknownUserError, ErasedSubjectError: there is none, or none any more.
            PermissionDeniedError: it is another one's.
        """
        return self._accounts.get_user(arguments.identifier(user_id), request=self._caller().request)

    def list_users(
        self,
        *,
        role: Role | None = None,
        tier: TierName | None = None,
        active: bool | None = None,
        deleted: bool | None = False,
        limit: int = 100,
        after: str | None = None,
    ) -> list[User]:
        """Return accounts, decrypted, in the order of their ids; for administrators.

        Args:
            role: only accounts with this role.
            tier: only accounts of this tier.
            active: only those that may, or may not, sign in.
            deleted: False leaves the softly deleted out, True returns them alone, None both.
            limit: at most this many, up to 1000.
            after: the last user id of the page before.

        Example:
            >>> user.user_id in {each.user_id for each in client.list_users(role="registered", limit=1000)}
            True
        """
        return self._accounts.list_users(
            role=None if role is None else arguments.choice(role, ROLES, "role"),
            tier=None if tier is None else arguments.choice(tier, TIERS, "tier"),
            active=None if active is None else arguments.flag(active, "active"),
            deleted=None if deleted is None else arguments.flag(deleted, "deleted"),
            limit=arguments.count(limit, "limit", least=1, most=1000),
            after=None if after is None else arguments.identifier(after, "after"),
            request=self._caller().request,
        )

    def update_user(self, user_id: str, **changes: Unpack[UserChanges]) -> User:
        """Change username, e-mail, names or preferences of an account (the right to rectification).

        Args:
            user_id: whose.
            changes: any of `username`, `email`, `first_name`, `last_name` (None removes a name) and `preferences` (a
                mapping that JSON can hold, None for none).

        Example:
            >>> client.update_user(user.user_id, last_name="Lovelace").last_name
            'Lovelace'

        Raises:
            DuplicateAccountError: the username or the address is taken.
            BadRequestError: there is no such field, or a value is not what it should be.
        """
        arguments.identifier(user_id)
        for name, value in changes.items():
            if name not in UserChanges.__annotations__:
                raise BadRequestError(
                    "an account has no such field",
                    where="update_user",
                    hint=f"Fields: {', '.join(UserChanges.__annotations__)}.",
                )
            if name != "preferences":
                arguments.optional_text(value, name, least=0, most=2000)
        return self._accounts.update_user(user_id, **changes, request=self._caller().request)

    def set_role(self, user_id: str, role: Role) -> User:
        """Give an account another role; for administrators, and for trusted code to make the first one.

        Example:
            >>> client.set_role(user.user_id, "trader").role
            'trader'
        """
        arguments.identifier(user_id)
        wanted = arguments.choice(role, ROLES, "role")
        return self._accounts.set_role(user_id, wanted, request=self._caller().request)

    def upgrade_tier(self, user_id: str, tier: TierName) -> User:
        """Move an account to another tier, up or down; for administrators.  Its API keys grant the new one at once.

        Example:
            >>> client.upgrade_tier(user.user_id, "professional").tier
            'professional'
        """
        arguments.identifier(user_id)
        wanted = arguments.choice(tier, TIERS, "tier")
        return self._accounts.upgrade_tier(user_id, wanted, request=self._caller().request)

    # -- keys and quotas --------------------------------------------------------------------------------------

    def get_api_keys(self, user_id: str) -> ApiKeys:
        """Return an account's keys: its providers' in clear with their quotas, of its own the display prefix.

        Example:
            >>> _ = client.save_api_keys(user.user_id, {"finnhub": "a key of theirs"}, data_sharing_consent=True)
            >>> keys = client.get_api_keys(user.user_id)
            >>> keys["provider_keys"]["finnhub"]["api_key"], keys["data_sharing_consent"], keys["hfthot_api_key"]
            ('a key of theirs', True, None)
        """
        return self._accounts.get_api_keys(arguments.identifier(user_id), request=self._caller().request)

    def save_api_keys(
        self,
        user_id: str,
        provider_keys: Mapping[str, str | Mapping[str, Any] | None],
        data_sharing_consent: bool | None = None,  # noqa: FBT001 - the product's signature
    ) -> ApiKeys:
        """Store keys of data providers, encrypted, and the consent to share data; return what `get_api_keys` does.

        Args:
            user_id: whose keys.
            provider_keys: by provider the key, or `{"api_key": ..., "queries_limit": ...}` for a plan of its own, or
                None to remove it.  Providers that are not named keep their keys.  One that is not on the list may
                have any name of a letter and up to 39 letters, digits and `_`; nobody but the person reads it.
            data_sharing_consent: None leaves it as it is.

        Example:
            >>> keys = client.save_api_keys(user.user_id, {"kraken": {"api_key": "secret", "queries_limit": 10}})
            >>> keys["provider_keys"]["kraken"]["queries_remaining"]
            10

        Raises:
            BadRequestError: a provider's name cannot be one, a key is empty or too long, or there are 20 providers
                outside of the list.
        """
        arguments.identifier(user_id)
        given = arguments.provider_secrets(provider_keys)
        consent = None if data_sharing_consent is None else arguments.flag(data_sharing_consent, "data_sharing_consent")
        return self._accounts.save_api_keys(user_id, given, consent, request=self._caller().request)

    def generate_hfthot_api_key(self, user_id: str) -> ApiKey:
        """Make a further API key of the account; its `key` is given out here alone.

        Example:
            >>> made = client.generate_hfthot_api_key(user.user_id)
            >>> made.key.get_secret_value()[:9], made.prefix[:9]
            ('hft_free_', 'hft_free_')
            >>> with LakehouseClient(folder, api_key=made.key) as theirs:
            ...     theirs.get_user(user.user_id).username == username
            True
        """
        user_id = arguments.identifier(user_id)
        return self._accounts.generate_hfthot_api_key(user_id, request=self._caller().request)

    def rotate_api_key(self, user_id: str, key_id: str | None = None) -> ApiKey:
        """Replace a valid key (the newest unless named): the old one is refused from this moment on.

        Example:
            >>> old = client.generate_hfthot_api_key(user.user_id)
            >>> client.rotate_api_key(user.user_id, old.key_id).key == old.key
            False
        """
        arguments.identifier(user_id)
        which = None if key_id is None else arguments.identifier(key_id, "key_id")
        return self._accounts.rotate_api_key(user_id, which, request=self._caller().request)

    def revoke_api_key(self, user_id: str, key_id: str) -> None:
        """Refuse a key from this moment on.

        Example:
            >>> made = client.generate_hfthot_api_key(user.user_id)
            >>> client.revoke_api_key(user.user_id, made.key_id)
            >>> client.list_api_keys(user.user_id)[0].revoked_at is None
            False
        """
        arguments.identifier(user_id)
        which = arguments.identifier(key_id, "key_id")
        self._accounts.revoke_api_key(user_id, which, request=self._caller().request)

    def list_api_keys(self, user_id: str) -> list[ApiKey]:
        """Return all keys that were issued to an account, the newest first; never the keys themselves.

        Example:
            >>> client.list_api_keys(user.user_id)
            []
        """
        return self._accounts.list_api_keys(arguments.identifier(user_id), request=self._caller().request)

    def verify_api_key(self, key: str | Secret) -> ApiKey:
        """Return whose key it is, with the account's role and tier now: one indexed read.

        Example:
            >>> made = client.generate_hfthot_api_key(user.user_id)
            >>> client.verify_api_key(made.key).tier
            'free'

        Raises:
            InvalidTokenError: it was never issued, or was altered.
            RevokedTokenError: it was revoked or replaced.
            InactiveAccountError: the account is closed or deleted.
        """
        caller = self._caller()
        # A caller's own request was counted just now; trusted code asks because somebody makes one.
        clear, request = _clear(key, "key"), caller.request
        found = self._accounts.verify_api_key(clear, request=request, counted=caller.principal.user_id is None)
        self._require_own(caller, Action.API_KEY_VERIFY, found.user_id, "API key")
        return found

    def update_query_count(self, user_id: str, provider: str, increment: int = 1) -> QueryStats:
        """Count queries to a data provider, durably, and return what is left.

        Example:
            >>> client.update_query_count(user.user_id, "finnhub", 3).queries_done
            3

        Raises:
            QuotaExceededError: fewer are left in the window; nothing was counted.  `resets_at` says when it ends.
            BadRequestError: the provider is not known.
        """
        arguments.identifier(user_id)
        known = arguments.name_of_provider(provider)
        uses = arguments.count(increment, "increment", least=1, most=1_000_000_000)
        return self._accounts.update_query_count(user_id, known, uses, request=self._caller().request)

    def get_query_stats(self, user_id: str, provider: str) -> QueryStats:
        """Return the state of a data provider's quota.

        Example:
            >>> client.get_query_stats(user.user_id, "finnhub").queries_done
            0
        """
        arguments.identifier(user_id)
        known = arguments.name_of_provider(provider)
        return self._accounts.get_query_stats(user_id, known, request=self._caller().request)

    def usage(self, user_id: str) -> Usage:
        """Return what an account used today and what its tier allows.

        Example:
            >>> used = client.usage(user.user_id)
            >>> used.tier, used.requests_today, used.requests.count, used.websocket_streams
            ('free', 0, 60, 1)
        """
        return self._accounts.usage(arguments.identifier(user_id), request=self._caller().request)

    # -- tables and their versions ----------------------------------------------------------------------------

    def list_versions(self, table: str) -> list[Version] | list[SymbolVersion]:
        """Return the versions of a table that can be read, oldest first: `version`, `ts` and `operation`.

        `market/BTC-USDT` returns the versions in which rows of that symbol came, went or changed, of every market
        table; each entry's `table` says which one its version belongs to.  They are told from the log's file
        statistics; only where these leave it open, the symbol's own rows are compared.

        Example:
            >>> client.list_versions("market.bars")[-1]["operation"]
            'APPEND'
            >>> {each["table"] for each in client.list_versions("market/ALPHA-USDT")} >= {"market.bars"}
            True

        Raises:
            UnknownTableError: there is no such table; the message suggests the nearest.
            PermissionDeniedError, TierForbiddenError: it is not the caller's to read.
        """
        name = arguments.text(table, "table", most=200)
        caller = self._caller()
        if name.startswith(_SYMBOL):
            symbol = arguments.name_of_symbol(name.removeprefix(_SYMBOL), "table")
            caller.table("market.bars", Action.TABLE_VERSIONS)
            touched = versions_of_symbol(self._lake, symbol)
            # A symbol that the lake does not have is whatever the caller typed, and is kept nowhere.
            caller.record_read(Action.TABLE_VERSIONS, name if touched else _SYMBOL.rstrip("/"))
            return touched
        return [
            Version(version=commit.version, ts=commit.timestamp, operation=commit.operation)
            for commit in caller.versions(name)
        ]

    def read_version(self, table: str, version: int) -> Rows:
        """Return a table as it was in a version: a `polars.LazyFrame` that has a length.

        Rows of the user tables are read and decrypted before the call returns: all for administrators and trusted
        code, one's own for everybody else; fields of an erased subject are null, in old versions too.  Of all other
        tables nothing is read before `collect`.

        Example:
            >>> client.read_version("market.bars", 1).select("symbol", "close").head(2).collect().height
            2
            >>> people = client.read_version("users", client.list_versions("users")[-1]["version"]).collect()
            >>> username in people["username"]
            True

        Raises:
            VersionUnavailableError: it cannot be read (any more); the message names the readable range.
            UnknownTableError: there is no such table.
            PermissionDeniedError, TierForbiddenError: it is not the caller's to read.
            DecryptionError: somebody altered the stored rows.
        """
        name = arguments.text(table, "table", most=200)
        number = arguments.count(version, "version")
        return Rows.of(self._caller().read(name, version=number))

    def read_at_timestamp(self, table: str, ts: datetime | str) -> Rows:
        """Return a table as it was at a time; otherwise as `read_version`.

        Args:
            table: its name.
            ts: a datetime or an ISO 8601 text; without a zone it is in UTC.

        Example:
            >>> from datetime import UTC, datetime
            >>> "close" in client.read_at_timestamp("market.bars", datetime.now(UTC)).collect_schema().names()
            True

        Raises:
            BadRequestError: it is not a time.
            VersionUnavailableError: it lies before the oldest readable version.
        """
        name = arguments.text(table, "table", most=200)
        at = arguments.moment(ts, "ts", naive=True)
        if at is None:
            raise BadRequestError("it is missing", where="argument 'ts'", hint="Give a datetime with a time zone.")
        return Rows.of(self._caller().read(name, as_of=at))

    def market(self, symbol: str, venue: str | None = None) -> Market:
        """Return what the lake has of a symbol: `.ohlcv(interval)`, `.trades()`, `.closes()`.

        Nothing is read before `.collect()`.  `.tail(n)` reads from the newest partition backwards and stops when it
        has enough.  With an API key rows older than the tier's history are left out.

        Args:
            symbol: canonical, such as `BTC-USDT`.
            venue: where it is traded; needed if rows come from several.

        Example:
            >>> bars = client.market("ALPHA-USDT").ohlcv(interval="5m").tail(1000).collect()
            >>> bars["ts"].is_sorted()
            True

        Raises:
            BadRequestError: it cannot be a symbol, or a venue.
        """

        def opened(name: str) -> datetime | None:
            caller = self._caller()
            caller.table(name)
            caller.record_read(Action.TABLE_READ, name)
            return caller.earliest

        try:
            name = arguments.name_of_symbol(symbol)
        except BadRequestError as error:
            if (meant := self._in_other_letters(symbol)) is None:
                raise
            raise BadRequestError(error.what, where=error.where, hint=f"Did you mean {meant!r}?") from None
        return Market(self._lake, name, arguments.name_of_venue(venue), opened)

    def _in_other_letters(self, symbol: object) -> str | None:
        """Return the symbol that the lake has and the caller wrote otherwise (`btc/usdt`), where they may read it."""
        from hfthot_platform.core.errors import same_symbol
        from hfthot_platform.interfaces.client.market import SYMBOL_TABLES, known_symbols

        if not isinstance(symbol, str):
            return None
        try:
            caller = self._caller()
            for name in SYMBOL_TABLES:
                caller.table(name)
            return same_symbol(symbol, known_symbols(self._lake))
        except HfthotError:
            return None

    def sql(
        self,
        query: str,
        params: Mapping[str, object] | Sequence[object] | None = None,
        *,
        format: Literal["arrow", "polars", "json", "csv", "parquet"] = "polars",  # noqa: A002 - the product's own word
        limits: QueryLimits | None = None,
        versions: Mapping[str, int] | None = None,
        as_of: datetime | None = None,
    ) -> QueryResult:
        """Answer one SELECT over the tables that the caller may read, in a process of its own.

        Each statement of an account counts against its tier's quota, durably.

        Args:
            query: DuckDB's dialect; `VERSION AS OF 5` and `TIMESTAMP AS OF '2026-01-15 14:00'` follow a table's name.
            params: values of `$name` or `?`; never put values into the text.
            format: of `data` in the result.
            limits: narrower than the usual ones.
            versions: versions to read, by table.
            as_of: reads every other table as it was at this time.

        Example:
            >>> question = "SELECT count(*) AS bars FROM market.bars WHERE symbol = $symbol AND interval = '1h'"
            >>> client.sql(question, {"symbol": "ALPHA-USDT"}).data["bars"][0]
            48

        Raises:
            SqlError: see `SqlGateway.query`.
            QuotaExceededError: the tier's statements are used up; `resets_at` says until when.
            TierForbiddenError: the tier has no SQL.
        """
        from hfthot_platform.services.sql.gateway import QueryLimits

        arguments.text(query, "query", most=100_000)
        if limits is not None and not isinstance(limits, QueryLimits):
            raise BadRequestError(
                f"it is a {type(limits).__name__}, not a QueryLimits", where="argument 'limits'", hint="Omit it."
            )
        chosen = arguments.versions_by_table(versions)
        at = arguments.moment(as_of, "as_of")
        return self._caller().query(query, params, format=format, limits=limits, versions=chosen, as_of=at)

    # -- the person's rights ------------------------------------------------------------------------------------

    def export_user_data(self, user_id: str, format: ExportFormat = "json") -> UserExport:  # noqa: A002 - the product's word
        """Write everything that is held about a person into one file; return its `path`, and what is in it by name.

        The file is readable by the platform's user alone and is deleted after the setting `export_retention_days`.

        Args:
            user_id: whose data.
            format: `json` (one document), `csv` or `parquet` (a zip archive with a file per table), or `html` (a page
                for people to read and print).

        Example:
            >>> exported = client.export_user_data(user.user_id)
            >>> exported.path.name, exported["user"]["username"] == username
            ('export.json', True)

        Raises:
            UnknownUserError, ErasedSubjectError: there is no such account, or none any more.
            PermissionDeniedError: it is another one's.
        """
        from hfthot_platform.services.privacy.export import FORMATS, export_user_data, read_export

        arguments.identifier(user_id)
        form = arguments.choice(format, FORMATS, "format")
        request = self._caller().request
        accounts = self._accounts
        place = export_user_data(accounts, self._lake, user_id, form, request=request)
        request_id = str(place).split("/")[-2]
        return UserExport(place, lambda name: read_export(accounts, request_id, name))

    def delete_user_soft(self, user_id: str) -> User:
        """Delete an account so that it can be restored for the setting `soft_delete_days`; then it is erased by itself.

        Its sessions end, and sign-in and its keys are refused.

        Example:
            >>> client.delete_user_soft(user.user_id).erase_after > user.created_at
            True
        """
        return self._accounts.delete_user_soft(arguments.identifier(user_id), request=self._caller().request)

    def restore_user(self, user_id: str) -> User:
        """Take a soft deletion back; for administrators, since the person cannot sign in.

        Example:
            >>> _ = client.delete_user_soft(user.user_id)
            >>> client.restore_user(user.user_id).deleted_at is None
            True

        Raises:
            ErasedSubjectError: the time for it is over.
        """
        return self._accounts.restore_user(arguments.identifier(user_id), request=self._caller().request)

    def delete_user_permanent(self, user_id: str, keep_history: bool = True) -> ErasureCertificate:  # noqa: FBT001, FBT002
        """Erase a person for good, prove it, and return the signed certificate.

        The keys are destroyed first: from then on nobody can read anything of the person, in any version or copy.

        Args:
            user_id: whom.
            keep_history: True leaves every old version readable for everybody else, and the last (unreadable)
                ciphertext leaves the disk when the tables' time travel has passed.  False removes it before the call
                returns, and the old versions of the user tables with it; for administrators.

        Example:
            >>> certificate = client.delete_user_permanent(user.user_id)
            >>> certificate.verification["canaries_found"] == certificate.verification["canaries_planted"]
            True
            >>> client.get_user(user.user_id)
            Traceback (most recent call last):
            hfthot_platform.core.errors.ErasedSubjectError: user_id: the account was erased. ...

        Raises:
            UnknownUserError, ErasedSubjectError: there is no such account, or none any more.
            PermissionDeniedError: it is another one's.
            LegalHoldError: a hold keeps all or part of it; the rest is erased.
            ErasureUnverifiedError: something of the person was found; the message says where.
        """
        from hfthot_platform.services.privacy.erasure import delete_user_permanent

        arguments.identifier(user_id)
        keep = arguments.flag(keep_history, "keep_history")
        caller = self._caller()
        if not keep:
            caller.authorise(Action.PRIVACY_ERASE_HISTORY, AccountTarget(user_id))
        request = caller.request
        return delete_user_permanent(self._accounts, self._lake, user_id, keep, request=request)

    def resume_erasure(self, request_id: str) -> ErasureCertificate:
        """Go on with an erasure that failed, was interrupted or was held, and return its certificate.

        For administrators.  The request's id is in the error of `delete_user_permanent` and in
        `hfthot privacy erase --list`.

        Example:
            >>> certificate = client.delete_user_permanent(user.user_id)
            >>> client.resume_erasure(certificate.request_id) == certificate
            True

        Raises:
            PrivacyError: there is no such request.
            LegalHoldError: a hold still keeps a part.
            ErasureUnverifiedError: something that nobody accepted is still there, or its time is over.
        """
        from hfthot_platform.services.privacy.erasure import run_erasure

        arguments.identifier(request_id, "request_id")
        self._caller().authorise(Action.PRIVACY_ERASURE_RESUME)
        return run_erasure(self._accounts, self._lake, request_id)

    def erasure_hits(self, request_id: str, *, reveal: bool = False) -> list[ErasureHit]:
        """Return what the last proof of an erasure found, by place and form, and what of it was accepted.

        For administrators.

        Args:
            request_id: the request.
            reveal: also true file names and what is around each value, which may be personal data.

        Example:
            >>> certificate = client.delete_user_permanent(user.user_id)
            >>> client.erasure_hits(certificate.request_id)
            []

        Raises:
            PrivacyError: there is no such request.
        """
        from hfthot_platform.services.privacy.hits import erasure_hits

        arguments.identifier(request_id, "request_id")
        shown = arguments.flag(reveal, "reveal")
        caller = self._caller()
        caller.authorise(Action.PRIVACY_ERASURE_HITS)
        return erasure_hits(self._accounts, request_id, reveal=shown, request=caller.request)

    def accept_erasure_hit(self, request_id: str, hit: str, reason: str, *, everywhere: bool = False) -> None:
        """Accept that a hit is nothing of the erased person's; then `resume_erasure`.  For administrators.

        Args:
            request_id: the failed request.
            hit: its name, from `erasure_hits`.
            reason: why; the certificate carries it, so it must not name the person.
            everywhere: accept the value wherever it is: for a name that is an ordinary word.

        Example:
            >>> certificate = client.delete_user_permanent(user.user_id)
            >>> client.accept_erasure_hit(certificate.request_id, "0a1b2c3d4e5f", "a ship of this name")
            Traceback (most recent call last):
            hfthot_platform.core.errors.PrivacyError: erasure ...: the request is done, ...

        Raises:
            BadRequestError: there is no such hit, or the reason is empty or too long.
            PrivacyError: there is no such request, or it did not fail.
        """
        from hfthot_platform.services.privacy.hits import accept_erasure_hit

        arguments.identifier(request_id, "request_id")
        arguments.text(hit, "hit", most=100)
        arguments.text(reason, "reason", most=1000)
        wide = arguments.flag(everywhere, "everywhere")
        caller = self._caller()
        caller.authorise(Action.PRIVACY_ERASURE_ACCEPT)
        request = caller.request
        accept_erasure_hit(self._accounts, request_id, hit, reason, everywhere=wide, request=request)

    def verify_certificate(
        self, certificate: ErasureCertificate | str | None = None, *, path: Path | str | None = None
    ) -> ErasureCertificate:
        """Check that a certificate of erasure was signed by this installation and not altered since; return it.

        Args:
            certificate: one, or its text.  A text is never taken for the name of a file.
            path: its file instead (below the setting `certificates`, named by the request's id).

        Example:
            >>> certificate = client.delete_user_permanent(user.user_id)
            >>> client.verify_certificate(certificate.text).request_id == certificate.request_id
            True

        Raises:
            BadRequestError: neither is given, or both.
            CertificateError: it was altered, is not a certificate, or was signed by another installation.
        """
        from hfthot_platform.services.privacy.certificate import ErasureCertificate, verify
        from hfthot_platform.services.privacy.erasure import public_key

        if (certificate is None) == (path is None):
            raise BadRequestError(
                "give either the certificate's text or its path",
                where="verify_certificate",
                hint="verify_certificate(text), or verify_certificate(path=...).",
            )
        given: str | Path
        if path is not None:
            given = Path(arguments.path_text(path))
        else:
            text = certificate.text if isinstance(certificate, ErasureCertificate) else certificate
            given = arguments.text(text, "certificate", most=1_000_000)
        self._caller()
        return verify(given, public_key(self._accounts))

    def get_audit_log(
        self,
        user_id: str | None = None,
        start_date: date | datetime | str | None = None,
        end_date: date | datetime | str | None = None,
        action_type: str | None = None,
    ) -> AuditLog:
        """Return what happened to an account, oldest first, decrypted: a frame that iterates over its entries.

        Args:
            user_id: whose; None for all entries, which is for administrators.
            start_date: first time, or first day in UTC, inclusive; as date, datetime or ISO 8601 text, in UTC where
                it has no zone.
            end_date: last time, exclusive, or last day in UTC, inclusive.
            action_type: an action such as `session.login`, all of a kind such as `session`, or a word for some:
                `login`, `logout`, `register`, `update_api_keys`, `query_api`, `upgrade_tier`, `export_data`,
                `delete_data`.

        Example:
            >>> client.get_audit_log(user.user_id, action_type="user")["action"][0]
            'user.register'

        Raises:
            UnknownUserError, ErasedSubjectError: there is no such account, or none any more.
            PermissionDeniedError: it is another one's.
        """
        whose = None if user_id is None else arguments.identifier(user_id)
        kind = None if action_type is None else arguments.text(action_type, "action_type", most=100)
        first = _bound(start_date, "start_date", days=0)
        end = _bound(end_date, "end_date", days=1)
        actions = None if kind is None else _ACTIONS.get(kind, (kind,))
        return AuditLog.of(self._caller().audit_log(whose, actions=actions, start=first, end=end))

    # -- life -------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Publish what was changed to the user tables of the lake.  Reads of them do so by themselves.

        Example:
            >>> client.flush()
            >>> client.list_versions("users")[-1]["operation"]
            'APPLY'
        """
        self._caller().publish_accounts()

    def close(self) -> None:
        """Write what is counted in memory, and close the operational store.

        Example:
            >>> client.close()
        """
        if self._owned:
            self._installation.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(
            "a LakehouseClient has keys and connections and cannot be pickled; open one in the other process"
        )

    def __repr__(self) -> str:
        return f"LakehouseClient({self._installation.storage.root!r}, {self._as_whom()})"

    @property
    def installation(self) -> Installation:
        """Return the installation behind the client: its lake, accounts and settings, for code of the platform.

        Example:
            >>> client.installation.lake.table("market.bars").version() is not None
            True
        """
        return self._installation

    # -- internals ----------------------------------------------------------------------------------------------

    @property
    def _lake(self) -> Lakehouse:
        """The tables themselves."""
        return self._installation.lake

    @property
    def _accounts(self) -> Accounts:
        return self._installation.accounts

    def _caller(self) -> Caller:
        """Return who calls, verified now, once the request is counted."""
        caller = self._identified()
        caller.count_request()
        return caller

    def _identified(self) -> Caller:
        ip, user_agent = self._network
        return Caller.verified(
            self._installation, api_key=self._key, session_token=self._token, ip=ip, user_agent=user_agent
        )

    def _require_own(self, caller: Caller, action: Action, user_id: str, what: str) -> None:
        """Tell an account of another one's token or key what it would be told of one that nobody issued."""
        try:
            authorise(caller.principal, action, AccountTarget(user_id))
        except PermissionDeniedError:
            raise InvalidTokenError(
                f"the {what} belongs to another account", where=what, hint="Use your own one."
            ) from None

    def _as_whom(self) -> str:
        if self._token is not None:
            return "with a session"
        return "trusted" if self._key is None else "with an API key"


def settings_of_folder(base_path: str | Path) -> Settings:
    """Return the settings of a data folder, or of the folder around a lake; the rest as everywhere.

    Raises:
        BadRequestError: it is not a path, or it is a URL.
    """
    from hfthot_platform.core.settings import load_settings

    text = arguments.path_text(base_path, "base_path")
    if len(urlparse(text).scheme) > 1:
        raise BadRequestError(
            "it is a URL, but the accounts need a local folder",
            where="argument 'base_path'",
            hint="Use LakehouseClient.from_settings(load_settings(lake_root=...)).",
        )
    try:
        base = Path(text).expanduser().absolute()
    except RuntimeError:
        raise BadRequestError(
            "its home folder is not known",
            where="argument 'base_path'",
            hint="Write the full path.",
        ) from None
    lake = base / "lake"
    tables = (path for pattern in ("*/_delta_log", "*/*/_delta_log") for path in base.glob(pattern))
    if not lake.is_dir() and (base.name == "lake" or any(tables)):
        lake, base = base, base.parent
    # A landing or scratch folder that the settings name is the one that the installation's other processes use.
    named = load_settings().model_fields_set
    beside = {name: base / name for name in ("scratch", "landing") if name not in named}
    return load_settings(lake_root=str(lake), **beside)


def _bound(value: date | datetime | str | None, name: str, days: int) -> datetime | None:
    """Return a time, or midnight UTC of a day, that many days later."""
    if isinstance(value, str) and len(value) <= len("2026-01-01"):
        with contextlib.suppress(ValueError):
            value = date.fromisoformat(value)  # otherwise a time, or refused as one
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time(), UTC) + timedelta(days=days)
    return arguments.moment(value, name, naive=True)


def _clear(secret: str | Secret, name: str) -> str:
    """Return a token or key in clear, once it is text at all."""
    return arguments.text(secret.get_secret_value() if isinstance(secret, Secret) else secret, name, most=1000)
