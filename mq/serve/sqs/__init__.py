"""Amazon SQS: its two protocols, on the queues of a store.

    endpoint        a request in, its answer or fault out
    json_wire, query_wire        what it says, in either protocol; requests: in one form
    actions         the actions by name
    managing, sending, receiving, settling, moving, permissions        what they do
    queues, attributes, message_attributes, bodies, names        what a queue and a message of mq are in SQS
    signatures      which client it is
    fault           errors, as published

A queue of SQS is the queue of mq with the same name: see names.py.
"""

from mq.serve.face import Face, Site
from mq.serve.sqs.endpoint import Endpoint
from mq.serve.sqs.service import Service


def face(site: Site) -> Face:
    """All paths that are not of another face: the URL of a queue may have any."""
    service = Service(site)
    return Face(rest=Endpoint(service), tasks=[service.drain])
