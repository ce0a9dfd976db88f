// A process that works all queues.
import { SETTINGS } from "./driver.mjs";
import { connect } from "./workflow.mjs";

const { hostname, port } = new URL(process.env.PEER_REDIS_URL);
const redis = { host: hostname, port: Number(port), maxRetriesPerRequest: null };
const { sweep, work } = connect(process.env.PEER_DATABASE_URL, redis, SETTINGS.pool);
const workers = work(SETTINGS.concurrency);
setInterval(() => sweep().catch(console.error), 5_000);
process.on("SIGTERM", async () => {
  await Promise.all(workers.map((one) => one.close()));
  process.exit(0);
});
