"""Load the service as an application does, and as a careless or hostile client does, and compare it with prediction.

    python benchmarks/serve.py [--seconds 60] [--rounds 3] [--models demo small]

32 clients on kept connections send photographs of 640 × 480 one after the other, to an export of the embedded model and
to one of a ViT-S/16 with random weights. Offline prediction of the same bytes and the load take turns, so that what
else the machine does hits both. Then 2,000 connections stay idle and ten clients send a body byte by byte, while others
go on; at the end SIGTERM arrives under load. Writes `results/serve.{json,md}`, where results of models that are not
asked for stay.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import skimage
import torch
from ladder import RESULTS, commit_of
from PIL import Image

from uniemox.checkpoints.facts import ModelFacts
from uniemox.checkpoints.folder import save_model
from uniemox.export.run import export_onnx
from uniemox.inference.predictor import Predictor
from uniemox.models.classify import build_classifier
from uniemox.train.run_folder import describe_environment

PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
SIZE, NUM_CLIENTS, NUM_IDLE, NUM_SLOW, NUM_PROBES = (640, 480), 32, 2000, 10, 4
TITLES = {"demo": "embedded model, 64 pixels", "small": "ViT-S/16, 224 pixels, random weights"}
GOALS = {"throughput": 0.8, "memory_growth": 0.05}


def make_images() -> list[bytes]:
    """Make JPEGs as a phone sends them after shrinking: parts of photographs with the noise of a sensor."""
    source, generator, files = Path(skimage.__file__).parent / "data", np.random.default_rng(0), []
    for name in PHOTOGRAPHS:
        with Image.open(source / name) as image:
            pixels = np.asarray(image.convert("RGB").resize(SIZE), np.int16)
        noisy = pixels + np.rint(generator.standard_normal((*pixels.shape[:2], 1)) * 4).astype(np.int16)
        file = io.BytesIO()
        Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=88)
        files.append(file.getvalue())
    return files


def make_export(name: str, folder: Path) -> Path:
    """Export a model."""
    if name == "demo":
        return export_onnx("demo", folder / name).out
    torch.manual_seed(0)
    shape = {"patch_size": 16, "image_size": 224}
    facts = ModelFacts(
        kind="classifier",
        size="small",
        **shape,
        dataset="none",
        emotion="evoked",
        classes=tuple(f"class{index}" for index in range(8)),
    )
    save_model(build_classifier("small", **shape, num_classes=8).eval(), folder / "folder", facts)
    return export_onnx(str(folder / "folder"), folder / name).out


class Server:
    """`uniemox serve` in a process of its own."""

    def __init__(self, model: Path, log: Path) -> None:
        command = [sys.executable, "-m", "uniemox", "serve", str(model), "--port", "0", "--workers", "2"]
        self.log = log
        with log.open("wb") as err:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline().rpartition(":")[2])

    def resident_mb(self) -> float:
        """Memory of the process in MB."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        return 0.0

    def answered(self) -> int:
        """Requests for predictions that the log has, each after its answer."""
        return sum('"/v1/predict"' in line for line in self.log.read_text().splitlines())


@dataclass
class Load:
    """What clients got."""

    statuses: dict[int, int] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)  # Of each answer
    lost: int = 0  # Requests without an answer

    def summary(self, duration: float) -> dict[str, Any]:
        """Return it in numbers."""
        times = sorted(self.seconds)
        return {
            "images_per_second": len(times) / duration,
            "p50_ms": 1000 * statistics.median(times),
            "p99_ms": 1000 * times[int(0.99 * (len(times) - 1))],
            "statuses": self.statuses,
            "lost": self.lost,
        }


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> int:
    """Send a request and read its answer to the end; return the status."""
    writer.write(request)
    await writer.drain()
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
    await reader.readexactly(length)
    return int(head.split(b" ", 2)[1])


async def send_load(port: int, images: list[bytes], clients: int, seconds: float, *, keep: bool = True) -> Load:
    """Let clients send images until the time is over, or until the service is gone."""
    load, until = Load(), time.monotonic() + seconds
    head = b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
    requests = [head % len(image) + image for image in images]

    async def client(number: int) -> None:
        connection = None
        while time.monotonic() < until:
            try:
                connection = connection or await asyncio.open_connection("127.0.0.1", port)
                number += 1
                start = time.monotonic()
                status = await ask(*connection, requests[number % len(requests)])
            except ConnectionRefusedError:
                return
            except (OSError, asyncio.IncompleteReadError):
                load.lost += 1
                connection = None
                continue
            load.seconds.append(time.monotonic() - start)
            load.statuses[status] = load.statuses.get(status, 0) + 1
            if not keep:
                connection[1].close()
                connection = None
        if connection is not None:
            connection[1].close()

    await asyncio.gather(*map(client, range(clients)))
    return load


def run_load(server: Server, images: list[bytes], clients: int, seconds: float) -> dict[str, Any]:
    """Send a load, and measure what it took of the memory."""
    start = time.monotonic()
    load = asyncio.run(send_load(server.port, images, clients, seconds))
    return load.summary(time.monotonic() - start) | {"resident_mb": server.resident_mb()}


def predict_offline(predictor: Predictor, images: list[bytes], seconds: float) -> float:
    """Predict the same bytes in Python for a while; return images a second."""
    start, count = time.monotonic(), 0
    given = itertools.takewhile(lambda _: time.monotonic() < start + seconds, itertools.cycle(images))
    for _ in predictor.predict(given, batch_size=32, num_workers=2):
        count += 1
    return count / (time.monotonic() - start)


async def be_careless(port: int, images: list[bytes], seconds: float) -> dict[str, Any]:
    """Hold connections open that send nothing, and send bodies byte by byte, while a few clients go on."""
    alone = (await send_load(port, images, NUM_PROBES, seconds)).summary(seconds)
    idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(NUM_IDLE)]
    is_over = False

    async def drip() -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 9999\r\n\r\n")
        while not is_over and not writer.is_closing():
            writer.write(b"x")
            await asyncio.sleep(0.1)
        writer.close()

    slow = [asyncio.create_task(drip()) for _ in range(NUM_SLOW)]
    beside = (await send_load(port, images, NUM_PROBES, seconds)).summary(seconds)
    is_over = True
    await asyncio.gather(*slow, return_exceptions=True)
    await asyncio.sleep(max(0.0, 11 - seconds))
    closed = sum(reader.at_eof() for reader, _ in idle)
    for _, writer in idle:
        writer.close()
    return {"alone": alone, "beside": beside, "closed": closed}


async def stop_under_load(server: Server, images: list[bytes]) -> dict[str, Any]:
    """Send SIGTERM while clients, each request on a connection of its own, go on."""
    before = server.answered()
    load = asyncio.create_task(send_load(server.port, images, 8, 30, keep=False))
    await asyncio.sleep(2)
    server.process.send_signal(signal.SIGTERM)
    done = await load
    code = await asyncio.to_thread(server.process.wait, 30)
    accepted = server.answered() - before
    return {"exit": code, "accepted": accepted, "answered": len(done.seconds), "statuses": done.statuses}


def measure(name: str, folder: Path, seconds: float, rounds: int) -> dict[str, Any]:
    """Measure one model."""
    images, model = make_images(), make_export(name, folder)
    server, predictor = Server(model, folder / "log.txt"), Predictor.load(model)
    try:
        run_load(server, images, NUM_CLIENTS, 3)
        predict_offline(predictor, images, 2)
        found: list[dict[str, Any]] = []
        for _ in range(rounds):
            offline = predict_offline(predictor, images, seconds / rounds / 2)
            found.append({"offline": offline, **run_load(server, images, NUM_CLIENTS, seconds / rounds)})
        careless = asyncio.run(be_careless(server.port, images, 8))
        stopped = asyncio.run(stop_under_load(server, images))
    finally:
        server.process.kill()
    return {
        "model": TITLES[name],
        "rounds": found,
        "throughput": statistics.median(each["images_per_second"] / each["offline"] for each in found),
        "memory_growth": found[-1]["resident_mb"] / found[0]["resident_mb"] - 1,
        "careless": careless,
        "stopped": stopped,
    }


def to_markdown(found: list[dict[str, Any]], facts: dict[str, Any]) -> str:
    """Write the page."""
    lines = [
        "# The service under load",
        "",
        f"Made by `python benchmarks/serve.py --seconds {facts['seconds']:g}`. {NUM_CLIENTS} clients on kept "
        f"connections send photographs of {SIZE[0]} × {SIZE[1]} (JPEG); clients, service and offline prediction have "
        "the same processors, and offline and load take turns. Goals: "
        f"{GOALS['throughput']:.0%} of offline prediction, memory growth below {GOALS['memory_growth']:.0%}, nothing "
        "lost, no 5xx.",
        "",
        "| model | offline, images/s | service, images/s | share (median of rounds) | p50, p99 ms | statuses | lost "
        "| memory, growth |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for each in found:
        rounds = each["rounds"]
        offline, online, p50, p99 = (
            statistics.median(one[name] for one in rounds)
            for name in ("offline", "images_per_second", "p50_ms", "p99_ms")
        )
        statuses: Counter[str] = Counter()
        for one in rounds:
            statuses.update({str(status): count for status, count in one["statuses"].items()})
        shown = ", ".join(f"{count} × {status}" for status, count in statuses.items())
        lines.append(
            f"| {each['model']} | {offline:.1f} | {online:.1f} | {each['throughput']:.0%} | {p50:.0f}, {p99:.0f} "
            f"| {shown} | {sum(one['lost'] for one in rounds)} | {rounds[-1]['resident_mb']:.0f} MB, "
            f"{each['memory_growth']:+.1%} |"
        )
    lines += [
        "",
        f"{NUM_PROBES} clients alone, and beside {NUM_IDLE} idle connections and {NUM_SLOW} clients that send a body "
        "byte by byte; idle connections are closed after 10 s. Then SIGTERM under the load of 8 clients with a "
        "connection for each request: accepted is what the service logged, answered what clients got whole; what the "
        "system had queued and the service never took is refused.",
        "",
        "| model | alone: images/s, p99 ms | beside: images/s, p99 ms | idle ones closed "
        "| accepted, answered after SIGTERM | exit |",
        "|---|---|---|---|---|---|",
    ]
    for each in found:
        alone, beside, stopped = each["careless"]["alone"], each["careless"]["beside"], each["stopped"]
        lines.append(
            f"| {each['model']} | {alone['images_per_second']:.1f}, {alone['p99_ms']:.0f} "
            f"| {beside['images_per_second']:.1f}, {beside['p99_ms']:.0f} | {each['careless']['closed']} "
            f"| {stopped['accepted']}, {stopped['answered']} | {stopped['exit']} |"
        )
    return "\n".join([*lines, "", *(f"- {name}: {value}" for name, value in facts.items()), ""])


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of load, of each model")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", nargs="+", default=list(TITLES), choices=list(TITLES))
    given = parser.parse_args()
    facts: dict[str, Any] = {"commit": commit_of(), "seconds": given.seconds, "rounds": given.rounds}
    facts |= {"load average": os.getloadavg()[0], **describe_environment()}
    path = RESULTS / "serve.json"
    before = json.loads(path.read_text())["models"] if path.exists() else []
    kept = {each["model"]: each for each in before}  # of the models that are not asked for
    for name in given.models:
        with tempfile.TemporaryDirectory() as place:
            kept[TITLES[name]] = measure(name, Path(place), given.seconds, given.rounds)
    found = [kept[title] for title in TITLES.values() if title in kept]
    page = to_markdown(found, facts)
    path.write_text(json.dumps({"facts": facts, "models": found}, indent=1) + "\n")
    (RESULTS / "serve.md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
