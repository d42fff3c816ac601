"""What is there before the first order, and that real baskets run into its limits."""

from datetime import date

from domain.baskets import read_baskets
from domain.stocking import opening_slots, opening_stock, opening_wallets
from tests.domain.conftest import basket
from tests.domain.oracle import fulfil_all


def test_slow_sellers_are_bought_by_the_piece():
    assert opening_stock([basket("1", ("11", 5, "1.00")), basket("2", ("11", 6, "1.00"))]) == {
        "11": 11
    }


def test_buyer_rounds_down_to_whole_cases():
    """Of what sells by the case, the units that would need one more case are missing."""
    assert opening_stock([basket("1", ("11", 12, "1.00"))]) == {"11": 12}
    assert opening_stock([basket("1", ("11", 23, "1.00"))]) == {"11": 12}


def test_goods_sold_by_volume_come_in_tanks():
    fuel, packets = ("11", 18_500, "20.00"), ("12", 999, "20.00")

    assert opening_stock([basket("1", fuel, packets)]) == {"11": 10_000, "12": 83 * 12}


def test_nothing_is_bought_for_a_line_of_no_units():
    assert opening_stock([basket("1", ("11", 0, "0.00"), ("12", -3, "0.00"))]) == {"11": 0, "12": 0}


def test_wallet_holds_six_usual_baskets():
    """The household's median counts: one feast does not fill the wallet."""
    paid = ["1.00", "1.01", "90.00", "2.00"]

    wallets = opening_wallets(
        basket(str(number), ("11", 1, dollars)) for number, dollars in enumerate(paid)
    )

    assert wallets == {"7": 903}  # six times 150.5 cents


def test_store_has_spare_places_on_every_day():
    """Half as many again as a usual day needs, rounded up, also on days without any order."""
    slots = opening_slots(
        [
            basket("1", at="2017-01-01T10:00:00Z"),
            basket("2", at="2017-01-01T23:59:59Z"),
            basket("3", at="2017-01-01T23:59:59Z"),
            basket("4", at="2017-01-02T00:00:00Z", store_id="4"),
        ]
    )

    first, second = date(2017, 1, 1), date(2017, 1, 2)
    assert slots == {("2", first): 5, ("2", second): 5, ("4", first): 2, ("4", second): 2}


def test_real_baskets_meet_every_kind_of_refusal():
    run = fulfil_all(list(read_baskets()))

    assert run.by_code == {
        "confirmed": 2564,
        "wallet_too_small": 262,
        "out_of_stock": 216,
        "bad_line": 140,
        "slot_full": 119,
    }
    assert 0.70 < run.by_code["confirmed"] / 3301 < 0.85
    assert run.total.slots == 2564
