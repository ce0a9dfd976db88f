// The reference design for the comparison: callers here, worker processes beside.
import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { SETTINGS, WARM_UP, awaitCount, backlogSeconds, oneAtATime, pause, serve, startMany, timed } from "./driver.mjs";
import { SCHEMA, connect } from "./workflow.mjs";

const { hostname, port } = new URL(process.env.PEER_REDIS_URL);
const redis = { host: hostname, port: Number(port), maxRetriesPerRequest: null };
const { pool, start, fanOut } = connect(process.env.PEER_DATABASE_URL, redis, SETTINGS.callers + 1);
await pool.query(SCHEMA);

let workers = [];
function startWorkers() {
  workers = Array.from({ length: SETTINGS.processes }, () =>
    spawn(process.execPath, ["worker.mjs"], { stdio: ["ignore", 2, 2] }),
  );
}
async function stopWorkers() {
  await Promise.all(
    workers.map((one) => {
      const ended = new Promise((done) => one.once("exit", done));
      one.kill("SIGTERM");
      return ended;
    }),
  );
}

const count = async () => (await pool.query("SELECT count(*)::int AS n FROM instances WHERE status = 'done'")).rows[0].n;

async function awaitEnd(id) {
  const deadline = performance.now() + 300_000;
  for (;;) {
    const { rows } = await pool.query("SELECT status FROM instances WHERE id = $1", [id]);
    if (rows[0]?.status === "done") return;
    if (performance.now() > deadline) throw new Error(`${id} did not end`);
    await pause(2);
  }
}
async function run() {
  const id = randomUUID();
  await start(id);
  await awaitEnd(id);
}
async function live(n) {
  const before = await count();
  return timed(async () => {
    await startMany(() => start(randomUUID()), n, SETTINGS.callers);
    await awaitCount(async () => (await count()) - before, n);
  });
}
async function backlog(n) {
  await stopWorkers();
  const before = await count();
  await startMany(() => start(randomUUID()), n, SETTINGS.callers);
  return backlogSeconds(startWorkers, async () => (await count()) - before, n);
}
async function wholeFanOut(n) {
  const id = randomUUID();
  await fanOut(id, n);
  await awaitEnd(id);
}

startWorkers();
for (let i = 0; i < WARM_UP; i++) await run();
await serve(
  { live, backlog, latencies: (n) => oneAtATime(run, n), fan_out: (n) => timed(() => wholeFanOut(n)) },
  stopWorkers,
);
