"""A database that is shut in opens nothing else for good, and DuckDB's errors are taken apart in one place."""

import duckdb
import pytest

from hfthot_platform.core import errors
from hfthot_platform.core.duckdb import (
    error_details,
    literal,
    lock_down,
    new_database,
    new_restricted_database,
    prepare,
    quoted,
    redacted_error,
    sql_error,
)

SECRET = "abracadabra"


@pytest.fixture
def outside(tmp_path):
    """A file that no database was allowed to read."""
    path = tmp_path / "secret.csv"
    path.write_text(f"word\n{SECRET}\n")
    return path


@pytest.fixture(params=["trusted", "restricted", "prepared"])
def database(request):
    """A database of each way of opening one, not yet locked down."""
    opened = {"trusted": new_database, "restricted": new_restricted_database, "prepared": duckdb.connect}[
        request.param
    ]()
    if request.param == "prepared":
        prepare(opened)
    yield opened
    opened.close()


def error_of(connection, sql):
    with pytest.raises(duckdb.Error) as refused:
        connection.execute(sql).fetchall()
    return refused.value


class TestShutIn:
    def test_no_other_file_can_be_read(self, database, outside):
        lock_down(database)
        assert error_details(error_of(database, f"FROM {literal(str(outside))}")).forbidden

    def test_a_file_that_was_named_can_be_read(self, database, outside):
        lock_down(database, [str(outside)])
        assert database.execute(f"FROM {literal(str(outside))}").fetchall() == [(SECRET,)]

    @pytest.mark.parametrize("sql", ["COPY (SELECT 1) TO '{path}'", "ATTACH '{path}'", "EXPORT DATABASE '{path}'"])
    def test_nothing_can_be_written(self, database, tmp_path, sql):
        lock_down(database)
        error_of(database, sql.format(path=tmp_path / "new"))
        assert not (tmp_path / "new").exists()

    @pytest.mark.parametrize(
        "setting",
        [
            "enable_external_access = true",
            "allowed_paths = ['/']",
            "lock_configuration = false",
            "python_enable_replacements = true",
            "autoload_known_extensions = true",
            "allow_community_extensions = true",
            "memory_limit = '1TB'",
            "temp_directory = '/tmp'",
        ],
    )
    def test_no_setting_can_be_changed(self, database, setting):
        lock_down(database)
        assert "configuration" in str(error_of(database, f"SET {setting}"))

    @pytest.mark.parametrize("sql", ["INSTALL httpfs", "LOAD httpfs"])
    def test_no_extension_comes_in(self, database, sql):
        lock_down(database)
        error_of(database, sql)

    def test_a_variable_of_the_caller_is_not_a_table(self, database):
        rows = database.sql("SELECT 1 AS a").to_arrow_table()
        lock_down(database)
        assert rows.num_rows == 1
        assert error_details(error_of(database, "FROM rows")).table == "rows"

    def test_times_are_utc(self, database):
        lock_down(database)
        assert database.execute("SELECT current_setting('TimeZone')").fetchall() == [("UTC",)]


def test_a_restricted_database_has_no_threads_and_no_room_on_the_disk():
    connection = new_restricted_database()
    names = ("threads", "temp_directory", "max_temp_directory_size")
    values = [connection.execute(f"SELECT current_setting('{name}')").fetchall()[0][0] for name in names]
    assert values == [1, "", "0 bytes"]


def test_a_database_of_ours_spills_only_where_it_is_told_to(tmp_path):
    def folder(connection):
        return connection.execute("SELECT current_setting('temp_directory')").fetchall()[0][0]

    assert folder(new_database()) == ""
    assert folder(new_database(spill=str(tmp_path))) == str(tmp_path)


def test_a_memory_that_is_not_written_as_one_is_refused():
    with pytest.raises(errors.SqlError, match="HFTHOT_DUCKDB_MEMORY like 4GB"):
        new_database(memory="plenty")


@pytest.mark.parametrize("name", ['a"b', "a b", "select", "é", "a.b"])
def test_a_quoted_name_is_that_name(name):
    assert duckdb.sql(f"SELECT 1 AS {quoted(name)}").columns == [name]


@pytest.mark.parametrize("text", ["it's", "''; DROP TABLE t; --", "é\n"])
def test_a_literal_is_that_text(text):
    assert duckdb.sql(f"SELECT {literal(text)}").fetchall() == [(text,)]


class TestWhatIsSaid:
    @pytest.fixture
    def database(self):
        connection = new_database()
        connection.execute("CREATE TABLE t (price DOUBLE)")
        yield connection
        connection.close()

    def test_a_missing_column_is_named_with_its_line_and_the_nearest_one(self, database):
        sql = "SELECT 1,\n  prize\nFROM t"
        error = sql_error(error_of(database, sql), sql, ["price"])
        assert str(error) == "SQL, line 2: unknown column 'prize'. Did you mean 'price'?"
        assert error.code == "UNKNOWN_COLUMN"

    def test_a_missing_table_is_named(self, database):
        assert error_details(error_of(database, "FROM nowhere")).table == "nowhere"

    def test_a_missing_function_is_named(self, database):
        assert error_details(error_of(database, "SELECT averag(1)")).function == "averag"

    def test_an_ambiguous_column_is_named_with_its_choices(self, database):
        said = error_details(error_of(database, "SELECT price FROM t AS a, t AS b"))
        assert said.ambiguous == "price"
        assert "a.price" in said.choices

    def test_the_line_is_left_out_where_there_is_only_one(self, database):
        sql = "SELEC 1"
        assert sql_error(error_of(database, sql), sql).where == "SQL"

    def test_an_untrusted_caller_sees_no_path(self, database, outside):
        error = error_of(database, f"SELECT CAST({literal(str(outside))} AS INT)")
        told = redacted_error(error, "", ())
        assert told.code == "SQL_INVALID"
        assert str(outside) not in str(told)
        assert str(outside) in str(sql_error(error, ""))

    def test_an_untrusted_caller_sees_that_something_is_not_allowed_and_not_what(self, database, outside):
        lock_down(database)
        sql = f"FROM {literal(str(outside))}"
        told = redacted_error(error_of(database, sql), sql, ())
        assert told.code == "SQL_REFUSED"
        assert str(outside) not in str(told)

    def test_an_untrusted_caller_sees_nothing_of_an_error_of_the_engine(self):
        told = redacted_error(RuntimeError("INTERNAL Error: /srv/lake/market at 0x7f"), "", ())
        assert told.code == "SQL_INVALID"
        assert "lake" not in str(told)

    def test_memory_that_does_not_suffice_is_told_apart(self):
        assert redacted_error(duckdb.OutOfMemoryException("x"), "", ()).code == "SQL_MEMORY_EXCEEDED"
        assert "HFTHOT_DUCKDB_MEMORY" in str(sql_error(duckdb.OutOfMemoryException("Out of Memory Error: x"), ""))

    def test_an_error_of_arrow_with_duckdbs_words_is_read_as_duckdbs(self):
        told = redacted_error(OSError("Conversion Error: Could not convert string 'a' to INT32"), "", ())
        assert told.what == "Conversion Error: Could not convert string 'a' to INT32"

    def test_an_error_without_words_is_named_by_its_kind(self):
        assert error_details(MemoryError()).first == "MemoryError"
