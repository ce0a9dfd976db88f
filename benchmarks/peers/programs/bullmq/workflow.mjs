// The reference design: an XState machine whose snapshot lives in PostgreSQL, whose tasks are BullMQ jobs. One
// transaction saves the snapshot, the event and the outbox of tasks; jobs are added after the commit by their task's id.
import { FlowProducer, Queue, Worker } from "bullmq";
import pg from "pg";
import { initialTransition, setup, transition } from "xstate";

export const SCHEMA = `
  CREATE TABLE instances (id uuid PRIMARY KEY, status text NOT NULL, version int NOT NULL, snapshot jsonb NOT NULL);
  CREATE TABLE events (instance_id uuid REFERENCES instances, version int, event jsonb NOT NULL, PRIMARY KEY (instance_id, version));
  CREATE TABLE tasks (id text PRIMARY KEY, instance_id uuid REFERENCES instances, status text NOT NULL, created_at timestamptz DEFAULT now());
  CREATE INDEX ON tasks (created_at) WHERE status = 'pending';`;

const machine = setup({ actions: { createTask: () => {} } }).createMachine({
  id: "three-steps",
  initial: "first",
  states: {
    first: { entry: { type: "createTask" }, on: { DONE: "second" } },
    second: { entry: { type: "createTask" }, on: { DONE: "third" } },
    third: { entry: { type: "createTask" }, on: { DONE: "done" } },
    done: { type: "final" },
  },
});

export function connect(databaseUrl, redis, size) {
  const pool = new pg.Pool({ connectionString: databaseUrl, max: size });
  const options = { connection: redis, defaultJobOptions: { attempts: 3, removeOnComplete: true, removeOnFail: false } };
  const tasks = new Queue("tasks", options);
  const events = new Queue("events", options);
  const flows = new FlowProducer({ connection: redis });

  async function inTransaction(work) {
    const client = await pool.connect();
    try {
      await client.query("BEGIN");
      const result = await work(client);
      await client.query("COMMIT");
      return result;
    } catch (error) {
      await client.query("ROLLBACK");
      throw error;
    } finally {
      client.release();
    }
  }

  async function createTasks(client, id, version, actions) {
    const ids = actions.filter((one) => one.type === "createTask").map((_, i) => `${id}-${version}-${i}`);
    for (const task of ids) await client.query("INSERT INTO tasks (id, instance_id, status) VALUES ($1, $2, 'pending')", [task, id]);
    return ids;
  }

  const ring = (instance, ids) => Promise.all(ids.map((id) => tasks.add("step", { instance, task: id }, { jobId: id })));

  async function start(id) {
    const [snapshot, actions] = initialTransition(machine);
    const ids = await inTransaction(async (client) => {
      await client.query("INSERT INTO instances VALUES ($1, 'active', 0, $2)", [id, snapshot]);
      return createTasks(client, id, 0, actions);
    });
    await ring(id, ids);
  }

  async function advance({ data: { instance, task } }) {
    const ids = await inTransaction(async (client) => {
      const { rows } = await client.query("SELECT version, snapshot FROM instances WHERE id = $1 FOR UPDATE", [instance]);
      const once = await client.query("UPDATE tasks SET status = 'succeeded' WHERE id = $1 AND status = 'pending'", [task]);
      if (once.rowCount === 0) return []; // a second delivery
      const event = { type: "DONE" };
      const [next, actions] = transition(machine, machine.resolveState(rows[0].snapshot), event);
      const version = rows[0].version + 1;
      await client.query("UPDATE instances SET status = $2, version = $3, snapshot = $4 WHERE id = $1", [instance, next.status, version, next]);
      await client.query("INSERT INTO events VALUES ($1, $2, $3)", [instance, version, event]);
      return createTasks(client, instance, version, actions);
    });
    await ring(instance, ids);
  }

  const perform = async (job) => {
    if (job.data.instance) await events.add("done", job.data, { jobId: `${job.data.task}-done` });
    return 1;
  };

  const fanOut = (id, n) =>
    flows.add({
      name: "join",
      queueName: "joins",
      data: { id },
      children: Array.from({ length: n }, (_, i) => ({ name: "item", queueName: "tasks", data: { item: i } })),
    });

  async function join(job) {
    const results = Object.values(await job.getChildrenValues());
    await pool.query("INSERT INTO instances VALUES ($1, 'done', 1, $2)", [job.data.id, { count: results.length }]);
  }

  // Tasks whose job was lost between commit and queue; one that is still queued is not added twice.
  async function sweep() {
    const late = "SELECT id, instance_id FROM tasks WHERE status = 'pending' AND created_at < now() - interval '5 s' LIMIT 500";
    for (const { id, instance_id } of (await pool.query(late)).rows) await ring(instance_id, [id]);
  }

  const work = (concurrency) => [
    new Worker("tasks", perform, { connection: redis, concurrency }),
    new Worker("events", advance, { connection: redis, concurrency }),
    new Worker("joins", join, { connection: redis, concurrency: 1 }),
  ];
  return { pool, start, fanOut, sweep, work };
}
