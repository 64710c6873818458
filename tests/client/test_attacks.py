"""What an attacker tries: hostile text in every argument, forged tokens, replays, moved ciphertext, a stolen lake."""

from __future__ import annotations

import base64
import itertools
import shutil
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
import sqlalchemy as sa
from deltalake import write_deltalake

from hfthot_platform import LakehouseClient
from hfthot_platform.core.errors import (
    AuthenticationError,
    DecryptionError,
    ExpiredTokenError,
    HfthotError,
    InvalidTokenError,
    RevokedTokenError,
)
from hfthot_platform.core.settings import load_settings
from hfthot_platform.services.privacy.proof.scan import Folder, Needle, scan
from hfthot_platform.storage.operational import schema

from .calls import ARGUMENTS, MAKING, OF_POLARS, Scene, call, parameters, public
from .conftest import PASSWORD

HOSTILE = {
    "tautology": "x' OR '1'='1",
    "drop": 'x"; DROP TABLE users; --',
    "union": "' UNION SELECT password_hash FROM users --",
    "predicate": "true OR subject_id = subject_id",
    "nul": "a\x00b",
    "quotes": "'\"`''\"\"",
    "backslash": "\\'; --",
    "unicode": "\u202e\u0000\uff07 OR 1=1 \u2028",
    "surrogate": "\ud800",
    "parents": "../../../../etc/passwd",
    "absolute": "/etc/passwd",
    "encoded": "..%2f..%2fetc%2fpasswd",
    "wildcard": "%_*?[a-z]",
    "newlines": "a\r\nSet-Cookie: b",
    "format": "{0.__class__} %s %(x)s ${jndi:x}",
    "long": "A" * 50_000,
    "empty": "",
}
SYMBOLIC = {f"market/{name}": f"market/{text}" for name, text in HOSTILE.items()}


@pytest.fixture(scope="module")
def stage(tmp_path_factory, filled):
    """Return trusted code over a data folder with a bystander, and the folder."""
    root = tmp_path_factory.mktemp("attacked") / "data"
    shutil.copytree(filled, root / "lake")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MEMORY_KIB=8", "PASSES=1", "LANES=1"):
            patch.setenv(*f"HFTHOT_ARGON2_{name}".split("="))
        trusted = LakehouseClient(root, create=True)
        bystander = trusted.register("bystander", "bystander@example.org", PASSWORD, "By", "Stander")
        trusted.save_api_keys(bystander.user_id, {"finnhub": "theirs"})
        trusted.export_user_data(bystander.user_id)  # so that its folder is there before
        yield trusted, bystander, root
        trusted.close()


def state(trusted, bystander, root):
    """Return what no attack may change: the bystander, the market tables, the store's tables, where files are."""
    accounts, lake = trusted.installation.accounts, trusted.installation.lake
    store, subject_id = accounts.store, accounts.subject_of(bystander.user_id)
    with store.reading() as rx:
        tables = {
            name: {tuple(row) for row in rx.execute(sa.select(table).where(table.c.subject_id == subject_id))}
            for name, table in schema.metadata.tables.items()
            if "subject_id" in table.c and name != "change_log"
        }
        names = set(sa.inspect(rx.execute(sa.text("SELECT 1")).connection).get_table_names())
    market = {name: lake.table(name).version() for name in lake.contracts if "market." in name}
    places = {path.name for path in root.iterdir()} | {path.name for path in root.parent.iterdir()}
    return tables, names, market, places


def test_every_public_call_is_attacked():
    assert public() == set(ARGUMENTS) | OF_POLARS | MAKING
    for name, arguments in ARGUMENTS.items():
        if name != "update_user":
            assert set(parameters(name)) <= {*arguments(_NoScene())}, f"{name} has an argument that is not attacked"


class _NoScene:
    def __getattr__(self, name):
        return _NoScene()


@pytest.mark.soak
@pytest.mark.parametrize("name", sorted(set(ARGUMENTS) - {"close", "flush"}))
def test_hostile_text_in_any_argument_changes_nothing_else(stage, name):
    trusted, bystander, root = stage
    scene = Scene(trusted)
    before = state(trusted, bystander, root)
    texts = list(HOSTILE.values())
    if name == "list_versions":
        texts += SYMBOLIC.values()
    if name == "sql":  # the gateway has an attack suite of its own
        texts = texts[:6:2]
    if name == "get_audit_log":  # each publishes what the one before wrote
        texts = texts[::3]
    good = ARGUMENTS[name](scene)

    for argument, text in itertools.product(good, texts):
        hostile = {**good, argument: text}
        if name == "register":  # the other arguments must not be taken already
            hostile = {**ARGUMENTS[name](scene), argument: text}
        try:
            outcome = call(trusted, name, hostile)
        except HfthotError:
            continue
        assert taken_as_a_value(name, argument, text, outcome), f"{name}({argument}={text[:40]!r}) gave {outcome!r}"

    assert state(trusted, bystander, root) == before


def taken_as_a_value(name, argument, text, outcome) -> bool:
    """Return whether a call that went through had every right to: it kept or looked for the text as it is."""
    if name in {"register", "update_user"}:
        import unicodedata

        kept = getattr(outcome, argument, None)
        return argument == "password" or (kept or "") == unicodedata.normalize("NFKC", text).strip()
    if name == "change_password":
        return argument == "new_password"
    if name == "for_request" and argument in {"api_key", "session_token"}:
        try:
            outcome.flush()
        except HfthotError:
            return True
        return False
    if name == "for_request":
        return outcome.verify_token(Scene(outcome).token) is not None
    if name == "get_audit_log":
        return argument == "action_type" and outcome.is_empty()
    return False


@pytest.mark.parametrize("attack", sorted(HOSTILE))
def test_hostile_text_inside_of_mappings_is_a_value_or_refused(stage, attack):
    trusted, bystander, root = stage
    text = HOSTILE[attack]
    scene = Scene(trusted)
    before = state(trusted, bystander, root)

    def attempt(work):
        try:
            return work()
        except HfthotError:
            return None

    saved = attempt(lambda: trusted.save_api_keys(scene.user_id, {"finnhub": text}))
    assert saved is None or saved["provider_keys"]["finnhub"]["api_key"] == text
    assert attempt(lambda: trusted.save_api_keys(scene.user_id, {text: "key"})) is None
    assert attempt(lambda: trusted.save_api_keys(scene.user_id, {"finnhub": {text: text}})) is None
    assert attempt(lambda: trusted.update_user(scene.user_id, **{text: "x"})) is None
    changed = attempt(lambda: trusted.update_user(scene.user_id, preferences={"a": text, text: 1}))
    assert changed is None or changed.preferences["a"] == text
    here = (
        trusted.for_request(ip=text[:900], user_agent=text[:900])
        if "\x00" not in text and attack != "surrogate"
        else None
    )
    if here is not None and attack != "unicode":
        assert here.login(scene.username, PASSWORD).user_id == scene.user_id
    assert state(trusted, bystander, root) == before
    if attack not in {"tautology", "drop", "unicode", "quotes"}:
        return  # the gateway has an attack suite of its own
    answer = attempt(lambda: trusted.sql("SELECT $text AS text", {"text": text}).data["text"][0])
    assert answer in {None, text}


@pytest.fixture(scope="module")
def secrets(stage):
    """Return an account with a token and a key, in clear."""
    scene = Scene(stage[0])
    return scene, scene.token.get_secret_value(), scene.key.key.get_secret_value()


class TestTokens:
    def test_every_altered_character_is_noticed(self, stage, secrets):
        trusted, *_ = stage
        _, token, key = secrets
        for clear, verify in ((token, trusted.verify_token), (key, trusted.verify_api_key)):
            for place in range(len(clear)):
                forged = clear[:place] + ("A" if clear[place] != "A" else "B") + clear[place + 1 :]
                with pytest.raises(InvalidTokenError):
                    verify(forged)
            for forged in (clear[:-1], clear + "A", clear.swapcase(), clear + "\n", " " + clear, clear * 2):
                with pytest.raises(HfthotError):
                    verify(forged)
            assert verify(clear)

    def test_one_kind_is_not_taken_for_the_other(self, stage, secrets):
        trusted, *_ = stage
        _, token, key = secrets
        for work in (lambda: trusted.verify_token(key), lambda: trusted.verify_api_key(token)):
            with pytest.raises(InvalidTokenError):
                work()

    def test_what_is_stored_opens_nothing(self, stage, secrets):
        trusted, *_ = stage
        with trusted.installation.accounts.store.reading() as rx:
            stored = [
                bytes(value)
                for column in (schema.sessions.c.token_hash, schema.api_keys.c.key_hash)
                for value in rx.execute(sa.select(column)).scalars()
            ]
            ids = [*rx.execute(sa.select(schema.sessions.c.session_id)).scalars()]
            ids += rx.execute(sa.select(schema.api_keys.c.key_id)).scalars()
        assert stored
        for stored_text in (
            *(s.hex() for s in stored),
            *(base64.urlsafe_b64encode(s).decode().rstrip("=") for s in stored),
            *ids,
        ):
            for forged in (stored_text, f"hft_ent_{stored_text}"):
                for verify in (trusted.verify_token, trusted.verify_api_key):
                    with pytest.raises(InvalidTokenError):
                        verify(forged)

    def test_a_token_is_not_replayed_after_its_end(self, stage):
        trusted, *_ = stage
        scene = Scene(trusted)
        ended, kept = scene.token, scene.token
        trusted.logout(ended)
        with pytest.raises(RevokedTokenError):
            trusted.verify_token(ended)
        assert trusted.verify_token(kept)
        trusted.change_password(scene.user_id, PASSWORD, "another good password")
        with pytest.raises(RevokedTokenError):
            trusted.verify_token(kept)

    def test_a_token_of_yesterday_is_over(self, tmp_path):
        now = [datetime(2024, 3, 10, 12, tzinfo=UTC)]
        settings = load_settings(
            lake_root=str(tmp_path / "lake"), accounts=tmp_path / "accounts", key_file=tmp_path / "keys" / "kek.json"
        )
        with LakehouseClient.from_settings(settings, clock=lambda: now[0]) as client:
            client.register("ada", "ada@example.org", PASSWORD)
            token = client.login("ada", PASSWORD).token
            now[0] += timedelta(hours=24)

            with pytest.raises(ExpiredTokenError):
                client.verify_token(token)

    def test_a_token_of_another_installation_is_worth_nothing(self, stage, tmp_path):
        trusted, *_ = stage
        with LakehouseClient(tmp_path / "other", create=True) as other:
            scene = Scene(other)
            for work in (lambda: trusted.verify_token(scene.token), lambda: trusted.verify_api_key(scene.key.key)):
                with pytest.raises(AuthenticationError):
                    work()


@pytest.fixture(scope="module")
def two_accounts(tmp_path_factory):
    """Return a data folder with two accounts; copy it before changing it."""
    folder = tmp_path_factory.mktemp("two") / "data"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MEMORY_KIB=8", "PASSES=1", "LANES=1"):
            patch.setenv(*f"HFTHOT_ARGON2_{name}".split("="))
        with LakehouseClient(folder, create=True) as client:
            for name in ("ada", "bob"):
                user = client.register(name, f"{name}@example.org", PASSWORD, "First", "Last")
                client.save_api_keys(
                    user.user_id,
                    {"finnhub": f"key of {name}", "kraken": {"api_key": f"2 of {name}", "queries_limit": 3}},
                )
                client.for_request(ip="192.0.2.1", user_agent="curl").login(name, PASSWORD)
            client.flush()
    return folder


class TestMovedCiphertext:
    @pytest.fixture
    def two(self, two_accounts, tmp_path):
        """Return a client with two accounts whose rows somebody with access to the lake then changes."""
        shutil.copytree(two_accounts, tmp_path / "data")
        with LakehouseClient(tmp_path / "data") as client:
            yield client

    def tampered(self, client, table, change):
        """Write rows back changed, as somebody with the lake's folder would, and read them."""
        target = client.installation.lake.table(table)
        rows = target.scan().sort(target.contract.sort_by).collect()
        write_deltalake(target.uri, change(rows), mode="overwrite")
        return client.read_version(table, target.version())

    def test_rows_that_nobody_changed_read(self, two):
        assert self.tampered(two, "users", lambda rows: rows).collect()["username"].sort().to_list() == ["ada", "bob"]

    @pytest.mark.parametrize("column", ["username", "email", "first_name", "last_name"])
    def test_to_another_subject(self, two, column):
        with pytest.raises(DecryptionError, match=f"users.{column}"):
            self.tampered(two, "users", lambda rows: rows.with_columns(pl.col(column).reverse()))

    def test_the_subject_of_a_row(self, two):
        with pytest.raises(DecryptionError):
            self.tampered(two, "users", lambda rows: rows.with_columns(pl.col("subject_id").reverse()))

    def test_to_another_column(self, two):
        with pytest.raises(DecryptionError, match=r"users\.first_name"):
            self.tampered(two, "users", lambda rows: rows.with_columns(first_name="last_name"))

    def test_to_another_table(self, two):
        users = two.installation.lake.table("users").scan().collect()
        envelopes = dict(zip(users["subject_id"], users["email"], strict=True))
        with pytest.raises(DecryptionError, match=r"sessions\.ip"):
            self.tampered(
                two, "sessions", lambda rows: rows.with_columns(ip=pl.col("subject_id").replace_strict(envelopes))
            )

    @pytest.mark.parametrize("place", [3, 10, 30, -1])
    def test_altered(self, two, place):
        def altered(text: str) -> str:
            other = "A" if text[place] != "A" else "B"
            return text[:place] + other + (text[place + 1 :] if place != -1 else "")

        with pytest.raises(DecryptionError):
            self.tampered(
                two,
                "users",
                lambda rows: rows.with_columns(pl.col("email").map_elements(altered, return_dtype=pl.String)),
            )

    def test_clear_text_is_not_taken_for_decrypted(self, two):
        with pytest.raises(DecryptionError):
            self.tampered(two, "users", lambda rows: rows.with_columns(email=pl.lit("mallory@example.org")))


def test_a_stolen_lake_reveals_no_personal_field(client, folder, tmp_path):
    values = {
        "username": "Zephyrine.Quux", "email": "zephyrine.quux@mail.example.org", "first_name": "Zephyrine",
        "last_name": "Quuxington", "ip": "203.0.113.77", "user_agent": "Zephyr/19.4 (QuuxOS)",
        "theme": "quux-dark-mode", "secret": "finnhub-zephyrine-0123456789", "password": "zephyrine pass phrase",
        "renamed": "Zephyrine.Renamed",
    }  # fmt: skip
    here = client.for_request(ip=values["ip"], user_agent=values["user_agent"])
    user = here.register(
        values["username"], values["email"], values["password"], values["first_name"], values["last_name"]
    )
    session = here.login(values["email"], values["password"])
    key = here.generate_hfthot_api_key(user.user_id)
    here.save_api_keys(user.user_id, {"finnhub": values["secret"]}, data_sharing_consent=True)
    here.update_user(user.user_id, username=values["renamed"], preferences={"theme": values["theme"]})
    here.update_query_count(user.user_id, "finnhub")
    for wrong in ("wrong password", values["password"] + "x"):
        with pytest.raises(AuthenticationError):
            here.login(values["email"], wrong)
    client.read_version("users", client.list_versions("users")[-1]["version"]).collect()
    here.logout(session.token)
    client.delete_user_soft(user.user_id)
    client.restore_user(user.user_id)
    client.sql("SELECT count(*) FROM users")
    client.flush()
    from hfthot_platform.storage.lakehouse import maintain

    maintain(client.installation.lake, "users")
    stolen = tmp_path / "stolen"
    shutil.copytree(folder / "lake", stolen)

    secrets = values | {
        "token": session.token.get_secret_value(), "key": key.key.get_secret_value(), "user_id": user.user_id,
    }  # fmt: skip
    report = scan([Needle(kind, value) for kind, value in secrets.items()], [Folder("lake", stolen)])

    assert report.findings == ()
    assert report.bytes > 10_000
    assert report.canaries > 0
    ciphertext = client.installation.lake.table("users").scan().collect()["email"][0]
    assert scan([Needle("envelope", ciphertext)], [Folder("lake", stolen)]).findings
