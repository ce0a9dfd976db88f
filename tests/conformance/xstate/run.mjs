// The real XState's answer to statecharts: JSON lines {id, spec, events} in, {id, snapshots} or {id, error} out,
// in the shape of `signalbox simulate --batch`.
//
//     npm ci && node run.mjs < cases.jsonl > answers.jsonl
//
// `configuration` holds the paths of the active atomic and final states in document order; `output` is there once the
// machine is done. XState can be brought where the states that it counts as active are no legal configuration
// (docs/conformance.md): from then on a snapshot says so,
// with `gaps: true`, where only states around the leaves are missing, or else with `illegal: true`.

import { createInterface } from "node:readline";
import { createActor, createMachine, SimulatedClock } from "xstate";

import { translate } from "./translate.mjs";

const MAX_ITERATIONS = 500; // microsteps of one event, after which a machine counts as one that never rests

function answer({ id, spec, events }) {
  try {
    return { id, snapshots: snapshots(spec, events) };
  } catch (failure) {
    return { id, error: String(failure.message) };
  }
}

function snapshots(spec, events) {
  const [config, implementations] = translate(structuredClone(spec));
  const machine = createMachine({ ...config, options: { maxIterations: MAX_ITERATIONS } }, implementations);
  const clock = new SimulatedClock();
  const seen = {};
  const look = ({ type, snapshot }) => type === "@xstate.microstep" && note(machine.root, snapshot, seen);
  const actor = createActor(machine, { clock, logger: () => {}, inspect: look });
  actor.subscribe({ error: () => {} });
  actor.start();
  return [
    view(actor, machine, seen),
    ...events.map((event) => {
      if ("advance_ms" in event) clock.increment(event.advance_ms);
      else actor.send(event);
      return view(actor, machine, seen);
    }),
  ];
}

function view(actor, machine, seen) {
  const snapshot = actor.getSnapshot();
  const { context, status, error } = snapshot;
  const shown = { configuration: leaves(snapshot._nodes ?? []), context, status };
  if (status === "done") shown.output = snapshot.output ?? null;
  if (error instanceof Error) shown.thrown = error.message;
  else note(machine.root, snapshot, seen);
  return { ...shown, ...seen };
}

function leaves(nodes) {
  const found = nodes.filter((node) => node.type === "atomic" || node.type === "final");
  return found.sort((one, other) => one.order - other.order).map((node) => node.path.join("."));
}

/** Keep in mind that a snapshot has gaps around its leaves, or that it is broken: its own parts disagree. */
function note(root, { _nodes: nodes, value }, seen) {
  if (isLegal(root, new Set(nodes))) return;
  const around = nodes.flatMap((node) => ancestors(node));
  const agrees = String(leaves(nodes)) === String(leaves(statesOf(root, value)));
  if (agrees && isLegal(root, new Set([...nodes, ...around]))) seen.gaps = true;
  else seen.illegal = true;
}

function ancestors(node) {
  return node.parent ? [node.parent, ...ancestors(node.parent)] : [];
}

function statesOf(node, value) {
  const inner = typeof value === "string" ? { [value]: {} } : value;
  return [node, ...Object.keys(inner).flatMap((key) => statesOf(node.states[key], inner[key]))];
}

/** One child of each compound state, all of each parallel one, and every parent of whatever is active. */
function isLegal(root, active) {
  return (
    active.has(root) &&
    [...active].every((node) => {
      const children = Object.values(node.states).filter((child) => child.type !== "history");
      const alive = children.filter((child) => active.has(child)).length;
      const wanted = { compound: 1, parallel: children.length }[node.type] ?? 0;
      return node.type !== "history" && (node === root || active.has(node.parent)) && alive === wanted;
    })
  );
}

console.warn = () => {}; // events that are sent to a machine that is done
for await (const line of createInterface({ input: process.stdin })) {
  if (line.trim()) process.stdout.write(`${JSON.stringify(answer(JSON.parse(line)))}\n`);
}
