"""A process that calls flows as an application would, so many at a time; it speaks as the driver does."""

from __future__ import annotations

import asyncio

from driver import SETTINGS, one_at_a_time, serve, timed
from workflow import fan_out, three_steps


def main() -> None:
    loop = asyncio.new_event_loop()

    async def many(n: int) -> None:
        places = asyncio.Semaphore(SETTINGS["concurrency"])

        async def one() -> None:
            async with places:
                await three_steps()

        await asyncio.gather(*(one() for _ in range(n)))

    def whole_fan_out(n: int) -> None:
        found = fan_out(n)
        if found != n:
            raise RuntimeError(f"the fan-out to {n} joined {found}")

    serve(
        {
            "live": lambda n: timed(lambda: loop.run_until_complete(many(n))),
            "latencies": lambda n: one_at_a_time(lambda: loop.run_until_complete(three_steps()), n),
            "fan_out": lambda n: timed(lambda: whole_fan_out(n)),
        }
    )


if __name__ == "__main__":
    main()
