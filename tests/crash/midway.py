"""Topics and schedules, step by step: one process is in the midst of something, and another comes by.

a   subscribes with what is retained │ ticks │ cleans, and is about to make each of its calls
b   publishes, subscribes, ticks, or takes a subscription back; or a dies there
"""

from __future__ import annotations

from collections.abc import Callable

from .actor import Actor
from .interleavings import on_stage
from .kernel import MANY
from .owners import at_each_call
from .stage import Stage

CUTS = 1  # power cuts at each of many stages
EVERY = 2.0


def retained(stage: Stage, count: int = MANY - 1) -> None:
    for name in "ab":
        stage.do(name, Actor.open, "never")
    stage.do("a", Actor.retain, 1000)
    for _ in range(count):
        stage.do("b", Actor.fan_out)


def much_is_retained(stage: Stage) -> None:
    """So it is put aside first."""
    retained(stage, MANY)


PASTS = ((retained, ""), (much_is_retained, "store"))  # and before which calls another process comes


def scheduled(stage: Stage) -> None:
    for name in "ab":
        stage.do(name, Actor.open, "never")
    stage.do("a", Actor.schedule, "s", "ticks", EVERY)
    stage["a"].sleep(1.5 * EVERY)


def with_garbage(stage: Stage) -> None:
    """The first segment holds two subscriptions, and some of the second one is garbage."""
    for name in "ab":
        stage.do(name, Actor.open, "never")
    for queue in "ab":
        stage.do("b", Actor.subscribe, queue)
    stage.do("a", Actor.publish, "q", size=900)
    stage.do("a", Actor.take, "q")
    stage.do("a", Actor.ack)


def start_in_the_past(actor: Actor) -> None:
    actor.subscribe("a", since=True)


def clean(actor: Actor) -> None:
    actor.compact()


def come_by(stage: Stage, *does: Callable[[Actor], object]) -> None:
    """b does all that, while a goes on whenever b waits."""

    def do_all(actor: Actor) -> None:
        for each in does:
            each(actor)

    stage.begin("b", do_all)
    stage.finish("b", "a")
    stage.do("b", Actor.take, "a", 9)
    stage.end(cuts=CUTS)


@on_stage("ab")
def another_subscribes_between_two_fan_outs(stage: Stage) -> None:
    """What a process has looked up for a topic is out of date then."""
    retained(stage)
    stage.do("b", Actor.publish, "a")
    stage.do("a", Actor.fan_out)
    stage.do("b", Actor.subscribe, "a")
    stage.do("a", Actor.fan_out)
    stage.end()


@on_stage("a")
def another_publishes_at_each_step_of_a_subscription_from_the_past(stage: Stage) -> None:
    for before, kind in PASTS:
        for each in at_each_call(stage.here, "a", before, start_in_the_past, kind=kind):
            come_by(each, Actor.fan_out)


@on_stage("a")
def another_subscribes_takes_and_acks_at_each_step_of_a_subscription_from_the_past(stage: Stage) -> None:
    def by_another_pattern(actor: Actor) -> None:
        actor.subscribe("a", "t", since=True)

    for each in at_each_call(stage.here, "a", retained, start_in_the_past):
        come_by(each, by_another_pattern, lambda actor: actor.take("a"), Actor.ack)


@on_stage("a")
def killed_at_each_step_of_a_subscription_from_the_past(stage: Stage) -> None:
    for before, kind in PASTS:
        for each in at_each_call(stage.here, "a", before, start_in_the_past, kind=kind):
            each.kill("a")
            come_by(each, start_in_the_past)


@on_stage("a")
def a_subscription_is_taken_back_at_each_step_of_the_cleaner(stage: Stage) -> None:
    for each in at_each_call(stage.here, "a", with_garbage, clean, kind="lock"):  # before each turn
        come_by(each, lambda actor: actor.unsubscribe("a"), Actor.fan_out)


@on_stage("a")
def another_ticks_at_each_step_of_a_tick(stage: Stage) -> None:
    for each in at_each_call(stage.here, "a", scheduled, Actor.tick):
        come_by(each, Actor.tick)


@on_stage("a")
def killed_at_each_step_of_a_tick(stage: Stage) -> None:
    for each in at_each_call(stage.here, "a", scheduled, Actor.tick):
        each.kill("a")
        come_by(each, Actor.tick)
