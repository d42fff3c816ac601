"""What the shop says in these tests."""

from saga import Event


class CupSold(Event, topic="cup-shop.cup-sold", version=1, key="cup"):
    cup: str
    cents: int


class ShopOpened(Event, topic="cup-shop.shop-opened", version=1):
    by: str


SOLD = "cup-shop.evt.cup-sold.v1"
OPENED = "cup-shop.evt.shop-opened.v1"
