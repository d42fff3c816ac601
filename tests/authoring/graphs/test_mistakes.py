"""What is said about a contract file: each mistake with its line, column, cure and code."""

# ruff: noqa: E501 - a table of mistakes, one a line

import pytest

from saga.authoring.graphs.definition import check_file
from saga.authoring.graphs.file.mistakes import MISTAKES_SHOWN_MAX, MistakeCode, told
from tests.authoring.graphs.orders import MODELS, ORDER


def mistakes(text: str) -> list[str]:
    """Every line that is said about a file."""
    _, found = check_file("order.yaml", text.encode(), MODELS)
    return told("order.yaml", found)


def changed(*changes: tuple[str, str]) -> str:
    text = ORDER
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def said(text: str) -> str:
    """The only thing that is said about a file, without the file's name."""
    (line,) = mistakes(text)
    return line.removeprefix("order.yaml:")


def test_the_order_has_none() -> None:
    assert mistakes(ORDER) == []


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "null\n", "{}"])
def test_a_file_with_nothing_in_it_is_empty(text: str) -> None:
    assert said(text) == ("1:1: the file is empty: expected `name`, `version` and `nodes` [empty]")


CASES = [
    pytest.param(
        [("rolled_back:", "name: other\nrolled_back:")],
        "5:1: key `name` is here a second time, first on line 1 [duplicate-key]",
        id="a key twice",
    ),
    pytest.param(
        [("rolled_back: orders", "rolled_back: &base orders")],
        "5:14: `&base` is an anchor: write the value where it is used [alias]",
        id="an anchor",
    ),
    pytest.param(
        [("retry: {attempts: 3}", "retry: {attempts: 3, <<: {cap: 1m}}")],
        "11:119: `<<` merges keys of elsewhere: write them where they are used [merge-key]",
        id="a merge",
    ),
    pytest.param(
        [("code: declined", "code: !!python/object/apply:os.system declined")],
        "10:89: tag `!!python/object/apply` is not allowed: plain values only [tag]",
        id="a tag",
    ),
    pytest.param(
        [("version: 1", "version: 010")],
        "2:10: version is `010`: did you mean 10? Write numbers without a leading zero "
        "[ambiguous-scalar]",
        id="an octal number",
    ),
    pytest.param(
        [("code: declined", "code: no")],
        '10:89: code is `no`, which some YAML readers take for false: write "no" '
        "[ambiguous-scalar]",
        id="a text that is no boolean",
    ),
    pytest.param(
        [("depends_on: [pay]", "depends_on: [paid]")],
        "12:34: `paid` in depends_on is no node: did you mean `placed`? [unknown-node]",
        id="a node that is not there",
    ),
    pytest.param(
        [("depends_on: [reserve, approved]", "depends_on: [reserve, approved, ship]")],
        "11:5: these wait for each other: pay → ship → pay [cycle]",
        id="a cycle",
    ),
    pytest.param(
        [("depends_on: [reserve, approved]", "depends_on: [pay]")],
        "11:5: `pay` waits for itself [cycle]",
        id="a cycle of one",
    ),
    pytest.param(
        [("node_id: delivered", "node_id: pay")],
        "13:5: node_id `pay` is taken by line 11 [duplicate-node]",
        id="an id twice",
    ),
    pytest.param(
        [("intent: parcels.ship}", "intent: parcels.ship, signal: approval}")],
        "12:5: `ship` has `intent` and `signal`: a node does one thing [two-actions]",
        id="two actions",
    ),
    pytest.param(
        [("intent: payments.pay,", "intent: payments.pya,")],
        "11:61: no contract `payments.pya`: known are payments.pay, payments.refund. Declare it "
        "under `messages`, or give the app its class [unknown-contract]",
        id="a contract that is not there",
    ),
    pytest.param(
        [("intent: parcels.ship}", "intent: parcels.ship, undo: parcels.unship}")],
        "12:68: undo parcels.unship needs `receipt`, which parcels.ship has not, and no reply may "
        "come: give it a default, or `with` [undo-not-fillable]",
        id="an undo that needs the reply",
    ),
    pytest.param(
        [("timeout: 14d", 'timeout: 14d, when: ship.tracking == "x"')],
        "13:98: `ship.tracking`: parcels.ship has no reply of its own, so `ship` is null "
        "[no-such-field]",
        id="a reply that is none",
    ),
    pytest.param(
        [("when: placed.amount > 500", "when: pay.receipt == null")],
        "9:54: `pay` is not before `approval`: add it to depends_on [not-a-dependency]",
        id="a node that comes later",
    ),
    pytest.param(
        [("when: placed.amount > 500", 'when: placed.amount == "500"')],
        '9:54: placed.amount is int, "500" is text: the two are never equal; write 500 '
        "[type-mismatch]",
        id="two types that are never equal",
    ),
    pytest.param(
        [("when: placed.amount > 500", "when: placed.amount > && true")],
        "9:70: expected a value, found `&&`: `placed.amount > && true` [syntax]",
        id="no expression",
    ),
    pytest.param(
        [("when: placed.amount > 500", 'when: "${placed.amount} > 500"')],
        "9:54: `when` is an expression as it stands: write it without ${…} [no-template-here]",
        id="a template that is always true",
    ),
    pytest.param(
        [
            ("intent: payments.pay, undo: payments.refund", "intent: payments.pay, kind: pivot"),
            ("intent: parcels.ship}", "intent: stock.reserve, undo: stock.release}"),
        ],
        "12:5: `ship` can be undone but comes after the pivot `pay` (line 11), past which nothing "
        "is undone [after-pivot]",
        id="an undo past the pivot",
    ),
    pytest.param(
        [("rolled_back:", "result: {status: done}\nrolled_back:")],
        "5:1: `result`: an orchestrator has no result. Its end is told by `outcome`, facts by "
        "events [orchestrator-has-no-result]",
        id="a result",
    ),
]


@pytest.mark.parametrize(("changes", "expected"), CASES)
def test_a_mistake_is_told_with_its_place_and_cure(
    changes: list[tuple[str, str]], expected: str
) -> None:
    assert said(changed(*changes)) == expected


def test_a_misspelt_key_is_told_where_it_stands() -> None:
    text = changed(("depends_on: [pay]", "depend_on: [pay]"))

    assert mistakes(text) == [
        "order.yaml:12:21: `depend_on` is no key of a node: did you mean `depends_on`? [unknown-key]"
    ]


@pytest.mark.parametrize("key", ["result", "projections", "output_model", "input_model"])
@pytest.mark.parametrize(
    "before", ["rolled_back:", "timeout: 14d", "node_id: pay", "that: approval.granted"]
)
def test_no_result_anywhere(key: str, before: str) -> None:
    """Whatever an orchestrator has not is found wherever keys have a meaning."""
    separator = "\n" if before == "rolled_back:" else ", "

    line = said(changed((before, f"{key}: x{separator}{before}")))

    assert f"`{key}`: an orchestrator has no result" in line
    assert line.endswith("[orchestrator-has-no-result]")


def test_names_of_the_author_may_be_any() -> None:
    """A message may well have a result; so may a signal and what a node computes."""
    text = changed(
        ("{granted: bool}", "{granted: bool, result: str}"),
        (
            "  - {node_id: ship,",
            "  - {node_id: sums, depends_on: [pay], set: {result: placed.amount + 1}}\n  - {node_id: ship,",
        ),
    )

    assert mistakes(text) == []


KINDS = [
    (
        "name: a\n---\nname: b\n",
        "2:1: a second document begins here: a file holds one contract",
        "second-document",
    ),
    ("name: [a", "1:9: this is no YAML: expected ',' or ']'", "yaml"),
    ("name: 'a", "this is no YAML: found unexpected end of stream", "yaml"),
    ("\tname: a", "1:1: this is no YAML: found character", "yaml"),
    ("name: \x07a", "1:7: the character U+0007 is not allowed here", "control-character"),
    ("name: a\u202eb", "1:8: the character U+202E is not allowed here", "control-character"),
    ("name: a\u2028b", "1:8: the character U+2028 is not allowed here", "control-character"),
    ('name: "a\\0b"', "1:7: the text holds a NUL", "control-character"),
    (
        'name: "\\ud800"',
        "1:7: the text holds a NUL, or half of a surrogate pair",
        "control-character",
    ),
    (
        "a: " + "[" * 3_000,
        "1:35: more than 32 lists and mappings lie within each other",
        "too-deep",
    ),
    ("[" * 100_000, "more than 32 lists", "too-deep"),
    ("{a: " * 3_000, "more than 32 lists", "too-deep"),
    ("- " * 3_000 + "a", "more than 32 lists", "too-deep"),
    ("a: &a [x]\nb: [*a, *a]\n", "1:4: `&a` is an anchor", "alias"),
    ("a: *a\n", "1:4: `*a` is an alias: write the value here", "alias"),
    ("%TAG ! tag:x,2000:\n---\nname: a\n", "a directive is not allowed", "tag"),
    ("name: !x a\n", "1:7: tag `!x` is not allowed: plain values only", "tag"),
    ("1: a\n", '1:1: key `1` is no text: write "1"', "key-not-text"),
    ("true: a\n", '1:1: key `true` is no text: write "true"', "key-not-text"),
    ("null: a\n", '1:1: key `null` is no text: write "null"', "key-not-text"),
    ("~: a\n", '1:1: key `~` is no text: write "~"', "key-not-text"),
    ("? [1]\n: a\n", "1:3: a key is a text, not a list or a mapping", "key-not-text"),
    ("- a\n", "1:1: expected a mapping with `name`, `version` and `nodes`", "wrong-type"),
    ("x" * 300_000, "1:1: the file has more than 262,144 bytes", "too-large"),
    ("[" + "1," * 10_001 + "1]", "the file has more than 10,000 keys and values", "too-large"),
]


@pytest.mark.parametrize(("text", "start", "code"), KINDS)
def test_the_form_of_a_file(text: str, start: str, code: str) -> None:
    found = mistakes(text)

    assert any(start in line and line.endswith(f"[{code}]") for line in found), found[:5]


def test_bytes_that_are_no_utf8() -> None:
    _, found = check_file("order.yaml", b"name: a\nversion: \xff", MODELS)

    assert told("order.yaml", found) == [
        "order.yaml:2:10: this is no UTF-8: save the file as that [not-utf8]"
    ]


WORDS = [
    ("version: 1", "version: 1_000", "2:10: version is `1_000`: did you mean 1000?"),
    ("version: 1", "version: 0x10", "2:10: version is `0x10`, which some YAML readers take"),
    ("version: 1", "version: 1.10", "2:10: version is 1.1, a number: expected a whole number"),
    ("version: 1", "version: true", "2:10: version is true: expected a whole number"),
    ("version: 1", 'version: "1"', "2:10: version is `1`: expected a whole number"),
    ("version: 1", "version: 0", "2:10: version is 0, a number: expected at least 1"),
    ("version: 1", "version: -1", "2:10: version is -1, a number: expected at least 1"),
    ("version: 1\n", "version:\n", "2:1: `version` is missing: give a whole number"),
    ("name: order\n", "name: 5\n", '1:7: name is 5, a number: expected a text; write "5"'),
    ("name: order\n", "name: a/b\n", "1:7: a saga's name has printable characters without '/'"),
    ("timeout: 30s", "timeout: 12:30:45", "timeout is `12:30:45`: expected a length of time"),
    ("timeout: 30s", "timeout: 0s", "timeout is `0s`: it is over before it has begun"),
    ("timeout: 30s", "timeout: -5s", "timeout is `-5s`: expected a length of time"),
    ("timeout: 30s", "timeout: 5 minutes", "timeout is `5 minutes`: expected a length of time"),
    ("timeout: 30s", "timeout: 1000000d", "timeout is `1000000d`: the longest is a century"),
    ("timeout: 30s", "timeout: 1ns", "timeout is `1ns`: expected a length of time"),
    ("timeout: 30s", "timeout: 30", "timeout is 30, a number: expected a text"),
    ("attempts: 3", "attempts: 0", "attempts is 0, a number: expected at least 1"),
    ("attempts: 3", "attempts: -1", "attempts is -1, a number: expected at least 1"),
    ("attempts: 3", "attempts: 1000000000", "expected at most 1000"),
    ("attempts: 3", "factor: .nan", "factor is `.nan`, which some YAML readers take"),
    ("attempts: 3", "jitter: 2", "jitter is 2, a number: expected at most 1"),
    ("attempts: 3", "jitter: -0.5", "jitter is -0.5, a number: expected at least 0"),
    ("attempts: 3", "only_on: [a], never_on: [a]", "only_on and never_on both name a"),
    ("outcome: {", "parallel_undo: on\noutcome: {", "parallel_undo is `on`: did you mean true?"),
    ("outcome: {", "when_stuck: park\noutcome: {", "expected 'halt' or 'continue'"),
    ("outcome: {", "deadline: 2024-01-01\noutcome: {", "deadline is `2024-01-01`: expected a len"),
    ("node_id: ship", "node_id: Ship", "node_id is `Ship`: a name has small letters"),
    ("node_id: ship", "node_id: event", "node_id `event` has a meaning of its own"),
    ("node_id: ship", "node_id: __proto__", "node_id is `__proto__`: a name has small letters"),
    ("  - {node_id: ship", "  - ship\n  - {node_id: ship", "expected a node: a mapping with"),
    ("  - {node_id: ship,", "  - {", "a node needs `node_id`"),
    ("intent: parcels.ship", "intent: orders.order-placed", "is an event: expected an intent"),
    ("intent: parcels.ship", "intent: ship", "expected the name of a contract, as in"),
    ("intent: parcels.ship", "intent: http://x/y", "expected the name of a contract, as in"),
    ('"delivered.*"', '"${x}.*"', "expected a contract's name, or a part of it with `*`"),
    ("intent: parcels.ship}", "intent: parcels.ship, with: {order_i: 1}}", "`order_i` is no field of parcels.ship: did you mean `order_id`?"),
    ("intent: parcels.ship}", "intent: parcels.ship, with: {order_id: 1}}", "this is int, expected text"),
    ("intent: parcels.ship}", "intent: parcels.ship, with: {order_id: 2024-01-01}}", 'write "2024-01-01"'),
    ("intent: parcels.ship}", 'intent: parcels.ship, with: {order_id: "${placed.amount}"}}', "placed.amount is int, expected text"),
    ("intent: parcels.ship}", 'intent: parcels.ship, with: {order_id: "${placed.amount"}}', "`${` is not closed"),
    ("intent: parcels.ship}", "intent: parcels.ship, node_type: COMPUTE_GENERIC}", "`ship` has `intent`, so it is EFFECT_GENERIC"),
    ("intent: parcels.ship}", "intent: parcels.ship, at_once: 3}", "`at_once` has no effect without `for_each`"),
    ("intent: parcels.ship}", "intent: parcels.ship, key: order_id}", "`key` has no effect of a node with `intent`"),
    ("intent: parcels.ship}", "intent: parcels.ship, kind: compensatable}", "a compensatable step needs an undo"),
    ("signal: approval,", "signal: aproval,", "signal `aproval` is not declared: did you mean `approval`?"),
    ("signals: {", "signals: {other: {x: int}, ", "no node waits for the signal `other`"),
    ("granted: bool", "granted: boolean", "`boolean` is no type: did you mean `bool`?"),
    ("granted: bool", "granted: [bool, int]", "a list has one type: write `[str]`"),
    ("granted: bool", "model_x: bool, granted: bool", "`model_x` can be no field"),
    ("depends_on: [pay], ", "", "`ship` depends on nothing: only a node with `event_pattern` may"),
    ("when: placed.amount > 500", "when: placed.amout > 500", "`placed` has no field `amout`, did you mean `amount`?"),
    ("when: placed.amount > 500", "when: paid.amount > 500", "[unknown-name]"),
    ("when: placed.amount > 500", "when: sqrt(placed.amount) > 5", "[syntax]"),
    ("when: placed.amount > 500", "when: placed.amount ** 9 > 5", "[syntax]"),
    ("when: placed.amount > 500", f"when: {'placed.amount + ' * 100}1 > 5", "[expression-limit]"),
    ('event_pattern: ["order-placed.*"]}', 'event_pattern: ["order-placed.*"], timeout: 1d}', "`timeout` has no effect of what starts the saga"),
    ('event_pattern: ["order-placed.*"]}', 'event_pattern: ["order-placed.*"], key: order}', "key `order` is no field of orders.order-placed: did you mean `order_id`?"),
    ('event_pattern: ["order-placed.*"]}', 'event_pattern: ["paid.*"], key: receipt}', "needs `order_id`, which payments.paid has not"),
    ("{node_id: placed, ", "{node_id: placed, depends_on: [ship], ", "these wait for each other"),
    ("intent: stock.reserve, ", "", "`undo` has no effect of a node that does nothing"),
    ('receipt: "${pay.receipt}"', "", "outcome orders.order-confirmed needs `receipt`"),
    ("rolled_back: orders.order-rejected", "rolled_back: orders.order-confirmed", "rolled_back orders.order-confirmed needs `receipt`, which neither orders.order-placed nor the report"),
    ("rolled_back:", "published_events: []\nrolled_back:", "orders.order-confirmed is not in published_events: add its topic"),
    ("rolled_back:", "intent_routing_table: {payments.pay: payments}\nrolled_back:", "stock.reserve is not in intent_routing_table"),
    ("rolled_back:", 'intent_routing_table: {"stock.*": s, "payments.*": p, "parcels.ship": d, "orders.x": y}\nrolled_back:', "no contract `orders.x`"),
    ("rolled_back:", 'intent_routing_table: {"stock.*": s, "payments.*": p, "parcels.*": d, "unship.*": y}\nrolled_back:', "`unship.*` is routed, and no node issues it"),
    ("rolled_back:", "messages: {payments.pay: {fields: {x: int}}}\nrolled_back:", "`payments.pay` has a class already"),
    ("rolled_back:", "messages: {a.b: {key: c}}\nrolled_back:", "has key='c', which is none of its fields"),
    ("rolled_back:", "messages: {a.b: {reply: c.d}}\nrolled_back:", "no contract `c.d`"),
    ("rolled_back:", "workflow_coordination: 5\nrolled_back:", "workflow_coordination: expected a mapping"),
    ("rolled_back:", "execution_graph: {nodes: []}\nrolled_back:", "key `nodes` is here a second time"),
    ("rolled_back:", "execution_graph: {node: []}\nrolled_back:", "`node` is no key of `execution_graph`: did you mean `nodes`?"),
    ("rolled_back:", "coordination_rules: {execution_mode: serial}\nrolled_back:", "did you mean `sequential`?"),
    ("rolled_back:", "coordination_rules: {max_retries: -1}\nrolled_back:", "max_retries is -1, a number: expected at least 0"),
    ("rolled_back:", "coordination_rules: {retries: 1}\nrolled_back:", "`retries` is no key of `coordination_rules`"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "part"), WORDS)
def test_a_mistake_is_found(old: str, new: str, part: str) -> None:
    found = mistakes(changed((old, new)))

    assert any(part in line for line in found), found


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("message: declined", "message: 2024-01-01"),
        ("code: declined", "code: 010"),
        ("code: declined", "code: 1_000"),
        ("code: declined", 'code: "no"'),
        ("name: order\n", "name: order\ndescription: no\ntags: [on, 2024-01-01, 12:30:45]\n"),
        ("when: placed.amount > 500", "when: true"),
        ("when: placed.amount > 500", "when: null"),
        ("attempts: 3", "attempts: null"),
        ("attempts: 3", "factor: 3"),
        ("attempts: 3", "factor: 1.5e0"),
    ],
)
def test_what_can_only_be_meant_is_taken(old: str, new: str) -> None:
    assert mistakes(changed((old, new))) == []


def test_all_mistakes_of_a_file_are_told_at_once_from_its_top_on() -> None:
    text = changed(
        ("version: 1", "version: 010"),
        ("code: declined", "code: no"),
        ("intent: payments.pay,", "intent: payments.pya,"),
        ("depends_on: [pay]", "depends_on: [paid]"),
        ("when: placed.amount > 500", "when: placed.amout > 500"),
    )

    found = mistakes(text)

    assert [line.split(":")[1] for line in found] == ["2", "9", "10", "11", "12"]


def test_no_more_are_told_than_people_read() -> None:
    nodes = "".join(f"  - {{node_id: N{number}}}\n" for number in range(150))

    found = mistakes(ORDER + nodes)

    assert len(found) == MISTAKES_SHOWN_MAX + 1
    assert found[-1] == "order.yaml: and 100 more"


def test_a_refused_node_makes_no_others_wrong() -> None:
    """Nodes that depend on one that cannot be read, or use its result, are right all the same."""
    text = changed(("node_id: reserve, depends_on: [placed],", "node_id: reserve, depends_on: 5,"))

    assert [line.partition(" ")[2] for line in mistakes(text)] == [
        "depends_on is 5, a number: expected a list [wrong-type]"
    ]


def test_codes_are_words() -> None:
    assert all(code.value.replace("-", "").isalnum() for code in MistakeCode)
