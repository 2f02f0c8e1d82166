"""Measure how long demo.py takes to answer a request for a 4 x 4 grid, with several clients.

    python benchmarks/demo_latency.py                     # pretrained generator, 8 clients

Each client has one connection, and requests another seed as soon as an answer has come.
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
    parser.add_argument("--load_path", help="checkpoint (default: the default of demo.py)")
    parser.add_argument(
        "--clients", type=int, default=8, help="clients at the same time (default: 8)"
    )
    parser.add_argument(
        "--requests", type=int, default=50, help="requests per client (default: 50)"
    )
    args = parser.parse_args()
    load = ["--load_path", args.load_path] if args.load_path else []
    argv = [sys.executable, "-u", str(ROOT / "demo.py"), "--port", "0", *load]
    server = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    address = server.stdout.readline().split()[1]

    def client(number: int) -> list[float]:
        times = []
        connection = http.client.HTTPConnection(address.removeprefix("http://"))
        for i in range(args.requests):
            start = time.perf_counter()
            connection.request("GET", f"/sample.png?n=16&seed={number * args.requests + i}")
            connection.getresponse().read()
            times.append(time.perf_counter() - start)
        return times

    try:
        for clients in (1, args.clients):
            start = time.perf_counter()
            with ThreadPoolExecutor(clients) as pool:
                seconds = sorted(t for times in pool.map(client, range(clients)) for t in times)
            rate = len(seconds) / (time.perf_counter() - start)
            print(
                f"{clients} client(s): median {1000 * statistics.median(seconds):.1f} ms, "
                f"95 % within {1000 * seconds[int(0.95 * len(seconds))]:.1f} ms, {rate:.0f} grids/s"
            )
    finally:
        server.terminate()


if __name__ == "__main__":
    main()
