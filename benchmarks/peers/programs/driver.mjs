// The JavaScript side of a peer's program: commands in, answers out, one JSON line each.
import { createInterface } from "node:readline";

export const SETTINGS = JSON.parse(process.env.PEER_SETTINGS ?? "{}");
export const WARM_UP = 20;

/** Say that we are ready, then answer until the input ends; then call `end`. */
export async function serve(modes, end) {
  process.stdout.write('{"ready": true}\n');
  for await (const line of createInterface({ input: process.stdin })) {
    const asked = JSON.parse(line);
    let answer;
    try {
      answer = await modes[asked.do](asked.n);
    } catch (error) {
      console.error(error);
      answer = { error: String(error) };
    }
    process.stdout.write(JSON.stringify(answer) + "\n");
  }
  await end();
  process.exit(0);
}

export async function timed(call) {
  const began = performance.now();
  await call();
  return { seconds: (performance.now() - began) / 1000 };
}

export async function oneAtATime(call, n) {
  const milliseconds = [];
  for (let i = 0; i < n; i++) milliseconds.push((await timed(call)).seconds * 1000);
  return { milliseconds };
}

/** `n` calls, at most `callers` of them at a time. */
export async function startMany(call, n, callers) {
  let left = n;
  const work = async () => {
    while (left-- > 0) await call();
  };
  await Promise.all(Array.from({ length: callers }, work));
}

export const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

export async function awaitCount(count, wanted, milliseconds = 20) {
  const deadline = performance.now() + 500_000;
  for (;;) {
    const found = await count();
    if (found >= wanted) return;
    if (performance.now() > deadline) throw new Error(`${found} of ${wanted} ended`);
    await pause(milliseconds);
  }
}

/** From the first end that is seen to the last one, scaled to all, and with the start of the workers, as the Python driver has it. */
export async function backlogSeconds(begin, count, wanted) {
  const started = performance.now();
  await begin();
  await awaitCount(count, 1, 5);
  const first = await count();
  const { seconds } = await timed(() => awaitCount(count, wanted));
  return { seconds: (seconds * wanted) / Math.max(wanted - first, 1), with_start: (performance.now() - started) / 1_000 };
}
