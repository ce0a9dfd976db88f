// A definition document as the configuration and the implementations that XState's `createMachine` takes.
//
// States, transitions, targets and delays are handed over as they are written; what JSON can only name (actions,
// guards, values with expressions) becomes XState's own action creators and guards. Nothing here decides semantics.

import { and, assign, cancel, emit, fromCallback, log, not, or, raise, sendTo, stateIn } from "xstate";

import { expression, template } from "./expressions.mjs";

const MAX_SENT = 200; // events that a machine may send to itself in one case: a machine that never rests is told so
const UNIT = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };
const TRANSITION_TABLES = ["on", "after"];
const TRANSITION_LISTS = ["always", "onDone"];
const never = fromCallback(() => {}); // an invoked actor that has not ended yet

export function translate(spec) {
  return new Translation(spec).machine();
}

class Translation {
  constructor(spec) {
    this.spec = spec;
    this.guards = {};
    this.delays = {};
    this.actors = {};
    this.sent = 0;
  }

  machine() {
    for (const [name, guard] of Object.entries(this.spec.guards ?? {})) this.guards[name] = this.guard(guard);
    for (const [name, delay] of Object.entries(this.spec.delays ?? {})) this.delays[name] = this.delay(delay);
    const config = this.state(this.spec);
    delete config.guards;
    delete config.delays;
    return [config, { guards: this.guards, delays: this.delays, actors: this.actors }];
  }

  state(body) {
    const config = { ...body };
    if (body.states) config.states = mapped(body.states, (child) => this.state(child));
    for (const key of TRANSITION_TABLES)
      if (body[key]) config[key] = mapped(body[key], (candidates) => this.transitions(candidates));
    for (const key of TRANSITION_LISTS) if (body[key]) config[key] = this.transitions(body[key]);
    for (const delay of Object.keys(body.after ?? {})) this.nameDelay(delay);
    for (const key of ["entry", "exit"]) if (body[key]) config[key] = this.actions(body[key]);
    if (body.initial !== null && typeof body.initial === "object")
      config.initial = { ...body.initial, actions: this.actions(body.initial.actions) };
    if (body.invoke) config.invoke = asList(body.invoke).map((invoke) => this.invoke(invoke));
    if ("output" in body) config.output = this.value(body.output);
    return config;
  }

  /** A key of `after` that is no number is a name, or a duration that we make a name of. */
  nameDelay(key) {
    if (Number.isNaN(Number(key)) && !(key in this.delays)) this.delays[key] = milliseconds(key);
  }

  invoke(part) {
    const { src, id, onDone, onError } = part;
    this.actors[src] = never;
    const config = { src, onDone, onError };
    if (id !== undefined) config.id = id;
    for (const key of ["onDone", "onError"]) {
      if (part[key] === undefined) delete config[key];
      else config[key] = this.transitions(part[key]);
    }
    return config;
  }

  transitions(candidates) {
    if (Array.isArray(candidates)) return candidates.map((candidate) => this.transition(candidate));
    return this.transition(candidates);
  }

  transition(candidate) {
    if (candidate === null || typeof candidate !== "object") return candidate;
    const config = { ...candidate };
    if (candidate.guard !== undefined) config.guard = this.guard(candidate.guard);
    if (candidate.actions !== undefined) config.actions = this.actions(candidate.actions);
    return config;
  }

  guard(written) {
    if (typeof written === "boolean") return () => written;
    if (typeof written === "string") return written in (this.spec.guards ?? {}) ? written : condition(written);
    if (written.type === undefined && "key" in written) return operator(written);
    const { kind, part: guard } = unwrapped(written);
    switch (kind) {
      case "and":
        return and(guard.guards.map((inner) => this.guard(inner)));
      case "or":
        return or(guard.guards.map((inner) => this.guard(inner)));
      case "not":
        return not(this.guard(guard.guard ?? guard.guards[0]));
      case "stateIn":
        return stateIn(guard.state ?? guard.stateValue);
      default:
        return written;
    }
  }

  actions(written) {
    return asList(written).map((action) => this.action(action));
  }

  action(written) {
    if (typeof written === "string") return written; // XState does nothing for a name without an implementation
    const { kind, part: action } = unwrapped(written);
    const options = { id: action.id, delay: this.delay(action.delay) };
    switch (kind) {
      case "assign":
        return assignment(action);
      case "raise":
        return raise(this.event(action.event), options);
      case "send":
      case "sendTo":
        return sendTo(({ self }) => this.itself(self), this.event(action.event), options);
      case "cancel":
        return cancel(action.id ?? action.sendId);
      case "log":
        return log(this.value(action.message));
      case "emit":
        return emit(this.event(action.event));
      default:
        return written;
    }
  }

  itself(self) {
    this.sent += 1;
    if (this.sent > MAX_SENT) throw new Error("Infinite loop detected: the machine sends itself events without end");
    return self;
  }

  event(written) {
    const event = typeof written === "string" ? { type: written } : written;
    return this.value(event);
  }

  delay(written) {
    if (written === undefined) return undefined;
    if (typeof written === "string" && written.includes("${")) {
      const value = template(written);
      return ({ context, event }) => milliseconds(value({ context, event }));
    }
    return typeof written === "string" && written in (this.spec.delays ?? {}) ? written : milliseconds(written);
  }

  /** Literals stay literals, so that XState sees what it would see in an exported machine. */
  value(written) {
    if (!JSON.stringify(written ?? null).includes("$")) return written;
    const value = template(written);
    return ({ context, event }) => value({ context, event });
  }
}

/** XState exports what belongs to a built-in thing under `params`, and its name with a prefix. */
function unwrapped(written) {
  const kind = written.type.replace(/^@?xstate\./, "");
  const built = ["and", "or", "not", "stateIn"].includes(kind) || kind !== written.type;
  return { kind, part: built && written.params ? { ...written, ...written.params } : written };
}

function condition(text) {
  const value = expression(text);
  return ({ context, event }, params) => value({ context, event, params });
}

/** Oven's comparisons, as far as the conformance charts use them. */
function operator({ key, operator: name = "==", value }) {
  const expected = template(value ?? null);
  return ({ context, event }) => {
    const found = key.split(".").reduce((holder, part) => holder?.[part], context);
    const wanted = expected({ context, event });
    switch (name) {
      case "==":
        return found === wanted;
      case "!=":
        return found !== wanted;
      case ">":
        return found > wanted;
      case "<":
        return found < wanted;
      case "exists":
        return found !== undefined && found !== null;
      default:
        throw new Error(`the operator ${name} has no counterpart here`);
    }
  };
}

/** All values see the context as it was; a path with dots reaches into objects and makes them where they are missing. */
function assignment(action) {
  const written = action.values ?? action.assignment ?? { [action.path]: action.value };
  const values = Object.entries(written).map(([path, value]) => [path.split("."), template(value)]);
  return assign(({ context, event }) => {
    const results = values.map(([keys, value]) => [keys, value({ context, event })]);
    return results.reduce((next, [keys, value]) => placed(next, keys, value), context);
  });
}

function placed(holder, [key, ...rest], value) {
  return { ...holder, [key]: rest.length ? placed(holder?.[key] ?? {}, rest, value) : value };
}

function milliseconds(written) {
  if (typeof written === "number") return written;
  if (/^\d+$/.test(written)) return Number(written);
  const parts = [...written.matchAll(/(\d+)(ms|[smhd])/g)];
  if (parts.map(([part]) => part).join("") !== written) throw new Error(`cannot read the duration ${written}`);
  return parts.reduce((sum, [, amount, unit]) => sum + Number(amount) * UNIT[unit], 0);
}

function asList(value) {
  if (value === undefined || value === null) return [];
  return Array.isArray(value) ? value : [value];
}

function mapped(object, translateOne) {
  return Object.fromEntries(Object.entries(object).map(([key, value]) => [key, translateOne(value)]));
}
