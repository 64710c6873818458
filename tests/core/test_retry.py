"""Only what may pass is tried again, with growing pauses, and never without end."""

import pytest

from hfthot_platform.core.errors import BadRequestError, SourceRefusedError, SourceUnavailableError
from hfthot_platform.core.retry import RetryPolicy, retry


class PassingError(Exception):
    """May be over next time."""

    def __init__(self, retry_after=None):
        self.retry_after = retry_after
        super().__init__("busy")


class Endpoint:
    """Fails as often as it is told to, and counts."""

    def __init__(self, *failures):
        self.failures = list(failures)
        self.calls = 0

    def __call__(self):
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        return "rows"


def patiently(endpoint, pauses, **policy):
    usual = {"attempts": 4, "first_wait": 1.0, "longest_wait": 60.0}
    return retry(
        endpoint,
        RetryPolicy(**usual | policy),
        on=PassingError,
        gave_up=lambda attempts, last: SourceUnavailableError(f"no answer after {attempts} attempts ({last})"),
        sleep=pauses.append,
    )


def test_what_succeeds_is_called_once_and_nobody_waits():
    endpoint, pauses = Endpoint(), []
    assert patiently(endpoint, pauses) == "rows"
    assert (endpoint.calls, pauses) == (1, [])


def test_what_passes_is_tried_again_after_pauses_that_double_and_have_jitter():
    endpoint, pauses = Endpoint(*(PassingError() for _ in range(3))), []
    assert patiently(endpoint, pauses) == "rows"
    assert endpoint.calls == 4
    assert all(base <= pause <= base + 1.0 for base, pause in zip((1.0, 2.0, 4.0), pauses, strict=True))


def test_no_pause_is_longer_than_the_longest():
    pauses = []
    patiently(Endpoint(*(PassingError() for _ in range(9))), pauses, attempts=10, longest_wait=3.0)
    assert max(pauses) <= 3.0


def test_after_the_last_attempt_the_callers_error_is_raised_with_its_cause():
    endpoint, pauses = Endpoint(*(PassingError() for _ in range(9))), []
    with pytest.raises(SourceUnavailableError, match=r"no answer after 4 attempts \(busy\)") as refused:
        patiently(endpoint, pauses)
    assert (endpoint.calls, len(pauses)) == (4, 3)
    assert isinstance(refused.value.__cause__, PassingError)


def test_an_error_that_does_not_pass_is_raised_at_once():
    endpoint, pauses = Endpoint(SourceRefusedError("no such symbol")), []
    with pytest.raises(SourceRefusedError):
        patiently(endpoint, pauses)
    assert (endpoint.calls, pauses) == (1, [])


def test_a_pause_is_as_long_as_the_other_side_asks_for():
    pauses = []
    patiently(Endpoint(PassingError(retry_after=30.0)), pauses)
    assert pauses == [30.0]


def test_who_is_asked_to_wait_longer_than_the_longest_pause_gives_up_at_once():
    endpoint, pauses = Endpoint(PassingError(retry_after=61.0)), []
    with pytest.raises(SourceUnavailableError, match="after 1 attempt"):
        patiently(endpoint, pauses)
    assert (endpoint.calls, pauses) == (1, [])


@pytest.mark.parametrize("policy", [{"attempts": 0}, {"first_wait": float("nan")}, {"longest_wait": float("inf")}])
def test_a_policy_that_bounds_nothing_is_refused(policy):
    with pytest.raises(BadRequestError, match="not a bounded policy"):
        patiently(Endpoint(), [], **policy)
