"""mq serve: network faces of one store.  Nothing but the command line imports this package.

    mq serve ──► server.py: opens the store, listens, drains at SIGTERM
                     └── app.py: one application of all faces
                             ├── ui/    a dashboard, metrics, health
                             └── sqs/   the protocols of Amazon SQS

Each face is a thin translation on the asyncio face (`mq.aopen`).  Other processes go on using the store
directly meanwhile.  It needs the libraries of the extra `mq[serve]`.
"""
