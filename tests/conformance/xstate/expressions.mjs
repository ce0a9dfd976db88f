// The part of the expression language that the conformance charts use, written a second time and on its own:
// literals, lists, maps, members, indices, arithmetic, comparison, logic, `in`, ?:, has(), size(), string(),
// startsWith() and contains(). A condition or value that has no answer throws, as it does in the kernel.

const TOKEN = /\s*(?:(\d+(?:\.\d+)?)|("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|([A-Za-z_]\w*)|(&&|\|\||==|!=|<=|>=|[-+*/%<>!?:.,()[\]{}]))/y;

const LEVELS = [["||"], ["&&"], ["==", "!=", "<", "<=", ">", ">=", "in"], ["+", "-"], ["*", "/", "%"]];

function tokenize(text) {
  const tokens = [];
  TOKEN.lastIndex = 0;
  while (TOKEN.lastIndex < text.trimEnd().length) {
    const at = TOKEN.lastIndex;
    const found = TOKEN.exec(text);
    if (!found) throw new Error(`cannot read ${JSON.stringify(text)} at ${at}`);
    const [, number, string, name, symbol] = found;
    if (number !== undefined) tokens.push({ kind: "value", value: Number(number) });
    else if (string !== undefined) tokens.push({ kind: "value", value: string.slice(1, -1).replace(/\\(.)/g, "$1") });
    else tokens.push({ kind: name !== undefined ? "name" : "symbol", text: name ?? symbol });
  }
  return tokens;
}

class Parser {
  constructor(text) {
    this.text = text;
    this.tokens = tokenize(text);
    this.at = 0;
  }

  parse() {
    const node = this.ternary();
    if (this.at < this.tokens.length) throw new Error(`cannot read ${JSON.stringify(this.text)} to its end`);
    return node;
  }

  takes(text) {
    if (this.tokens[this.at]?.text !== text) return false;
    this.at += 1;
    return true;
  }

  expect(text) {
    if (!this.takes(text)) throw new Error(`expected ${text} in ${JSON.stringify(this.text)}`);
  }

  ternary() {
    const condition = this.binary(0);
    if (!this.takes("?")) return condition;
    const yes = this.ternary();
    this.expect(":");
    const no = this.ternary();
    return (scope) => (truth(condition(scope)) ? yes(scope) : no(scope));
  }

  binary(level) {
    if (level === LEVELS.length) return this.unary();
    let left = this.binary(level + 1);
    for (;;) {
      const operator = LEVELS[level].find((symbol) => this.takes(symbol));
      if (operator === undefined) return left;
      left = binary(operator, left, this.binary(level + 1));
    }
  }

  unary() {
    if (this.takes("!")) {
      const inner = this.unary();
      return (scope) => !truth(inner(scope));
    }
    if (this.takes("-")) {
      const inner = this.unary();
      return (scope) => -number(inner(scope));
    }
    return this.postfix(this.primary());
  }

  postfix(node) {
    if (this.takes(".")) {
      const name = this.tokens[this.at++].text;
      return this.postfix(this.takes("(") ? method(name, node, this.list(")")) : member(node, () => name));
    }
    if (this.takes("[")) {
      const key = this.ternary();
      this.expect("]");
      return this.postfix(member(node, key));
    }
    return node;
  }

  primary() {
    const token = this.tokens[this.at++];
    if (token === undefined) throw new Error(`${JSON.stringify(this.text)} ends too early`);
    if (token.kind === "value") return () => token.value;
    if (token.text === "(") {
      const inner = this.ternary();
      this.expect(")");
      return inner;
    }
    if (token.text === "[") {
      const items = this.list("]");
      return (scope) => items.map((item) => item(scope));
    }
    if (token.text === "{") return this.map();
    if (token.kind !== "name") throw new Error(`unexpected ${token.text} in ${JSON.stringify(this.text)}`);
    if (token.text in CONSTANTS) return () => CONSTANTS[token.text];
    if (this.takes("(")) return call(token.text, this.list(")"));
    return (scope) => scope[token.text];
  }

  list(end) {
    const items = [];
    while (!this.takes(end)) {
      items.push(this.ternary());
      if (!this.takes(",")) {
        this.expect(end);
        break;
      }
    }
    return items;
  }

  map() {
    const pairs = [];
    while (!this.takes("}")) {
      const key = this.ternary();
      this.expect(":");
      pairs.push([key, this.ternary()]);
      if (!this.takes(",")) {
        this.expect("}");
        break;
      }
    }
    return (scope) => Object.fromEntries(pairs.map(([key, value]) => [key(scope), value(scope)]));
  }
}

const CONSTANTS = { true: true, false: false, null: null };

function truth(value) {
  if (typeof value !== "boolean") throw new Error(`expected true or false, found ${JSON.stringify(value)}`);
  return value;
}

function number(value) {
  if (typeof value !== "number") throw new Error(`expected a number, found ${JSON.stringify(value)}`);
  return value;
}

function same(one, other) {
  if (one === null || other === null || typeof one !== "object" || typeof other !== "object") return one === other;
  if (Array.isArray(one) !== Array.isArray(other)) return false;
  const keys = Object.keys(one);
  return (
    keys.length === Object.keys(other).length &&
    keys.every((key) => Object.hasOwn(other, key) && same(one[key], other[key]))
  );
}

function added(one, other) {
  if (Array.isArray(one) && Array.isArray(other)) return [...one, ...other];
  if (typeof one === "string" && typeof other === "string") return one + other;
  return number(one) + number(other);
}

function contained(item, holder) {
  if (Array.isArray(holder)) return holder.some((other) => same(item, other));
  return Object.hasOwn(holder, item);
}

function ordered(one, other) {
  if (typeof one !== typeof other || !["number", "string"].includes(typeof one))
    throw new Error(`cannot compare ${JSON.stringify(one)} and ${JSON.stringify(other)}`);
  return [one, other];
}

const OPERATORS = {
  "==": (a, b) => same(a, b),
  "!=": (a, b) => !same(a, b),
  "<": (a, b) => ordered(a, b) && a < b,
  "<=": (a, b) => ordered(a, b) && a <= b,
  ">": (a, b) => ordered(a, b) && a > b,
  ">=": (a, b) => ordered(a, b) && a >= b,
  in: contained,
  "+": added,
  "-": (a, b) => number(a) - number(b),
  "*": (a, b) => number(a) * number(b),
  "/": (a, b) => number(a) / number(b),
  "%": (a, b) => number(a) % number(b),
};

function binary(operator, left, right) {
  if (operator === "&&") return (scope) => truth(left(scope)) && truth(right(scope));
  if (operator === "||") return (scope) => truth(left(scope)) || truth(right(scope));
  return (scope) => OPERATORS[operator](left(scope), right(scope));
}

function member(node, key) {
  const read = (scope) => {
    const holder = node(scope);
    const name = key(scope);
    if (holder === null || typeof holder !== "object" || !Object.hasOwn(holder, name))
      throw new Error(`there is no ${JSON.stringify(name)}`);
    return holder[name] ?? null; // an event of XState has an output that is undefined, where ours is null
  };
  read.holder = node;
  read.key = key;
  return read;
}

function size(value) {
  if (typeof value === "string") return [...value].length;
  return Array.isArray(value) ? value.length : Object.keys(value).length;
}

function call(name, [argument]) {
  if (name === "size") return (scope) => size(argument(scope));
  if (name === "string") return (scope) => rendered(argument(scope));
  if (name === "has") {
    return (scope) => {
      const holder = argument.holder(scope);
      return holder !== null && typeof holder === "object" && Object.hasOwn(holder, argument.key(scope));
    };
  }
  throw new Error(`unknown function ${name}`);
}

function method(name, node, [argument]) {
  if (name === "size") return (scope) => size(node(scope));
  if (name === "startsWith") return (scope) => node(scope).startsWith(argument(scope));
  if (name === "contains") return (scope) => node(scope).includes(argument(scope));
  throw new Error(`unknown method ${name}`);
}

const compiled = new Map();

/** A function of `{context, event, params}`. */
export function expression(text) {
  if (!compiled.has(text)) compiled.set(text, new Parser(text).parse());
  return compiled.get(text);
}

/** Canonical JSON: what a value looks like inside of text. Texts stay as they are. */
function rendered(value) {
  return typeof value === "string" ? value : canonical(value);
}

function canonical(value) {
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  const members = Object.keys(value).sort();
  return `{${members.map((key) => `${JSON.stringify(key)}:${canonical(value[key])}`).join(",")}}`;
}

/** A value of a definition as a function of the scope: `${...}` alone, inside text, `$.path`, at any depth. */
export function template(value) {
  if (typeof value === "string") return text(value);
  if (Array.isArray(value)) {
    const items = value.map(template);
    return (scope) => items.map((item) => item(scope));
  }
  if (value === null || typeof value !== "object") return () => value;
  const members = Object.entries(value).map(([key, inner]) => [key, template(inner)]);
  return (scope) => Object.fromEntries(members.map(([key, inner]) => [key, inner(scope)]));
}

function text(written) {
  if (written.startsWith("$.")) {
    const keys = written.slice(2).split(".");
    return (scope) => keys.reduce((value, key) => value?.[key] ?? null, scope.context);
  }
  const parts = written.split(/\$\{([^{}]*)\}/); // every second one is an expression
  if (parts.length === 1) return () => written;
  const inner = parts.map((part, index) => (index % 2 ? expression(part) : () => part));
  if (parts.length === 3 && parts[0] === "" && parts[2] === "") return inner[1];
  return (scope) => inner.map((part) => rendered(part(scope))).join("");
}
