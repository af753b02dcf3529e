"""A ticket is worth something until it is given up or its time is over."""

import time

import pytest

from inference.errors import PredictionCancelled
from service.tickets import Ticket


def test_a_ticket_is_good_until_its_deadline() -> None:
    ticket = Ticket(0.05)
    ticket.check()
    assert 0 < ticket.remaining_s <= 0.05
    assert ticket.overdue_s == 0
    time.sleep(0.08)
    with pytest.raises(PredictionCancelled, match="deadline"):
        ticket.check()
    assert ticket.remaining_s == 0
    assert 0 < ticket.overdue_s < 5


def test_giving_up_is_told_once_to_who_listens_and_at_once_to_who_comes_late() -> None:
    ticket, told = Ticket(60), []
    forget = ticket.listen(lambda: told.append("forgotten"))
    ticket.listen(lambda: told.append("early"))
    forget()
    ticket.give_up()
    ticket.give_up()
    ticket.listen(lambda: told.append("late"))()
    assert told == ["early", "late"]
    with pytest.raises(PredictionCancelled, match="given up"):
        ticket.check()
    assert ticket.remaining_s == 0
    assert 0 <= ticket.overdue_s < 5
