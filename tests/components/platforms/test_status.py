"""Status of an environment on a cluster: the same keys as on one machine, from what the platform and its journal say."""

from inferstack.environment import SlotName, parse_environment
from inferstack.local.status import _never_up
from inferstack.platforms.status import platform_status
from inferstack.promotion.journal import Journal, JournalUnreadable
from inferstack.promotion.platform import Observation, SlotObservation
from inferstack.promotion.spec import SlotSpec
from inferstack.promotion.weights import Weights

ENVIRONMENT = parse_environment(
    {
        "platform": "kubernetes",
        "namespace": "llm",
        "models": [{"name": "tiny", "source": "package://tiny", "quantization": "int8"}],
        "engine": {"image": "x@sha256:" + "0" * 64},
        "gateway": {"hostname": "llm.example", "class_name": "traefik"},
    }
)
SPEC = SlotSpec.from_environment(ENVIRONMENT, 3)


class Recorded:
    def __init__(self, blue, green, weights, journal=None, drift=()):
        self.observation = Observation(0.0, weights, {SlotName.BLUE: blue, SlotName.GREEN: green}, drift=drift)
        self.journal = journal

    def observe(self):
        return self.observation

    def read_journal(self):
        return self.journal, "1"


def test_it_has_the_keys_of_the_contract():
    status = platform_status("prod", ENVIRONMENT, Recorded(SlotObservation(), SlotObservation(), None))
    local = _never_up("prod")
    assert set(local) <= set(status)
    assert set(local["slots"]["blue"]) <= set(status["slots"]["blue"])
    assert (status["active_slot"], status["phase"], status["running"]) == (None, "idle", False)


def test_it_tells_slots_weights_and_journal():
    journal = Journal("prod", SlotName.GREEN, Weights(0, 100), generation=4, previous=SlotName.BLUE)
    green = SlotObservation(replicas=2, ready=2, spec=SPEC, in_flight=7)
    blue = SlotObservation(replicas=2, ready=1, spec=SPEC, waiting="1 of 2 replicas ready")
    status = platform_status("prod", ENVIRONMENT, Recorded(blue, green, Weights(0, 100), journal, ("replicas differ",)))
    assert (status["active_slot"], status["previous_slot"], status["generation"]) == ("green", "blue", 4)
    assert status["weights"] == {"blue": 0, "green": 100}
    assert status["drift"] == ["replicas differ"]
    assert status["slots"]["green"] | {"ready": True, "replicas": 2, "healthy": True, "in_flight": 7} == status["slots"]["green"]
    assert status["slots"]["blue"]["ready"] is False
    assert status["slots"]["blue"]["reason"] == "1 of 2 replicas ready"
    assert status["slots"]["green"]["url"] == "http://inferstack-green.llm.svc:8000"


def test_a_journal_that_cannot_be_read_hides_nothing_else():
    class Damaged(Recorded):
        def read_journal(self):
            raise JournalUnreadable("the journal is no JSON")

    status = platform_status(
        "prod", ENVIRONMENT, Damaged(SlotObservation(replicas=1, ready=1, spec=SPEC), SlotObservation(), Weights(100, 0))
    )
    assert (status["phase"], status["problems"], status["active_slot"]) == ("unknown", ["the journal is no JSON"], "blue")
    assert status["slots"]["blue"]["ready"] is True


def test_before_the_first_promotion_the_weights_say_what_is_active():
    seen = SlotObservation(replicas=1, ready=1, spec=SPEC)
    status = platform_status("prod", ENVIRONMENT, Recorded(seen, SlotObservation(), Weights(100, 0)))
    assert (status["active_slot"], status["generation"], status["running"]) == ("blue", 3, True)


def test_a_slot_that_failed_is_not_healthy():
    failed = SlotObservation(replicas=1, ready=1, spec=SPEC, failure="crash loop")
    status = platform_status("prod", ENVIRONMENT, Recorded(failed, SlotObservation(), Weights(100, 0)))
    assert status["slots"]["blue"]["healthy"] is False
