"""What an object store is opened with: the Delta library's options; what is wrong with one is a typed error."""

from __future__ import annotations

import pytest

from hfthot_platform.core.errors import ConfigError
from hfthot_platform.storage.objects import open_store

SECRET = "hushhush-0123456789"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": "soon"}, "the object store cannot be opened: .*Duration"),
        ({"allow_http": "maybe"}, "the object store cannot be opened: .*boolean"),
        ({"aws_secret_access_kye": SECRET}, "the object store cannot be opened: .*aws_secret_access_kye"),
        ({"max_retries": "many"}, "'max_retries' is not a whole number"),
        ({"retry_timeout": "a while"}, "the duration 'a while' is not a number and a unit"),
    ],
)
def test_a_wrong_option_is_an_error_of_the_settings_that_tells_no_secret(options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        open_store("s3://lake/x", {**options, "aws_access_key_id": "a-key-id", "aws_secret_access_key": SECRET})

    assert caught.value.where == "storage_options"
    assert caught.value.hint
    assert SECRET not in str(caught.value)


def test_a_url_of_no_store_is_an_error_of_the_settings():
    with pytest.raises(ConfigError, match="cannot be opened"):
        open_store("s4://lake/x", {})


def test_options_of_the_delta_library_alone_are_left_to_it():
    open_store("s3://lake/x", {"s3_allow_unsafe_rename": "true", "AWS_REGION": "eu-central-1", "max_retries": "3"})
