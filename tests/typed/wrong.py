"""What a type checker must refuse: each line that ends with `# wrong`, and no other."""

import mq

broker = mq.open("data")
texts = broker.queue("texts", type=str)

texts.publish(3)  # wrong
texts.publish("x", prio=3)  # wrong
texts.publish_many(["x"], dedup_id="x")  # wrong
broker.queue("texts", max_attempt=3)  # wrong
print(texts.receive().body.nothing)  # wrong
texts.receive(1.0).ack()  # wrong
texts.peek(state="gone")  # wrong
texts.ack_many([3])  # wrong
mq.open("data", sync="sometimes")  # wrong
broker.store_id = "mine"  # wrong
texts.update_meta({"a": 1})  # wrong
texts.meta()["a"] = "b"  # wrong
mq.Outgoing("x", {"colour": 3})  # wrong
broker.generation = 3  # wrong
