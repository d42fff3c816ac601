"""`topics asyncapi`: one document, as JSON or YAML, on standard output or in a file."""

import json

import yaml

from tests.console.conftest import call


def test_the_document_is_printed_for_people_in_lines_and_for_programs_in_one(shop):
    """The same document; and nothing is made in the folder."""
    called = call("topics", "asyncapi")
    found = json.loads(called.out)

    assert (called.code, called.err) == (0, "")
    assert found["asyncapi"] == "3.0.0"
    assert found["info"]["title"] == "shop"
    assert "saga.order.send.payments.int.pay.v1" in found["operations"]
    assert call("topics", "asyncapi", "--json").row == found
    assert not (shop / ".saga").exists()


def test_yaml_says_the_same(shop):
    """Read by any YAML parser, without aliases or tags."""
    text = call("topics", "asyncapi", "--yaml").out

    assert yaml.safe_load(text) == json.loads(call("topics", "asyncapi").out)
    assert not {"&id", "!!"} & set(text.split())


def test_title_and_version_may_be_given(shop):
    """For whoever publishes the document."""
    words = ("topics", "asyncapi", "--title", "The kiosk", "--version", "2.1.0")

    info = call(*words, "--json").row["info"]
    assert (info["title"], info["version"]) == ("The kiosk", "2.1.0")


def test_a_file_is_written_and_what_is_in_it_said(shop):
    """A folder that is not there is said by name."""
    row = call("topics", "asyncapi", "--yaml", "--output", "api.yaml", "--json")
    assert row.code == 2

    row = call("topics", "asyncapi", "--output", "api.json", "--json").row
    found = json.loads((shop / "api.json").read_text())
    assert row["channels"] == len(found["channels"])

    refused = call("topics", "asyncapi", "--output", "no/api.json")
    assert refused.code == 1
    assert "no/api.json" in refused.err
