"""Accounts of spools: what was answered, spooled and stored, and what is told where they differ."""

from dataclasses import replace

from feedback_loop.alerts import tell_differences
from feedback_loop.capture import (
    merge_accounts,
)
from feedback_loop.config import CaptureSettings
from feedback_loop.store import spool_accounts
from feedback_loop.store.alerts import load_alerts
from feedback_loop.store.incidents import due_alerts
from feedback_loop.store.spool_accounts import SpoolState
from tests.spools import MINUTE, NOW, account_of, made_account


def test_accounts_only_go_forward_and_an_ended_one_stays(store):
    spool_accounts.save_accounts(store, [made_account()])
    spool_accounts.save_accounts(store, [made_account(stored=5, waiting=5)])
    assert account_of(store) == made_account()
    more = made_account(spooled=20, stored=12, waiting=8, waiting_since=NOW - MINUTE)
    spool_accounts.save_accounts(store, [more])
    assert account_of(store) == more
    assert spool_accounts.end_accounts(store, "host-1-ab", [replace(more, stored=20, waiting=0)], NOW)[0].stored == 20
    ended = replace(more, stored=20, waiting=0, waiting_since=None, state=SpoolState.ENDED)
    spool_accounts.save_accounts(store, [ended])
    spool_accounts.save_accounts(store, [more])
    assert account_of(store) == ended


def test_a_spool_that_forgot_rows_is_called_damaged_when_it_ends(store):
    spool_accounts.save_accounts(store, [made_account(spooled=20, stored=12, waiting=8), made_account(model="price")])
    last = made_account(spooled=15, stored=15, state=SpoolState.ENDED)
    ended = {each.model: each for each in spool_accounts.end_accounts(store, "host-1-ab", [last], NOW)}
    assert (ended["churn"].state, ended["churn"].missing) == (SpoolState.DAMAGED, 5)
    assert ended["price"].state is SpoolState.DAMAGED


def test_a_difference_is_told_once_on_every_route_and_again_when_there_is_more(store):
    settings = CaptureSettings(alert_after=MINUTE)
    old = NOW - 2 * MINUTE
    bad = made_account(spooled=30, stored=11, waiting=8, waiting_since=old, refused=3, dropped=2, rejected=1)

    def tell(account):
        return tell_differences(store, [account], ["log", "ops"], NOW, settings)

    assert tell(made_account()) == 0
    assert tell(bad) == 2 * 5
    assert tell(bad) == 0
    assert tell(replace(bad, refused=4)) == 2
    alerts = due_alerts(store, NOW)
    assert {alert.incident_id for alert in alerts} == {None}
    prefix = "spool:host-1-ab:churn:"
    assert [alert.subject.removeprefix(prefix) for alert in alerts if alert.route == "log"] == [
        "difference:10",
        "rejected:1",
        "dropped:2",
        "refused:3",
        f"waiting:{old.isoformat()}",
        "refused:4",
    ]
    assert "10 rows are lost" in alerts[0].body
    assert load_alerts(store, [], about="spool:") == alerts


def test_the_spools_own_file_is_believed_before_the_store_until_it_has_ended():
    mine = made_account(stored=5, waiting=5)
    assert merge_accounts([made_account(spooled=5, stored=5)], [mine]) == [mine]
    ended = made_account(state=SpoolState.ENDED)
    assert merge_accounts([ended], [mine]) == [ended]
    assert merge_accounts([], [mine]) == [mine]
