"""A web process (Starlette, uvicorn) and a worker process on one store.

A POST is answered, with 202, when the mail is on the disk.  A client that got no answer posts again with the
same Idempotency-Key, and gets the same id.  A worker that is killed after sending and before the ack sends
that mail again.  What a client sent wrong is answered with 422.  A mail that is not in the queue, because it
was sent, became a dead letter or never was, is answered with 404.

Prints:

    POST: 202
    POST again: 202, the same id: True
    POST of a bad body: 422
    GET once it is sent: 404
    outbox: ada@example.org
"""

import contextlib
import multiprocessing
import os
import socket
import sys
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx
import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import mq


class Mail(msgspec.Struct):
    to: str
    text: str


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncGenerator[dict[str, object]]:
    async with mq.aopen(os.environ["MQ_STORE"]) as broker:
        yield {"mails": broker.queue("mails", type=Mail)}  # as request.state.mails


async def post(request: Request) -> JSONResponse:
    mails: mq.AsyncQueue[Mail] = request.state.mails
    mail = msgspec.json.decode(await request.body(), type=Mail)
    id = await mails.publish(mail, dedup_id=request.headers.get("idempotency-key"))
    return JSONResponse({"id": id}, 202)


async def get(request: Request) -> JSONResponse:
    mails: mq.AsyncQueue[Mail] = request.state.mails
    message = await mails.get(request.path_params["id"])
    return JSONResponse({"state": message.state}) if message else JSONResponse({}, 404)


async def refuse(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": str(error)}, 422)


refused = {msgspec.DecodeError: refuse, mq.UsageError: refuse}  # also by a body or a key that is too long
routes = [Route("/mails", post, methods=["POST"]), Route("/mails/{id:int}", get)]
app = Starlette(lifespan=lifespan, routes=routes, exception_handlers=refused)


def serve(directory: Path, listener: socket.socket) -> None:
    os.environ["MQ_STORE"] = str(directory / "mq")
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])


def work(directory: Path) -> None:
    with mq.open(directory / "mq") as broker:

        @broker.consumer("mails", concurrency=4)
        def send(mail: Mail) -> None:
            with (directory / "outbox").open("a") as outbox:
                outbox.write(f"{mail.to}\n")

        broker.run()  # until SIGTERM


def main(directory: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    with mq.open(directory / "mq") as broker, socket.create_server(("127.0.0.1", 0)) as listener:
        web = spawn.Process(target=serve, args=(directory, listener))
        worker = spawn.Process(target=work, args=(directory,))
        web.start()
        worker.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/mails"
        with httpx.Client(headers={"idempotency-key": "sign-up-17"}, timeout=30) as client:
            first = client.post(url, json={"to": "ada@example.org", "text": "welcome"})
            print("POST:", first.status_code)
            again = client.post(url, json={"to": "ada@example.org", "text": "welcome"})
            print(f"POST again: {again.status_code}, the same id: {again.json() == first.json()}")
            print("POST of a bad body:", client.post(url, content='{"to": 7}').status_code)
            broker.queue("mails").join(timeout=30)
            print("GET once it is sent:", client.get(f"{url}/{first.json()['id']}").status_code)
        print("outbox:", *(directory / "outbox").read_text().split())
        for process in (web, worker):
            process.terminate()
            process.join()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else scratch))
