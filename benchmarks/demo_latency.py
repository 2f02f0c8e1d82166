"""Measure how long a 4 x 4 grid takes from demo.py over HTTP, with several clients at once.

    python benchmarks/demo_latency.py                     # the pretrained generator, 8 clients

Each client has one connection. It asks for another seed as soon as it has its answer.
"""

import argparse
import http.client
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--load_path", help="a checkpoint (default: the one of demo.py)")
    parser.add_argument("--clients", type=int, default=8, help="at the same time (default: 8)")
    parser.add_argument("--requests", type=int, default=50, help="per client (default: 50)")
    args = parser.parse_args()
    load = ["--load_path", args.load_path] if args.load_path else []
    argv = [sys.executable, "-u", str(ROOT / "demo.py"), "--port", "0", *load]
    server = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    address = server.stdout.readline().split()[1]

    def client(number: int) -> list[float]:
        taken = []
        connection = http.client.HTTPConnection(address.removeprefix("http://"))
        for i in range(args.requests):
            start = time.perf_counter()
            connection.request("GET", f"/sample.png?n=16&seed={number * args.requests + i}")
            connection.getresponse().read()
            taken.append(time.perf_counter() - start)
        return taken

    try:
        for clients in (1, args.clients):
            start = time.perf_counter()
            with ThreadPoolExecutor(clients) as pool:
                seconds = sorted(t for taken in pool.map(client, range(clients)) for t in taken)
            rate = len(seconds) / (time.perf_counter() - start)
            print(
                f"{clients} client(s): median {1000 * statistics.median(seconds):.1f} ms, "
                f"95 % within {1000 * seconds[int(0.95 * len(seconds))]:.1f} ms, {rate:.0f} grids/s"
            )
    finally:
        server.terminate()


if __name__ == "__main__":
    main()
