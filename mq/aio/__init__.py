"""The asyncio face: the same names as `mq`, by one rule.

What touches the store is awaited.  What names (queue, topic, consumer, middleware), tells (attributes,
body) or buffers (publish, ack, nack of a transaction) is not.  `with` and `for` become `async with` and
`async for`.

    async with mq.aopen("data") as broker:
        mail = broker.queue("mail")
        await mail.publish("hello")
        async for message in mail:
            async with message:
                await send(message.body)

    lane        runs what touches the store: at once if nothing is in the way, else in a thread
    one_thread  what many tasks wait for, done by one thread
    turns       tasks that wait for their turn
    syncs       tasks that wait for the disk
    waiting     a task that waits for a message
    broker, queue, message, transaction    thin shells over those of mq/api

Nothing is done twice: each method calls the method of the same name.
"""
