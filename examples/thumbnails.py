"""A task queue: two threads make thumbnails of queued photos (Pillow).

Delivery is at least once: if the process is killed between the file and the ack, the task comes again.  So
the thumbnail is written under another name and then renamed.  Done twice, that leaves the same file.

Prints:

    harbour.jpg: 64 x 48
    mountain.jpg: 64 x 36
    portrait.jpg: 48 x 64
    dead letter: broken.jpg (no image)
"""

import os
import sys
import tempfile
from pathlib import Path

import msgspec
from PIL import Image, UnidentifiedImageError

import mq


class Thumbnail(msgspec.Struct):
    photo: str  # the name of a file: the image itself stays out of the queue
    side: int  # pixels, at most


def make_photos(photos: Path) -> list[str]:
    for name, size in {"harbour": (800, 600), "mountain": (1600, 900), "portrait": (600, 800)}.items():
        Image.new("RGB", size, "teal").save(photos / f"{name}.jpg")
    (photos / "broken.jpg").write_bytes(b"this is no image")
    return sorted(path.name for path in photos.glob("*.jpg"))


def main(directory: Path) -> None:
    names = make_photos(directory)
    with mq.open(directory / "mq") as broker:
        tasks = broker.queue("thumbnails", type=Thumbnail, max_attempts=5)
        tasks.publish_many(Thumbnail(name, side=64) for name in names)

        sizes: dict[str, str] = {}

        @broker.consumer(tasks, concurrency=2)
        def make_thumbnail(task: Thumbnail) -> None:
            unfinished = directory / f"{task.photo}.unfinished"
            try:
                with Image.open(directory / task.photo) as image:
                    image.thumbnail((task.side, task.side))
                    image.save(unfinished, "png")
            except UnidentifiedImageError as error:
                raise mq.Reject("no image") from error  # trying again is no use
            os.replace(unfinished, (directory / task.photo).with_suffix(".thumbnail.png"))
            sizes[task.photo] = f"{image.width} x {image.height}"

        broker.run(until_empty=True)  # a real worker: broker.run(), until SIGTERM

        for photo, size in sorted(sizes.items()):
            print(f"{photo}: {size}")
        for dead in broker.queue("thumbnails.dead", type=Thumbnail).peek():
            print(f"dead letter: {dead.body.photo} ({dead.failures[-1].reason})")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else scratch))
