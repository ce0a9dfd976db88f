// Restate: its server, one service process, and callers over its HTTP ingress.
import { spawn } from "node:child_process";
import { createServer } from "node:net";
import { SETTINGS, WARM_UP, awaitCount, backlogSeconds, oneAtATime, pause, serve, startMany, timed } from "./driver.mjs";

const HOST = "127.0.0.1";
const freePort = () =>
  new Promise((done) => {
    const server = createServer().listen(0, HOST, () => {
      const { port } = server.address();
      server.close(() => done(port));
    });
  });

const [ingress, admin, node, service] = [await freePort(), await freePort(), await freePort(), await freePort()];
const children = [];
function run(command, argv, environment = {}) {
  const child = spawn(command, argv, { stdio: ["ignore", 2, 2], env: { ...process.env, ...environment } });
  children.push(child);
  return child;
}

run("node_modules/.bin/restate-server", ["--no-logo", "--listen-mode", "tcp", "--base-dir", `${process.env.PEER_FOLDER}/restate`, "--node-name", "peers"], {
  RESTATE_INGRESS__BIND_ADDRESS: `${HOST}:${ingress}`,
  RESTATE_ADMIN__BIND_ADDRESS: `${HOST}:${admin}`,
  RESTATE_BIND_ADDRESS: `${HOST}:${node}`,
  RESTATE_ADVERTISED_ADDRESS: `http://${HOST}:${node}`,
  RESTATE_DEFAULT_NUM_PARTITIONS: String(SETTINGS.partitions),
  RESTATE_LOG_FILTER: "warn",
  DO_NOT_TRACK: "1",
});
let worker = run(process.execPath, ["service.mjs", String(service)], { NODE_ENV: "production", RESTATE_LOGGING: "WARN" });

async function post(url, body, headers = {}) {
  const answer = await fetch(url, {
    method: "POST",
    headers: { "content-type": "application/json", accept: "application/json", ...headers },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  if (!answer.ok) throw new Error(`${url}: ${answer.status} ${await answer.text()}`);
  return answer.json();
}

async function register() {
  for (let tries = 0; ; tries++) {
    try {
      return await post(`http://${HOST}:${admin}/deployments`, { uri: `http://${HOST}:${service}`, force: true });
    } catch (error) {
      if (tries > 150) throw error;
      await pause(200);
    }
  }
}

const call = (handler, body) => post(`http://${HOST}:${ingress}/peers/${handler}`, body);
const send = () => post(`http://${HOST}:${ingress}/peers/threeSteps/send`);

/** Invocations of the three steps that have ended, by SQL over the admin API; completed ones are kept for that. */
async function open() {
  const found = await post(`http://${HOST}:${admin}/query`, {
    query: "SELECT count(*) AS n FROM sys_invocation_status WHERE target_service_name = 'peers' AND status <> 'completed'",
  });
  return found.rows[0].n;
}

async function backlog(n) {
  worker.kill("SIGKILL");
  await new Promise((done) => worker.once("exit", done));
  await startMany(send, n, SETTINGS.callers);
  return backlogSeconds(
    () => {
      worker = run(process.execPath, ["service.mjs", String(service)], { NODE_ENV: "production", RESTATE_LOGGING: "WARN" });
    },
    async () => n - (await open()),
    n,
  );
}

function end() {
  for (const child of children) child.kill("SIGTERM");
}

await register();
for (let i = 0; i < WARM_UP; i++) await call("threeSteps");
await serve(
  {
    live: (n) => timed(() => startMany(() => call("threeSteps"), n, SETTINGS.callers)),
    backlog,
    latencies: (n) => oneAtATime(() => call("threeSteps"), n),
    fan_out: (n) => timed(() => call("fanOut", n)),
  },
  end,
);
