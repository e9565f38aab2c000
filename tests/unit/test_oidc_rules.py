"""Signing in by OpenID Connect: what may be configured, and what rules give to what a provider says of people."""

import pytest

from feedback_loop.config import OidcRule, load_settings
from feedback_loop.dashboard.oidc import provider_of
from feedback_loop.dashboard.rights import Right, Visitor, named_by, rights_of, texts_at
from feedback_loop.errors import ConfigError
from feedback_loop.serving.http_errors import HttpError
from feedback_loop.store.keys import Scope

CONFIGURED = """
[models.churn]
task = "binary"
label = "churned"
[dashboard]
url = "https://pages.example"
[dashboard.oidc]
issuer = "https://login.example/realms/x"
client_id = "pages"
"""
RULE = """[[dashboard.oidc.rules]]
claim = "groups"
value = "ml"
scopes = ["read"]
"""


@pytest.fixture
def load(tmp_path):
    def load(text):
        path = tmp_path / "feedback_loop.toml"
        path.write_text(text)
        return load_settings(path)

    return load


def test_nobody_signs_in_at_a_provider_that_is_not_configured(load):
    assert load("").dashboard.oidc is None
    assert provider_of(load("")) is None
    assert load(CONFIGURED).dashboard.oidc.rules == ()


def test_the_secret_is_of_the_environment_and_is_shown_nowhere(load, monkeypatch):
    monkeypatch.setenv("FEEDBACK_LOOP_DASHBOARD__OIDC__CLIENT_SECRET", "s3cr3t")
    settings = load(CONFIGURED)
    assert settings.dashboard.oidc.client_secret.get_secret_value() == "s3cr3t"
    assert "s3cr3t" not in f"{settings!r}{settings.model_dump_json()}"
    monkeypatch.delenv("FEEDBACK_LOOP_DASHBOARD__OIDC__CLIENT_SECRET")
    with pytest.raises(ConfigError) as raised:
        load(CONFIGURED + "client_secret = 31415926")
    assert "31415926" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (CONFIGURED.replace("https://login", "http://login"), "dashboard.oidc.issuer: .* it is no https:// address"),
        (CONFIGURED.replace("https://login", "login"), "it is no https:// address"),
        (CONFIGURED.replace('url = "https://pages.example"', ""), "dashboard.oidc needs dashboard.url"),
        (CONFIGURED.replace('client_id = "pages"', ""), "dashboard.oidc.client_id: is missing"),
        (CONFIGURED + 'scopes = ["email"]', "openid is not among them"),
        (CONFIGURED + RULE.replace('"read"', '"promote"'), "rules.0.scopes.0: .*'read', 'approve' or 'admin'"),
        (CONFIGURED + RULE.replace('"read"', ""), "rules.0.scopes"),
        (CONFIGURED + RULE + 'models = ["chrun"]', "dashboard.oidc.rules.0.models: 'chrun' is not among the models"),
        (CONFIGURED + RULE + 'model = "churn"', "there is no setting 'dashboard.oidc.rules.0.model'"),
    ],
)
def test_what_would_be_unsafe_or_of_no_use_is_refused(load, text, told):
    with pytest.raises(ConfigError, match=told):
        load(text)


def test_on_this_host_a_provider_needs_no_https(load):
    text = CONFIGURED.replace("https://login.example", "http://localhost:8080")
    assert load(text).dashboard.oidc.issuer == "http://localhost:8080/realms/x"


def test_missing_packages_are_told_with_what_installs_them(load):
    with pytest.raises(ConfigError) as raised:
        provider_of(load(CONFIGURED), find=lambda _: None)
    assert raised.value.cure == "Install them: pip install 'feedback-loop[oidc]'."


def rule(claim, value, *scopes, models=()):
    return OidcRule(claim=claim, value=value, scopes=scopes, models=models)


@pytest.mark.parametrize(
    ("claims", "name", "texts"),
    [
        ({"groups": ["a", "b", 7, None]}, "groups", ["a", "b"]),
        ({"hd": "example.org"}, "hd", ["example.org"]),
        ({"realm_access": {"roles": ["ml"]}}, "realm_access.roles", ["ml"]),
        ({"https://example.org/roles": ["ml"]}, "https://example.org/roles", ["ml"]),
        ({"realm_access": ["roles"]}, "realm_access.roles", []),
        ({"groups": {"ml": True}}, "groups", []),
        ({}, "groups", []),
        ({"email": "a@b.c", "email_verified": True}, "email", ["a@b.c"]),
        ({"email": "a@b.c", "email_verified": "true"}, "email", ["a@b.c"]),
        ({"email": "a@b.c", "email_verified": "no"}, "email", []),
        ({"email": "a@b.c"}, "email", []),
    ],
)
def test_a_claim_is_a_text_or_a_list_of_texts_and_an_email_is_verified(claims, name, texts):
    assert texts_at(claims, name) == texts


def test_a_session_remembers_what_rules_name_and_nothing_else_of_a_person():
    rules = [rule("groups", "ml", "read"), rule("groups", "ops", "admin"), rule("hd", "example.org", "read")]
    claims = {"groups": ["ml", "choir"], "hd": "example.org", "phone": "555"}
    assert named_by(rules, claims) == [("groups", "ml"), ("hd", "example.org")]
    assert named_by(rules, {"groups": ["ML", "ml "]}) == []


def test_each_rule_that_fits_gives_its_scopes_for_its_own_models():
    rules = [
        rule("groups", "ml", "read"),
        rule("groups", "ml", "approve", models=("churn",)),
        rule("x", "y", "admin"),
    ]
    visitor = Visitor("ann", rights_of(rules, [("groups", "ml")]), "person")
    assert visitor.rights == (
        Right(frozenset({Scope.READ})),
        Right(frozenset({Scope.APPROVE}), frozenset({"churn"})),
    )
    assert [visitor.may(Scope.APPROVE, model) for model in ("churn", "calm")] == [True, False]
    assert visitor.visible(["churn", "calm"]) == ["churn", "calm"]
    assert [visitor.may_everywhere(scope) for scope in (Scope.READ, Scope.APPROVE)] == [True, False]
    with pytest.raises(HttpError) as refused:
        visitor.require(Scope.APPROVE, "calm")
    assert refused.value.message.startswith("ann lacks the scope approve for this model.")
    with pytest.raises(HttpError, match="certain models alone"):
        visitor.require_all(Scope.APPROVE)
    assert rights_of(rules, []) == ()
